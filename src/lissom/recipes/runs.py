"""What a run keeps beside its weights: the recipe at its start, the result at its end."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from lissom.errors import RunError
from lissom.recipes.specs import Record
from lissom.recipes.trust import signed
from lissom.storage import load_tensors, make_folder, mismatch, save_json, save_tensors

WEIGHTS, WEIGHTS_KIND = "model.safetensors", "lissom tensors 1"
RECIPE_KIND, RESULT_KIND = "lissom recipe 1", "lissom result 1"


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
