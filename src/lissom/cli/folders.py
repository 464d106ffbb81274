"""Run directories: begun, gone on with, replaced, and never mixed."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from lissom.cli.shared import errors, log, say
from lissom.data import Dataset, Loaders, first_inputs
from lissom.errors import RunError
from lissom.recipes import (
    TEACHER,
    Recipe,
    Record,
    changes,
    changes_of_code,
    keep_record,
    load_checkpoint,
    load_weights,
    make_data,
    make_model,
    make_task,
    read_record,
)
from lissom.storage import LOCK, alone_in, leftovers, remove
from lissom.training import Task

RUN_FILES = (
    "recipe.json",
    "events.jsonl",
    "henrikson.jsonl",
    "checkpoint.pt",
    "model.safetensors",
    "result.json",
    "report.html",
    "model.onnx",
    "model.pt2",
    "model.c",
    "model.h",
    "model.tflite",
    "model.pte",
    "compressed.safetensors",
    "small.safetensors",
    "shrinkage.json",
    "distilled.json",
    "ensemble.json",
    "ensemble.svg",
    "calibration.svg",
)

CALIBRATE = 1000  # inputs, by which the scales of int8 are chosen
OF_A_RUN = {"events.jsonl", "checkpoint.pt", "model.safetensors"}  # what no curve has


def folder_for(recipe: str, out: Path | None) -> Path:
    """Where a recipe is trained: as asked, or runs/RECIPE, or where the recipe.json lies.

    Raises:
        RunError: for a URL, of which only lissom.path knows.
    """
    if out is not None:
        if len(out.parts) > 1 and out.parts[0].endswith(":") and len(out.parts[0]) > 2:
            url = f"{out.parts[0]}//{'/'.join(out.parts[1:])}"
            raise RunError(
                f"--out is a folder, got {url}: the command keeps more there than a store has. In "
                f"Python it is lissom.path(…, out={url!r})"
            )
        return out
    path = Path(recipe)
    return path.parent if path.suffix == ".json" else Path("runs") / path.stem


def record_of_run(run: Path) -> Record:
    """The record of a run.

    Raises:
        RunError: if there is none, saying what to do if it is a curve.
    """
    if _holds_curve(run):
        raise RunError(
            f"{run} holds a curve, and this takes a run, which is one network: take one of the "
            f"curve with `lissom choose {run} --knee`, and give its folder, {run / 'chosen'}"
        )
    return read_record(run / "recipe.json")


def record_of_curve(curve: Path) -> Record:
    """The record of a curve.

    Raises:
        RunError: if there is none, saying what to do if it is a run, or no recipe's curve.
    """
    if not _holds_curve(curve):
        what = "holds a run, which is one network" if _holds_run(curve) else "holds no curve"
        raise RunError(f"{curve} {what}; `lissom path RECIPE` trains a curve, and says where it is")
    if not (curve / "recipe.json").exists():
        raise RunError(
            f"the curve in {curve} was not made from a recipe, so it has none for a run: take a "
            "network of it in Python, with `lissom.Curve.load` and `curve.network`"
        )
    return read_record(curve / "recipe.json")


def load_model(run: Path) -> tuple[nn.Module, Any]:
    """The network of a run, or what its last checkpoint would deliver; the shape of an example."""
    record = record_of_run(run)
    finished = run / "model.safetensors"
    if finished.exists():
        model = make_model(record.recipe, record.shape, record.classes)
        load_weights(model, run)
        return model, record.shape
    model, method = load_checkpoint(run, record)
    say(f"{run} is not finished; this is its last checkpoint", to=errors)
    if method is not None:
        method.finalize()
    return model, record.shape


def data_of(run: Path, data_dir: Path | None) -> tuple[Dataset | Loaders, Task]:
    """What a run was trained on and tested with, and what its network is judged by."""
    record = record_of_run(run)
    data = make_data(record.recipe, data_dir, seed=record.seed)
    return data, make_task(record.recipe)


def calibration_inputs(data: Dataset | Loaders, task: Task) -> Any:
    """Some of the inputs to train on, always the same.

    Of data in batches no more than those of the first batch are different.
    """
    if not isinstance(data, Dataset):
        return first_inputs(data, task, CALIBRATE)
    order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(0))
    return data.train_x[order[:CALIBRATE]]


def _holds_curve(folder: Path) -> bool:
    return (folder / "path.json").exists()


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_RUN)


def check_run(run: Path, recipe: Recipe, seed: int, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix this run with what its directory holds."""
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it: choose one")
    if _holds_curve(run):
        raise RunError(
            f"{run} holds a curve, which `lissom path` goes on with: choose another --out for a run"
        )
    _check_free(run, recipe, seed, resume=resume, overwrite=overwrite)


def _check_free(run: Path, recipe: Recipe, seed: int, *, resume: bool, overwrite: bool) -> None:
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file; a run needs a directory: choose another --out")
    if (run / "recipe.json").exists():
        if resume:
            _check_same(run, recipe, seed)
        elif not overwrite:
            raise RunError(
                f"{run} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "--out DIR writes elsewhere"
            )
    elif resume and not run.exists():
        raise RunError(f"there is no run {run} to resume; without --resume it is started")
    elif run.exists() and set(run.iterdir()) - {run / LOCK, *leftovers(run / "recipe.json")}:
        raise RunError(f"{run} is not empty and not a run; choose another --out")


def check_curve(run: Path, recipe: Recipe, *, mended: bool) -> None:
    """Refuse to mix this curve with what its directory holds; the same curve is gone on with.

    Args:
        run: the directory.
        recipe: of the curve.
        mended: whether the user's code may be another, since points that failed are made again.
    """
    if _holds_run(run):
        raise RunError(f"{run} holds a run, which is one network: choose another --out for a curve")
    _check_free(run, recipe, 0, resume=(run / "recipe.json").exists(), overwrite=False)
    if not mended and (other := _other_code(run, recipe)):
        raise RunError(
            f"{run} was started with other code: {other}. Its points would be of two experiments: "
            "choose another --out; or, if that mends points that failed, --retry-failed makes them "
            "again"
        )


def _other_code(run: Path, recipe: Recipe) -> str:
    """How the user's code differs from what the run, or the curve, was started with."""
    file = run / "recipe.json"
    return "; ".join(changes_of_code(read_record(file), recipe)) if file.exists() else ""


def _check_same(run: Path, recipe: Recipe, seed: int) -> None:
    """Refuse to go on with another recipe than the run was started with."""
    if changed := changes(read_record(run / "recipe.json"), recipe, seed):
        raise RunError(f"{run} was started with another recipe: " + "; ".join(changed))


@contextmanager
def begun(run: Path, record: Record, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Have the run directory for oneself; an old run goes only now that the new one is possible."""
    with alone_in(run):
        # Another process may have been here since it was checked first.
        check_run(run, record.recipe, record.seed, resume=resume, overwrite=overwrite)
        if not resume:
            _clear(run)
        elif other := _other_code(run, record.recipe):
            say(f"warning: {run} was started with other code: {other}", to=errors)
        keep_record(record, run)
        log.info("training with seed %d into %s", record.seed, run)
        yield


def _clear(run: Path) -> None:
    """Remove what a run has written, and what its teacher has."""
    if (run / TEACHER).is_dir():
        _clear(run / TEACHER)
        with suppress(OSError):  # something of the user's lies there
            (run / TEACHER).rmdir()
    for name in RUN_FILES:
        remove(run / name)


@contextmanager
def resumable(run: Path, *flags: str) -> Iterator[None]:
    """Answer Ctrl-C with the command that goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        given = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        command = shlex.join(["lissom", *given, *flags])
        say(f"stopped; {run} goes on with: {command}", to=errors)
        raise typer.Exit(130) from error
