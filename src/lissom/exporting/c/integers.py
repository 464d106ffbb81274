"""Post-training quantization: a network of floats as a network of integers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lissom.errors import LissomError
from lissom.exporting.c.layers import (
    Activation,
    Add,
    Bounds,
    Concat,
    Gather,
    Layer,
    MaxPool,
    MeanPool,
    Multiply,
    Network,
    Pad,
    Product,
    Rescaled,
    Scale,
    Scaled,
    Shifted,
    Value,
    unit_of,
)

LARGEST_BIAS = 2**27  # of an int32, so that 2³¹ leaves 8 million steps of weights × 255
TINY = 1e-30  # the finest step there is, also of what is always 0
CODEBOOK = 16  # numbers, beside 0: codes of 4 bits


def scale_of(low: float, high: float, least: float = 0.0) -> Scale:
    """The finest scale for numbers between low and high, and 0, with steps of at least `least`."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255, least, TINY)
    return Scale(step, min(round(-low / step), 255))


@dataclass(frozen=True)
class Ranges:
    """What the activations of a network are on some inputs.

    Attributes:
        found: the least and largest entry of each value; of a border without those that are −∞.
        pixels: whether all inputs are k/255 for a whole k.
    """

    found: Mapping[Value, tuple[float, float]]
    pixels: bool


def quantized(network: Network, ranges: Ranges) -> Network:
    """The network in integers, with scales by what its activations are on some inputs.

    Args:
        network: of floats.
        ranges: of its activations.

    Raises:
        LissomError: an activation that is not finite, or sums that int32 cannot hold, with the
            name of the layer.
    """
    found = _with_borders(network, ranges.found)
    values: dict[Value, Value] = {}
    scales: dict[Value, Scale] = {}

    def integer(value: Value, scale: Scale) -> None:
        values[value] = replace(value, type="uint8_t")
        scales[value] = scale

    _require_finite(found[network.input], "a tensor")
    low, high = found[network.input]
    bytes_of_images = ranges.pixels and 0 <= low <= high <= 1
    integer(network.input, Scale(1 / 255, 0) if bytes_of_images else scale_of(low, high))
    read_again = {value for layer in network.layers for value in layer.inputs}
    layers: list[Layer] = []
    for layer in network.layers:
        last = layer.output is network.output and layer.output not in read_again
        _require_finite(found[layer.output], layer.name or "the network")
        given = [scales[x] for x in layer.inputs]
        made, scale = _in_integers(layer, given, found[layer.output], last)
        if scale is None:
            values[layer.output] = layer.output
        else:
            integer(layer.output, scale)
        inputs = tuple(values[x] for x in layer.inputs)
        layers.append(replace(made, inputs=inputs, output=values[layer.output]))
    output = values[network.output]
    if output.type == "uint8_t":
        step, zero = scales[network.output].step, scales[network.output].zero
        floats = Value(output.shape)
        finish = Scaled(torch.tensor([step]))
        layers.append(MeanPool("", (output,), floats, (1, 1), (1, 1), finish, -zero))
        output = floats
    return replace(
        network,
        input=values[network.input],
        layers=tuple(layers),
        output=output,
        scale=scales[network.input],
    )


def _require_finite(found: tuple[float, float], where: str) -> None:
    """Refuse numbers that have no scale."""
    if not all(map(math.isfinite, found)):
        raise LissomError(
            f"int8 needs inputs to calibrate on that give finite numbers, and {where} gives "
            f"{found[0]:.3g} to {found[1]:.3g}"
        )


def ranges_of(network: Network, batches: Iterable[Tensor]) -> Ranges:
    """The ranges of all activations on inputs to calibrate on, [n, height, width, channels]."""
    found: dict[Value, tuple[float, float]] = {}
    padded = {layer.output for layer in network.layers if isinstance(layer, Pad)}
    pixels = True
    for batch in batches:
        levels = batch * 255
        whole = bool(((levels - levels.round()).abs() < 1e-4).all())
        pixels = pixels and whole and bool((batch >= 0).all() and (batch <= 1).all())
        for value, x in network.activations(batch):
            numbers = x.where(x > -torch.inf, 0.0) if value in padded else x
            low, high = map(float, numbers.aminmax())
            before = found.get(value, (low, high))
            found[value] = min(low, before[0]), max(high, before[1])
    return Ranges(found, pixels)


def beyond(network: Network, ranges: Ranges) -> set[Value]:
    """What is padded with numbers that its own range, with 0, does not hold."""
    found = set()
    for layer in network.layers:
        if isinstance(layer, Pad):
            low, high = ranges.found[layer.inputs[0]]
            border = layer.value[layer.value.isfinite()]
            if bool(((border < min(low, 0.0)) | (border > max(high, 0.0))).any()):
                found.add(layer.inputs[0])
    return found


def _with_borders(
    network: Network, found: Mapping[Value, tuple[float, float]]
) -> dict[Value, tuple[float, float]]:
    """Ranges that hold those of what has the same scale: borders, and entries that are moved."""
    wider = dict(found)
    for layer in reversed(network.layers):
        if isinstance(layer, Pad | MaxPool | Gather):
            (low, high), (least, most) = wider[layer.inputs[0]], wider[layer.output]
            wider[layer.inputs[0]] = min(low, least), max(high, most)
    return wider


def _in_integers(
    layer: Layer, scales: list[Scale], found: tuple[float, float], last: bool
) -> tuple[Layer, Scale | None]:
    """A layer on integers and the scale of its output, None where it is float."""
    if isinstance(layer, Product):
        return _product(layer, scales[0], found, last)
    if isinstance(layer, MeanPool):
        return _mean(layer, scales[0], found, last)
    if isinstance(layer, Pad):
        value = torch.tensor([scales[0].integer(v) for v in layer.value.tolist()])
        return replace(layer, value=value), scales[0]
    if isinstance(layer, MaxPool | Gather):
        return layer, scales[0]
    if isinstance(layer, Activation):
        return _tabulated(layer, scales[0], found)
    if isinstance(layer, Multiply):
        assert isinstance(layer.finish, Bounds)
        first, second = scales
        products = torch.tensor([first.step * second.step], dtype=torch.float64)
        rescaled, output = _rescaled(products, layer.finish, found)
        return replace(layer, zeros=(first.zero, second.zero), finish=rescaled), output
    assert isinstance(layer, Add | Concat)
    steps = [times * x.step for times, x in zip(layer.multipliers, scales, strict=True)]
    scale = scale_of(*found, max(map(abs, steps)) / 2)
    multipliers = tuple(round(step / scale.step * 2**20) for step in steps)
    offsets = [-m * x.zero for m, x in zip(multipliers, scales, strict=True)]
    half = (scale.zero << 20) + (1 << 19)
    if isinstance(layer, Concat):
        biases = tuple(offset + half for offset in offsets)
        return replace(layer, multipliers=multipliers, biases=biases, finish=Shifted()), scale
    assert isinstance(layer.finish, Bounds)
    finish = Shifted(*_bounds(layer.finish, scale))
    return replace(layer, multipliers=multipliers, bias=sum(offsets) + half, finish=finish), scale


def _tabulated(
    layer: Activation, scale: Scale, found: tuple[float, float]
) -> tuple[Activation, Scale]:
    """What it makes of each of 256 numbers."""
    output = scale_of(*found)
    numbers = layer.curve.function((torch.arange(256) - scale.zero) * scale.step)
    numbers = numbers.nan_to_num(0.0)  # beyond what it was seen on, as roots of borders below 0
    table = torch.tensor([output.integer(x) for x in numbers.tolist()], dtype=torch.uint8)
    return replace(layer, table=table), output


def _bounds(bounds: Bounds, scale: Scale) -> tuple[int, int]:
    low, high = (
        (scale.integer(x) if abs(x) < torch.inf else end)
        for x, end in ((bounds.low, 0), (bounds.high, 255))
    )
    return low, high


def _product(
    layer: Product, scale: Scale, found: tuple[float, float], last: bool
) -> tuple[Product, Scale | None]:
    assert isinstance(layer.finish, Bounds)
    weight, bias = layer.weight.double(), layer.bias.double()
    by_row = [-1, 1, 1, 1]
    step = weight.abs().amax((1, 2, 3)) / 127
    step = step.maximum(bias.abs() / (scale.step * LARGEST_BIAS))
    step = step.maximum(step.max() / 256)  # so that multipliers of 16 bits have digits for all
    step[step == 0] = 1e-6  # where all units are dead: any will do
    if one_codebook(weight):  # whose entries are as few in integers if all rows have one step
        step = step.amax().expand(len(step))
    rounded = (weight / step.reshape(by_row)).round()
    shifted = (bias / (step * scale.step)).round() - scale.zero * rounded.sum((1, 2, 3))
    if bool((shifted.abs() + 255 * rounded.abs().sum((1, 2, 3)) >= 2**31).any()):
        raise LissomError(
            f"{layer.name} sums {rounded[0].numel():,} products, more than 32 bits hold for int8 "
            "weights: export it in float32, without int8"
        )
    sums = (step[:1] if bool((step == step[0]).all()) else step) * scale.step
    made = replace(layer, weight=rounded.to(torch.int8), bias=shifted.to(torch.int32))
    if last and layer.finish == Bounds():
        return replace(made, finish=Scaled(sums.float())), None
    finish, output = _rescaled(sums, layer.finish, found)
    bias = _in_16_bits(made.bias)
    if float((bias - made.bias).abs().max()) * float(finish.multiplier.max()) < 2**32 / 16:
        made = replace(made, bias=bias)  # less than a sixteenth of a step of the output away
    return replace(made, finish=finish), output


def one_codebook(weight: Tensor) -> bool:
    """Whether all weights that are not 0 are among at most 16 numbers, each used often."""
    found = weight[weight != 0]
    return len(found.unique()) <= min(CODEBOOK, len(found) / 8)


def _mean(
    layer: MeanPool, scale: Scale, found: tuple[float, float], last: bool
) -> tuple[MeanPool, Scale | None]:
    assert isinstance(layer.finish, Scaled)
    bias = -scale.zero * layer.window[0] * layer.window[1]
    sums = layer.finish.scale.double() * scale.step
    if last:
        return replace(layer, bias=bias, finish=Scaled(sums.float())), None
    finish, output = _rescaled(sums, Bounds(), found)
    return replace(layer, bias=bias, finish=finish), output


def _in_16_bits(numbers: Tensor) -> Tensor:
    """The nearest numbers that are an int16 times a power of two, the same for all of them."""
    unit = unit_of(numbers)
    most = 2**15 - 1
    return (numbers / unit).round().clamp(-most, most).to(numbers.dtype) * unit


def _rescaled(sums: Tensor, bounds: Bounds, found: tuple[float, float]) -> tuple[Rescaled, Scale]:
    """How sums in steps of their own become uint8; two of their steps are the finest there is."""
    scale = scale_of(*found, 2.0001 * float(sums.max()))
    multiplier = sums / scale.step * 2**32
    shift = max(0, math.floor(math.log2(float(multiplier.max()))) - 15)
    significant = (multiplier / 2**shift).round().clamp(1, 2**16 - 1).to(torch.int64)
    return Rescaled(significant << shift, shift, scale.zero, *_bounds(bounds, scale)), scale
