"""Whether the weights of a model are what it computes with."""

from abc import ABC

from torch import nn

from lissom.arguments import fits, misfit
from lissom.errors import MethodError


class InForward(ABC):  # noqa: B024
    """Hooks of a method that changes what a model computes with, as long as it is not finalized."""


def require_plain(model: nn.Module, verb: str) -> None:
    """Refuse a model whose weights are not what they seem.

    Raises:
        MethodError: if a method changes its forward pass, or it is no module.
    """
    if not fits(model, nn.Module):
        raise MethodError(f"{verb}: {misfit('model', nn.Module, model)}")
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(getattr(hook, "__self__", None), InForward):
                raise MethodError(
                    f"{verb} needs plain weights, and a method is still at work on this "
                    f"{type(model).__name__}: call method.finalize(), or do it within "
                    "`with method.deployed():`"
                )
