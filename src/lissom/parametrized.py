"""Weights that are computed from other parameters: weight_norm, spectral_norm, and users' own.

Such a weight w = f(v) is no parameter; what an optimizer steps is v, and the gain g of a weight
norm, w = g·v/‖v‖. A network in which each w is a parameter computes the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lissom.running import copied, evaluating, holding

REMEDY = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') before"
BELOW = ".parametrizations."  # between the path of a layer and what computes its tensors


@dataclass(frozen=True)
class Computed:
    """A tensor of a module that is computed.

    Attributes:
        name: of the tensor in its module.
        source: of the parameter that it is computed from and is shaped like, in its module; None if
            there is no single one.
        gain: of the parameter that multiplies it, in a weight norm.
        dim: along which the gain lies; None if it is one number.
        weight: computes it.
        norm: whether it is a weight or a spectral norm of torch's.
    """

    name: str
    source: str | None
    gain: str | None
    dim: int | None
    weight: Callable[[], Tensor]
    norm: bool = True


def computed(module: nn.Module) -> Iterator[Computed]:
    """The tensors of a module, without those of its children, that are computed."""
    if parametrize.is_parametrized(module):
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        for name, made in lists.items():
            norm = made[0] if len(made) == 1 else None  # type: ignore[arg-type, index]
            weight = partial(getattr, module, name)
            at = f"parametrizations.{name}."
            if isinstance(norm, _WeightNorm):
                yield Computed(name, at + "original1", at + "original0", _along(norm.dim), weight)
            else:
                alone = f"{at}original" if "original" in made._parameters else None
                spectral = isinstance(norm, _SpectralNorm)
                yield Computed(name, alone, None, None, weight, spectral)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            weight, dim = partial(hook.compute_weight, module), _along(hook.dim)
            yield Computed(hook.name, f"{hook.name}_v", f"{hook.name}_g", dim, weight)
        elif isinstance(hook, SpectralNorm):
            weight = partial(hook.compute_weight, module, do_power_iteration=False)
            yield Computed(hook.name, f"{hook.name}_orig", None, None, weight)


def _along(dim: int | None) -> int | None:
    return None if dim == -1 else dim  # torch's word for one gain


def has_norms(model: nn.Module) -> bool:
    """Whether any weight has a weight or a spectral norm, so that it is no parameter."""
    return any(made.norm for module in model.modules() for made in computed(module))


@torch.no_grad()
def plain(model: nn.Module) -> nn.Module:
    """A copy in which weights that have a norm are parameters; the model itself if there is none.

    Parametrizations of the user's own stay: what is elementwise in them can be cut as it is.
    """
    if not has_norms(model):
        return model
    twin = copied(model)
    with evaluating(twin):  # a spectral norm goes on iterating in training mode
        for module in list(twin.modules()):
            norms = [made for made in computed(module) if made.norm]
            if norms and parametrize.is_parametrized(module):
                _take_off(module)
            else:
                for made in norms:
                    off = remove_weight_norm if made.gain else remove_spectral_norm
                    off(module, made.name)
    return twin


def _take_off(module: nn.Module) -> None:
    """Make parameters of all computed tensors of a module.

    torch's function for it takes the property off the class, which copies of a module share.
    """
    weights = {made.name: made.weight().detach().clone() for made in computed(module)}
    lists = module._modules.pop("parametrizations")
    assert isinstance(lists, nn.ModuleDict)
    module.__class__ = type(module).__bases__[0]
    others = dict(module._parameters)
    for name, weight in weights.items():
        owned = list(lists[name].parameters())
        if owned:
            setattr(module, name, nn.Parameter(weight, any(p.requires_grad for p in owned)))
        else:
            module.register_buffer(name, weight)
    for name in others:  # weights come before biases
        module._parameters[name] = module._parameters.pop(name)


def clean(name: str) -> str:
    """The name of a parameter in the user's own model, without torch.compile's wrapper."""
    return name.replace("_orig_mod.", "")


def full_name(path: str, name: str) -> str:
    """What a model calls a tensor of its module at this path, which is "" for the model itself."""
    return f"{path}.{name}" if path else name


def owner_of(name: str) -> tuple[str, str]:
    """The path of the layer that a parameter belongs to, and what the layer calls the tensor."""
    layer, below, rest = name.rpartition(BELOW)
    if name.startswith(BELOW[1:]):
        layer, below, rest = "", BELOW, name.removeprefix(BELOW[1:])
    if below:
        return layer, rest.partition(".")[0]
    path, _, last = name.rpartition(".")
    return path, last


@torch.no_grad()
def vanishing(module: nn.Module, made: Computed, dim: int | None = None) -> bool:
    """Whether a computed tensor is zero where its source is: all of it, or half along a dim.

    And not before: what is scaled down is still there.
    """
    if made.source is None:
        return False
    source = module.get_parameter(made.source)
    gone = torch.zeros_like(source, dtype=torch.bool)
    if dim is None:
        gone |= True
    else:
        gone.index_fill_(dim, torch.arange(0, source.shape[dim], 2, device=source.device), True)

    def weight(value: Tensor) -> Tensor:
        with evaluating(module), holding([source], [value]):
            return made.weight()

    now, smaller = (weight(scale * source.detach()) for scale in (1.0, 0.5))
    left = weight(source.detach().masked_fill(gone, 0))
    if left.shape != source.shape or not bool(left.isfinite().all()) or bool(left[gone].any()):
        return False
    return torch.equal(now != 0, smaller != 0)


def why_not(module: nn.Module, parameter: Tensor) -> str | None:
    """Why zeros of a parameter would make no zeros of the network's weights, if they would not."""
    for made in computed(module):
        if made.source is None or module.get_parameter(made.source) is not parameter:
            continue
        if vanishing(module, made):
            return None
        old = made.source in module._parameters
        take_off = "weight_norm" if made.gain else "spectral_norm"
        remedy = (
            f"torch.nn.utils.remove_{take_off}(layer, {made.name!r})"
            if old
            else f"torch.nn.utils.parametrize.remove_parametrizations(layer, {made.name!r})"
        )
        return (
            f"the layer's {made.name} is computed from it, and is not zero (or NaN) where it is: "
            f"take that off before, {remedy}, or leave the layer out by groups.without(…)"
        )
    return None
