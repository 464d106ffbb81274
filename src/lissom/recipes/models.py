"""[model]: what a recipe says about its network."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lissom.errors import RecipeError
from lissom.importing import imported_function
from lissom.recipes.strict import OpenSpec, Positive, Spec, Whole, complaint, refusals

OPTIONS = {  # of [model], with the models that have them
    "input_dropout": ("henrikson", "lenet300"),
    "dropout": ("vt-cnn2",),
    "activation": ("lenet300",),
    "widths": ("cnn",),
    "width": ("ds-cnn",),
    "blocks": ("ds-cnn",),
    "kernels": ("ahmed-modrec",),
    "hidden": ("ahmed-modrec",),
    "depth": ("wrn28-10",),
    "widen": ("wrn28-10",),
    "mean": ("wrn28-10",),
    "std": ("wrn28-10",),
}


class ModelSpec(Spec):
    """[model]: `name`, one of the papers' networks, with its options."""

    name: Literal[
        "ahmed-modrec", "cnn", "ds-cnn", "henrikson", "lenet300", "lenet5", "vt-cnn2", "wrn28-10"
    ]
    input_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    activation: Literal["relu", "tanh"] | None = None
    widths: Annotated[list[Whole], Field(min_length=1)] | None = None
    width: Whole | None = None
    blocks: Whole | None = None
    kernels: list[Whole] | None = None
    hidden: Whole | None = None
    depth: Annotated[int, Field(ge=10)] | None = None
    widen: Whole | None = None
    mean: list[float] | None = None
    std: list[Positive] | None = None

    @property
    def called(self) -> str:
        """The network in messages."""
        return self.name

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        for key, owners in OPTIONS.items():
            if self.name not in owners and getattr(self, key) is not None:
                known = " and ".join(repr(owner) for owner in owners)
                has = "has" if len(owners) == 1 else "have"
                raise complaint(f"model {self.name!r} has no {key}; only {known} {has}", key)
        if self.kernels is not None and len(self.kernels) != 2:
            raise complaint(
                f"two numbers of kernels, such as [64, 16], not {self.kernels}", "kernels"
            )
        if (self.mean is None) != (self.std is None):
            given, lacking = ("mean", "std") if self.std is None else ("std", "mean")
            raise complaint(f"pixels are normalised by both: give {lacking} as well", given)
        return self


class OwnModelSpec(OpenSpec):
    """[model]: `make`, the import path of a function or class, whose arguments are other keys."""

    make: str

    @property
    def called(self) -> str:
        """The network in messages."""
        return self.make

    @model_validator(mode="before")
    @classmethod
    def _named_once(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "name" in given:
            what = 'a network is one of lissom\'s, name = "lenet300", or your own, make = "my:net"'
            raise complaint(f"{what}: leave out one of the two", "name")
        return given

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        with refusals():
            imported_function(self.make, what="model", error=RecipeError, field="make")
        return self
