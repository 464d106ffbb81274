"""What a run keeps beside its weights: the recipe at its start, the result at its end."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from lissom.curves.fingerprints import differences, fingerprint
from lissom.errors import RunError
from lissom.importing import already_imported
from lissom.recipes.specs import Recipe, Record
from lissom.recipes.trust import code_in, signed
from lissom.storage import load_tensors, make_folder, mismatch, save_json, save_tensors

WEIGHTS, WEIGHTS_KIND = "model.safetensors", "lissom tensors 1"
RECIPE_KIND, RESULT_KIND = "lissom recipe 1", "lissom result 1"


def code_of(recipe: Recipe) -> dict[str, str] | None:
    """What is known of the user's code that a recipe names and has imported; None if there is none.

    A word that only looks like an import path is not imported for it.
    """
    paths = code_in(recipe.model_dump(exclude_none=True))
    known = {path: code for path in paths if (code := already_imported(path)) is not None}
    return fingerprint(**known) if known else None


def make_record(recipe: Recipe, seed: int, shape: Any, classes: int | None) -> Record:
    """The record of a run that begins now, with what is known of the user's code."""
    return Record(recipe=recipe, seed=seed, shape=shape, classes=classes, code=code_of(recipe))


def changes(old: Record, recipe: Recipe, seed: int) -> list[str]:
    """What is not as it was when a run began, in words, of its recipe and its seed."""
    before = _leaves({**old.recipe.model_dump(), "seed": old.seed})
    now = _leaves({**recipe.model_dump(), "seed": seed})
    return [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def changes_of_code(old: Record, recipe: Recipe) -> list[str]:
    """The same of the user's code."""
    return differences(old.code or {}, code_of(recipe) or {})


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as {dotted path: leaf}."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in _leaves(inner, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def keep_record(record: Record, run: Path) -> None:
    """Make the run's directory and write recipe.json into it."""
    make_folder(run)
    save_json(signed(record.to_json()), run / "recipe.json", RECIPE_KIND)


def keep_result(record: Record, event: dict[str, Any], run: Path) -> None:
    """Write result.json: the chosen epoch's figures, the command, the seed, the versions."""
    packages = {name: version(name) for name in ("lissom", "torch", "numpy")}
    result = {
        "title": record.recipe.title,
        **event,
        "command": shlex.join(["lissom", *sys.argv[1:]]),
        "seed": record.seed,
        "versions": {"python": platform.python_version(), **packages},
    }
    save_json(result, run / "result.json", RESULT_KIND)


def keep_weights(model: nn.Module, run: Path) -> None:
    """Write model.safetensors."""
    save_tensors(model.state_dict(), run / WEIGHTS, WEIGHTS_KIND)


def load_weights(model: nn.Module, run: Path) -> None:
    """Give a model the weights of model.safetensors.

    Raises:
        RunError: if they are of another model, or the file is damaged.
    """
    _, tensors = load_tensors(run / WEIGHTS, WEIGHTS_KIND)
    if why := mismatch(model.state_dict(), tensors):
        raise RunError(f"{run / WEIGHTS} does not fit the recipe beside it: {why}")
    model.load_state_dict(tensors)
