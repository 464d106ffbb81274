"""What the scripts that train by a table have in common: the table, and where and how it is run."""

import os
import tomllib
from pathlib import Path
from typing import Any


def plan(file: Path, kind: str, name: str) -> dict[str, Any]:
    """One study, or another kind of plan, of a file."""
    plans: dict[str, dict[str, Any]] = tomllib.loads(file.read_text())
    if name not in plans:
        raise SystemExit(f"there is no {kind} {name!r}; known: {', '.join(plans)}")
    return plans[name]


def prepare(data_dir: Path | None) -> None:
    """Let all processes find the data, on one thread each: sums are in the same order then."""
    if data_dir is not None:
        os.environ["LISSOM_DATA_DIR"] = str(data_dir)
    os.environ["OMP_NUM_THREADS"] = "1"
