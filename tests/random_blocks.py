"""The blocks of random networks: each makes random layers for the shape that it is given.

A maker takes a `Random` and a `Spec` and returns a module whose output may have another spec. It
may fail on a shape that does not suit it; then something else is drawn.
"""

from collections.abc import Callable
from math import gcd
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Spec(NamedTuple):
    """A tensor's shape and where its channels stand.

    At 1 in maps [n, c, …]; at −1 in tokens [n, t, c] and in plain features [n, c].
    """

    shape: tuple[int, ...]
    axis: int

    @property
    def width(self) -> int:
        return self.shape[self.axis]

    @property
    def dims(self) -> int:
        """Of the space that a convolution runs over; 0 for tokens and features."""
        return len(self.shape) - 2 if self.axis == 1 else 0


# Layers: same size in and out, any width.


def width(draw: Random) -> int:
    return draw.choice([2, 3, 4, 4, 6, 6, 8, 9])


def divisor(draw: Random, n: int) -> int:
    return draw.choice([d for d in range(1, n + 1) if n % d == 0])


def conv(draw: Random, spec: Spec, outputs: int, **options: int) -> nn.Module:
    return getattr(nn, f"Conv{spec.dims}d")(
        spec.width,
        outputs,
        bias=draw.random() < 0.6,
        padding_mode=draw.choice(6 * ["zeros"] + ["reflect", "replicate", "circular"]),
        **options,
    )


def same_conv(draw: Random, spec: Spec, outputs: int) -> nn.Module:
    kernel, dilation = draw.choice([1, 3, 3]), draw.choice([1, 1, 2])
    groups = draw.choice([1, 1, divisor(draw, gcd(spec.width, outputs))])
    padding = dilation * (kernel // 2)
    return conv(
        draw, spec, outputs, kernel_size=kernel, dilation=dilation, padding=padding, groups=groups
    )


class EinsumLinear(nn.Module):
    """A linear layer whose weight is a bare parameter [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, axis: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.equation = "bi...,io->bo..." if axis == 1 else "b...i,io->b...o"

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, x, self.weight)


def layer(draw: Random, spec: Spec, outputs: int) -> nn.Module:
    if draw.random() < 0.05:
        return EinsumLinear(spec.width, outputs, spec.axis)
    if spec.dims:
        return same_conv(draw, spec, outputs)
    return nn.Linear(spec.width, outputs, bias=draw.random() < 0.7)


class ChannelNorm(nn.Module):
    """LayerNorm or RMSNorm over the channels of maps."""

    def __init__(self, norm: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def norm(draw: Random, spec: Spec, channels: int) -> nn.Module:
    last = draw.choice([nn.LayerNorm, nn.RMSNorm])
    if spec.axis == -1 and (len(spec.shape) == 3 or draw.random() < 0.4):
        return last(channels)
    batch = getattr(nn, f"BatchNorm{spec.dims or 1}d")
    if spec.axis == -1:
        return batch(channels)
    return draw.choice(
        [
            lambda: batch(channels),
            lambda: batch(channels),
            lambda: nn.GroupNorm(divisor(draw, channels), channels),
            lambda: getattr(nn, f"InstanceNorm{spec.dims}d")(channels, affine=True),
            lambda: ChannelNorm(last, channels),
        ]
    )()


class Cos(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cos()


def activation(draw: Random, spec: Spec, channels: int) -> nn.Module:
    """One in five has f(0) ≠ 0; a PReLU looks for its channels at 1, so tokens have one slope."""
    slopes = 1 if spec.axis == -1 and len(spec.shape) == 3 else channels
    zero = [nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Hardswish, nn.PReLU]
    zero += [lambda: nn.PReLU(slopes)]
    other = [nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, Cos]
    relus = [nn.ReLU, lambda: nn.ReLU(inplace=True)]
    return draw.choice(draw.choice([relus, relus, zero, zero, other]))()


def path(draw: Random, spec: Spec, outputs: int | None = None) -> nn.Sequential:
    """Layer, norm or not, activation or not; twice or once."""
    outputs = outputs or width(draw)
    modules: list[nn.Module] = []
    for channels in [width(draw), outputs][draw.randrange(2) :]:
        modules.append(layer(draw, spec, channels))
        if draw.random() < 0.5:
            modules.append(norm(draw, spec, channels))
        if draw.random() < 0.7:
            modules.append(activation(draw, spec, channels))
        spec = resized(spec, channels)
    return nn.Sequential(*modules)


def resized(spec: Spec, channels: int) -> Spec:
    shape = list(spec.shape)
    shape[spec.axis] = channels
    return Spec(tuple(shape), spec.axis)


def branch(draw: Random, spec: Spec, outputs: int) -> nn.Module:
    """Nothing where that fits, a path, or a path around a block that keeps the shape."""
    if outputs == spec.width and draw.random() < 0.7:
        return nn.Identity()
    if draw.random() < 0.7:
        return path(draw, spec, outputs)
    inside = resized(spec, width(draw))
    middle = draw.choice([SqueezeExcite, Scale] if spec.dims else [Scale, Shared])
    return nn.Sequential(
        path(draw, spec, inside.width), middle(draw, inside), path(draw, inside, outputs)
    )


# Blocks: made for a spec; their output may have another.


class Combine(nn.Module):
    """Two branches, added, multiplied, gated or concatenated: residual, dense, product."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.how = draw.choice(["add", "add", "add", "cat", "cat", "multiply", "gate"])
        same = draw.choice([spec.width, width(draw)])
        self.a = branch(draw, spec, same)
        other = width(draw) if self.how == "cat" else same
        self.b = path(draw, spec, other)
        total = same + other if self.how == "cat" else same
        self.last = activation(draw, spec, total) if draw.random() < 0.4 else nn.Identity()
        self.axis = spec.axis

    def extra_repr(self) -> str:
        return self.how

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        match self.how:
            case "add":
                y = a + b
            case "multiply":
                y = a * b
            case "gate":
                y = a * b.sigmoid()
            case _:
                y = torch.cat([a, b], self.axis)
        return self.last(y)


class Split(nn.Module):
    """Parts of the channels go their own ways and come together in another order."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        cut = draw.choice([spec.width // 2, draw.randrange(1, spec.width)])
        self.sizes = [cut, spec.width - cut]
        self.parts = nn.ModuleList(
            branch(draw, resized(spec, size), draw.choice([size, width(draw)]))
            for size in self.sizes
        )
        self.swapped = draw.random() < 0.5
        self.axis = spec.axis

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.split(self.sizes, self.axis)
        made = [part(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return torch.cat(made[::-1] if self.swapped else made, self.axis)


class GatedUnit(nn.Module):
    """a·σ(b) or the like, of two halves of one layer."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.layer = layer(draw, spec, 2 * width(draw))
        self.gate = draw.choice([nn.Sigmoid, nn.SiLU, nn.GELU, nn.Identity])()
        self.axis = spec.axis

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.layer(x).chunk(2, self.axis)
        return a * self.gate(b)


class SqueezeExcite(nn.Module):
    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        squeezed = width(draw)
        plain = Spec((spec.shape[0], squeezed), -1)
        self.squeeze = nn.Linear(spec.width, squeezed)
        self.act = activation(draw, plain, squeezed)
        self.excite = nn.Linear(squeezed, spec.width)
        self.gate = draw.choice([nn.Sigmoid, nn.Hardsigmoid])()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(self.excite(self.act(self.squeeze(x.flatten(2).mean(-1)))))
        return x * gate.unflatten(-1, (-1, *(1,) * (x.ndim - 2)))


class Shared(nn.Module):
    """One path at two places."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.path = path(draw, spec, spec.width)
        self.residual = draw.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.path(x)
        return self.path(x + y if self.residual else y)


class Scale(nn.Module):
    """LayerScale, or something learned for every position; both, or a bare offset."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        channels = [1] * (len(spec.shape) - 1)
        channels[spec.axis if spec.axis < 0 else 0] = spec.width
        shape = draw.choice([channels, spec.shape[1:]])
        self.scale = nn.Parameter(torch.ones(shape)) if draw.random() < 0.6 else 1.0
        self.offset = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Tied(nn.Module):
    """Into another width and back with the same weights."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.dims = spec.dims
        shape = (width(draw), spec.width, *(1,) * spec.dims)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.randn(shape[0]))
        self.act = activation(draw, spec, shape[0])

    def forward(self, x: Tensor) -> Tensor:
        if not self.dims:
            return F.linear(self.act(F.linear(x, self.weight, self.bias)), self.weight.T)
        conv, back = (getattr(F, f"conv{kind}{self.dims}d") for kind in ("", "_transpose"))
        return back(self.act(conv(x, self.weight, self.bias)), self.weight)


def outer(x: Tensor, d: int) -> Tensor:
    one, other = two(d)
    return (x.unsqueeze(one) * x.unsqueeze(other)).flatten(one, other)


def shuffle(x: Tensor, d: int) -> Tensor:
    return x.unflatten(d, (-1, gcd(x.shape[d], 2))).transpose(*two(d)).flatten(*two(d))


def two(d: int) -> tuple[int, int]:
    """The dims that stand where `d` stood, once it has become two."""
    return (d, d + 1) if d >= 0 else (d - 1, d)


# What is done to channels that no rule may know. `d` is their dim.
STRANGE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cumsum": lambda x, d: x.cumsum(d),
    "sort": lambda x, d: x.sort(d).values,
    "softmax": lambda x, d: x.softmax(d),
    "roll": lambda x, d: x.roll(1, d),
    "flip": lambda x, d: x.flip(d),
    "every other": lambda x, d: x[:, ::2] if d == 1 else x[..., ::2],
    "all but the first": lambda x, d: x.narrow(d, 1, x.shape[d] - 1),
    "topk": lambda x, d: x.topk((x.shape[d] + 1) // 2, d).values,
    "normalize": lambda x, d: F.normalize(x, dim=d),
    "less mean": lambda x, d: x - x.mean(d, keepdim=True),
    "times max": lambda x, d: x * x.amax(d, keepdim=True),
    "outer": outer,
    "repeat": lambda x, d: x.repeat_interleave(2, d),
    "tile": lambda x, d: torch.cat([x, x], d),
    "pad": lambda x, d: torch.cat([x, torch.zeros_like(x.narrow(d, 0, 1))], d),
    "permute": lambda x, d: x.index_select(d, torch.arange(x.shape[d] - 1, -1, -1)),
    "shuffle": shuffle,
    "square": lambda x, d: x.square(),
    "abs plus one": lambda x, d: x.abs() + 1,
    "clamp": lambda x, d: x.clamp(0.1, 2.0),
}


class Strange(nn.Module):
    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.name = draw.choice(list(STRANGE))
        self.axis = spec.axis

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        return STRANGE[self.name](x, self.axis)


# Blocks for maps.


def any_conv(draw: Random, spec: Spec) -> nn.Module:
    kernel, stride = draw.choice([1, 2, 3, 4]), draw.choice([1, 2])
    outputs = draw.choice([width(draw), spec.width, 2 * spec.width])
    groups = draw.choice([1, spec.width, divisor(draw, gcd(spec.width, outputs))])
    options = dict(kernel_size=kernel, stride=stride, groups=gcd(groups, outputs))
    return nn.Sequential(
        conv(draw, spec, outputs, padding=draw.randrange(2), **options),
        norm(draw, spec, outputs) if draw.random() < 0.5 else nn.Identity(),
        activation(draw, spec, outputs),
    )


def any_transposed(draw: Random, spec: Spec) -> nn.Module:
    outputs = width(draw)
    groups = draw.choice([1, gcd(spec.width, outputs)])
    kernel, padding = draw.choice([(2, 0), (3, 1)])
    make = getattr(nn, f"ConvTranspose{spec.dims}d")
    return make(spec.width, outputs, kernel, 2, padding, groups=groups, bias=draw.random() < 0.6)


def pool(draw: Random, spec: Spec) -> nn.Module:
    def make(name: str, *arguments: int, **options: bool) -> nn.Module:
        return getattr(nn, f"{name}{spec.dims}d")(*arguments, **options)

    return draw.choice(
        [
            lambda: make("MaxPool", 2),
            lambda: make("MaxPool", 3, 2, 1),
            lambda: make("AvgPool", 2, ceil_mode=True),
            lambda: make("AvgPool", 3, 2, 1, count_include_pad=draw.random() < 0.5),
            lambda: make("AdaptiveAvgPool", 2),
            lambda: make("AdaptiveMaxPool", 2),
        ]
    )()


def resize(draw: Random, spec: Spec) -> nn.Module:
    shuffles = [lambda: nn.PixelShuffle(2), lambda: nn.PixelUnshuffle(2)] if spec.dims == 2 else []
    return draw.choice([lambda: nn.Upsample(scale_factor=2), *shuffles])()


class Reshape(nn.Module):
    """From one kind of tensor to another; `axis_after` is where the channels stand then."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        tokens = len(spec.shape) == 3 and spec.axis == -1
        self.how = draw.choice(
            ["flatten", "mean", "transpose"]
            + (["last", "max"] if tokens else [])
            + (["max"] if spec.dims else [])
        )
        self.axis_after = -spec.axis if self.how == "transpose" else -1
        self.maps = spec.axis == 1

    def extra_repr(self) -> str:
        return self.how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "flatten":
            return x.flatten(1)
        if self.maps:
            x = x.flatten(2)
        space = 2 if self.maps else 1
        match self.how:
            case "transpose":
                return x.transpose(1, 2)
            case "mean":
                return x.mean(space)
            case "max":
                return x.amax(space)
            case _:
                return x[:, -1]


# Blocks for tokens.


class Attention(nn.Module):
    """Written by hand: q, k, v fused or separate, fewer heads of k and v, with SDPA or without."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.heads, self.size = draw.choice([(2, 2), (2, 3), (4, 2), (1, 4)])
        self.groups = divisor(draw, self.heads)
        self.fused, self.sdpa, self.causal = (draw.random() < 0.5 for _ in range(3))
        self.norm = norm(draw, spec, spec.width) if draw.random() < 0.6 else nn.Identity()
        inner, bias = self.heads * self.size, draw.random() < 0.6
        keys = inner if self.fused else self.groups * self.size
        if self.fused:
            self.qkv = nn.Linear(spec.width, 3 * inner, bias)
        else:
            self.q = nn.Linear(spec.width, inner, bias)
            self.k, self.v = (nn.Linear(spec.width, keys, bias) for _ in range(2))
        self.out = nn.Linear(inner, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.fused:
            q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (
                project(y).unflatten(-1, (-1, self.size)).transpose(1, 2)
                for project in (self.q, self.k, self.v)
            )
            k, v = (z.repeat_interleave(self.heads // self.groups, 1) for z in (k, v))
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            y = (q @ k.transpose(-2, -1) * self.size**-0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        heads, bias = divisor(draw, spec.width), draw.random() < 0.7
        self.attention = nn.MultiheadAttention(spec.width, heads, bias=bias, batch_first=True)
        self.weights = draw.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=self.weights)[0]


class Recurrent(nn.Module):
    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.rnn = draw.choice([nn.LSTM, nn.LSTM, nn.GRU])(
            spec.width,
            draw.choice([3, 4, 5]),
            num_layers=draw.choice([1, 2]),
            bias=draw.random() < 0.8,
            bidirectional=draw.random() < 0.4,
            batch_first=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class TokenMixing(nn.Module):
    """A linear layer along the tokens."""

    def __init__(self, draw: Random, spec: Spec) -> None:
        super().__init__()
        self.mix = nn.Linear(spec.shape[1], spec.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.transpose(1, 2)).transpose(1, 2)


# Which blocks fit, and how often they come.
Maker = Callable[[Random, Spec], nn.Module]
ANYWHERE: dict[Maker, int] = {
    path: 4,
    Combine: 8,
    Split: 3,
    GatedUnit: 2,
    Shared: 2,
    Scale: 2,
    Tied: 2,
    Strange: 2,
}
MAPS: dict[Maker, int] = {
    any_conv: 8,
    any_transposed: 1,
    pool: 2,
    resize: 1,
    SqueezeExcite: 2,
    Reshape: 1,
}
TOKENS: dict[Maker, int] = {
    Attention: 6,
    TorchAttention: 3,
    Recurrent: 4,
    TokenMixing: 1,
    Reshape: 1,
}


def makers(spec: Spec) -> dict[Maker, int]:
    if spec.dims:
        return ANYWHERE | MAPS
    return ANYWHERE | TOKENS if len(spec.shape) == 3 else ANYWHERE
