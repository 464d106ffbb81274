"""Units as groups: slices of many tensors that must be removed together, in families."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lissom.coupling.coupler import Coupler, Role
from lissom.coupling.labels import PINNED, Axis
from lissom.coupling.sites import Contraction
from lissom.errors import GroupError
from lissom.groups import Block, Groups, Spread
from lissom.penalties import widen
from lissom.tables import table, text

NAME_WIDTH = 20  # of a printed table; the end of a name says more than its beginning


@dataclass(frozen=True, eq=False)
class Member:
    """The slices of one tensor along one dim that belong to the units of a family.

    Attributes:
        name: of the tensor in its model.
        tensor: a parameter or a buffer.
        dim: along which it is sliced.
        role: what happens to the slices.
        unit: for each index of the dim the number of its unit, or −1.
        reads: whether the slices are the columns that a unit is read by.
    """

    name: str
    tensor: Tensor
    dim: int
    role: Role
    unit: Tensor
    reads: bool = False
    _moved: dict[torch.device, Tensor] = field(default_factory=dict)

    def units(self) -> Tensor:
        """`unit`, where the tensor is.

        Raises:
            GroupError: if the tensor has been cut since these units were found.
        """
        if self.tensor.shape[self.dim] != len(self.unit):
            raise GroupError(
                f"{self.name} had {len(self.unit)} entries along dim {self.dim} when these units "
                f"were found and has {self.tensor.shape[self.dim]} now: the model was cut. Take "
                "the proximal step off with .remove() and find its units again"
            )
        device = self.tensor.device
        if device not in self._moved:
            with torch.inference_mode(False):  # the next call may want a gradient
                self._moved[device] = self.unit.to(device)
        return self._moved[device]

    def sums(self, values: Tensor, units: int) -> Tensor:
        """Σ of values, which are shaped like the tensor, over each unit's slices."""
        rest = [d for d in range(values.ndim) if d != self.dim]
        return self.gathered(values.sum(rest) if rest else values, units)

    def squares(self, units: int) -> Tensor:
        """Σ w² over each unit's slices."""
        rest = [d for d in range(self.tensor.ndim) if d != self.dim]
        wide = torch.float32 if self.tensor.itemsize < 4 else None
        if rest:
            norms = torch.linalg.vector_norm(self.tensor, dim=rest, dtype=wide)
        else:
            norms = widen(self.tensor)
        return self.gathered(norms.square(), units)

    def gathered(self, rows: Tensor, units: int) -> Tensor:
        """Σ of rows, one number for each index, over each unit's indices."""
        out = rows.new_zeros(units + 1)  # the last takes what belongs to no unit
        return out.index_add(0, self.units() % (units + 1), rows)[:units]

    @torch.no_grad()
    def scale_(self, scales: Tensor) -> None:
        """Multiply each unit's slices by its scale."""
        self.units()  # refuses a tensor that was cut
        self.tensor.mul_(self.spread(scales.to(self.tensor)))

    @cached_property
    def spread(self) -> Spread:
        """What lays the units' scales out over the tensor: 1 where there is no unit."""
        shape = tuple(-1 if d == self.dim else 1 for d in range(self.tensor.ndim))
        in_order = torch.equal(self.unit, torch.arange(len(self.unit)))
        return Spread(shape, None if in_order else self.unit)


@dataclass(frozen=True, eq=False)
class Family(Block):
    """Units with the same members: all channels of a layer, or of layers that are added up.

    A unit is the smallest set of slices that must be removed together so that every tensor stays
    rectangular. Its norm is that of the slices that pay; what is zeroed goes to zero with them, and
    what is cut is only removed.

    Attributes:
        members: their slices.
        kind: "channels", "neurons" or "heads".
        macs: multiply–accumulate operations for each unit and example: that make it and read it.
        labels: of the units in the coupler that found them.
        read_by_weights: whether nothing but the columns of weights reads them.
    """

    name: str
    module: nn.Module
    members: tuple[Member, ...]
    kind: str
    macs: int
    labels: Axis
    read_by_weights: bool = True
    columns: ClassVar[tuple[str, ...]] = (
        "paid by", "zeroed", "cut", "weights each", "MACs each"
    )  # fmt: skip

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(m.tensor for m in self.paying if isinstance(m.tensor, nn.Parameter))

    def tensors(self) -> list[nn.Parameter]:
        return [m.tensor for m in self.members if isinstance(m.tensor, nn.Parameter)]

    @property
    def paying(self) -> list[Member]:
        """The members whose weights count in the unit's norm."""
        return [member for member in self.members if member.role is Role.PAY]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.paying)

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self.labels)])

    def norms(self) -> Tensor:
        squares = self._squares()
        alive = squares > 0  # the root's gradient at 0 is taken to be 0
        return torch.where(alive, torch.where(alive, squares, 1).sqrt(), 0 * squares)

    def weighted(self, *metrics: Tensor) -> Tensor:
        units = len(self.labels)
        total = self._squares().detach()
        sums, count = torch.zeros_like(total), torch.zeros_like(total)
        for member, metric in zip(self.paying, metrics, strict=True):
            values = widen(member.tensor.detach()).square()
            sums = sums + member.sums(values * metric, units).to(total)
            ones = torch.ones((), device=metric.device, dtype=metric.dtype).expand(metric.shape)
            mean = member.sums(metric, units) / member.sums(ones, units).clamp(min=1)
            count = count + mean.to(total) / len(metrics)
        return torch.where(total > 0, sums / total, count)

    @torch.no_grad()
    def scale_(self, scales: Tensor) -> None:
        for member in self.members:
            if member.role is Role.PAY:
                member.scale_(scales)
            elif member.role is Role.ZEROED:
                member.scale_((scales != 0).to(scales))

    @torch.no_grad()
    def kill_(self, dead: Tensor) -> None:
        """Rows, biases and norms, whoever pays, and the columns that read them.

        Where something else reads the units too, the columns stay: what comes out of a dead unit
        may be f(0) ≠ 0, and goes on to all readers alike.
        """
        for member in self.members:
            goes = self.read_by_weights or not member.reads
            if isinstance(member.tensor, nn.Parameter) and goes:
                member.scale_((~dead).to(member.tensor.dtype))

    def gated(self) -> list[tuple[nn.Parameter, Spread]]:
        """The columns that read the units: behind any normalisation and activation.

        Where something else reads them too (the product of queries and keys does), the rows and
        biases that make them.
        """
        chosen = [member for member in self.members if member.reads]
        if not chosen or not self.read_by_weights:
            chosen = [member for member in self.members if not member.reads]
        return [(m.tensor, m.spread) for m in chosen if isinstance(m.tensor, nn.Parameter)]

    def cost(self) -> Tensor:
        device = self.parameters[0].device
        return torch.tensor(self._parameters_each(), device=device).expand(self.shape)

    def weights_each(self) -> int:
        paid = sum(m.tensor.numel() // len(m.unit) * int((m.unit >= 0).sum()) for m in self.paying)
        return paid // len(self.labels)

    def row(self) -> list[object]:
        def named(role: Role) -> str:
            parameters = [m for m in self.members if isinstance(m.tensor, nn.Parameter)]
            owners = [m.name.rpartition(".")[0] or m.name for m in parameters if m.role is role]
            first, *others = dict.fromkeys(owners) or [""]
            first = first if len(first) <= NAME_WIDTH else "…" + first[1 - NAME_WIDTH :]
            return f"{first} + {len(others)}" if others else first

        return [
            *(named(role) for role in (Role.PAY, Role.ZEROED, Role.CUT)),
            self._parameters_each(),
            self.macs,
        ]

    def __str__(self) -> str:
        rows = [
            [m.name, m.role, "×".join(map(str, m.tensor.shape)), m.dim, int((m.unit >= 0).sum())]
            for m in self.members
        ]
        title = f"{len(self.labels):,} {self.kind}, {self._parameters_each():,} weights each"
        columns = ["member", "role", "shape", "dim", "slices"]
        return text(table(columns, rows, title=title))

    def _squares(self) -> Tensor:
        units = len(self.labels)
        first, *others = (member.squares(units) for member in self.paying)
        return sum((other.to(first) for other in others), start=first)

    def _parameters_each(self) -> int:
        """Parameters that go with one unit, while all others stay."""
        total = 0
        for member in self.members:
            if isinstance(member.tensor, nn.Parameter):
                size = member.tensor.numel() // len(member.unit)
                total += size * int((member.unit >= 0).sum()) // len(self.labels)
        return total


def families(coupler: Coupler, model: nn.Module) -> list[Family]:
    """All units that the coupler found, gathered in families, in the order of the layers."""
    modules = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    slices = list(_slices(coupler))
    kinds, macs, mixed = _kinds(coupler), _macs(coupler), _read_otherwise(coupler)
    found: list[Family] = []
    for units, places in _alike([vector for *_, vector in slices], len(coupler.labels)):
        number = np.full(len(coupler.labels), -1)
        number[units] = np.arange(len(units))
        members = tuple(
            Member(name, tensors[name], dim, role, torch.from_numpy(number[vector]), reads)
            for name, dim, role, reads, vector in (slices[i] for i in places)
        )
        paying = next((m for m in members if m.role is Role.PAY), None)
        if paying is not None and isinstance(paying.tensor, nn.Parameter):
            module = modules[paying.name.rpartition(".")[0]]
            each = int(macs[units].mean())
            kind, plain = kinds(units[0]), not mixed[units].any()
            found.append(Family(paying.name, module, members, kind, each, units, plain))
    order_of = {name: i for i, name in enumerate(tensors)}
    return sorted(found, key=lambda family: order_of[family.name])


def _alike(vectors: list[Axis], size: int) -> Iterator[tuple[Axis, list[int]]]:
    """Labels that stand in the same vectors equally often, in their order, and in which vectors.

    By refining a partition: what stands in a vector is parted from what does not, and by count.
    """
    part = np.zeros(size, np.int64)
    parts = 1
    for vector in vectors:
        present, counts = np.unique(vector, return_counts=True)
        keys = np.stack([part[present], counts])
        distinct, inverse = np.unique(keys, axis=1, return_inverse=True)
        part[present] = parts + inverse.reshape(-1)
        parts += distinct.shape[1]
    part[PINNED] = 0
    places: dict[int, list[int]] = {}
    order: dict[int, Axis] = {}
    for i, vector in enumerate(vectors):
        for p in np.unique(part[vector]).tolist():
            if p not in places:
                labels = vector[part[vector] == p]
                order[p] = labels[np.sort(np.unique(labels, return_index=True)[1])]
            places.setdefault(p, []).append(i)
    yield from ((order[p], places[p]) for p in places if p != 0)


def _slices(coupler: Coupler) -> Iterator[tuple[str, int, Role, bool, Axis]]:
    """(tensor, dim, role, whether it reads, labels), each dim of each tensor once."""
    roles: dict[tuple[str, int], set[Role]] = {}
    for (node, dim), said in coupler.roles.items():
        roles.setdefault((coupler.trace.names[node], dim), set()).update(said)
    payer = Role.CUT if coupler.frees_inputs else Role.PAY
    pays: dict[str, int] = {}  # a tensor pays along one dim, or its weights would pay twice
    for (name, dim), said in sorted(roles.items()):
        if payer in said:
            pays.setdefault(name, dim)
    seen: set[str] = set()
    for node, name in coupler.trace.names.items():
        if name in seen:
            continue
        seen.add(name)
        for axis in coupler.axes(node):
            [dim] = (d for d, size in enumerate(axis.shape) if size > 1)
            said = roles.get((name, dim), {Role.ZEROED})
            if not isinstance(coupler.trace.tensors[node], nn.Parameter):
                role = Role.CUT
            elif pays.get(name) == dim:
                role = Role.PAY
            else:
                role = Role.ZEROED if said == {Role.ZEROED} else Role.CUT
            yield name, dim, role, Role.CUT in said, axis.ravel()


def _kinds(coupler: Coupler) -> "_Kinds":
    size = len(coupler.labels)
    heads, channels = np.zeros(size, bool), np.zeros(size, bool)
    for axis in coupler.heads:
        heads[coupler.labels.find(axis)] = True
    for site in coupler.sites:
        if isinstance(site, Contraction) and site.convolves:
            for labels in (site.labels, site.rows):
                if labels is not None:
                    channels[coupler.labels.find(labels)] = True
    return _Kinds(heads, channels)


@dataclass(frozen=True)
class _Kinds:
    heads: np.ndarray
    channels: np.ndarray

    def __call__(self, label: int) -> str:
        if self.heads[label]:
            return "heads"
        return "channels" if self.channels[label] else "neurons"


def _read_otherwise(coupler: Coupler) -> np.ndarray:
    """For each label whether something else than a weight's columns reads it."""
    found = np.zeros(len(coupler.labels), bool)
    for site in coupler.sites:
        if isinstance(site, Contraction):
            by_weights = coupler.trace.of_weights(site.other)
        else:
            by_weights = site.output is not None  # a state, which the layer's own columns read
        if not by_weights:
            found[coupler.labels.find(site.labels)] = True
    return found


def _macs(coupler: Coupler) -> np.ndarray:
    """For each label the operations that make it and that read it, for one example."""
    macs = np.zeros(len(coupler.labels))
    examples = coupler.trace.examples
    for site in coupler.sites:
        if isinstance(site, Contraction):
            for labels in (site.labels, site.rows):
                if labels is not None:
                    found = coupler.labels.find(labels)
                    np.add.at(macs, found, site.macs / len(labels) / examples)
    for product in coupler.products:
        read = [] if product.summed is None else [product.summed]
        axes = [coupler.vector(product.node, dim) for dim in product.dims]
        for labels in (*read, *(axis for axis in axes if axis is not None)):
            found = coupler.labels.find(labels)
            np.add.at(macs, found, product.macs / len(labels) / examples)
    return macs


def groups_of(kind: str, found: list[Family]) -> Groups:
    """The families of one kind.

    Raises:
        GroupError: if there is none, saying what there is.
    """
    chosen = [family for family in found if kind in ("units", family.kind)]
    if not chosen:
        others = sorted({family.kind for family in found})
        raise GroupError(
            f"no {kind} can be removed from this model"
            + (f"; it has {' and '.join(others)}" if others else ", nor any other units")
        )
    return Groups(kind, chosen)
