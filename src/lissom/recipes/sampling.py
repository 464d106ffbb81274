"""The gates of a run as they were before they were hardened, to draw networks from."""

from pathlib import Path

from lissom.checkpoints import load_state
from lissom.errors import RunError
from lissom.gates import Gates
from lissom.gates.checks import LOG_ALPHA
from lissom.recipes.making import fill_model, make_gates, make_model
from lissom.recipes.specs import Record

AVERAGED = "module."  # torch's AveragedModel puts it before each name


def gates_in(run: Path, record: Record) -> Gates:
    """The gates of a run's last checkpoint, on its network.

    Args:
        run: its directory.
        record: of the run.

    Raises:
        RunError: for a run without gates, unfinished, with patience, or whose gates were hardened
            before its end.
    """
    if record.recipe.method != "gates":
        raise RunError(
            f"{run} has no gates to draw networks from: its method is {record.recipe.method!r}"
        )
    if record.recipe.train.patience is not None:
        raise RunError(
            f"{run} kept the gates of its last epoch and the network of its best one: train it "
            "without train.patience to draw networks"
        )
    if not (run / "result.json").exists():
        raise RunError(f"{run} is not finished (lissom train --resume)")
    checkpoint = run / "checkpoint.pt"
    state = load_state(checkpoint)
    tensors = state["model"]
    if LOG_ALPHA not in tensors:
        raise RunError(
            f"the gates of {run} were hardened before its end, so there is nothing left to draw: "
            "train it without gates.harden, for then they are hardened after the last epoch"
        )
    if (average := state["average"]) is not None:
        tensors = {
            name.removeprefix(AVERAGED): tensor
            for name, tensor in average.items()
            if name.startswith(AVERAGED)
        }
    model = make_model(record.recipe, record.shape, record.classes)
    gates = make_gates(record.recipe, model, record.shape, 1)
    fill_model(model, tensors, checkpoint)
    return gates
