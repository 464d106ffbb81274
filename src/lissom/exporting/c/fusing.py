"""Layers that become a part of the layer before or after them."""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from lissom.exporting.c.layers import (
    Add,
    Bounds,
    Layer,
    MaxPool,
    Multiply,
    Network,
    Pad,
    Product,
    Value,
)

BLOCK = 16  # weights of the longest N:M blocks, which are not to be torn


def fused(network: Network, apart: Set[Value] = frozenset()) -> Network:
    """The same network in fewer layers: no layer is only an affine map where another can be it.

    Args:
        network: as it was read.
        apart: what is scaled and shifted before it is padded, and not afterwards.
    """
    return _trimmed(_joined(network, apart))


def _joined(network: Network, apart: Set[Value]) -> Network:
    layers = list(network.layers)
    changed = True
    while changed:
        reads = Counter(value for layer in layers for value in layer.inputs)
        reads[network.output] += 1
        layers = [layer for layer in layers if reads[layer.output]]
        changed = False
        for number, later in enumerate(layers):
            earlier = next((x for x in layers if x.output in later.inputs), None)
            if earlier is None or reads[earlier.output] > 1:
                continue
            together = _together(earlier, later, apart)
            if together is None:
                continue
            layers[number : number + 1] = together
            layers.remove(earlier)
            changed = True
            break
    return replace(network, layers=tuple(layers))


def _trimmed(network: Network) -> Network:
    """The same without the first and last entries of the input, if dense layers read none of them.

    Pixels at the margins of images are the first that a sparse network does without.
    """
    readers = [layer for layer in network.layers if network.input in layer.inputs]
    dense = [layer for layer in readers if isinstance(layer, Product) and layer.dense]
    if not network.as_given or not dense or len(dense) < len(readers):
        return network
    read = torch.cat([_columns(layer)[_is_read(layer)] for layer in dense])
    if not read.numel():
        return network
    first, last = int(read.min()), int(read.max())
    first -= first % BLOCK
    inner = Value((1, 1, last + 1 - first))

    def reading_less(layer: Product) -> Product:
        columns = _columns(layer)
        inside = (columns >= first) & (columns <= last)
        weight = layer.weight.flatten(1)[:, inside]
        return replace(
            layer,
            inputs=(inner,),
            weight=weight[:, None, None],
            columns=None if layer.columns is None else columns[inside] - first,
        )

    layers = tuple(reading_less(x) if x in dense else x for x in network.layers)
    return replace(network, input=inner, layers=layers, first=first)


def _columns(layer: Product) -> Tensor:
    """The entries of the input that a dense layer has weights for."""
    if layer.columns is not None:
        return layer.columns
    return torch.arange(layer.inputs[0].entries)


def _is_read(layer: Product) -> Tensor:
    """For each of them, whether any of its weights is not zero."""
    return (layer.weight.flatten(1) != 0).any(0)


def _together(earlier: Layer, later: Layer, apart: Set[Value]) -> list[Layer] | None:
    """What takes the place of two layers, the second of which alone reads the first; or None."""
    if isinstance(earlier, Product) and isinstance(later, MaxPool):
        return _pooled(earlier, later)
    if _pointwise(later) and isinstance(earlier, Product | Add | Multiply):
        return _followed(earlier, later)
    if _pointwise(earlier) and earlier.finish == Bounds():
        if isinstance(later, Pad) and earlier.inputs[0] not in apart:
            return _padded_before(earlier, later)
        if isinstance(later, Product):
            return _preceded(earlier, later)
    return None


def _pointwise(layer: Layer) -> TypeGuard[Product]:
    """Whether it is scale·x + shift for each channel, perhaps within bounds."""
    return (
        isinstance(layer, Product)
        and layer.columns is None
        and layer.weight[0].numel() == 1
        and layer.groups == len(layer.weight)
        and layer.stride == (1, 1)
    )


def _clamps(layer: Layer) -> bool:
    """Whether it only keeps numbers within bounds."""
    return _pointwise(layer) and bool((layer.weight == 1).all() and (layer.bias == 0).all())


def _pooled(product: Product, pool: MaxPool) -> list[Layer] | None:
    """Pooling of sums: bounds are monotone, so that the largest is taken before."""
    alike = pool.window == pool.stride == (2, 2) and pool.dilation == (1, 1)
    if (
        not alike
        or product.pool != (1, 1)
        or product.dense
        or product.groups > 1
        or product.dilation[1] > 1
    ):
        return None
    return [replace(product, output=pool.output, pool=pool.window)]


def _followed(earlier: Product | Add | Multiply, later: Product) -> list[Layer] | None:
    """A layer and what scales its channels or keeps them within bounds."""
    finish = earlier.finish
    assert isinstance(finish, Bounds) and isinstance(later.finish, Bounds)
    if _clamps(later):
        both = _within(finish, later.finish)
        return [replace(earlier, output=later.output, finish=both)]
    scale, shift = later.weight.flatten(), later.bias
    if not isinstance(earlier, Product) or finish != Bounds():
        return None
    if earlier.pool != (1, 1) and not bool((scale > 0).all()):
        return None
    weight = earlier.weight * scale[:, None, None, None]
    bias = earlier.bias * scale + shift
    return [replace(earlier, output=later.output, weight=weight, bias=bias, finish=later.finish)]


def _preceded(affine: Product, product: Product) -> list[Layer]:
    """A product of channels that were scaled and shifted: W(s·x + t) + b = (W·s)x + (W·t + b)."""
    scale, shift = (_read_by(product, n) for n in (affine.weight.flatten(), affine.bias))
    bias = product.bias + (product.weight * shift).flatten(1).sum(1)
    weight = product.weight * scale
    return [replace(product, inputs=affine.inputs, weight=weight, bias=bias)]


def _read_by(product: Product, by_channel: Tensor) -> Tensor:
    """Numbers of the channels of the input in the shape of the weight that meets them."""
    channels = len(by_channel)
    if product.dense:
        return by_channel[_columns(product) % channels].reshape(1, *product.weight.shape[1:])
    by_group = by_channel.reshape(product.groups, 1, channels // product.groups)
    spread = by_group.expand(-1, len(product.weight) // product.groups, -1)
    return spread.reshape(len(product.weight), 1, 1, -1)


def _padded_before(affine: Product, pad: Pad) -> list[Layer] | None:
    """s·x + t and then a border v is a border (v − t)/s first."""
    scale, shift = affine.weight.flatten(), affine.bias
    if not bool((scale != 0).all() and pad.value.isfinite().all()):
        return None
    inner = Value(pad.output.shape)
    value = (pad.value - shift) / scale
    return [
        replace(pad, inputs=affine.inputs, output=inner, value=value),
        replace(affine, inputs=(inner,), output=pad.output),
    ]


def _within(first: Bounds, then: Bounds) -> Bounds:
    """The bounds that are the one and then the other."""
    low, high = (min(max(x, then.low), then.high) for x in (first.low, first.high))
    return Bounds(low, high)
