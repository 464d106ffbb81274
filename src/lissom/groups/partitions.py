"""Parameters, and a group number for each of their entries: what lives or dies together.

Single weights, kernels, columns, tiles, channels and heads differ in these numbers alone. Norms,
scales, metrics, costs and the places of gates follow from them, once, in two calls: `spread` lays
a number for each group out over a tensor, and `sums` adds a tensor up over each group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lissom.errors import GroupError, nearest
from lissom.groups.members import Member, Role, Spread
from lissom.groups.printing import members_table
from lissom.parametrized import clean, owner_of
from lissom.penalties import widen
from lissom.running import named_tensors
from lissom.shards import Crowd, Shard, Share, summed


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
    def shape_here(self) -> torch.Size:
        """The same where this process has a part of the norms: `shard` says which."""
        if self.shard is None:
            return self.shape
        [member] = self.members
        return torch.Size(member.values.shape[d] for d in member.dims)

    @cached_property
    def shard(self) -> Shard | None:
        """Which groups this process has, each whole, where others have the rest.

        None where it has all of them, or where groups are cut: then each process has all norms,
        which are summed over the processes.
        """
        alone = len(self.members) == 1 and not self.members[0].cut
        shard = self.members[0].shard if alone else None
        return shard if shard is not None and shard.dims else None

    def share(self, crowd: Crowd, before: int) -> Share:
        """This process's share of the norms, which come after so many others."""
        if self.shard is None:
            return Share(crowd, crowd.first, self.shape.numel(), before)
        shard, dims = self.shard, self.members[0].dims
        counts, size = crowd.counts(shard), self.shape.numel()
        return Share(crowd, counts, size, before, lambda flat: shard.places(flat, dims))

    def part(self, numbers: Tensor) -> Tensor:
        """Of a number for each group, those of the groups that this process has."""
        return self.shard.part(numbers, self.members[0].dims) if self.shard else numbers

    def joined(self, numbers: Tensor) -> Tensor:
        """Of a number for each group that this process has, a DTensor of those of all."""
        return self.shard.whole(numbers, self.members[0].dims) if self.shard else numbers

    def count(self, which: Tensor) -> int:
        """For how many groups it is True, in all processes; `which` is shaped as `shape_here`."""
        counted = which.sum()
        return int(self.shard.sum(counted) if self.shard else counted)

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
        """r_g = ‖w_g‖₂, shaped `shape_here`; in float32 if the weights are half precision."""
        [first, *others] = self.normed
        if not others and first.in_order and not first.cut:
            return first.gathered(first.norms())
        squares = self._summed([member.squares() for member in self.normed])
        alive = squares > 0  # the root's gradient at 0 is taken to be 0
        return torch.where(alive, torch.where(alive, squares, 1).sqrt(), 0 * squares)

    def of(self, model: nn.Module) -> Self:
        """The same groups, of a model that has other tensors under the same names.

        Raises:
            GroupError: naming what it does not have, or not of this shape.
        """
        tensors = {clean(name): tensor for name, tensor in named_tensors(model)}
        for member in self.members:
            found = tensors.get(member.name)
            if found is None:
                raise GroupError(
                    f"this {type(model).__name__} has no {member.name}, of which the groups are."
                    f"{nearest(member.name, list(tensors))}"
                )
            if found.shape != member.tensor.shape:
                raise GroupError(
                    f"{member.name} is {list(found.shape)} in this model, and the groups are of "
                    f"{list(member.tensor.shape)}: find them again"
                )
        members = tuple(
            replace(
                member,
                tensor=tensors[member.name],
                owner=model.get_submodule(member.name.rpartition(".")[0]),
                _on={},
            )
            for member in self.members
        )
        owner = model.get_submodule(owner_of(self.name)[0])
        return replace(self, module=owner, members=members)

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
            *metrics: d, for each of `parameters` and shaped like its values here.
        """
        if self.single:
            return metrics[0]
        squares = [widen(member.values.detach()).square() for member in self.normed]
        pairs = list(zip(self.normed, metrics, strict=True))
        total = self._summed([m.sums(s) for m, s in zip(self.normed, squares, strict=True)])
        moved = self._summed([m.sums(s * d) for (m, d), s in zip(pairs, squares, strict=True)])
        mean = self._summed([m.sums(d) for m, d in pairs]) / self.weights_each()
        return torch.where(total > 0, moved / total, mean)

    @torch.no_grad()
    def scale_(self, scales: Tensor) -> None:
        """w_g ← w_g · s_g, scales shaped `shape_here`; what is zeroed with a group, if s_g = 0."""
        for member in self.members:
            values = member.values
            if member.role is Role.NORM:
                values.mul_(member.spread(scales.to(values.device)))
            elif member.role is Role.ZEROED:
                values.mul_(member.spread((scales != 0).to(values)))

    @torch.no_grad()
    def kill_(self, dead: Tensor) -> None:
        """Set all that belongs to these groups to zero, whatever its role; `dead` is as `shape`.

        Where something else than weights reads what a group makes, the columns that read it stay:
        what comes out of a dead unit may be f(0) ≠ 0, and goes on to all readers alike.
        """
        for member in self.killed():
            values = member.values
            values.mul_(member.spread((~dead).to(values)))

    def killed(self) -> list[Member]:
        """Whose entries `kill_` sets to zero."""
        goes = [m for m in self.members if self.read_by_weights or not m.reads]
        return [m for m in goes if isinstance(m.tensor, nn.Parameter)]

    def gated(self) -> list[Member]:
        """Where a gate in the forward pass acts.

        That is on the columns that read a unit, behind any normalisation and activation. Where
        something else reads it too (the product of queries and keys does), or there is none, it is
        on what makes it.
        """
        chosen = [member for member in self.members if member.reads]
        if not chosen or not self.read_by_weights:
            chosen = [member for member in self.members if not member.reads]
        return [m for m in chosen if isinstance(m.tensor, nn.Parameter)]

    def weights_each(self) -> int | Tensor:
        """Weights in each group that its norm counts: one number where they are equally many."""
        counts: int | Tensor = _total([member.counts() for member in self.normed])
        return counts

    def cost(self) -> Tensor:
        """Parameters that go with each group while all others stay, shaped `shape`."""
        groups = self.shape.numel()
        cost = torch.zeros(groups, dtype=torch.long)
        for parameter in self.tensors():
            spreads = [m.spread_of_all for m in self.members if m.tensor is parameter]
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
        return rows.reshape(self.shape_here)

    def _summed(self, terms: Sequence[Tensor]) -> Tensor:
        """Σ of a term for each of `normed`, over the processes too where the groups are cut."""
        return summed(terms, [None if self.shard else member.shard for member in self.normed])

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
