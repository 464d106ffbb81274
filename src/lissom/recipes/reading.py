"""Reading recipes: TOML files to `Recipe`s, with errors that name the line and the nearest key."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lissom.errors import RecipeError, RunError, nearest
from lissom.recipes.lines import Location, line_numbers
from lissom.recipes.runs import RECIPE_KIND
from lissom.recipes.scaling import epochs_of, rescale
from lissom.recipes.specs import Recipe, Record
from lissom.recipes.strict import Spec, said
from lissom.recipes.trust import opened
from lissom.storage import load_json

Made = TypeVar("Made", bound=Spec)

FILES = (".toml", ".json")
QUOTED = re.compile(r"""(?:"[^"]*"|'[^']*'|[^."'])+""")  # the parts of a dotted key
LONGEST, MOST_DOTS = 100_000, 1000  # of a recipe, and of a line of one
NONE = "none"  # of --set: the key is taken away, since TOML has no word for nothing


def recipe_names() -> list[str]:
    """The recipes that come with lissom."""
    suffix = ".toml"
    found = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))


def read_recipe(
    source: str,
    changes: Sequence[str] = (),
    *,
    quick: bool = False,
    told: Callable[[str], None] | None = None,
) -> Recipe:
    """A recipe by name, from a TOML file, or from the recipe.json of a run, with keys changed.

    The recipe of its teacher is read with it. A path of a teacher is relative to the file that
    names it.

    Args:
        source: "henrikson-l1-proximal-adagrad", or a path that ends in .toml or .json.
        changes: "key=value" with a dotted key and a TOML value: "train.epochs=5",
            "penalties.0.L1=1e-3". The value none takes a key away: "method=none" and
            "penalties=none" leave the dense network. Where train.epochs is changed and no other
            time, the whole schedule gets longer or shorter with it.
        quick: a trial: a tenth of the epochs, and of a curve a few points of one seed.
        told: called with a line about what was scaled.

    Raises:
        RecipeError: naming the file, the line, what is wrong with it and what would work; or where
            a recipe.json that was not made here names code to be run.
    """
    return _read(source, changes, (), quick, told)


def _read(
    source: str,
    changes: Sequence[str],
    students: tuple[str, ...],
    quick: bool = False,
    told: Callable[[str], None] | None = None,
) -> Recipe:
    table, name, lines = _of_run(source) if source.endswith(".json") else _of_toml(source)
    students = (*students, _identity(source))
    line = lines.get(("teacher", "recipe"))
    _read_teacher(table, f"{name}, line {line}", Path(source).parent, students)
    whole = deepcopy(table)
    for change in changes:
        _apply(table, change)
        _read_teacher(table, f"{name}, --set", Path(), students)
    changed = [_split(change.partition("=")[0]) for change in changes]
    given = deepcopy(table)
    if not (notes := rescale(table, whole, changed, quick=quick)):
        return _made(Recipe, table, name, lines, changed)
    try:
        made = _made(Recipe, table, name, lines, changed)
    except RecipeError as error:
        least = _least(given, whole, changed, name)
        if least is None:
            raise
        if not quick:
            raise RecipeError(
                f"{error}\n{name}, --set: train.epochs: the schedule was scaled to "
                f"{epochs_of(table)} epochs, which are too few for it; {least} are enough"
            ) from None
        notes = rescale(given, whole, changed, quick=True, epochs=least)
        made = _made(Recipe, given, name, lines, changed)
    if told is not None and len(notes) > 1:  # more than the epochs themselves
        told(f"scaled with the epochs: {', '.join(notes)}")
    return made


def _least(given: Any, whole: Any, changed: Sequence[Location], name: str) -> int | None:
    """To how few epochs a schedule can be scaled; None if that is not why it fails."""
    for epochs in range(1, (epochs_of(whole) or 0) + 1):
        table = deepcopy(given)
        rescale(table, whole, changed, quick=True, epochs=epochs)
        with suppress(RecipeError):
            _made(Recipe, table, name)
            return epochs
    return None


def _of_run(source: str) -> tuple[Any, str, dict[Location, int]]:
    """The recipe of a recipe.json, and what to call it; it has no lines worth naming."""
    if not Path(source).exists():
        raise RecipeError(f"there is no recipe file {source}")
    try:
        table = opened(load_json(Path(source), RECIPE_KIND), source).get("recipe")
    except RunError as error:
        raise RecipeError(str(error)) from error
    if not isinstance(table, dict):
        raise RecipeError(f"{source} is not the recipe.json of a run; other recipes are .toml")
    return table, source, {}


def _of_toml(source: str) -> tuple[Any, str, dict[Location, int]]:
    """The table of a TOML file, what to call it, and the lines of its keys."""
    text, name = _text(source)
    _check_length(text, name)
    try:
        return tomllib.loads(text), name, line_numbers(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name} is not valid TOML: {error}") from error


def _check_length(text: str, name: str) -> None:
    """Refuse what takes for ever: reading a key of n dots takes time and memory ∝ n²."""
    if len(text) > LONGEST:
        raise RecipeError(f"{name} has {len(text):,} letters; a recipe has at most {LONGEST:,}")
    for number, line in enumerate(text.splitlines(), start=1):
        if (dots := line.count(".")) > MOST_DOTS:
            raise RecipeError(f"{name}, line {number}: {dots:,} dots; at most {MOST_DOTS} are read")


def _read_teacher(table: Any, where: str, folder: Path, students: tuple[str, ...]) -> None:
    """Put the whole recipe of a teacher where it is named."""
    teacher = table.get("teacher")
    named = teacher.get("recipe") if isinstance(teacher, dict) else None
    if not isinstance(named, str):
        return
    source = str(folder / named) if named.endswith(FILES) else named
    if _identity(source) in students:
        raise RecipeError(f"{where}: teacher.recipe: {named!r} would be its own teacher")
    try:
        recipe = _read(source, (), students)
    except RecipeError as error:
        raise RecipeError(f"{where}: teacher.recipe: {error}") from error
    teacher["recipe"] = recipe.model_dump(exclude_none=True)


def _identity(source: str) -> str:
    return str(Path(source).resolve()) if source.endswith(FILES) else source


def read_record(path: Path) -> Record:
    """The recipe.json of a run.

    Raises:
        RunError: if it is missing, damaged, or not of this version.
        RecipeError: if it says what no run would have written, or was not made here and names code.
    """
    return _made(Record, opened(load_json(path, RECIPE_KIND), str(path)), str(path))


def _text(source: str) -> tuple[str, str]:
    """The text of a recipe and what to call it."""
    if source.endswith(FILES):
        try:
            return Path(source).read_text(encoding="utf-8"), source
        except FileNotFoundError as error:
            raise RecipeError(f"there is no recipe file {source}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"the recipe file {source} cannot be read: {error}") from error
    if source not in recipe_names():
        raise RecipeError(
            f"there is no recipe {source!r}.{nearest(source, recipe_names())} `lissom recipes` "
            "lists them; a recipe of your own is a file that ends in .toml"
        )
    name = f"{source}.toml"
    return (files(__package__) / name).read_text(encoding="utf-8"), name


def _apply(table: dict[str, Any], change: str) -> None:
    """Set one dotted key of a nested table."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set takes key=value, as in train.epochs=5; got {change!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        parsed = value.strip()
    *path, last = _split(key)
    inner: Any = table
    for part in path:
        if isinstance(inner, list):
            inner = inner[_index(inner, part, change)]
        elif isinstance(inner, dict):
            inner = inner.setdefault(str(part), {})
    if isinstance(inner, list):
        at = _index(inner, last, change)
        inner[at : at + 1] = [] if parsed == NONE else [parsed]
    elif not isinstance(inner, dict):
        raise RecipeError(f"--set {change}: {'.'.join(map(str, path))} is a value, not a table")
    elif parsed == NONE:
        inner.pop(str(last), None)
    else:
        inner[str(last)] = parsed


def _index(entries: list[Any], part: str | int, change: str) -> int:
    if not isinstance(part, int) or part >= len(entries):
        known = ", ".join(map(str, range(len(entries)))) or "none, it is empty"
        raise RecipeError(f"--set {change}: there is no entry {part}; known: {known}")
    return part


def _split(dotted: str) -> Location:
    parts = (part.strip(" \"'") for part in QUOTED.findall(dotted))
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _made(
    kind: type[Made],
    table: Any,
    name: str,
    lines: Mapping[Location, int] | None = None,
    changed: Sequence[Location] = (),
) -> Made:
    """The checked form of a table, or every complaint about it in a line of its own."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        complaints = [
            _explain(detail, table, name, lines or {}, changed) for detail in error.errors()
        ]
        raise RecipeError("\n".join(dict.fromkeys(complaints))) from None


def _explain(
    detail: Any,
    table: Any,
    name: str,
    lines: Mapping[Location, int],
    changed: Sequence[Location],
) -> str:
    """One complaint of pydantic: where, what, and what was given."""
    location, shown = _location(detail, table)
    line = next(
        (lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None
    )
    # A change is to blame for its key, for what it put there, and for a table it made impossible.
    if any(all(a == b for a, b in zip(key, location, strict=False)) for key in changed):
        name += ", --set"
    elif line:
        name += f", line {line}"
    return ": ".join([name, *([".".join(map(str, shown))] if shown else []), said(detail)])


def _location(detail: Any, table: Any) -> tuple[Location, Location]:
    """The path of a complaint as far as the table has it, and the whole path to be shown.

    Neither has the names of union members that pydantic puts into its own part of the path.
    """
    location: Location = ()
    parts, at = detail["loc"], detail.get("ctx", {}).get("at", ())
    for i, part in enumerate(parts):
        try:
            table = table[part]
        except (LookupError, TypeError):
            if detail["type"] != "missing" or i < len(parts) - 1:
                continue
        location = (*location, part)
    shown = (*location, *at)
    for part in at:
        try:
            table = table[part]
        except (LookupError, TypeError):
            break
        location = (*location, part)
    return location, shown
