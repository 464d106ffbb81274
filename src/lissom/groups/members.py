"""The entries of one tensor that belong to groups."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from lissom.errors import GroupError
from lissom.penalties import widen
from lissom.shards import Shard, local, shard_of


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
        owner: the module that has the tensor, where that is known.
    """

    name: str
    tensor: Tensor
    dims: tuple[int, ...]
    index: Tensor | None = None
    count: int = 0
    role: Role = Role.NORM
    reads: bool = False
    owner: nn.Module | None = None
    _on: dict[torch.device, _Here] = field(default_factory=dict)

    @property
    def shape(self) -> torch.Size:
        """One number for each group."""
        if self.index is not None:
            return torch.Size([self.count])
        return torch.Size(self.tensor.shape[d] for d in self.dims)

    @property
    def values(self) -> Tensor:
        """The tensor, or this process's part of it."""
        return local(self.tensor)

    @cached_property
    def shard(self) -> Shard | None:
        """Which part of the tensor this process holds; None where it holds all."""
        return shard_of(self.tensor)

    @property
    def cut(self) -> bool:
        """Whether groups may lie in the parts of several processes."""
        if self.shard is None or not self.shard.dims:
            return False
        return self.index is not None or not self.shard.dims.issubset(self.dims)

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
        """What lays a number for each group out over the values: 1 where there is no group."""
        return Spread(self._laid(self.values), self._here().index)

    @property
    def spread_of_all(self) -> Spread:
        """The same over the whole tensor, where this process holds a part."""
        if self.shard is None:
            return self.spread
        index = None if self.index is None else self.index.flatten()
        index = None if index is None else torch.where(index < 0, self.count, index)
        return Spread(self._laid(self.tensor), index)

    def sums(self, values: Tensor) -> Tensor:
        """Σ of numbers, which are shaped like `values`, over the entries of each group here."""
        return self.gathered(values.sum(self._inner) if self._inner else values)

    def norms(self) -> Tensor:
        """‖w‖₂ of the entries along `dims`; in float32 if the tensor is half precision."""
        values = self.values
        if not self._inner:
            return torch.abs(widen(values))
        wide = torch.float32 if values.itemsize < 4 else None
        norms: Tensor = torch.linalg.vector_norm(values, dim=self._inner, dtype=wide)
        return norms

    def squares(self) -> Tensor:
        """Σ w² over the entries of each group here."""
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
        left = self.gathered(left.expand([self.values.shape[d] for d in self.dims]).float())
        return (self.shard.sum(left) if self.cut and self.shard else left) == 0

    def counts(self) -> int | Tensor:
        """Entries in each group: one number where they are equally many."""
        each = prod(self.tensor.shape[d] for d in self._inner) if self.tensor.numel() else 0
        return each * self._here().counts

    def gathered(self, rows: Tensor) -> Tensor:
        """Σ of rows, one number for each entry along `dims`, over each group."""
        index = self._here().index
        if index is None:
            return rows if self.index is None else rows.reshape(self.shape)
        count = self.shape.numel()
        sums = rows.new_zeros(count + 1)  # the last takes what belongs to no group
        return sums.scatter_add(0, index, rows.flatten())[:count].view(self.shape)

    def _here(self) -> _Here:
        """The numbers, where the tensor is.

        Raises:
            GroupError: if the tensor has been cut since they were found.
        """
        if self._numbers is None:
            return IN_ORDER
        now = [self.tensor.shape[d] for d in self.dims]
        if self.index is not None and now != list(self.index.shape):
            dims, then, here = (
                ", ".join(map(str, numbers)) for numbers in (self.dims, self.index.shape, now)
            )
            raise GroupError(
                f"{self.name} had {then} entries along dim {dims} when its groups were found and "
                f"has {here} now: the model was cut. Take the method off with .remove() and find "
                "its groups again"
            )
        device = self.values.device
        if device not in self._on:
            with torch.inference_mode(False):  # the next call may want a gradient
                self._on[device] = self._numbered.to(device)
        return self._on[device]

    @property
    def _numbers(self) -> Tensor | None:
        """The group of each entry along `dims`; None where those here are the groups, in order."""
        if self.index is not None or self.shard is None or not self.cut:
            return self.index
        if self.shard.dims.isdisjoint(self.dims):
            return None
        return torch.arange(self.shape.numel()).view(self.shape)

    @cached_property
    def _numbered(self) -> _Here:
        assert self._numbers is not None
        count, numbers = self.shape.numel(), self._numbers.cpu()
        here = numbers if self.shard is None else self.shard.part(numbers, self.dims)
        if torch.equal(here.flatten(), torch.arange(count)):
            return IN_ORDER
        here, flat = (torch.where(x < 0, count, x).flatten() for x in (here, numbers))
        counts = torch.bincount(flat, minlength=count + 1)[:count]
        equal = count > 0 and bool((counts == counts[0]).all())
        return _Here(here, int(counts[0]) if equal else counts)

    def _laid(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a number for each entry along `dims`, that is broadcast to a tensor."""
        return tuple(n if d in self.dims else 1 for d, n in enumerate(tensor.shape))

    @cached_property
    def _inner(self) -> tuple[int, ...]:
        return tuple(d for d in range(self.tensor.ndim) if d not in self.dims)
