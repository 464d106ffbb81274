"""What lives or dies together: groups of weights, their norms, and the scale that decides.

A `Groups` object is a choice of blocks. A block is one tensor cut into equal groups (single
weights, k×k kernels), or a family of units that run through several tensors (`lissom.coupling`).
Whatever a block is, penalties and algorithms see only `norms()`, `scale_()`, `weighted()` and
`cost()`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lissom.errors import GroupError, nearest
from lissom.penalties import widen
from lissom.tables import table, text


@dataclass
class Spread:
    """Scales of groups, laid out so that a parameter can be multiplied by them.

    Attributes:
        shape: of the result, which is broadcast to the parameter.
        index: which scale each entry gets, −1 for none (it is multiplied by 1); None if scales and
            entries are the same in the same order.
    """

    shape: tuple[int, ...]
    index: Tensor | None = None

    def __call__(self, scales: Tensor) -> Tensor:
        if self.index is not None:
            if self.index.device != scales.device:
                with torch.inference_mode(False):  # the next call may want a gradient
                    self.index = self.index.to(scales.device)
            scales = torch.cat([scales, scales.new_ones(1)])[self.index]
        return scales.view(self.shape)


class Block(ABC):
    """Groups of one kind and size, numbered by `shape`.

    Attributes:
        name: of the parameter, or of the first of them, in its model: "features.0.weight".
        module: the module that owns it.
        parameters: the tensors whose weights count in the norms.
    """

    name: str
    module: nn.Module
    columns: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def parameters(self) -> tuple[nn.Parameter, ...]: ...

    def tensors(self) -> Sequence[nn.Parameter]:
        """All parameters in which something belongs to these groups."""
        return self.parameters

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of the norms: one number for each group."""

    @property
    def single(self) -> bool:
        """Whether every group is one weight."""
        return False

    @abstractmethod
    def norms(self) -> Tensor:
        """r_g = ‖w_g‖₂, shaped `shape`; in float32 if the weights are half precision."""

    @abstractmethod
    def weighted(self, *metrics: Tensor) -> Tensor:
        """Σ_{i∈g} d_i w_i² / r_g², the metric that every rescaling of a group sees exactly.

        For s in [0, 1], ½ Σ d_i (s·w_i − w_i)² = ½ d_g (s·r_g − r_g)². A dead group gets the
        mean of d.

        Args:
            *metrics: d, for each of `parameters` and shaped like it.
        """

    @abstractmethod
    def scale_(self, scales: Tensor) -> None:
        """w_g ← w_g · s_g, for scales shaped `shape`."""

    def kill_(self, dead: Tensor) -> None:
        """Set all that belongs to these groups to zero; `dead` is shaped `shape`."""
        self.scale_((~dead).to(self.parameters[0].dtype))

    @abstractmethod
    def cost(self) -> Tensor:
        """Weights in each group, shaped `shape`."""

    @abstractmethod
    def weights_each(self) -> int:
        """Weights in each group that its norm counts."""

    @abstractmethod
    def gated(self) -> Sequence[tuple[nn.Parameter, Spread]]:
        """Where a gate in the forward pass acts: parameters, and how it is spread over each."""

    @abstractmethod
    def row(self) -> list[object]:
        """A line of the printed table, under `columns`."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be chosen by."""
        return (self.name,)


@dataclass(frozen=True, eq=False)
class TensorBlock(Block):
    """One parameter, cut into groups along some of its dims.

    With all dims `kept` each weight is a group; with (0, 1) of a convolution's [out, in, k, k] each
    k×k kernel is, and with (1,) of a matrix each column.

    Attributes:
        parameter: the tensor itself.
        kept: the dims that number the groups, ascending.
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    kept: tuple[int, ...]
    columns: ClassVar[tuple[str, ...]] = ("parameter", "module", "shape", "weights each")

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return (self.parameter,)

    @property
    def single(self) -> bool:
        return len(self.kept) == self.parameter.ndim

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.parameter.shape[d] for d in self.kept)

    def norms(self) -> Tensor:
        if self.single:
            return torch.abs(widen(self.parameter))
        wide = torch.float32 if self.parameter.itemsize < 4 else None
        norms: Tensor = torch.linalg.vector_norm(self.parameter, dim=self._inner, dtype=wide)
        return norms

    def weighted(self, *metrics: Tensor) -> Tensor:
        [metric] = metrics
        if self.single:
            return metric
        squares = widen(self.parameter.detach()).square()
        total = squares.sum(self._inner)
        mean = metric.mean(self._inner)
        return torch.where(total > 0, (squares * metric).sum(self._inner) / total, mean)

    @torch.no_grad()
    def scale_(self, scales: Tensor) -> None:
        self.parameter.mul_(self.spread(scales))

    def cost(self) -> Tensor:
        return torch.tensor(self.weights_each(), device=self.parameter.device).expand(self.shape)

    def weights_each(self) -> int:
        return prod(self.parameter.shape[d] for d in self._inner) if self.parameter.numel() else 0

    def gated(self) -> list[tuple[nn.Parameter, Spread]]:
        return [(self.parameter, self.spread)]

    @property
    def spread(self) -> Spread:
        """What lays the groups' scales out over the parameter."""
        shape = self.parameter.shape
        return Spread(tuple(n if d in self.kept else 1 for d, n in enumerate(shape)))

    def row(self) -> list[object]:
        shape = "×".join(map(str, self.parameter.shape))
        each = self.parameter.numel() // max(1, self.shape.numel())
        return [self.name, type(self.module).__name__, shape, each]

    @property
    def _inner(self) -> tuple[int, ...]:
        return tuple(d for d in range(self.parameter.ndim) if d not in self.kept)


Choice = str | type[nn.Module] | Callable[[Block], bool]


class Groups:
    """A choice of groups of weights, each of which lives or dies as one.

    Made by `weights(model)`, `kernels(model)`, `channels(model, example_inputs)` and so on,
    narrowed by `only` and `without`, printed as a table, and used as the key of a
    `{groups: penalty}` mapping.

    Attributes:
        kind: what a group is: "weights", "kernels", "columns", "channels", "neurons" or "heads".
        blocks: the tensors that hold them, or families of units.
    """

    def __init__(self, kind: str, blocks: Iterable[Block]) -> None:
        self.kind = kind
        self.blocks = tuple(blocks)
        if not self.blocks:
            raise GroupError(f"no {kind} to choose from: the model has no parameter of that kind")

    def only(self, *choices: Choice) -> "Groups":
        """The groups of the layers that match any of the choices.

        Args:
            choices: a name pattern ("features.*", "fc1": the module or parameter of that name and
                all below it), a module class, or a function of a block.

        Raises:
            GroupError: if a choice matches nothing.
        """
        chosen = self._matched(choices)
        return Groups(self.kind, (block for block in self.blocks if block in chosen))

    def without(self, *choices: Choice) -> "Groups":
        """The groups of the layers that match none of the choices (see `only`)."""
        left = [block for block in self.blocks if block not in self._matched(choices)]
        if not left:
            raise GroupError(f"without({_quoted(choices)}) leaves no {self.kind} at all")
        return Groups(self.kind, left)

    def norms(self) -> list[Tensor]:
        """The norm of every group, a tensor for each block."""
        return [block.norms() for block in self.blocks]

    def scale_(self, scales: Iterable[Tensor]) -> None:
        """Multiply every group by its scale, given as `norms` gives the norms."""
        for block, scale in zip(self.blocks, scales, strict=True):
            block.scale_(scale)

    def cost(self) -> list[Tensor]:
        """The number of weights in every group, given as `norms` gives the norms."""
        return [block.cost() for block in self.blocks]

    def __len__(self) -> int:
        return sum(block.shape.numel() for block in self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __str__(self) -> str:
        norms = self.norms()
        alive = [int(torch.count_nonzero(found)) for found in norms]
        rows = [
            [*block.row(), found.numel(), nonzero]
            for block, found, nonzero in zip(self.blocks, norms, alive, strict=True)
        ]
        columns = self.blocks[0].columns
        total = ["total", *[""] * (len(columns) - 1), len(self), sum(alive)]
        return text(table([*columns, self.kind, "non-zero"], rows, total=total))

    def __repr__(self) -> str:
        return f"<{len(self):,} {self.kind} in {len(self.blocks)} blocks>"

    def _matched(self, choices: tuple[Choice, ...]) -> list[Block]:
        if not choices:
            raise GroupError("name at least one layer: a pattern, a module class or a function")
        matched: list[Block] = []
        for choice in choices:
            found = [block for block in self.blocks if _matches(block, choice)]
            if not found:
                names = [p for b in self.blocks for name in b.names for p in _prefixes(name)]
                help_ = nearest(choice, names) if isinstance(choice, str) else f" Among:\n{self}"
                raise GroupError(f"{_quoted([choice])} matches none of the {self.kind}.{help_}")
            matched += found
        return matched


def weights(model: nn.Module, *, biases: bool = False) -> Groups:
    """Every weight is a group of its own: unstructured sparsity.

    Takes each parameter with two or more dims (of linear, convolution, attention, recurrent and
    embedding layers) and leaves biases and the scales of normalisations alone.

    Args:
        model: any module; tied parameters are taken once.
        biases: whether parameters named bias (with Keras' meaning: every trainable weight that is
            added) are groups too.

    Raises:
        GroupError: if the model has no such parameter.
    """
    return Groups("weights", _blocks(model, lambda p: range(p.ndim), least=2, biases=biases))


def kernels(model: nn.Module) -> Groups:
    """Every k-d kernel of a convolution, w[out, in, :, …], is a group.

    Zero kernels cut the connection of one input channel to one output channel.

    Args:
        model: any module with convolutions in 1, 2 or 3 dims, transposed or not.

    Raises:
        GroupError: if the model has no convolution.

    Source: Formanek & Hadházi eq. 12.
    """
    convolutions = (nn.modules.conv._ConvNd,)
    return Groups("kernels", _blocks(model, lambda p: (0, 1), least=3, owners=convolutions))


def columns(model: nn.Module) -> Groups:
    """Every column of a dense layer, all weights that read one of its inputs, is a group.

    Where `neurons` follows a number through the whole network, this looks at one layer: of a
    flattened image each pixel of each channel is an input of its own.

    Args:
        model: any module with `nn.Linear` layers.

    Raises:
        GroupError: if the model has no dense layer.

    Source: Louizos, Welling & Kingma 2018, section 4.1 (the inputs of dense layers).
    """
    return Groups("columns", _blocks(model, lambda p: (1,), least=2, owners=(nn.Linear,)))


def _blocks(
    model: nn.Module,
    kept: Callable[[nn.Parameter], Iterable[int]],
    *,
    least: int,
    biases: bool = False,
    owners: tuple[type[nn.Module], ...] = (nn.Module,),
) -> Iterator[Block]:
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        wanted = parameter.ndim >= least or (biases and "bias" in last)
        if wanted and isinstance(modules[path], owners):
            clean = name.replace("_orig_mod.", "")  # torch.compile's wrapper is not the user's
            yield TensorBlock(clean, modules[path], parameter, tuple(kept(parameter)))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _matches(block: Block, choice: Choice) -> bool:
    if isinstance(choice, str):
        return any(fnmatchcase(p, choice) for name in block.names for p in _prefixes(name))
    if isinstance(choice, type):
        return isinstance(block.module, choice)
    return choice(block)


def _quoted(choices: Iterable[Choice]) -> str:
    return ", ".join(
        repr(choice) if isinstance(choice, str) else getattr(choice, "__name__", repr(choice))
        for choice in choices
    )
