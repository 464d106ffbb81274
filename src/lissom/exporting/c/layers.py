"""What the C knows of a network: a list of layers on maps [height, width, channels]."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]  # along the height, along the width


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of activations in memory, channels last; a vector is [1, 1, entries].

    Attributes:
        shape: height, width, channels.
        type: of its entries in C.
    """

    shape: tuple[int, int, int]
    type: str = "float"

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of memory."""
        return self.entries * (1 if self.type == "uint8_t" else 4)


@dataclass(frozen=True)
class Bounds:
    """min(max(sum, low), high): what ReLU and its bounded kin make of a sum; ±∞ for none."""

    low: float = -torch.inf
    high: float = torch.inf

    def __call__(self, sums: Tensor) -> Tensor:
        return sums.clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Rescaled:
    """The uint8 of an int32 sum: ⌊sum·multiplier/2³² + zero + ½⌋, within low and high.

    Attributes:
        multiplier: [channels], or [1] for all of them; each in (0, 2³¹), and 16 bits shifted left.
        shift: by how many.
        zero: the integer that stands for 0.
        low: the least result, ≥ 0.
        high: the largest, ≤ 255.
    """

    multiplier: Tensor
    shift: int
    zero: int
    low: int
    high: int

    def __call__(self, sums: Tensor) -> Tensor:
        scaled = sums.to(torch.int64) * self.multiplier + (self.zero << 32) + (1 << 31)
        return (scaled >> 32).clamp(self.low, self.high).to(sums.dtype)


@dataclass(frozen=True, eq=False)
class Scaled:
    """The float of an int32 sum: sum·scale, [channels] or [1]."""

    scale: Tensor

    def __call__(self, sums: Tensor) -> Tensor:
        return sums.to(torch.float32) * self.scale


@dataclass(frozen=True)
class Shifted:
    """The uint8 of a sum in steps of 2⁻²⁰: ⌊sum/2²⁰⌋, within low and high."""

    low: int = 0
    high: int = 255

    def __call__(self, sums: Tensor) -> Tensor:
        return (sums.to(torch.int64) >> 20).clamp(self.low, self.high).to(sums.dtype)


Finish = Bounds | Rescaled | Scaled | Shifted


@dataclass(frozen=True, eq=False)
class Layer:
    """One step of the network.

    Attributes:
        name: of the module in the user's network.
        inputs: what it reads.
        output: what it writes.
    """

    name: str
    inputs: tuple[Value, ...]
    output: Value

    @property
    def macs(self) -> int:
        """Multiplications of weights and activations for one example."""
        return 0

    def compute(self, *inputs: Tensor) -> Tensor:
        """Its output for maps [n, height, width, channels], float or integers held in floats."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Product(Layer):
    """Weights times activations: a dense layer is a 1×1 convolution of a map of one pixel.

    Padding is a layer of its own (`Pad`), so that kernels need not know of it.

    Attributes:
        weight: [out, kernel height, kernel width, in / groups], float32 or int8.
        bias: [out], float32 or int32.
        finish: what becomes of a sum.
        stride: of the window.
        dilation: of the window.
        groups: of channels.
        pool: the window, and stride, of max pooling that is done on the sums; (1, 1) for none.
        columns: [in]: the entries of the input that a dense layer reads; None for all in order.
    """

    weight: Tensor
    bias: Tensor
    finish: Finish = field(default_factory=Bounds)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)
    columns: Tensor | None = None

    @property
    def dense(self) -> bool:
        """Whether it is a matrix times a vector: one window, which is all of the input."""
        whole = self.weight[0].numel() == self.inputs[0].entries and self.groups == 1
        return self.columns is not None or whole

    @property
    def depthwise(self) -> bool:
        """Whether each output channel is a window of the input channel of its number."""
        return self.weight.shape[3] == 1 and self.groups == len(self.weight) > 1

    @property
    def macs(self) -> int:
        height, width, _ = self.output.shape
        return height * width * prod(self.pool) * self.weight.numel()

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.dense:
            entries = x.flatten(1)
            columns = slice(None) if self.columns is None else self.columns
            sums = entries[:, columns] @ self.weight.flatten(1).T.to(x.dtype)
            return self.finish(sums[:, None, None] + self.bias.to(x.dtype))
        weight = self.weight.to(x.dtype).permute(0, 3, 1, 2)
        x = x.permute(0, 3, 1, 2)
        sums = F.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)
        if self.pool != (1, 1):
            sums = F.max_pool2d(sums, self.pool)
        return self.finish(sums.permute(0, 2, 3, 1) + self.bias.to(x.dtype))


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The largest in each window."""

    window: Pair
    stride: Pair
    dilation: Pair = (1, 1)

    def compute(self, *inputs: Tensor) -> Tensor:
        x = inputs[0].permute(0, 3, 1, 2)
        return F.max_pool2d(x, self.window, self.stride, 0, self.dilation).permute(0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class MeanPool(Layer):
    """The sum over each window, which `finish` divides by its size."""

    window: Pair
    stride: Pair
    finish: Finish
    bias: int = 0

    def compute(self, *inputs: Tensor) -> Tensor:
        x = inputs[0].permute(0, 3, 1, 2)
        sums = F.avg_pool2d(x, self.window, self.stride, divisor_override=1)
        return self.finish(sums.permute(0, 2, 3, 1) + self.bias)


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """A border of constants.

    Attributes:
        border: entries above, below, left and right.
        value: [channels].
    """

    border: tuple[int, int, int, int]
    value: Tensor

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        above, _, left, _ = self.border
        padded = self.value.to(x.dtype).expand(len(x), *self.output.shape).clone()
        padded[:, above : above + x.shape[1], left : left + x.shape[2]] = x
        return padded


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """Σ multiplierᵢ·xᵢ + bias."""

    multipliers: tuple[float, ...] = (1.0, 1.0)
    bias: int = 0
    finish: Finish = field(default_factory=Bounds)

    def compute(self, *inputs: Tensor) -> Tensor:
        terms = zip(inputs, self.multipliers, strict=True)
        return self.finish(sum((x * times for x, times in terms), torch.tensor(self.bias)))


@dataclass(frozen=True, eq=False)
class Multiply(Layer):
    """(x₀ − zero₀)·(x₁ − zero₁) of two maps, the second of which may have one pixel for all."""

    zeros: Pair = (0, 0)
    finish: Finish = field(default_factory=Bounds)

    def compute(self, *inputs: Tensor) -> Tensor:
        x, y = (x - zero for x, zero in zip(inputs, self.zeros, strict=True))
        return self.finish(x * y)


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    Attributes:
        name: of torch's operator, with words that it is given.
        function: f.
        formula: of `x` and the names of numbers, an expression in C.
        numbers: that it is given, by name.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    formula: str
    numbers: Mapping[str, float]

    @property
    def calls(self) -> list[str]:
        """Functions of the C library's math.h in the formula."""
        return sorted(set(re.findall(r"\w+(?=\()", self.formula)))


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """f(x) of each entry, or what a table says of it.

    Attributes:
        curve: f.
        table: [256], what each uint8 becomes; None for floats.
    """

    curve: Curve
    table: Tensor | None = None

    def compute(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self.table is None:
            return self.curve.function(x)
        return self.table[x.long()].to(x.dtype)


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """The channels of all inputs, one after another, each as multiplierᵢ·xᵢ + biasᵢ."""

    multipliers: tuple[int, ...]
    biases: tuple[int, ...]
    finish: Finish = field(default_factory=Bounds)

    def compute(self, *inputs: Tensor) -> Tensor:
        terms = zip(inputs, self.multipliers, self.biases, strict=True)
        return torch.cat([self.finish(x * times + bias) for x, times, bias in terms], dim=3)


@dataclass(frozen=True, eq=False)
class Gather(Layer):
    """Entries of the input by their positions: [entries of the output]."""

    positions: Tensor

    @property
    def moves_nothing(self) -> bool:
        """Whether it is all of its input, read in another shape."""
        return torch.equal(self.positions, torch.arange(self.inputs[0].entries))

    def compute(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1)[:, self.positions].reshape(-1, *self.output.shape)


@dataclass(frozen=True)
class Scale:
    """What a uint8 stands for: (q − zero)·step."""

    step: float
    zero: int

    def integer(self, x: float) -> int:
        """The integer nearest to a number, within 0 and 255."""
        return round(min(max(x / self.step + self.zero, 0.0), 255.0))

    def integers(self, x: Tensor) -> Tensor:
        """Those of many numbers, as the C rounds them: halves away from zero."""
        halves = (x.float() * torch.tensor(2 / self.step)).nan_to_num(-512.0)
        halves = halves.clamp(-512, 512).trunc()
        rounded = ((halves + torch.where(halves < 0, -1, 1)) / 2).trunc()
        return (rounded + self.zero).clamp(0, 255).double()


@dataclass(frozen=True, eq=False)
class Network:
    """A network of one input and one output.

    Attributes:
        input: the map that the first layers read, channels last.
        channels_first: the shape of the input in the user's network, without the batch.
        first: how many entries of the user's input lie before the map, which nothing reads.
        layers: in an order in which each reads only what was written before.
        output: what comes out.
        order: [outputs]: where each output of the user's network stands in it.
        shape: of the output in the user's network, without the batch.
        scale: of the input of a network of integers, whose output is float again; None for floats.
    """

    input: Value
    channels_first: tuple[int, ...]
    layers: tuple[Layer, ...]
    output: Value
    order: Tensor
    shape: tuple[int, ...]
    scale: Scale | None = None
    first: int = 0

    @property
    def as_given(self) -> bool:
        """Whether channels first and channels last are the same order of the user's input."""
        channels, height, width = as_map(self.channels_first)
        return channels == 1 or height * width == 1

    def maps(self, x: Tensor) -> Tensor:
        """Inputs [n, *channels_first] of the user's network as [n, height, width, channels]."""
        if not self.as_given:
            return x.reshape(len(x), *as_map(self.channels_first)).permute(0, 2, 3, 1)
        entries = x.reshape(len(x), -1)[:, self.first : self.first + self.input.entries]
        return entries.reshape(-1, *self.input.shape)

    def activations(self, x: Tensor) -> Iterator[tuple[Value, Tensor]]:
        """All activations for [n, height, width, channels], in their order."""
        last = {value: layer for layer in self.layers for value in layer.inputs}
        held = {self.input: x}
        yield self.input, x
        for layer in self.layers:
            found = layer.compute(*(held[value] for value in layer.inputs))
            held = {v: y for v, y in held.items() if last.get(v) not in (None, layer)}
            held[layer.output] = found
            yield layer.output, found


def as_map(shape: Sequence[int]) -> tuple[int, int, int]:
    """A shape without the batch as channels, height, width."""
    channels, height, width = (*shape, 1, 1, 1)[:3] if len(shape) != 2 else (shape[0], 1, shape[1])
    return channels, height, width


def unit_of(numbers: Tensor) -> int:
    """The least power of two that leaves 15 bits and a sign to the largest of whole numbers."""
    return int(2 ** max(0, int(numbers.abs().max()).bit_length() - 15))
