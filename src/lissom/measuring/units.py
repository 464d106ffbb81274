"""What is left of a network when its dead units are gone: "266-88-33" and its weights."""

import warnings
from functools import singledispatch

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lissom.coupling import Trace
from lissom.running import Inputs, copied, evaluating, run
from lissom.shrinking import shrunk


def neurons(model: nn.Module, inputs: Inputs, traced: Trace) -> tuple[int, ...]:
    """The papers' notation: remaining maps of convolutions, remaining inputs of dense layers.

    In the order in which the layers run, each once: 784-300-100 for a dense LeNet-300-100,
    20-50-800-500 for LeNet-5 (Louizos, Welling & Kingma 2018, table 1).

    Raises:
        LissomError: if dead units cannot be removed from this model.
    """
    small = without_dead(model, inputs, traced, entries=True)
    found: dict[nn.Module, int] = {}

    def seen(layer: nn.Module, *_: object) -> None:
        found.setdefault(layer, _kept(layer))

    hooks = [
        layer.register_forward_pre_hook(seen)
        for layer in small.modules()
        if _kept.dispatch(type(layer)) is not _kept.dispatch(object)
    ]
    try:
        with evaluating(small), torch.no_grad():
            run(small, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found.values())


def without_dead(
    model: nn.Module, inputs: Inputs, traced: Trace, *, entries: bool = False
) -> nn.Module:
    """What `lissom.shrink` makes, to be counted and timed; what it warns of is no news then.

    Raises:
        LissomError: if `lissom.shrink` cannot make one of this model.
    """
    with warnings.catch_warnings(action="ignore"):
        return shrunk(model, inputs, traced, inputs=entries)


@singledispatch
def _kept(layer: nn.Module) -> int:
    raise TypeError(f"{type(layer).__name__} is not in the papers' notation")


@_kept.register
def _(layer: nn.Linear) -> int:
    return layer.in_features


@_kept.register
def _(layer: _ConvNd) -> int:
    return layer.out_channels


def rounded(model: nn.Module, tolerance: float) -> nn.Module:
    """The model with the weights that count as zero set to zero."""
    if tolerance == 0:
        return model
    model = copied(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[parameter.abs() <= tolerance] = 0
    return model
