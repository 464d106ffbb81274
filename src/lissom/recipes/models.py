"""[model]: what a recipe says about its network."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import model_validator

from lissom.errors import RecipeError
from lissom.importing import imported_function
from lissom.models import build
from lissom.recipes.strict import OpenSpec, complaint, refusals

OF_DATA = ("inputs", "channels", "classes")  # what the data say, and not the recipe


class ModelSpec(OpenSpec):
    """[model]: `name`, one of `lissom.models`, and its options."""

    name: str

    @property
    def called(self) -> str:
        """The network in messages."""
        return self.name

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        for key in OF_DATA:
            if key in self.arguments:
                raise complaint(f"{key} is what the data say: leave it out", key)
        with refusals(), torch.device("meta"):
            build(self.name, **self.arguments)
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
