"""What all tables of a recipe have in common: they refuse what they do not know."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from lissom.errors import LissomError, nearest

# pydantic's words where they speak of Python and not of a recipe.
WORDS = {
    "missing": "this key is required",
    "model_type": "this must be a table",
    "list_type": "this must be a list, in [ ]",
    "too_short": "this list needs an entry",
}

Whole = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Spec(BaseModel):
    """A table of a recipe; keys it does not know are named together with the nearest it does."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    what = f"unknown key '{key}'.{nearest(str(key), cls.model_fields)}"
                    raise complaint(what, key)
        return given


class OpenSpec(Spec):
    """A table that names a class or a function, whose arguments are the keys it does not know."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """Those keys."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        return given  # which they are, the class or function knows


def complaint(what: str, *at: str | int) -> PydanticCustomError:
    """An error about the key at a path inside the table that is being checked."""
    return PydanticCustomError("complaint", "{what}", {"what": what, "at": at})


@contextmanager
def refusals(*at: str | int) -> Iterator[None]:
    """Turn what lissom refuses within into a complaint of the recipe, with lissom's own words.

    Args:
        at: the path inside the table that is being checked; the option that is wrong is added.
    """
    try:
        yield
    except LissomError as error:
        raise complaint(str(error), *at, *keys(error.field)) from error


def keys(dotted: str | None) -> tuple[str | int, ...]:
    """The path that a dotted name stands for; numbers are of entries."""
    parts = dotted.split(".") if dotted else []
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def said(detail: Any) -> str:
    """What a complaint of pydantic says: what is wrong, what was given, and what is near it."""
    given, kind = detail["input"], detail["type"]
    what: str = WORDS.get(kind, detail["msg"].removeprefix("Value error, "))
    if isinstance(given, str | int | float | bool) and kind != "complaint":
        what += f", got {given!r}"
    if isinstance(given, str) and kind == "literal_error":
        what += "." + nearest(given, re.findall(r"'([^']*)'", str(detail["ctx"]["expected"])))
    return what
