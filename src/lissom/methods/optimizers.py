"""The optimizer that really steps, behind the wrappers that training frameworks put around it."""

from torch import nn
from torch.optim import Optimizer

from lissom.errors import OptimizerError
from lissom.preconditioners import Group

INNER = ("optimizer", "_optimizer", "base_optimizer")  # accelerate's, Lightning's, SAM's
OUTSIDE = ("schedulefree", "lookahead")  # in names of those that move weights outside of `step`


def stepping_optimizer(given: object) -> Optimizer:
    """The innermost optimizer: the one whose `step` moves the weights.

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
        held = getattr(optimizer, "__dict__", {})
        inner = next((held[key] for key in INNER if isinstance(held.get(key), Optimizer)), None)
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"a method follows the steps of a torch.optim.Optimizer, got {type(given).__name__}"
        )
    return optimizer


def param_groups_of(optimizer: Optimizer) -> dict[nn.Parameter, Group]:
    """The param group that holds each parameter now: groups may come and go between steps."""
    return {p: group for group in optimizer.param_groups for p in group["params"]}


def parameters_of(optimizer: Optimizer) -> set[nn.Parameter]:
    """What an optimizer steps."""
    return {p for group in optimizer.param_groups for p in group["params"]}


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
    if all(float(group["lr"]) == 0 for group in groups if group["params"]):
        return any(bool(gradient.any()) for gradient in gradients)
    return next(gradients, None) is not None
