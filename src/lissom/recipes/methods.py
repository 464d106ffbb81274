"""[method] in a recipe: the name of a method, and its options with times in epochs.

There is no table of keys here: they are the fields of the method's own options, and the rules about
them are checked where those are made. So a method of one's own is named by its import path, and its
options are keys at once.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from lissom.errors import LissomError
from lissom.methods import Method, Options, method_named
from lissom.recipes.options import defaults_of, options_of
from lissom.recipes.strict import OpenSpec, refusals

FINE = 10_000  # steps in an epoch while a recipe is checked: times in steps are short beside it


class MethodSpec(OpenSpec):
    """[method]: `name`, and the options of that method.

    A time is a number of epochs, or of steps where it says so: every = "8 steps".
    """

    name: str

    @property
    def type(self) -> type[Method]:
        """The class of the method."""
        return method_named(self.name)

    def options(self, epoch: int) -> Options:
        """The options of the method.

        Args:
            epoch: steps in an epoch; 1 leaves times in epochs.

        Raises:
            LissomError: for options that the method has not, or that cannot be.
        """
        who = f"method {self.name!r}"
        made: Options = options_of(self.type.options_type, self.arguments, epoch, who)
        return made

    def counts_steps(self) -> bool:
        """Whether it begins or ends at a number of steps, whatever an epoch is."""
        few, many = self.options(FINE), self.options(2 * FINE)
        return (2 * few.start, 2 * (few.end or 0)) != (many.start, many.end or 0)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        """All options written out, so that a record does not depend on later defaults."""
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            return given
        with refusals():
            kind = method_named(given["name"]).options_type
        return {"name": given["name"], **defaults_of(kind), **given}

    @model_validator(mode="after")
    def _possible(self) -> "MethodSpec":
        with refusals():
            try:
                self.options(FINE)
            except LissomError:
                self.options(1)  # says the same in epochs
                raise
        return self
