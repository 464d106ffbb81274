"""Random small networks, and damage such as training leaves: what nobody would think of testing.

    model, example_inputs = random_network(seed)
    damage_(model, seed)

Both depend on the seed alone. `print(model)` shows what was drawn. A network is a list of blocks;
one that does not suit the shape before it is drawn again.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random

import torch
from random_blocks import Reshape, Spec, divisor, makers, path
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import randomise_

BATCH = 2
VOCABULARY = 11


class TiedHead(nn.Module):
    """Back to the vocabulary with the embedding's own weights."""

    def __init__(self, draw: Random, spec: Spec, embedding: nn.Embedding) -> None:
        super().__init__()
        self.path = path(draw, spec, embedding.embedding_dim)
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.path(x), self.embedding.weight)


class Network(nn.Module):
    """Blocks one after another; the last `outputs` results are returned."""

    def __init__(self, blocks: list[nn.Module], outputs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        results = []
        for block in self.blocks:
            x = block(x)
            results.append(x)
        return x if self.outputs == 1 else tuple(results[-self.outputs :])


# Channels and space of maps; (tokens and) channels of the others.
INPUTS = {
    "maps": [(3, 12), (2, 9), (3, 6, 6), (2, 7, 5), (1, 8, 8), (3, 8, 8), (2, 4, 4, 4)],
    "tokens": [(5, 6), (4, 9)],
    "ids": [(5, 6), (4, 8)],
    "features": [(6,), (10,)],
}
MAX_NUMBERS = 4000  # in one activation of the batch: it has to stay quick


def random_network(seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in float64 and evaluation mode, and its example inputs."""
    draw = Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        while True:
            try:
                network, x = _draw_network(draw)
                break
            except Unsuitable:
                continue
    return network.double(), (x.double() if x.is_floating_point() else x,)


class Unsuitable(Exception):  # noqa: N818 - not an error
    """This block does not fit here."""


@torch.no_grad()
def _draw_network(draw: Random) -> tuple[Network, Tensor]:
    kind = draw.choice(["maps", "maps", "maps", "tokens", "ids", "features"])
    shape = draw.choice(INPUTS[kind])
    blocks: list[nn.Module] = []
    if kind == "ids":
        example_inputs = torch.randint(VOCABULARY, (BATCH, shape[0]))
        blocks.append(nn.Embedding(VOCABULARY, shape[1]))
        y = blocks[0](example_inputs)
    else:
        example_inputs = y = torch.randn(BATCH, *shape)
    spec = Spec(tuple(y.shape), 1 if kind == "maps" else -1)

    def add(make: Callable[..., nn.Module], *arguments: object) -> None:
        nonlocal y, spec
        try:
            block = make(draw, spec, *arguments).eval()
            randomise_(block, draw.randrange(2**32))
            z = block(y)
        except (RuntimeError, ValueError, IndexError) as error:  # too narrow or too small for it
            raise Unsuitable from error
        if not 0 < z.numel() <= MAX_NUMBERS or z.abs().max() > 100 or torch.allclose(*z, atol=1e-3):
            raise Unsuitable  # too many numbers, too large ones, or nothing left of the input
        blocks.append(block)
        y, spec = z, Spec(tuple(z.shape), getattr(block, "axis_after", spec.axis))

    for _ in range(draw.randint(3, 8)):
        choices = makers(spec)
        with suppress(Unsuitable):
            add(*draw.choices(list(choices), list(choices.values())))
    if kind == "ids" and spec.axis == -1 and draw.random() < 0.5:
        add(TiedHead, blocks[0])
    elif draw.random() < 0.85:
        while len(spec.shape) > 2:
            add(Reshape)
        add(path)
        add(lambda draw, spec: nn.Linear(spec.width, 3))
    return Network(blocks, draw.choice([1, 1, 1, 2])), example_inputs


# Damage. Parameters are named as in their module: only biases and β have "bias" in the name.
Named = list[tuple[str, nn.Parameter]]


@torch.no_grad()
def damage_(model: nn.Module, seed: int) -> None:
    """Set to zero what training might: at random, module by module, and by width across modules.

    Rows, columns, kernels, single weights and whole layers; γ alone or with β; biases alone or not
    at all; runs of rows (heads) and every n-th row (gates).
    """
    draw = Random(seed)
    share = draw.choice([0.1, 0.3, 0.5])
    for module in model.modules():
        own = list(module.named_parameters(recurse=False))
        if own and draw.random() < share:
            draw.choice([*8 * [slices_], *2 * [entries_], biases_, everything_])(draw, own)
    for _ in range(draw.choice([0, 0, 1])):
        slices_(draw, list(model.named_parameters()), draw.choice([(0,), (0, 1)]))


def some(draw: Random, n: int) -> Tensor:
    """Some of n: single ones, runs of one length, or the same place in every run."""
    length, often = draw.choice([1, divisor(draw, n)]), draw.choice([0.1, 0.3, 0.5])
    runs = torch.arange(n).view(-1, length)
    if draw.random() < 0.5:
        runs = torch.arange(n).view(length, -1).T
    return runs[[draw.random() < often for _ in runs]].flatten()


def slices_(draw: Random, named: Named, dims: tuple[int, ...] | None = None) -> None:
    """The same slices of all parameters with that many, with their biases or without."""
    dims = dims or draw.choice([(0,), (0,), (1,)])
    sizes = [p.shape[dim] for _, p in named for dim in dims if dim < p.ndim]
    if not sizes:
        return
    size, biases = draw.choice(sizes), draw.random() < 0.5
    dead = some(draw, size)
    for name, parameter in named:
        for dim in dims:
            fits = dim < parameter.ndim and parameter.shape[dim] == size
            if fits and (biases or "bias" not in name):
                parameter.index_fill_(dim, dead.to(parameter.device), 0)


def entries_(draw: Random, named: Named) -> None:
    """Single weights, or kernels [out, in] of convolutions."""
    dims = draw.choice([2, 5])
    for _, parameter in named:
        shape = parameter.shape[:dims] + (1,) * len(parameter.shape[dims:])
        often, generator = draw.random(), torch.Generator().manual_seed(draw.randrange(2**32))
        alive = torch.rand(shape, generator=generator) > often
        parameter.mul_(alive.to(parameter))


def everything_(draw: Random, named: Named) -> None:
    """A layer, with its bias or without."""
    biases = draw.random() < 0.5
    for name, parameter in named:
        if biases or "bias" not in name:
            parameter.zero_()


def biases_(draw: Random, named: Named) -> None:
    for name, parameter in named:
        if "bias" in name:
            parameter.index_fill_(0, some(draw, len(parameter)).to(parameter.device), 0)
