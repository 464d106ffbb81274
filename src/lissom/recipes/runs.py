"""What a run keeps beside its weights: the recipe at its start, the result at its end."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lissom.checkpoints import save_json
from lissom.recipes.specs import Record


def keep_record(record: Record, run: Path) -> None:
    """Make the run's directory and write recipe.json into it."""
    run.mkdir(parents=True, exist_ok=True)
    save_json(record.to_json(), run / "recipe.json")


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
    save_json(result, run / "result.json")
