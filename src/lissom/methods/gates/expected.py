"""What the shrunk network will cost, in expectation over its gates, and differentiable by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx, nn

from lissom.arguments import is_number, shown
from lissom.coupling import Family, couple, families, trace
from lissom.coupling.labels import Axis
from lissom.coupling.sites import Contraction
from lissom.errors import GateError, nearest
from lissom.groups import Partition, Spread, met_first
from lissom.running import ExampleInputs

Cost = str | Mapping[str, float]

COSTS = ("weights", "bytes", "macs", "groups")


class Box:
    """A box of entries, n₀ × n₁ × …, that are left where all groups they lie in are alive.

        E[entries left] = Σ_e Π_{g ∋ e} P(z_g ≠ 0)

    Groups are independent, and one that an entry meets twice (in a square weight of a residual
    stream, by its row and by its column) counts once. The sum factorises over dims that no
    partition links.

    Args:
        shape: of the box.
        placed: partitions in it, by number, and where their groups lie; one may be there twice.
        counts: groups of every partition.
    """

    def __init__(
        self, shape: Sequence[int], placed: Sequence[tuple[int, Spread]], counts: Sequence[int]
    ) -> None:
        parts: list[list[tuple[int, Spread]]] = []
        for number, spread in placed:
            linked = [p for p in parts if any(n == number or s.dims & spread.dims for n, s in p)]
            parts = [p for p in parts if p not in linked]
            parts.append([*(factor for part in linked for factor in part), (number, spread)])
        self._parts = [_Part(part, counts) for part in parts]
        covered = set().union(*(spread.dims for _, spread in placed))
        self._rest = float(prod(size for dim, size in enumerate(shape) if dim not in covered))

    def expected(self, p: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
        """The expected number of entries that are left.

        Args:
            p: P(z ≠ 0) of each partition.
            sums: of each p.
        """
        total = sums[0].new_tensor(self._rest)
        for part in self._parts:
            total = total * part.expected(p, sums)
        return total


class _Part:
    """Some dims of a box, linked by partitions that lie along several of them."""

    def __init__(self, placed: Sequence[tuple[int, Spread]], counts: Sequence[int]) -> None:
        self._placed = list(placed)
        # Where an entry meets a group for the first time; None where there is no second.
        self._first: list[Tensor | None] = [None] * len(placed)
        for number in {number for number, _ in placed}:
            mine = [i for i, (n, _) in enumerate(placed) if n == number]
            if len(mine) > 1:
                for i, first in zip(mine, met_first([placed[i][1] for i in mine]), strict=True):
                    self._first[i] = first
        self._each = 0  # entries of each group, where one partition fills all evenly
        if len(placed) == 1:
            [(number, spread)] = placed
            self._each = 1 if spread.index is None else _evenly(spread.index, counts[number])

    def expected(self, p: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
        if self._each:
            [(number, _)] = self._placed
            return sums[number] * self._each
        alive = p[0].new_ones(())
        for i, (number, spread) in enumerate(self._placed):
            chance, first = spread(p[number]), self._first[i]
            if first is not None:
                if first.device != chance.device:
                    with torch.inference_mode(False):  # the next call may want a gradient
                        self._first[i] = first = first.to(chance.device)
                chance = torch.where(first, chance, 1)
            alive = alive * chance
        return alive.sum()


def _evenly(index: Tensor, groups: int) -> int:
    """How many entries each group has, if all have as many and no entry is of none; else 0."""
    counts = torch.bincount(index, minlength=groups + 1)
    even = (counts[:-1] == counts[0]).all() and counts[-1] == 0
    return int(counts[0]) if even else 0


@dataclass(frozen=True)
class Costed:
    """A parameter whose size depends on gates.

    Attributes:
        name: in its model.
        itemsize: bytes of a weight.
        trained: whether it has a gradient; frozen weights cost operations, but are not counted.
        box: of its weights.
    """

    name: str
    itemsize: int
    trained: bool
    box: Box


@dataclass(frozen=True)
class Work:
    """Multiply–accumulates that no single parameter stands for, such as those of Q Kᵀ.

    Attributes:
        each: entry of the box, for one example.
        box: of the dims that may shrink.
    """

    each: float
    box: Box


class Expected:
    """Expected costs of the shrunk network.

    Args:
        model: that is gated.
        blocks: that have gates.
        example: for MACs; None without them.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Partition], example: ExampleInputs | None
    ) -> None:
        self.sized = _sized(model, blocks)
        self._macs: dict[str, float] | None = None
        self._work: list[Work] = []
        if example is not None:
            self._macs, self._work = _work(model, blocks, example)

    def __call__(self, p: Sequence[Tensor], cost: Cost) -> Tensor:
        """The expected cost, a tensor of no dimension.

        Args:
            p: P(z ≠ 0) of every block.
            cost: "weights", "bytes", "macs" or "groups", or {parameter: cost of each weight}.

        Raises:
            GateError: for an unknown cost, or MACs without an example.
        """
        if isinstance(cost, str) and cost == "groups":
            return torch.stack([q.sum() for q in p]).sum()
        costs = self._costs(cost)
        sums = [q.sum() for q in p]
        costed = [(costs.get(one.name, 0.0), one.box) for one in self.sized]
        if cost == "macs":
            costed += [(work.each, work.box) for work in self._work]
        terms = [each * box.expected(p, sums) for each, box in costed if each]
        if not terms:
            return p[0].new_zeros(())
        return torch.stack(terms).sum()

    def _costs(self, cost: Cost) -> Mapping[str, float]:
        if isinstance(cost, Mapping):
            wrong = [each for each in cost.values() if not is_number(each)]
            if wrong:
                raise GateError(f"the cost of a weight is a number, got {shown(wrong[0])}")
            unknown = cost.keys() - {one.name for one in self.sized}
            if unknown:
                name, names = min(unknown, key=str), [one.name for one in self.sized]
                raise GateError(
                    f"there is no parameter {name!r} to cost.{nearest(str(name), names)}"
                )
            return cost
        known = ", ".join(map(repr, COSTS))
        if not isinstance(cost, str) or cost not in COSTS:
            what = f"a cost is {known} or {{parameter: cost per weight}}"
            raise GateError(f"{what}, got {shown(cost)}")
        if cost == "weights":
            return {one.name: 1.0 for one in self.sized if one.trained}
        if cost == "bytes":
            return {one.name: float(one.itemsize) for one in self.sized if one.trained}
        if self._macs is None:
            raise GateError(
                "MACs depend on the size of the inputs: give lissom.gate(…, example_inputs=x)"
            )
        return self._macs


def _sized(model: nn.Module, blocks: Sequence[Partition]) -> list[Costed]:
    placed: dict[int, list[tuple[int, Spread]]] = {}
    for number, block in enumerate(blocks):
        for member in block.members:
            placed.setdefault(id(member.tensor), []).append((number, member.spread_of_all))
    counts = [block.shape.numel() for block in blocks]
    return [
        Costed(name, p.itemsize, p.requires_grad, Box(p.shape, placed.get(id(p), []), counts))
        for name, p in model.named_parameters()
    ]


def _work(
    model: nn.Module, blocks: Sequence[Partition], example: ExampleInputs
) -> tuple[dict[str, float], list[Work]]:
    """MACs per weight by parameter, and the work of activations on one another."""
    traced = trace(model, example)
    coupler = couple(traced)
    unit_of = _units_by_label(families(coupler, model), blocks)
    counts = [block.shape.numel() for block in blocks]
    each: dict[str, float] = {}
    rest = []

    def work(macs: float, *axes: Axis | None) -> Work:
        sides = [coupler.labels.find(axis) for axis in axes if axis is not None and len(axis)]
        placed = []
        for dim, labels in enumerate(sides):
            found = [unit_of.get(label, (-1, -1)) for label in labels.tolist()]
            shape = tuple(len(labels) if d == dim else 1 for d in range(len(sides)))
            for number in {number for number, _ in found} - {-1}:
                index = [unit if n == number else counts[number] for n, unit in found]
                placed.append((number, Spread(shape, torch.tensor(index))))
        sizes = [len(labels) for labels in sides]
        return Work(macs / prod(sizes), Box(sizes, placed, counts))

    def add(macs: float, weight: fx.Node | None, *axes: Axis | None) -> None:
        """To those of a parameter, or of what no single one stands for."""
        if weight is None or weight not in traced.names:
            rest.append(work(macs, *axes))
            return
        name, size = traced.names[weight], traced.tensors[weight].numel()
        each[name] = each.get(name, 0.0) + macs / size

    for site in coupler.sites:
        if isinstance(site, Contraction) and site.macs:
            macs = site.macs / traced.examples_of(site.node)
            add(macs, site.other, site.labels, site.rows)
    for product in coupler.products:
        if coupler.alive(product.node):
            macs = product.macs / traced.examples_of(product.node)
            of = product.weight or product.node
            dims = [coupler.vector(of, dim) for dim in product.dims]
            add(macs, product.weight, product.summed, *dims)
    return each, rest


def _units_by_label(
    found: Sequence[Family], blocks: Sequence[Partition]
) -> dict[int, tuple[int, int]]:
    """Label of a unit in this coupling → (number of the gated partition, group in it).

    A unit is gone where all of its slices are of one group, whoever found that group.
    """
    units: dict[int, tuple[int, int]] = {}
    for family in found:
        mine = _slices(family)
        for number, block in enumerate(blocks):
            theirs = _slices(block)
            if not mine.keys() <= theirs.keys():
                continue
            unit = torch.cat([mine[key] for key in mine])
            group = torch.cat([theirs[key] for key in mine])
            none = torch.full((len(family.labels) + 1,), -1)
            least = none.scatter_reduce(0, unit, group, "amin", include_self=False)
            most = none.scatter_reduce(0, unit, group, "amax", include_self=False)
            one = (least == most) & (most < block.shape.numel())
            for own in torch.nonzero(one[:-1]).flatten().tolist():
                units[int(family.labels[own])] = (number, int(most[own]))
    return units


def _slices(partition: Partition) -> dict[tuple[int, tuple[int, ...]], Tensor]:
    """The group of every slice of the parameters that a partition runs through."""
    members = (m for m in partition.members if isinstance(m.tensor, nn.Parameter))
    return {(id(m.tensor), m.dims): m.spread_of_all.numbers().flatten() for m in members}
