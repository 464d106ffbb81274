"""What all tables of a recipe have in common: they refuse what they do not know."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from lissom.errors import nearest

Whole = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Spec(BaseModel):
    """A table of a recipe; keys it does not know are named together with the nearest it does."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in given:
                if key not in known:
                    raise complaint(f"unknown key '{key}'.{nearest(str(key), known)}", key)
        return given


def complaint(what: str, *at: str | int) -> PydanticCustomError:
    """An error about the key at a path inside the table that is being checked."""
    return PydanticCustomError("complaint", "{what}", {"what": what, "at": at})
