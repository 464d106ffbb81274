"""Options of methods: frozen dataclasses whose rules are written where the option is."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeVar

from lissom.errors import LissomError, MethodError, nearest

STEPS = "optimizer steps"
Steps = Annotated[int, STEPS]  # in the epochs of a recipe, and in optimizer steps everywhere else

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Options:
    """When a method acts. Subclasses add what they need, and its rules to `__post_init__`.

    Attributes:
        start: steps of plain training first; schedules count from there.
        finalize_at: the step after which the method finalizes by itself; None leaves it to the
            caller.

    Raises:
        MethodError: for steps that cannot be.
    """

    start: Steps = 0
    finalize_at: Steps | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                what = f"{field.name} is true or false, got {value!r}"
                raise MethodError(what, field=field.name)
        if not whole(self.start, least=0):
            raise MethodError(f"start counts steps, 0 or more, got {self.start!r}", field="start")
        end = self.finalize_at
        if end is not None and not (whole(end, least=1) and end > self.start):
            raise MethodError(
                f"finalize_at must lie after start={self.start}, or nothing can have vanished by "
                f"then; got {end!r}",
                field="finalize_at",
            )

    @property
    def end(self) -> int | None:
        """The step after which the method finalizes by itself; None if it does not."""
        return self.finalize_at

    @classmethod
    def over(cls, epochs: int) -> Mapping[str, Any]:
        """What of the options changes where all of a training of so many epochs is the method's.

        As a recipe has them, in epochs. A curve asks for it at each of its points.
        """
        return {"start": 0, "finalize_at": epochs}


def make_options(
    cls: type[Made],
    given: Mapping[str, Any],
    error: type[LissomError] = MethodError,
    who: str = "",
) -> Made:
    """The options of a dataclass; a name that it does not have is answered by the nearest.

    Args:
        cls: whose fields are the options.
        given: by name.
        error: what is raised for an unknown name.
        who: whose options they are: "method 'gates'".

    Raises:
        LissomError: for an unknown name, or a value that cannot be.
    """
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            what = f"{who} has no option" if who else "unknown option"
            raise error(f"{what} {name!r}.{nearest(name, known)}", field=name)
    for name, field in known.items():
        if name not in given and field.default is field.default_factory is MISSING:
            raise error(f"option {name!r} has to be given", field=name)
    return cls(**given)


def positive(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return isinstance(value, int | float) and value is not True and 0 < value < math.inf


def whole(value: object, *, least: int) -> bool:
    """Whether a value is a whole number, `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
