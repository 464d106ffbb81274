"""A run's method as it was before it was finalized, to draw networks from or to deliver."""

from pathlib import Path

from torch import nn

from lissom.errors import LissomError, RunError
from lissom.methods import Method
from lissom.recipes.making import make_method, make_model, make_optimizer
from lissom.recipes.specs import Record
from lissom.training.checkpoint import averaged, check_checkpoint
from lissom.training.checkpoint import load_checkpoint as load_state


def load_checkpoint(run: Path, record: Record) -> tuple[nn.Module, Method | None]:
    """The network of a run's last checkpoint, with its method on it.

    Args:
        run: its directory.
        record: of the run.

    Raises:
        RunError: if there is none, or it does not fit the record.
    """
    path = run / "checkpoint.pt"
    state = load_state(path)
    model = make_model(record.recipe, record.shape, record.classes)
    optimizer = make_optimizer(record.recipe.optimizer, model)
    method = make_method(record.recipe, model, optimizer, record.shape, state["steps_per_epoch"])
    try:
        check_checkpoint(state, model, optimizer, method)
    except LissomError as error:
        raise RunError(f"{path} does not fit the recipe beside it: {error}") from error
    if method is not None:
        method.load_state_dict(state["method"])
    average = state["average"]
    model.load_state_dict(state["model"] if average is None else averaged(average))
    # Its learning rate and its metric are the method's as well.
    optimizer.load_state_dict(state["optimizer"])
    return model, method


def load_method(run: Path, record: Record) -> tuple[nn.Module, Method]:
    """The network of a finished run with its method, as both were before it was finalized.

    Args:
        run: its directory.
        record: of the run.

    Raises:
        RunError: for a run without a method, an unfinished one, one with patience, one of a curve,
            or one whose method was finalized before its end.
    """
    if record.recipe.train.patience is not None:
        raise RunError(
            f"{run} kept the checkpoint of its last epoch and the network of its best one: train "
            "it without train.patience to draw networks"
        )
    if not (run / "result.json").exists():
        raise RunError(f"{run} is not finished (lissom train --resume)")
    if not (run / "checkpoint.pt").exists():
        raise RunError(
            f"{run} holds a network and no checkpoint, as what `lissom choose` takes of a curve: "
            "there is nothing to draw from. Train a run with gates, or let several runs answer, "
            "lissom ensemble RUN RUN --out DIR"
        )
    model, method = load_checkpoint(run, record)
    if method is None:
        raise RunError(f"{run} has no method, and so no distribution to draw networks from")
    if method.finalized:
        raise RunError(
            f"the method of {run} was finalized before its end, so there is nothing left to draw "
            "from: train it without method.finalize_at, for then it is finalized after the last "
            "epoch"
        )
    return model, method
