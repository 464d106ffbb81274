"""The checkpoint of a run: read with its types checked, and compared before anything is changed."""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.arguments import fits
from lissom.errors import RunError
from lissom.methods import Method
from lissom.storage import load_state, mismatch, save_state

KIND = "lissom checkpoint 1"
AVERAGED = "module."  # torch's AveragedModel puts it before each name

TYPES: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "seconds": (int, float),
    "steps_per_epoch": (int,),
    "model": (dict,),
    "optimizer": (dict,),
    "optimized": (dict,),
    "method": (dict, NoneType),
    "average": (dict, NoneType),
    "best": (dict, NoneType),
    "event": (dict, NoneType),
}


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write what `load_checkpoint` reads."""
    save_state(state, path, KIND)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a run.

    Raises:
        RunError: if it is missing, damaged or of another version.
    """
    state = load_state(path, KIND)
    for name, types in TYPES.items():
        if not isinstance(value := state.get(name, ...), types):
            words = " or ".join(kind.__name__ for kind in types)
            raise RunError(f"{path}: {name} is of type {words}, got {type(value).__name__}")
    return state


def averaged(average: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged tensors by the names that the model has for them."""
    found = average.items()
    return {n.removeprefix(AVERAGED): x for n, x in found if n.startswith(AVERAGED)}


def optimized(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer is and what it steps, so that its state is not given to another."""
    groups = [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    return {"class": type(optimizer).__qualname__, "shapes": groups}


def check_checkpoint(
    state: Mapping[str, Any], model: nn.Module, optimizer: Optimizer, method: Method | None
) -> None:
    """See that a state is of this model, optimizer and method, and change none of them.

    Raises:
        RunError: saying what differs.
    """
    kept = state["method"]
    if (method is None) != (kept is None):
        there = "no method" if kept is None else f"{kept.get('method')!r}"
        here = "none" if method is None else f"{method.name!r}"
        raise RunError(f"it was trained with {there}, and this trainer has {here}")
    own, steps = model.state_dict(), optimized(optimizer)
    plain = own  # as it is delivered
    if method is not None:
        method.check_state(kept)
        if not method.finalized:
            plain, left = _after_the_end(model, optimizer, method)
            if kept["finalized_at"] is not None:
                own, steps = plain, left
    if state["optimized"] != steps:
        raise RunError(
            f"it has the state of {_told(state['optimized'])}, and this trainer steps with "
            f"{_told(steps)}"
        )
    if not fits(state["optimizer"], Mapping) or [
        len(group["params"]) for group in state["optimizer"]["param_groups"]
    ] != [len(shapes) for shapes in steps["shapes"]]:
        raise RunError(f"it has no state of this {type(optimizer).__name__}")
    best, average = state["best"], state["average"]
    for name, expected, tensors in (
        ("model", own, state["model"]),
        ("average", own, average and averaged(average)),
        ("best model", plain, best and best["model"]),
    ):
        if tensors is not None and (why := mismatch(expected, tensors)):
            raise RunError(f"the {name}: {why}")


def _after_the_end(
    model: nn.Module, optimizer: Optimizer, method: Method
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Model and optimizer as they will be when the method has given up what it holds."""
    before = set(model.parameters())
    with method.aside():
        own, left = model.state_dict(), set(model.parameters())
    steps = optimized(optimizer)
    steps["shapes"] = [
        [list(p.shape) for p in group["params"] if p not in before - left]
        for group in optimizer.param_groups
    ]
    return own, steps


def _told(steps: Mapping[str, Any]) -> str:
    shapes = steps.get("shapes")
    groups = len(shapes) if isinstance(shapes, list) else "no"
    several = "group" if groups == 1 else "groups"
    return f"{steps.get('class')} of {groups} param {several}, shaped {shapes}"
