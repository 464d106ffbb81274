"""What the shrunk network will cost, in expectation over its gates, and differentiable by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from lissom.coupling import Family, couple, families, trace
from lissom.coupling.labels import Axis
from lissom.coupling.sites import Contraction
from lissom.errors import GateError, nearest
from lissom.groups import Block, Spread, TensorBlock
from lissom.running import ExampleInputs

Cost = str | Mapping[str, float]

COSTS = ("weights", "bytes", "macs", "groups")


@dataclass
class Sized:
    """A parameter whose size depends on gates.

    Attributes:
        name: in its model.
        shape: of the whole parameter.
        itemsize: bytes of a weight.
        trained: whether it has a gradient; frozen weights cost operations, but are not counted.
        along: dim → the families that run through it, by number, and each index' unit (or −1).
        cells: blocks within it (single weights, kernels, columns), by number, and each one's shape
            when it is laid out over the parameter.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int
    trained: bool
    along: dict[int, list[tuple[int, Tensor]]] = field(default_factory=dict)
    cells: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def expected(self, p: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
        """The expected number of its weights that are left.

        Args:
            p: P(z ≠ 0) of each block.
            sums: of each p.
        """
        if self.cells:
            sides = {dim: _product(found, p) for dim, found in self.along.items()}
            return self._expected_cells(sides, p)
        rest = prod(size for dim, size in enumerate(self.shape) if dim not in self.along)
        total = sums[0].new_tensor(float(rest))
        for dim, found in self.along.items():
            total = total * self._left(dim, found, p, sums)
        return total + rest * self._shared(p) if self._repeats else total

    def _left(
        self,
        dim: int,
        found: list[tuple[int, Tensor]],
        p: Sequence[Tensor],
        sums: Sequence[Tensor],
    ) -> Tensor:
        """The expected size of a dim."""
        if dim not in self._even:
            return _product(found, p).sum()
        [(number, _)] = found
        return sums[number] * (self.shape[dim] // p[number].numel())

    @cached_property
    def _even(self) -> set[int]:
        """Dims that one family fills, with as many indices for each of its units."""
        return {
            dim
            for dim, found in self.along.items()
            if len(found) == 1
            and len(found[0][1].unique(return_counts=True)[1].unique()) == 1
            and bool((found[0][1] >= 0).all())
        }

    @cached_property
    def _repeats(self) -> bool:
        """Whether units run along two dims."""
        numbers = [{number for number, _ in found} for found in self.along.values()]
        return len(numbers) == 2 and bool(numbers[0] & numbers[1])

    def _expected_cells(self, sides: Mapping[int, Tensor], p: Sequence[Tensor]) -> Tensor:
        ndim = len(self.shape)
        alive = p[0].new_ones((1,) * ndim)
        for number, shape in self.cells:
            alive = alive * p[number].view(shape)
        for dim, side in sides.items():
            alive = alive * side.view([-1 if d == dim else 1 for d in range(ndim)])
        return alive.sum() * (prod(self.shape) / alive.numel())

    def _shared(self, p: Sequence[Tensor]) -> Tensor:
        """The covariance of two dims of the same units: Σ_u n_u m_u p_u (1 − p_u)."""
        total = p[0].new_zeros(())
        first, second = (dict(found) for found in self.along.values())
        for number in first.keys() & second.keys():
            q = p[number].flatten()
            n, m = (_counts(unit[number], q) for unit in (first, second))
            total = total + (n * m * q * (1 - q)).sum()
        return total


@dataclass
class Work:
    """Multiply–accumulates that no single parameter stands for, such as those of Q Kᵀ.

    Attributes:
        macs: for one example.
        sides: for each dim that may shrink its size and, for those entries that are gated, the
            block's number and the unit.
    """

    macs: float
    sides: list[tuple[int, list[tuple[int, Tensor]]]]

    def expected(self, p: Sequence[Tensor]) -> Tensor:
        """The expected number that is left."""
        total = p[0].new_tensor(self.macs)
        for size, found in self.sides:
            alive = p[0].new_tensor(float(size - sum(len(units) for _, units in found)))
            for number, units in found:
                alive = alive + p[number].flatten()[units.to(alive.device)].sum()
            total = total * alive / size
        return total


class Expected:
    """Expected costs of the shrunk network.

    Args:
        model: that is gated.
        blocks: that have gates.
        example: for MACs; None without them.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Block], example: ExampleInputs | None
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
        if cost == "groups":
            return torch.stack([q.sum() for q in p]).sum()
        costs = self._costs(cost)
        sums = [q.sum() for q in p]
        costed = [(costs.get(one.name, 0.0), one) for one in self.sized]
        terms = [each * one.expected(p, sums) for each, one in costed if each]
        if cost == "macs":
            terms += [work.expected(p) for work in self._work]
        if not terms:
            return p[0].new_zeros(())
        return torch.stack(terms).sum()

    def _costs(self, cost: Cost) -> Mapping[str, float]:
        if isinstance(cost, Mapping):
            wrong = [each for each in cost.values() if not isinstance(each, int | float)]
            if wrong:
                raise GateError(f"the cost of a weight is a number, got {wrong[0]!r}")
            unknown = cost.keys() - {one.name for one in self.sized}
            if unknown:
                name, names = min(unknown), [one.name for one in self.sized]
                raise GateError(f"there is no parameter {name!r} to cost.{nearest(name, names)}")
            return cost
        if cost == "weights":
            return {one.name: 1.0 for one in self.sized if one.trained}
        if cost == "bytes":
            return {one.name: float(one.itemsize) for one in self.sized if one.trained}
        if cost != "macs":
            known = ", ".join(map(repr, COSTS))
            raise GateError(f"a cost is {known} or {{parameter: cost per weight}}, got {cost!r}")
        if self._macs is None:
            raise GateError(
                "MACs depend on the size of the inputs: give lissom.gate(…, example_inputs=x)"
            )
        return self._macs


def _sized(model: nn.Module, blocks: Sequence[Block]) -> list[Sized]:
    found = {
        id(p): Sized(name, tuple(p.shape), p.itemsize, p.requires_grad)
        for name, p in model.named_parameters()
    }
    for number, block in enumerate(blocks):
        if isinstance(block, TensorBlock):
            found[id(block.parameter)].cells.append((number, block.spread.shape))
        elif isinstance(block, Family):
            for member in block.members:
                if id(member.tensor) in found:
                    along = found[id(member.tensor)].along.setdefault(member.dim, [])
                    along.append((number, member.unit))
    return list(found.values())


def _work(
    model: nn.Module, blocks: Sequence[Block], example: ExampleInputs
) -> tuple[dict[str, float], list[Work]]:
    """MACs per weight by parameter, and the work of activations on one another."""
    traced = trace(model, example)
    coupler = couple(traced)
    unit_of = _units_by_label(families(coupler, model), blocks)
    each: dict[str, float] = {}
    rest = []

    def work(macs: float, *axes: Axis | None) -> Work:
        sides = []
        for axis in axes:
            if axis is not None and len(axis):
                gated: dict[int, list[int]] = {}
                for label in coupler.labels.find(axis).tolist():
                    if label in unit_of:
                        number, unit = unit_of[label]
                        gated.setdefault(number, []).append(unit)
                sides.append((len(axis), [(n, torch.tensor(u)) for n, u in gated.items()]))
        return Work(macs / traced.examples, sides)

    for site in coupler.sites:
        if not isinstance(site, Contraction) or not site.macs:
            continue
        name = traced.names.get(site.other)
        if name is not None:
            size = traced.tensors[site.other].numel()
            each[name] = each.get(name, 0.0) + site.macs / traced.examples / size
        else:
            rest.append(work(site.macs, site.labels, site.rows))
    for product in coupler.products:
        if coupler.alive(product.node):
            dims = (coupler.vector(product.node, dim) for dim in product.dims)
            rest.append(work(product.macs, product.summed, *dims))
    return each, rest


def _units_by_label(found: Sequence[Family], blocks: Sequence[Block]) -> dict[int, tuple[int, int]]:
    """Label of a unit in this coupling → (number of the gated block, unit in it)."""
    gated = {
        (id(member.tensor), member.dim): (number, member.unit)
        for number, block in enumerate(blocks)
        if isinstance(block, Family)
        for member in block.members
    }
    units: dict[int, tuple[int, int]] = {}
    for family in found:
        for member in family.members:
            number, theirs = gated.get((id(member.tensor), member.dim), (-1, None))
            if theirs is not None:
                for mine, other in zip(member.unit.tolist(), theirs.tolist(), strict=True):
                    if mine >= 0 and other >= 0:
                        units[int(family.labels[mine])] = (number, other)
                break
    return units


def _product(found: Sequence[tuple[int, Tensor]], p: Sequence[Tensor]) -> Tensor:
    """P(alive) of each index along a dim."""
    [side, *others] = [Spread((-1,), unit)(p[number].flatten()) for number, unit in found]
    for other in others:
        side = side * other
    return side


def _counts(unit: Tensor, like: Tensor) -> Tensor:
    """How many indices each unit has."""
    counts = like.new_zeros(len(like) + 1)
    unit = unit.to(like.device) % len(counts)
    return counts.index_add(0, unit, like.new_ones(len(unit)))[:-1]
