"""How the operators of a traced graph are read into layers."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, prod
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lissom.exporting.c import activations
from lissom.exporting.c.layers import (
    Activation,
    Add,
    Bounds,
    Concat,
    Layer,
    MaxPool,
    MeanPool,
    Multiply,
    Network,
    Pad,
    Pair,
    Product,
    Scaled,
    Value,
)
from lissom.exporting.c.reading import Reader, Rule
from lissom.exporting.c.views import UnreadableError, View, canonical, views_in
from lissom.exporting.checking import RANDOM, STEADY

aten = torch.ops.aten
RULES: dict[Any, Rule] = {}


def read(program: ExportedProgram) -> Network:
    """The layers of a network with one input and one output, one for each operator.

    Raises:
        LissomError: naming the module and the operator that C knows nothing of.
    """
    return Reader(program, RULES).network()


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Say how these operators are read."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def _pair(sizes: Any, rank: int, height: int = 1) -> Pair:
    """An argument of one number, or one for each dim, as those along height and width."""
    numbers = [sizes] if isinstance(sizes, int) else list(sizes)
    if rank == 2:  # channels and one dim more
        return height, numbers[-1]
    return numbers[0], numbers[-1]


def _window(size: int, window: int, stride: int, dilation: int) -> int:
    """How often a window fits."""
    return (size - dilation * (window - 1) - 1) // stride + 1


def _padded(
    reader: Reader, value: Value, border: tuple[int, int, int, int], number: float
) -> Value:
    if not any(border):
        return value
    height, width, channels = value.shape
    above, below, left, right = border
    shape = (channels, height + above + below, width + left + right)
    filled = torch.full([channels], number)
    return reader.add(Pad, [value], shape, border=border, value=filled).value


def _shape(rank: int, channels: int, height: int, width: int) -> tuple[int, ...]:
    return (channels, width) if rank == 2 else (channels, height, width)


@rule(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding)
def _conv(
    reader: Reader,
    x: View,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> View:
    rank = x.order.ndim
    if weight.ndim != rank + 1:
        raise UnreadableError("it reads one example without a batch")
    if rank == 2:
        weight = weight[:, :, None]
    stride, dilation = _pair(stride, rank), _pair(dilation, rank)
    kernel = tuple(weight.shape[2:])
    spread = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "valid":
        padding = 0
    if padding == "same":
        above, left = (total // 2 for total in spread)
        border = (above, spread[0] - above, left, spread[1] - left)
    else:
        vertical, horizontal = _pair(padding, rank, 0)
        border = (vertical, vertical, horizontal, horizontal)
    value = _padded(reader, reader.map(x), border, 0.0)
    height, width, _ = value.shape
    sizes = [
        _window(n, k, s, d)
        for n, k, s, d in zip((height, width), kernel, stride, dilation, strict=True)
    ]
    return reader.add(
        Product,
        [value],
        _shape(rank, len(weight), *sizes),
        weight=weight.permute(0, 2, 3, 1).contiguous(),
        bias=weight.new_zeros(len(weight)) if bias is None else bias,
        stride=stride,
        dilation=dilation,
        groups=groups,
    )


@rule(aten.pad.default, aten.constant_pad_nd.default)
def _pad(
    reader: Reader,
    x: View,
    sizes: Sequence[int],
    mode: str = "constant",
    number: float | None = None,
) -> View:
    if mode != "constant":  # copies of entries, for which torch has floats only
        repeated = aten.pad.default(x.order[None].double(), sizes, mode)[0]
        return View(x.value, repeated.long())
    if len(sizes) > 2 * x.order.ndim:
        raise UnreadableError("it pads the batch")
    inner = aten.constant_pad_nd.default(x.order[None], [min(size, 0) for size in sizes])[0]
    outer = [max(size, 0) for size in sizes] + [0] * (2 * inner.ndim - len(sizes))
    *pixels, channels = zip(outer[::2], outer[1::2], strict=True)  # from the last dim to the first
    (left, right), (above, below) = [*pixels, (0, 0), (0, 0)][:2]
    filled = float(number or 0.0)
    if not filled < inf:
        raise UnreadableError(f"it pads with {filled}")
    x = _with_channels(reader, View(x.value, inner), *channels, filled)
    value = _padded(reader, reader.map(x), (above, below, left, right), filled)
    sides = zip(x.order.shape[1:], reversed(pixels), strict=True)
    shape = (len(x.order), *(side + sum(border) for side, border in sides))
    return View(value, canonical(shape))


def _with_channels(reader: Reader, x: View, before: int, after: int, number: float) -> View:
    """More channels, of a constant, around those that are there: a 1×1 convolution."""
    count = len(x.order)
    if not before and not after:
        return x
    there = slice(before, before + count)
    weight, bias = torch.zeros(before + count + after, 1, 1, count), torch.tensor([number])
    bias = bias.repeat(len(weight))
    weight[there, 0, 0], bias[there] = torch.eye(count), 0.0
    shape = (len(weight), *x.order.shape[1:])
    return reader.add(Product, [reader.map(x)], shape, weight=weight, bias=bias)


@rule(aten.linear.default)
def _linear(reader: Reader, x: View, weight: Tensor, bias: Tensor | None = None) -> View:
    if x.order.ndim != 1:
        raise UnreadableError(
            f"dense layers read vectors, and this one reads {list(x.order.shape)} of each example"
        )
    columns: Tensor | None = None
    order, entries = x.order, x.value.entries
    if torch.equal(order.sort().values, torch.arange(entries)):
        placed = torch.empty_like(weight)
        placed[:, order] = weight
        weight = placed
    else:
        columns, by_position = order.sort()
        weight = weight[:, by_position]
    return reader.add(
        Product,
        [x.value],
        (len(weight),),
        weight=weight[:, None, None, :].contiguous(),
        bias=weight.new_zeros(len(weight)) if bias is None else bias,
        columns=columns,
    )


@rule(aten.batch_norm.default)
def _batch_norm(
    reader: Reader,
    x: View,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> View:
    if training or mean is None or variance is None:
        raise UnreadableError(
            "BatchNorm without running statistics computes with those of the batch"
        )
    scale = (variance.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    sizes = [-1, *[1] * (x.order.ndim - 1)]
    return _affine(reader, x, scale.reshape(sizes), shift.reshape(sizes))


def _mapped(reader: Reader, x: View) -> View:
    """The same on a map of its own shape."""
    return View(reader.map(x), canonical(x.order.shape))


def _all_of_a_map(reader: Reader, x: View) -> View:
    """The same on a map of which it is all, so that nothing is computed that nobody reads."""
    entries = torch.arange(x.value.entries)
    return x if torch.equal(x.order.flatten().sort().values, entries) else _mapped(reader, x)


def _by_entry(reader: Reader, kind: type[Layer], *views: View, **more: Any) -> View:
    """A layer on entries that stand in one order in maps of one shape, and so do its outputs."""
    height, width, channels = views[0].value.shape
    values = [view.value for view in views]
    added = reader.add(kind, values, (channels, height, width), **more)
    return View(added.value, views[0].order)


def _affine(reader: Reader, x: View, scale: Tensor, shift: Tensor) -> View:
    """scale·x + shift, which broadcast to the shape of x: a 1×1 convolution of each channel."""
    one = (1, *x.order.shape)  # as constants see the activations: with a batch
    x = _all_of_a_map(reader, x)
    height, width, channels = x.value.shape
    both = []
    for numbers in (scale, shift):
        if torch.broadcast_shapes(numbers.shape, one) != one:
            raise UnreadableError(
                f"a constant of shape {list(numbers.shape)} makes activations of {list(one)} larger"
            )
        placed = torch.empty(x.value.entries)
        spread = numbers.float().broadcast_to(one)
        placed[x.order.flatten()] = spread.flatten()
        both.append(placed.reshape(height * width, channels))
    value = x.value
    if not all(torch.equal(numbers, numbers[:1].expand_as(numbers)) for numbers in both):
        mapped = _mapped(reader, x)
        if mapped.value is value:
            raise UnreadableError("numbers that differ by pixel")
        return _affine(reader, mapped, scale, shift)  # channels that are pixels where they stand
    weight, bias = (numbers[0] for numbers in both)
    return _by_entry(
        reader,
        Product,
        x,
        weight=weight[:, None, None, None].contiguous(),
        bias=bias.contiguous(),
        groups=channels,
    )


def _bounded(reader: Reader, x: View, low: float, high: float) -> View:
    x = _all_of_a_map(reader, x)
    channels = x.value.shape[2]
    return _by_entry(
        reader,
        Product,
        x,
        weight=torch.ones(channels, 1, 1, 1),
        bias=torch.zeros(channels),
        finish=Bounds(low, high),
        groups=channels,
    )


@rule(
    *(aten.dropout.default, aten.alpha_dropout.default, aten.dropout_.default),
    *(aten.feature_dropout.default, aten.feature_alpha_dropout.default),
    *(aten.alpha_dropout_.default, aten.feature_dropout_.default),
    aten.feature_alpha_dropout_.default,
)
def _dropout(reader: Reader, x: View, p: float, train: bool) -> View:
    if train and p:
        raise UnreadableError(f"{RANDOM}. {STEADY}")
    return x


@rule(aten.relu.default, aten.relu_.default)
def _relu(reader: Reader, x: View) -> View:
    return _bounded(reader, x, 0.0, inf)


@rule(aten.relu6.default, aten.relu6_.default)
def _relu6(reader: Reader, x: View) -> View:
    return _bounded(reader, x, 0.0, 6.0)


@rule(aten.hardtanh.default, aten.hardtanh_.default)
def _hardtanh(reader: Reader, x: View, low: float = -1.0, high: float = 1.0) -> View:
    return _bounded(reader, x, low, high)


@rule(
    *(aten.clamp.default, aten.clamp_.default, aten.clamp_min.default, aten.clamp_max.default),
    *(aten.clip.default, aten.clip_.default),
)
def _clamp(reader: Reader, x: View, min: Any = None, max: Any = None) -> View:
    return _bounded(reader, x, -inf if min is None else min, inf if max is None else max)


def _activation(name: str, reader: Reader, x: View, *arguments: Any, **keywords: Any) -> View:
    """A function of each number, wherever it stands."""
    curve = activations.curve(name, arguments, keywords)
    return _by_entry(reader, Activation, _all_of_a_map(reader, x), curve=curve)


for _operator, _name in activations.operators().items():
    rule(_operator)(partial(_activation, _name))


@rule(aten.pow.Tensor_Scalar)
def _pow(reader: Reader, x: View, exponent: float) -> View:
    names = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if exponent not in names:
        raise UnreadableError(f"powers are of 2, 1/2, -1/2 or -1, and this is of {exponent}")
    return _activation(names[exponent], reader, x)


@rule(aten.prelu.default)
def _prelu(reader: Reader, x: View, slopes: Tensor) -> View:
    if slopes.numel() == 1:
        return _activation("leaky_relu", reader, x, float(slopes))
    below = slopes.reshape([-1, *[1] * (x.order.ndim - 1)]) - 1
    return _add(
        reader, x, _affine(reader, _bounded(reader, x, -inf, 0.0), below, torch.tensor(0.0))
    )


@rule(aten.glu.default)
def _glu(reader: Reader, x: View, dim: int = -1) -> View:
    dim %= x.order.ndim + 1
    if not dim:
        raise UnreadableError("it halves the batch")
    half, other = (View(x.value, order) for order in x.order.chunk(2, dim - 1))
    return _multiplied(reader, half, _activation("sigmoid", reader, other))


@rule(aten.to.dtype, aten._to_copy.default)
def _to(reader: Reader, x: View, dtype: torch.dtype | None = None, *_: Any, **__: Any) -> View:
    if dtype is not None and not dtype.is_floating_point:
        raise UnreadableError(f"activations are floats, and this makes them {dtype}")
    return x


@rule(aten.max_pool2d.default, aten.max_pool1d.default)
def _max_pool(
    reader: Reader,
    x: View,
    window: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> View:
    return _pool(
        reader, x, MaxPool, window, stride, padding, -inf, dilation=dilation, ceil_mode=ceil_mode
    )


@rule(aten.avg_pool2d.default, aten.avg_pool1d.default)
def _mean_pool(
    reader: Reader,
    x: View,
    window: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> View:
    rank = x.order.ndim
    size = prod(_pair(window, rank))
    if any(_pair(padding, rank, 0)) and not count_include_pad:
        raise UnreadableError("average pooling counts its padding: count_include_pad=True")
    finish = Scaled(torch.tensor([1 / (divisor or size)]))
    return _pool(reader, x, MeanPool, window, stride, padding, 0.0, finish=finish)


def _pool(
    reader: Reader,
    x: View,
    kind: type[Layer],
    window: Any,
    stride: Any,
    padding: Any,
    number: float,
    dilation: Any = None,
    ceil_mode: bool = False,
    **more: Any,
) -> View:
    rank = x.order.ndim
    sizes = _pair(window, rank)
    strides = _pair(stride, rank) if stride not in ((), [], None) else sizes
    dilations = (1, 1) if dilation is None else _pair(dilation, rank)
    vertical, horizontal = _pair(padding, rank, 0)
    value = reader.map(x)
    below, right = (
        border + (_lacking(n, border, *rest) if ceil_mode else 0)
        for n, border, *rest in zip(
            value.shape[:2], (vertical, horizontal), sizes, strides, dilations, strict=True
        )
    )
    value = _padded(reader, value, (vertical, below, horizontal, right), number)
    height, width, channels = value.shape
    counts = [
        _window(n, k, s, d)
        for n, k, s, d in zip((height, width), sizes, strides, dilations, strict=True)
    ]
    if kind is MaxPool:
        more["dilation"] = dilations
    shape = _shape(rank, channels, *counts)
    return reader.add(kind, [value], shape, window=sizes, stride=strides, **more)


def _lacking(size: int, border: int, window: int, stride: int, dilation: int) -> int:
    """What a last window that begins within the input, or before it, reaches beyond the border."""
    room = size + 2 * border - dilation * (window - 1) - 1
    rest = room % stride
    return stride - rest if rest and room - rest + stride < size + border else 0


@rule(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default)
def _adaptive_mean(reader: Reader, x: View, size: Any) -> View:
    return _mean_pool(reader, x, *_divided(x, size))


@rule(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool1d.default)
def _adaptive_max(reader: Reader, x: View, size: Any) -> View:
    return _max_pool(reader, x, *_divided(x, size))


def _divided(x: View, size: Any) -> tuple[list[int], list[int]]:
    """The window, and stride, that makes pixels of this number."""
    sizes = [size] if isinstance(size, int) else list(size)
    sides = list(x.order.shape[1:])
    if len(sides) != len(sizes):
        raise UnreadableError("it reads one example without a batch")
    if any(side % count for side, count in zip(sides, sizes, strict=True)):
        raise UnreadableError(
            f"adaptive pooling of {sides} to {sizes}, which has windows of many sizes"
        )
    window = [side // count for side, count in zip(sides, sizes, strict=True)]
    return window, window


@rule(aten.mean.dim)
def _mean(
    reader: Reader, x: View, dims: Sequence[int], keepdim: bool = False, dtype: Any = None
) -> View:
    return _over_pixels(reader, x, dims, keepdim, "means", None)


@rule(aten.sum.dim_IntList)
def _sum(
    reader: Reader, x: View, dims: Sequence[int], keepdim: bool = False, dtype: Any = None
) -> View:
    return _over_pixels(reader, x, dims, keepdim, "sums", 1)


def _over_pixels(
    reader: Reader, x: View, dims: Sequence[int], keepdim: bool, what: str, divisor: int | None
) -> View:
    rank = x.order.ndim
    if rank < 2 or sorted(d % (rank + 1) for d in dims) != list(range(2, rank + 1)):
        raise UnreadableError(f"{what} are over all pixels of a channel")
    found = _mean_pool(reader, x, list(x.order.shape[1:]), divisor=divisor)
    return found if keepdim else View(found.value, found.order.flatten())


@rule(aten.add.Tensor, aten.add_.Tensor)
def _add(reader: Reader, x: Any, y: Any, alpha: float = 1) -> View:
    if isinstance(x, View) and isinstance(y, View):
        return _of_two(reader, Add, x, y, multipliers=(1.0, float(alpha)))
    if isinstance(y, View):
        return _affine(reader, y, torch.tensor(float(alpha)), torch.as_tensor(x))
    return _affine(reader, x, torch.tensor(1.0), torch.as_tensor(y).double() * alpha)


def _of_two(reader: Reader, kind: type[Layer], x: View, y: View, **more: Any) -> View:
    """A layer on the entries of two tensors, of which each may have one entry for several."""
    if x.order.ndim != y.order.ndim:
        sizes = f"{list(x.order.shape)} and {list(y.order.shape)}"
        raise UnreadableError(
            f"two branches have as many dims as each other, and these are {sizes}"
        )
    orders = torch.broadcast_tensors(x.order, y.order)
    x, y = (View(one.value, order) for one, order in zip((x, y), orders, strict=True))
    x, y = (_all_of_a_map(reader, one) for one in (x, y))
    if not (torch.equal(x.order, y.order) and x.value.shape == y.value.shape):
        x, y = (_mapped(reader, one) for one in (x, y))
    return _by_entry(reader, kind, x, y, **more)


@rule(aten.sub.Tensor, aten.sub_.Tensor)
def _sub(reader: Reader, x: Any, y: Any, alpha: float = 1) -> View:
    return _add(reader, x, y, -alpha)


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(reader: Reader, x: Any, y: Any, alpha: float = 1) -> View:
    return _sub(reader, y, x, alpha)


@rule(aten.mul.Tensor, aten.mul_.Tensor)
def _mul(reader: Reader, x: Any, y: Any) -> View:
    if isinstance(x, View) and isinstance(y, View):
        return _multiplied(reader, x, y)
    view, number = (x, y) if isinstance(x, View) else (y, x)
    return _affine(reader, view, torch.as_tensor(number), torch.tensor(0.0))


def _multiplied(reader: Reader, x: View, y: View) -> View:
    """A product of two branches; one that has a number for each channel stays as small."""
    if x.order.numel() < y.order.numel():
        x, y = y, x
    shape = x.order.shape
    if y.order.shape == (*shape[:1], *[1] * (len(shape) - 1)) != shape:
        return reader.add(Multiply, [reader.map(x), reader.map(y)], shape)
    return _of_two(reader, Multiply, x, y)


@rule(aten.div.Tensor, aten.div_.Tensor)
def _div(reader: Reader, x: Any, y: Any) -> View:
    if isinstance(y, View):
        return _mul(reader, x, _activation("reciprocal", reader, y))
    return _affine(reader, x, 1 / torch.as_tensor(y).double(), torch.tensor(0.0))


@rule(aten.neg.default, aten.neg_.default)
def _neg(reader: Reader, x: View) -> View:
    return _affine(reader, x, torch.tensor(-1.0), torch.tensor(0.0))


@rule(aten.cat.default)
def _cat(reader: Reader, views: Sequence[Any], dim: int = 0) -> View:
    _require_activations(views)
    place = dim % (views[0].order.ndim + 1) - 1
    if place < 0:
        raise UnreadableError("it puts examples beside one another")
    first = [View(view.value, view.order.movedim(place, 0)) for view in views]
    values = [reader.map(view) for view in first]
    shape = (sum(len(view.order) for view in first), *first[0].order.shape[1:])
    n = len(values)
    joined = reader.add(Concat, values, shape, multipliers=(1,) * n, biases=(0,) * n)
    return View(joined.value, joined.order.movedim(0, place))


@rule(aten.stack.default)
def _stack(reader: Reader, views: Sequence[Any], dim: int = 0) -> View:
    _require_activations(views)
    dim %= views[0].order.ndim + 2
    return _cat(reader, [View(view.value, view.order.unsqueeze(dim - 1)) for view in views], dim)


def _require_activations(views: Sequence[Any]) -> None:
    if len(views_in(views)) != len(views):
        raise UnreadableError("constants beside activations")
