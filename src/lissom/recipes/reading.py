"""Reading recipes: TOML files to `Recipe`s, with errors that name the line and the nearest key."""

import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lissom.errors import RecipeError, nearest
from lissom.recipes.specs import Recipe

Location = tuple[str | int, ...]


def recipe_names() -> list[str]:
    """The recipes that come with lissom."""
    suffix = ".toml"
    found = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))


def read_recipe(source: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name, or from a TOML file (or a run's recipe.json), with some keys changed.

    Args:
        source: "henrikson-l1-proximal-adagrad", or a path that ends in .toml or .json.
        changes: "key=value" with a dotted key and a TOML value: "train.epochs=5",
            "prices.0.L1=1e-3".

    Raises:
        RecipeError: naming the file, the line, what is wrong with it and what would work.
    """
    text, name = _text(source)
    try:
        table = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except ValueError as error:
        raise RecipeError(
            f"{name} is not valid {name.rpartition('.')[2].upper()}: {error}"
        ) from error
    for change in changes:
        _apply(table, change)
    changed = [change.partition("=")[0].strip() for change in changes]
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        lines = {} if name.endswith(".json") else line_numbers(text)
        told = [_explain(detail, name, lines, changed) for detail in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(told))) from None


def line_numbers(text: str) -> dict[Location, int]:
    """The line on which each key of a TOML text is set, by its path: ("prices", 0, "L1") → 12."""
    lines: dict[Location, int] = {}
    here: Location = ()
    arrays: dict[Location, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.split("#")[0]
        if header := re.match(r"\s*(\[\[?)\s*([\w.\-\"]+)\s*\]\]?", bare):
            path: Location = ()
            for part in header[2].replace('"', "").split("."):
                path = (*path, part)
                if path in arrays and (header[1] == "[" or path != _split(header[2])):
                    path = (*path, arrays[path])
            if header[1] == "[[":
                arrays[path] = arrays.get(path, -1) + 1
                path = (*path, arrays[path])
            here = path
            lines[here] = number
        else:
            found = re.findall(r"([\w\-.\"]+)\s*=(?!=)", bare)
            outer: Location = ()
            for i, key in enumerate(found):
                path = (*here, *_split(key)) if i == 0 else (*outer, *_split(key))
                outer = path if i == 0 else outer
                lines.setdefault(path, number)
    return lines


def _text(source: str) -> tuple[str, str]:
    if source.endswith((".toml", ".json")):
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {source}")
        return path.read_text(), path.name
    if source not in recipe_names():
        raise RecipeError(
            f"there is no recipe {source!r}.{nearest(source, recipe_names())} `lissom recipes` "
            "lists them; a recipe of your own is a file that ends in .toml"
        )
    return (files(__package__) / f"{source}.toml").read_text(), f"{source}.toml"


def _apply(table: dict[str, Any], change: str) -> None:
    """Set one dotted key of a nested table."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set takes key=value, as in train.epochs=5; got {change!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    *path, last = _split(key.strip())
    inner: Any = table
    for part in path:
        if isinstance(inner, list):
            inner = _item(inner, part, change)
        elif isinstance(inner, dict):
            inner = inner.setdefault(str(part), {})
    if isinstance(inner, list):
        inner[inner.index(_item(inner, last, change))] = parsed
    elif isinstance(inner, dict):
        inner[str(last)] = parsed
    else:
        raise RecipeError(f"--set {change}: {'.'.join(map(str, path))} is a value, not a table")


def _item(entries: list[Any], part: str | int, change: str) -> Any:
    if not isinstance(part, int) or part >= len(entries):
        raise RecipeError(f"--set {change}: {part!r} is not one of its {len(entries)} entries, 0 …")
    return entries[part]


def _split(dotted: str) -> Location:
    return tuple(int(p) if p.isdigit() else p for p in dotted.replace('"', "").split("."))


def _explain(detail: Any, name: str, lines: dict[Location, int], changed: Sequence[str]) -> str:
    """One line for one complaint of pydantic: where, what, and what was given."""
    key = detail.get("ctx", {}).get("key")
    location: Location = (*detail["loc"], key) if key else tuple(detail["loc"])
    # pydantic puts the names of union members between the keys; a TOML file has none of them.
    location = tuple(part for part in location if part not in ("number", "schedule", "int"))
    dotted = ".".join(map(str, location))
    line = next(
        (lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None
    )
    place = "--set" if any(dotted.startswith(c) for c in changed) else f"line {line}"
    where = f"{name}, {place}" if line or place == "--set" else name
    given = detail.get("input")
    simple = isinstance(given, str | int | float | bool) and detail["type"] != "unknown_key"
    got = f", got {given!r}" if simple else ""
    what = detail["msg"].removeprefix("Value error, ")
    if isinstance(given, str) and detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        got += "." + nearest(given, choices)
    return f"{where}: {dotted}: {what}{got}" if location else f"{where}: {what}"
