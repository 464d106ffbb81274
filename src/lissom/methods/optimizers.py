"""The optimizer that really steps, behind the wrappers that training frameworks put around it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer, SparseAdam

from lissom.errors import MethodError, OptimizerError
from lissom.groups import Partition
from lissom.preconditioners import Group
from lissom.shards import any_in_all

ANEW = "make one anew on the copy's optimizer, and load the original's state_dict()"
OUTSIDE = ("schedulefree", "lookahead", "localsgd")  # in names of those that move weights outside


def stepping_optimizer(given: object) -> Optimizer:
    """The innermost optimizer that steps all parameters: the one whose `step` moves the weights.

    Raises:
        OptimizerError: for something else, or for one that moves weights outside of `step` too, so
            that zeros would not stay.
    """
    optimizer, inner = given, given
    while inner is not None:
        optimizer = inner
        name = type(optimizer).__name__
        if any(word in name.lower() for word in OUTSIDE):
            raise OptimizerError(
                f"{name} moves weights outside of its step, so that zeros would be lost there: use "
                "the optimizer that it is made of"
            )
        inner = _held_by(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"a method follows the steps of a torch.optim.Optimizer, got {type(given).__name__}"
        )
    if not _has_hooks(optimizer):
        raise OptimizerError(
            f"{type(optimizer).__name__} has no hooks, by which a method follows its steps: its "
            "__init__ has to call that of torch.optim.Optimizer"
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise OptimizerError(
            f"{type(optimizer).__name__} has param groups without 'lr', and the steps of a method "
            "are as long as the optimizer's: keep its learning rate under that name"
        )
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        raise OptimizerError(
            f"{type(optimizer).__name__} exchanges the weights by train() and eval(), so that "
            "zeros would be lost there: use an optimizer whose weights are those of its steps"
        )
    return optimizer


def _held_by(outer: object) -> Optimizer | None:
    """The optimizer that a wrapper hands its steps to; None if it is none, and steps by itself.

    Raises:
        OptimizerError: for a wrapper of several.
    """
    held: dict[int, Optimizer] = {}
    for value in getattr(outer, "__dict__", {}).values():
        values = value.values() if isinstance(value, dict) else value
        listed = list(values) if isinstance(value, dict | list | tuple) else [value]
        held |= {id(one): one for one in listed if isinstance(one, Optimizer)}
    if not held:
        return None
    if isinstance(outer, Optimizer) and _has_hooks(outer):
        # Its own hooks follow the steps of several, or of parameters shared out over processes.
        every = parameters_of(outer)
        return next((one for one in held.values() if parameters_of(one) >= every), None)
    if len(held) > 1:
        kinds = ", ".join(type(one).__name__ for one in held.values())
        raise OptimizerError(
            f"{type(outer).__name__} steps several optimizers ({kinds}): make a method on each of "
            "them, with the groups that it steps"
        )
    return next(iter(held.values()))


class LeftBehind:
    """Stands, on a copy of an optimizer, for the methods that follow the original.

    torch copies no hooks, neither by `copy` nor by `pickle`: the copy would train without zeros.

    Attributes:
        names: of the methods.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        kind, names = type(optimizer).__name__, ", ".join(map(repr, self.names))
        raise OptimizerError(
            f"this {kind} is a copy of one that method {names} follows, which copies of optimizers "
            "leave behind: make the method anew on the copy, with groups of the copied model, and "
            "load its state_dict(); without it, load the optimizer's state_dict() into a new one"
        )


def tell_copies(optimizer: Optimizer, names: Callable[[], list[str]]) -> None:
    """See that a step of a copy of an optimizer is an error, as long as methods follow this one."""
    for key, hook in list(optimizer._optimizer_step_post_hooks.items()):
        if isinstance(hook, LeftBehind):  # this is the copy, and now it has a method
            del optimizer._optimizer_step_post_hooks[key]
    vars(optimizer)["__getstate__"] = partial(_state_of_copies, optimizer, names)


def _state_of_copies(optimizer: Optimizer, names: Callable[[], list[str]]) -> dict[str, Any]:
    state: dict[str, Any] = type(optimizer).__getstate__(optimizer)
    state.pop("__getstate__", None)
    if left := names():
        state["_optimizer_step_post_hooks"] = OrderedDict({-1: LeftBehind(left)})
    return state


def _has_hooks(optimizer: object) -> bool:
    return hasattr(optimizer, "_optimizer_step_post_hooks")


def param_groups_of(optimizer: Optimizer | None) -> dict[nn.Parameter, Group]:
    """The param group that holds each parameter now: groups may come and go between steps.

    Raises:
        MethodError: where there is none, as in a copy of a method.
    """
    if optimizer is None:
        raise MethodError(
            "this is a copy of a method, and follows no optimizer, without whose learning rates "
            f"and metric it cannot say what vanishes: {ANEW}"
        )
    return {p: group for group in optimizer.param_groups for p in group["params"]}


def parameters_of(optimizer: Optimizer) -> set[nn.Parameter]:
    """What an optimizer steps."""
    return {p for group in optimizer.param_groups for p in group["params"]}


def maximizes(group: Group | None) -> bool:
    """Whether the steps of a param group go up the gradient."""
    return group is not None and bool(group.get("maximize"))


def require_minimizing(optimizer: Optimizer, blocks: Iterable[Partition], method: str) -> None:
    """Refuse to maximize, or to take sparse gradients only, where a penalty is in the loss.

    Raises:
        OptimizerError: with what works.
    """
    require_dense(optimizer, method)
    groups = param_groups_of(optimizer)
    if any(maximizes(groups.get(p)) for block in blocks for p in block.parameters):
        raise OptimizerError(
            f"{type(optimizer).__name__} has maximize=True, and would make the penalty of method "
            f"{method!r} large, which is added to what it maximizes: minimize the loss "
            "-objective + method.penalty() instead, or use proximal, lc or nested"
        )


def require_dense(optimizer: Optimizer, method: str) -> None:
    """Refuse an optimizer of sparse gradients where a method adds dense ones.

    Raises:
        OptimizerError: with what works.
    """
    if isinstance(optimizer, SparseAdam):
        raise OptimizerError(
            f"{type(optimizer).__name__} takes sparse gradients only, and those of method "
            f"{method!r} are dense: use Adagrad or SGD, which take both, or proximal"
        )


def is_scheduled(optimizer: Optimizer) -> bool:
    """Whether a learning-rate scheduler was made for it, which torch marks the step with."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched")


def took_a_step(optimizer: Optimizer) -> bool:
    """Whether the step that just ended moved anything, or could have.

    Three kinds do not: one that a GradScaler skipped for a gradient that is not finite; one without
    any gradient; and the one with a rate of 0 and gradients of 0 by which
    `torch.distributed.checkpoint` makes an optimizer's state. A warm-up at rate 0 is a step.
    """
    found_inf = getattr(optimizer, "found_inf", None)  # set by GradScaler for fused optimizers
    if found_inf is not None and bool(found_inf):
        return False
    groups = optimizer.param_groups
    gradients = (p.grad for group in groups for p in group["params"] if p.grad is not None)
    if all(float(group.get("lr", 1)) == 0 for group in groups if group["params"]):
        return any_in_all(list(gradients))
    return next(gradients, None) is not None
