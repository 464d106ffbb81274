"""Parameters, and a group number for each of their entries: what lives or dies together.

Single weights, kernels, columns, tiles, channels and heads differ in these numbers alone. Norms,
scales, metrics, costs and the places of gates follow from them, once, in two calls: `spread` lays
a number for each group out over a tensor, and `sums` adds a tensor up over each group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lissom.errors import GroupError
from lissom.groups.printing import members_table
from lissom.penalties import widen


class Role(StrEnum):
    """What happens to entries of a tensor when their group vanishes.

    NORM: they count in the group's norm, and are scaled with it. ZEROED: they are set to zero with
    the group. CUT: they are only removed with it.
    """

    NORM = "norm"
    ZEROED = "zeroed"
    CUT = "cut"


@dataclass(eq=False)
class Spread:
    """A number for each group, laid out so that a tensor can be multiplied by them.

    Attributes:
        shape: of the result, which is broadcast to the tensor.
        index: the group of each entry of it, flat; one past the last group for entries of none,
            which get 1. None if groups and entries are the same in the same order.
    """

    shape: tuple[int, ...]
    index: Tensor | None = None

    def __call__(self, scales: Tensor) -> Tensor:
        if self.index is not None:
            if self.index.device != scales.device:
                with torch.inference_mode(False):  # the next call may want a gradient
                    self.index = self.index.to(scales.device)
            scales = scales.flatten()
            scales = torch.cat([scales, scales.new_ones(1)]).index_select(0, self.index)
        return scales.view(self.shape)

    @property
    def dims(self) -> set[int]:
        """The dims along which the group varies."""
        return {dim for dim, size in enumerate(self.shape) if size > 1}

    def numbers(self) -> Tensor:
        """The group of each entry, laid out likewise."""
        flat = torch.arange(prod(self.shape)) if self.index is None else self.index.cpu()
        return flat.view(self.shape)


@dataclass(frozen=True)
class _Here:
    """A member's numbers on one device."""

    index: Tensor | None  # as in Spread
    counts: int | Tensor  # entries along its dims in each group

    def to(self, device: torch.device) -> "_Here":
        index, counts = self.index, self.counts
        return _Here(
            None if index is None else index.to(device),
            counts if isinstance(counts, int) else counts.to(device),
        )


IN_ORDER = _Here(None, 1)


@dataclass(frozen=True, eq=False)
class Member:
    """The entries of one tensor that belong to groups.

    Attributes:
        name: of the tensor in its model.
        tensor: a parameter or a buffer.
        dims: along which the group varies, ascending.
        index: the group of each entry along these dims, shaped as they are, −1 for none; None where
            the entries are numbered in order, however many there are.
        count: of all groups, where there is an index; some may lie in other tensors only.
        role: what happens to the entries.
        reads: whether they are the columns that units are read by.
    """

    name: str
    tensor: Tensor
    dims: tuple[int, ...]
    index: Tensor | None = None
    count: int = 0
    role: Role = Role.NORM
    reads: bool = False
    _on: dict[torch.device, _Here] = field(default_factory=dict)

    @property
    def shape(self) -> torch.Size:
        """One number for each group."""
        if self.index is not None:
            return torch.Size([self.count])
        return torch.Size(self.tensor.shape[d] for d in self.dims)

    @property
    def in_order(self) -> bool:
        """Whether the entries along `dims` are the groups, in the same order."""
        return self._here().index is None

    @property
    def covers(self) -> bool:
        """Whether every entry of the tensor is of a group."""
        return self.index is None or not bool((self.index < 0).any())

    @property
    def spread(self) -> Spread:
        """What lays a number for each group out over the tensor: 1 where there is no group."""
        shape = (n if d in self.dims else 1 for d, n in enumerate(self.tensor.shape))
        return Spread(tuple(shape), self._here().index)

    def sums(self, values: Tensor) -> Tensor:
        """Σ of values, which are shaped like the tensor, over the entries of each group."""
        return self.gathered(values.sum(self._inner) if self._inner else values)

    def norms(self) -> Tensor:
        """‖w‖₂ of the entries along `dims`; in float32 if the tensor is half precision."""
        if not self._inner:
            return torch.abs(widen(self.tensor))
        wide = torch.float32 if self.tensor.itemsize < 4 else None
        norms: Tensor = torch.linalg.vector_norm(self.tensor, dim=self._inner, dtype=wide)
        return norms

    def squares(self) -> Tensor:
        """Σ w² over the entries of each group."""
        return self.gathered(self.norms().square())

    def within(self, rows: Tensor) -> Tensor:
        """Which groups have all their entries in the rows that have a True.

        Args:
            rows: a Boolean along the leading dims of the tensor.

        Returns:
            A Boolean for each row where the groups are cut out of rows, otherwise for each group.
        """
        if self.index is None and self.dims[: rows.ndim] == tuple(range(rows.ndim)):
            return rows
        n = self.tensor.ndim
        left = (~rows).reshape([*rows.shape[:n], *[1] * (n - rows.ndim)])
        left = left.any(self._inner) if self._inner else left
        shape = self.shape if self.index is None else self.index.shape
        return self.gathered(left.expand(shape).float()) == 0

    def counts(self) -> int | Tensor:
        """Entries in each group: one number where they are equally many."""
        each = prod(self.tensor.shape[d] for d in self._inner) if self.tensor.numel() else 0
        return each * self._here().counts

    def gathered(self, rows: Tensor) -> Tensor:
        """Σ of rows, one number for each entry along `dims`, over each group."""
        index = self._here().index
        if index is None:
            return rows if self.index is None else rows.reshape(self.shape)
        sums = rows.new_zeros(self.count + 1)  # the last takes what belongs to no group
        return sums.scatter_add(0, index, rows.flatten())[: self.count]

    def _here(self) -> _Here:
        """The numbers, where the tensor is.

        Raises:
            GroupError: if the tensor has been cut since they were found.
        """
        if self.index is None:
            return IN_ORDER
        now = [self.tensor.shape[d] for d in self.dims]
        if now != list(self.index.shape):
            dims, then, here = (
                ", ".join(map(str, numbers)) for numbers in (self.dims, self.index.shape, now)
            )
            raise GroupError(
                f"{self.name} had {then} entries along dim {dims} when its groups were found and "
                f"has {here} now: the model was cut. Take the method off with .remove() and find "
                "its groups again"
            )
        device = self.tensor.device
        if device not in self._on:
            with torch.inference_mode(False):  # the next call may want a gradient
                self._on[device] = self._numbered.to(device)
        return self._on[device]

    @cached_property
    def _numbered(self) -> _Here:
        assert self.index is not None
        flat = self.index.flatten().cpu()
        if torch.equal(flat, torch.arange(self.count)):
            return IN_ORDER
        flat = torch.where(flat < 0, self.count, flat)
        counts = torch.bincount(flat, minlength=self.count + 1)[: self.count]
        equal = self.count > 0 and bool((counts == counts[0]).all())
        return _Here(flat, int(counts[0]) if equal else counts)

    @cached_property
    def _inner(self) -> tuple[int, ...]:
        return tuple(d for d in range(self.tensor.ndim) if d not in self.dims)


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of entries of one tensor, or of several that belong together.

    Attributes:
        name: of the parameter, or of the first of them, in its model: "features.0.weight".
        module: the module that owns it.
        members: the tensors, each with the groups of its entries.
        read_by_weights: whether nothing but the columns of weights reads what the groups make.
        macs: multiply–accumulates that go with each group, for one example, where that is known.
        run: where a count holds for each few neighbours, how many: neighbours are along the inputs
            of a row, [out, in·k·k], and the last of a row may be fewer.
    """

    name: str
    module: nn.Module
    members: tuple[Member, ...]
    read_by_weights: bool = True
    macs: int | None = None
    run: int | None = None

    @cached_property
    def normed(self) -> tuple[Member, ...]:
        """The members that count in the norms."""
        return tuple(member for member in self.members if member.role is Role.NORM)

    @cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The tensors whose weights count in the norms."""
        return tuple(m.tensor for m in self.normed if isinstance(m.tensor, nn.Parameter))

    @property
    def scaled(self) -> list[nn.Parameter]:
        """The parameters that `scale_` changes: of the norms, and what is zeroed with them."""
        tensors = (member.tensor for member in self.members if member.role is not Role.CUT)
        return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be chosen by."""
        return tuple(member.name for member in self.normed)

    @property
    def shape(self) -> torch.Size:
        """The shape of the norms: one number for each group."""
        return self.members[0].shape

    @property
    def single(self) -> bool:
        """Whether every group is one weight, and they are in order."""
        [member, *others] = self.members
        return not others and member.index is None and len(member.dims) == member.tensor.ndim

    @property
    def whole(self) -> bool:
        """Whether it cuts up whole tensors, and nothing else goes with its groups."""
        return all(member.role is Role.NORM and member.covers for member in self.members)

    def tensors(self) -> list[nn.Parameter]:
        """All parameters in which something belongs to these groups, each once."""
        tensors = (member.tensor for member in self.members)
        return list(dict.fromkeys(t for t in tensors if isinstance(t, nn.Parameter)))

    def norms(self) -> Tensor:
        """r_g = ‖w_g‖₂, shaped `shape`; in float32 if the weights are half precision."""
        [first, *others] = self.normed
        if not others and first.in_order:
            return first.gathered(first.norms())
        squares = _total([member.squares() for member in self.normed])
        alive = squares > 0  # the root's gradient at 0 is taken to be 0
        return torch.where(alive, torch.where(alive, squares, 1).sqrt(), 0 * squares)

    def within(self, rows: Mapping[Tensor, Tensor | None]) -> Tensor | None:
        """Which groups lie in some rows of their tensors, with all that `scale_` would change.

        Args:
            rows: of tensors, a Boolean along their leading dims, or one for all; None, as for a
                tensor that is not there, for every row.

        Returns:
            A Boolean over the leading dims of the norms; None for all groups.
        """
        found: Tensor | None = None
        for member in self.members:
            some = None if member.role is Role.CUT else rows.get(member.tensor)
            if some is not None:
                groups = member.within(some)
                found = groups if found is None else found & groups.to(found.device)
        return found

    def weighted(self, *metrics: Tensor) -> Tensor:
        """Σ_{i∈g} d_i w_i² / r_g², the metric that every rescaling of a group sees exactly.

        For s in [0, 1], ½ Σ d_i (s·w_i − w_i)² = ½ d_g (s·r_g − r_g)². A dead group gets the
        mean of d.

        Args:
            *metrics: d, for each of `parameters` and shaped like it.
        """
        if self.single:
            return metrics[0]
        squares = [widen(member.tensor.detach()).square() for member in self.normed]
        pairs = list(zip(self.normed, metrics, strict=True))
        total = _total([m.sums(s) for m, s in zip(self.normed, squares, strict=True)])
        moved = _total([m.sums(s * d) for (m, d), s in zip(pairs, squares, strict=True)])
        mean = _total([m.sums(d) for m, d in pairs]) / self.weights_each()
        return torch.where(total > 0, moved / total, mean)

    @torch.no_grad()
    def scale_(self, scales: Tensor) -> None:
        """w_g ← w_g · s_g for scales shaped `shape`; what is zeroed with a group, if s_g = 0."""
        for member in self.members:
            if member.role is Role.NORM:
                member.tensor.mul_(member.spread(scales.to(member.tensor.device)))
            elif member.role is Role.ZEROED:
                member.tensor.mul_(member.spread((scales != 0).to(member.tensor)))

    @torch.no_grad()
    def kill_(self, dead: Tensor) -> None:
        """Set all that belongs to these groups to zero, whatever its role; `dead` is as `shape`.

        Where something else than weights reads what a group makes, the columns that read it stay:
        what comes out of a dead unit may be f(0) ≠ 0, and goes on to all readers alike.
        """
        for tensor, spread in self.killed():
            tensor.mul_(spread((~dead).to(tensor)))

    def killed(self) -> list[tuple[nn.Parameter, Spread]]:
        """What `kill_` changes: parameters, and how the groups are spread over each."""
        goes = [m for m in self.members if self.read_by_weights or not m.reads]
        return [(m.tensor, m.spread) for m in goes if isinstance(m.tensor, nn.Parameter)]

    def gated(self) -> list[tuple[nn.Parameter, Spread]]:
        """Where a gate in the forward pass acts: parameters, and how it is spread over each.

        That is on the columns that read a unit, behind any normalisation and activation. Where
        something else reads it too (the product of queries and keys does), or there is none, it is
        on what makes it.
        """
        chosen = [member for member in self.members if member.reads]
        if not chosen or not self.read_by_weights:
            chosen = [member for member in self.members if not member.reads]
        return [(m.tensor, m.spread) for m in chosen if isinstance(m.tensor, nn.Parameter)]

    def weights_each(self) -> int | Tensor:
        """Weights in each group that its norm counts: one number where they are equally many."""
        counts: int | Tensor = _total([member.counts() for member in self.normed])
        return counts

    def cost(self) -> Tensor:
        """Parameters that go with each group while all others stay, shaped `shape`."""
        groups = self.shape.numel()
        cost = torch.zeros(groups, dtype=torch.long)
        for parameter in self.tensors():
            spreads = [m.spread for m in self.members if m.tensor is parameter]
            for spread, first in zip(spreads, met_first(spreads), strict=True):
                numbers = spread.numbers().broadcast_to(first.shape)[first]
                each = parameter.numel() // max(1, first.numel())
                cost += each * torch.bincount(numbers, minlength=groups + 1)[:groups]
        return cost.view(self.shape).to(self.members[0].tensor.device)

    def in_runs(self, values: Tensor) -> Tensor:
        """Numbers that are shaped as the norms, [rows, runs, run]; zeros fill the last of a row."""
        assert self.run is not None
        rows = values.flatten(1)
        filled: Tensor = pad(rows, (0, -rows.shape[1] % self.run)).unflatten(1, (-1, self.run))
        return filled

    def out_of_runs(self, values: Tensor) -> Tensor:
        """The same numbers, shaped as the norms again."""
        rows = values.flatten(1)[:, : self.shape[1:].numel()]
        return rows.reshape(self.shape)

    def __str__(self) -> str:
        return members_table(self)


def met_first(spreads: Sequence[Spread]) -> list[Tensor]:
    """Where each of the spreads is the first in which an entry meets its group."""
    numbers = [spread.numbers() for spread in spreads]
    found = []
    for i, mine in enumerate(numbers):
        first = torch.ones_like(mine, dtype=torch.bool)
        for earlier in numbers[:i]:
            first = first & (mine != earlier)
        found.append(first)
    return found


def _total(terms: Sequence[Any]) -> Any:
    """Their sum, where the first is."""
    total, *others = terms
    for other in others:
        both = isinstance(total, Tensor) and isinstance(other, Tensor)
        total = total + (other.to(total.device) if both else other)
    return total
