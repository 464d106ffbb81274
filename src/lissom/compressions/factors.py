"""A network whose low-rank layers are two thin layers each: the gain of low rank, in any runtime.

A layer with the weight U·V computes U(V x) + b: one layer V without a bias, then one layer U.
"""

import copy
from collections.abc import Callable, Mapping
from functools import singledispatch

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated
from lissom.compressions.forms import Factors, Form
from lissom.errors import CompressionError, nearest

Layers = tuple[nn.Module, nn.Module]

# Modules that read their children's weights without calling them.
READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@torch.no_grad()
@as_annotated(CompressionError)
def factorize(model: nn.Module, forms: Mapping[str, Form]) -> nn.Module:
    """The network of the compressed weights, with each layer of low rank as two.

    An `nn.Linear`, `nn.Conv1d` or `nn.Conv2d` (groups = 1) whose weight has the form `Factors` is
    replaced by an `nn.Sequential` of two, the first [n → r] without a bias, the second [r → m] (a
    1×1 convolution) with it. Rank 0 becomes one factor of zeros. Left as they are, with the
    compressed weights in them: layers that two factors would not make smaller, r(m + n) ≥ m·n;
    all other forms and modules; subclasses, layers with hooks, tied weights, and the layers of
    attention modules, which read weights without calling the layer.

    Args:
        model: is not changed.
        forms: by the name of the parameter, as `Compressed.forms` has them.

    Returns:
        A copy of the model. Where rounding is left aside it computes what the model computes with
        the compressed weights.

    Raises:
        CompressionError: for a name that is no parameter of the model, or a form of another shape.

    Source: Idelbayev & Carreira-Perpiñán 2020, *Low-rank compression of neural nets: learning the
    rank of each layer*, scheme 1 for convolutions.
    """
    owners = dict(model.named_parameters(remove_duplicate=False))
    for name, form in forms.items():
        if name not in owners:
            raise CompressionError(f"the model has no parameter {name!r}." + nearest(name, owners))
        if form.value().shape != owners[name].shape:
            raise CompressionError(
                f"{name} has shape {list(owners[name].shape)}, its form {list(form.value().shape)}"
            )
    made = copy.deepcopy(model)
    parameters = dict(made.named_parameters(remove_duplicate=False))
    for name, form in forms.items():
        parameters[name].copy_(form.value())
    found = {
        parameters[name]: form
        for name, form in forms.items()
        if isinstance(form, Factors) and _smaller(form)
    }
    readers = [module for module in made.modules() if isinstance(module, READERS)]
    hidden = {child for reader in readers for child in reader.modules()}
    users = [p for module in made.modules() for p in module._parameters.values() if p is not None]
    new: dict[nn.Module, nn.Sequential] = {}
    for module in set(made.modules()) - hidden:
        weight = module._parameters.get("weight")
        if weight in found and sum(p is weight for p in users) == 1 and not _hooked(module):
            assert weight is not None
            layers = two_layers(module, *_tensors(found[weight], weight))
            if layers is not None:
                new[module] = nn.Sequential(*layers).train(module.training)
                new[module].requires_grad_(weight.requires_grad)
                layers[1].bias = module.bias
    for module in made.modules():
        module._modules.update(
            {name: new[child] for name, child in module._modules.items() if child in new}
        )
    return new.get(made, made)


@singledispatch
def two_layers(layer: nn.Module, u: Tensor, v: Tensor) -> Layers | None:
    """Two layers that compute what one with the weight U·V does, the bias left out.

    Register a function for a module class to have it factored too.

    Args:
        layer: whose settings they take over.
        u: U [m, r].
        v: V [r, n].

    Returns:
        The layers of V and U, or None for a module that stays as it is.
    """
    return None


@two_layers.register
def _(layer: nn.Linear, u: Tensor, v: Tensor) -> Layers | None:
    if type(layer) is not nn.Linear:
        return None
    first = _filled(nn.Linear, v, layer.in_features, len(v))
    return first, _filled(nn.Linear, u, len(v), layer.out_features)


@two_layers.register(nn.Conv1d)
@two_layers.register(nn.Conv2d)
def _(layer: nn.Conv1d | nn.Conv2d, u: Tensor, v: Tensor) -> Layers | None:
    kind = type(layer)
    if kind not in (nn.Conv1d, nn.Conv2d) or layer.groups != 1:
        return None
    first = _filled(
        kind,
        v.view(-1, *layer.weight.shape[1:]),
        layer.in_channels,
        len(v),
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
    )
    ones = [1] * (layer.weight.ndim - 2)
    return first, _filled(kind, u.view(*u.shape, *ones), len(v), layer.out_channels, ones)


def _filled(
    kind: Callable[..., nn.Module], weight: Tensor, *sizes: object, **settings: object
) -> nn.Module:
    """A layer with this weight and no bias; no random numbers are drawn for it."""
    layer = kind(*sizes, bias=False, device="meta", **settings)
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    return layer


def _tensors(form: Factors, weight: Tensor) -> tuple[Tensor, Tensor]:
    u, v = form.u.to(weight), form.v.to(weight)
    if len(v):
        return u, v
    return u.new_zeros(len(u), 1), v.new_zeros(1, v.shape[1])  # a layer needs at least one output


def _smaller(form: Factors) -> bool:
    (m, r), n = form.u.shape, form.v.shape[1]
    return max(r, 1) * (m + n) < m * n


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
