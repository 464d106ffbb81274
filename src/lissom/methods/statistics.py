"""What layers keep of the inputs they saw, as BatchNorm does, made anew for a network that was cut.

Where a training is of networks of all sizes, the running statistics are of none of them.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lissom.running import evaluating


def keeps_statistics(model: nn.Module) -> bool:
    """Whether any layer has running statistics."""
    return bool(_keepers(model))


@torch.no_grad()
def renew_statistics(model: nn.Module, calls: Iterable[Callable[[], object]]) -> None:
    """Make running statistics the plain means over some calls of the model, and nothing else.

    Args:
        model: whose layers keep them. Dropout and the like are as in evaluation.
        calls: each runs the model on a batch of training inputs.
    """
    layers = _keepers(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    with evaluating(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean
            layer.train()
        try:
            for call in calls:
                call()
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def _keepers(model: nn.Module) -> list[_NormBase]:
    found = (module for module in model.modules() if isinstance(module, _NormBase))
    return [layer for layer in found if layer.running_mean is not None]
