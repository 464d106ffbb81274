"""The checkpoint of a run: read with its types checked, and compared before anything is changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lissom.arguments import first_misfit, is_number
from lissom.errors import RunError
from lissom.methods import Method
from lissom.storage import load_state, mismatch, save_state
from lissom.training.evaluation import Evaluation

KIND = "lissom checkpoint 1"
ODD_MOMENTS = ("Adafactor", "LBFGS", "Muon")  # not all of the shape of a weight
AVERAGED = "module."  # torch's AveragedModel puts it before each name

STATE: dict[str, Any] = {
    "epoch": int,
    "seconds": float,
    "steps_per_epoch": int,
    "model": dict,
    "optimizer": dict,
    "optimized": dict,
    "method": dict | None,
    "scheduler": dict | None,
    "precision": dict,
    "average": dict | None,
    "best": dict | None,
    "event": dict | None,
    "small": dict | None,
}
BEST: dict[str, Any] = {"key": tuple[float, float], "event": dict, "model": dict, "waited": int}


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write what `load_checkpoint` reads."""
    save_state(state, path, KIND)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a run.

    Raises:
        RunError: if it is missing, damaged or of another version.
    """
    state = {"small": None, **load_state(path, KIND)}  # which those of before do not have
    if why := first_misfit(state, STATE):
        raise RunError(f"{path}: {why}")
    return state


def averaged(average: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged tensors by the names that the model has for them."""
    found = average.items()
    return {n.removeprefix(AVERAGED): x for n, x in found if n.startswith(AVERAGED)}


def optimized(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer is and what it steps, so that its state is not given to another."""
    groups = [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    return {"class": type(optimizer).__qualname__, "shapes": groups}


def scheduled(scheduler: LRScheduler | None) -> dict[str, Any] | None:
    """What a scheduler is and where it stands."""
    if scheduler is None:
        return None
    return {"class": type(scheduler).__qualname__, "state": scheduler.state_dict()}


def check_checkpoint(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    method: Method | None,
    scheduler: LRScheduler | None = None,
) -> None:
    """See that a state is of this model, optimizer, method and scheduler, and change none of them.

    Raises:
        RunError: saying what differs.
    """
    kept = state["method"]
    if (method is None) != (kept is None):
        there = "no method" if kept is None else f"{kept.get('method')!r}"
        here = "none" if method is None else f"{method.name!r}"
        raise RunError(f"it was trained with {there}, and this trainer has {here}")
    _check_scheduler(state["scheduler"], scheduled(scheduler))
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
    _check_optimizer(state["optimizer"], optimizer, steps["shapes"])
    best, average = state["best"], state["average"]
    if best is not None:
        if why := first_misfit(best, BEST):
            raise RunError(f"the best epoch: {why}")
        Evaluation.from_dict(best["event"])
    count = None if average is None else average.get("n_averaged")
    if average is not None and not (isinstance(count, Tensor) and _is_number(count)):
        raise RunError(f"n_averaged of the average is a number, got {count!r}")
    for name, expected, tensors in (
        ("model", own, state["model"]),
        ("average", own, average and averaged(average)),
        ("best model", plain, best and best["model"]),
    ):
        if tensors is not None and (why := mismatch(expected, tensors)):
            raise RunError(f"the {name}: {why}")


def _check_scheduler(kept: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> None:
    """See that one scheduler may go on where another was.

    Raises:
        RunError: naming both.
    """
    names = [None if one is None else one.get("class") for one in (kept, own)]
    if names[0] != names[1]:
        raise RunError(f"it was trained with scheduler={names[0]}, this trainer has {names[1]}")
    if kept is None or own is None:
        return
    state = kept.get("state")
    if not isinstance(state, dict) or state.keys() != own["state"].keys():
        raise RunError(f"the state of its {names[0]} is not that of this torch's {names[1]}")


def _check_optimizer(
    found: Mapping[str, Any], optimizer: Optimizer, shapes: Sequence[Sequence[Sequence[int]]]
) -> None:
    """See that an optimizer's state has numbers where it has them now, and moments of all weights.

    Raises:
        RunError: naming what has not.
    """
    groups, states = found.get("param_groups"), found.get("state")
    if not isinstance(groups, list) or len(groups) != len(shapes) or not isinstance(states, dict):
        raise RunError(f"the optimizer's state has {len(shapes)} param_groups and state")
    flat = [shape for group in shapes for shape in group]
    numbers = [number for group in groups if isinstance(group, dict) for number in _list(group)]
    if numbers != list(range(len(flat))) or not states.keys() <= set(numbers):
        raise RunError(f"the optimizer's state is of {len(flat)} parameters, in their order")
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        for name, value in own.items():
            missing = None if isinstance(value, bool | NoneType) else ...  # torch adds such itself
            if name != "params" and not _alike(value, group.get(name, missing)):
                raise RunError(
                    f"{name} of the optimizer is now {value!r}, and was {group.get(name)!r}"
                )
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ in ODD_MOMENTS:
        return  # nobody but its authors knows what it keeps
    first: dict[int, dict[str, str]] = {}  # of each group
    group_of = [i for i, group in enumerate(shapes) for _ in group]
    for number, kept in states.items():
        shape = flat[number]
        if not isinstance(kept, dict):
            raise RunError(f"the optimizer's state of a weight is {kept!r}")
        if not kept or shape == []:  # it had no gradient; moments look as numbers do
            continue
        now = {name: _moment(value, shape) for name, value in kept.items()}
        if "" in now.values() or now != first.setdefault(group_of[number], now):
            told = {n: list(x.shape) if isinstance(x, Tensor) else x for n, x in kept.items()}
            raise RunError(f"the optimizer's state of a weight shaped {shape} is {told}")


def _moment(value: object, shape: Sequence[int]) -> str:
    """What torch's optimizers keep for a weight: numbers of its shape, or a number; else ""."""
    if isinstance(value, Tensor) and list(value.shape) == list(shape):
        return "moment" if value.is_floating_point() or value.is_complex() else ""
    return "number" if _is_number(value) else "nothing" if value is None else ""


def _list(group: Mapping[str, Any]) -> list[Any]:
    params = group.get("params")
    return params if isinstance(params, list) else [params]


def _alike(own: object, found: object) -> bool:
    """Whether one value of an option may stand for another."""
    if isinstance(own, bool | NoneType):
        return isinstance(found, bool | NoneType | type(own))
    if _is_number(own):
        return _is_number(found)
    if isinstance(own, tuple | list):
        if not isinstance(found, tuple | list) or len(found) != len(own):
            return False
        return all(_alike(a, b) for a, b in zip(own, found, strict=True))
    return isinstance(found, type(own))


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return is_number(value)


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
