"""Units as groups: slices of many tensors that must be removed together, in families."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import PINNED, Axis, varying
from lissom.coupling.pins import Pin
from lissom.coupling.sites import Contraction
from lissom.errors import GroupError
from lissom.groups import Groups, Member, Partition, Role
from lissom.parametrized import owner_of

SHOWN = 5  # pins in a message


@dataclass(frozen=True, eq=False, kw_only=True)
class Family(Partition):
    """Units with the same members: all channels of a layer, or of layers that are added up.

    A unit is the smallest set of slices that must be removed together so that every tensor stays
    rectangular. Its norm is that of the slices that make it, or of those that read it where inputs
    are free; what is zeroed goes to zero with them, and what is cut is only removed.

    Attributes:
        kind: "channels", "neurons" or "heads".
        labels: of the units in the coupler that found them.
    """

    kind: str
    labels: Axis


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
            Member(
                name, tensors[name], (dim,), torch.from_numpy(number[vector]), len(units), role,
                reads,
            )
            for name, dim, role, reads, vector in (slices[i] for i in places)
        )  # fmt: skip
        first = next((m for m in members if m.role is Role.NORM), None)
        if first is not None and isinstance(first.tensor, nn.Parameter):
            found.append(
                Family(
                    first.name,
                    modules[owner_of(first.name)[0]],
                    members,
                    read_by_weights=not mixed[units].any(),
                    macs=int(macs[units].mean()),
                    kind=kinds(units[0]),
                    labels=units,
                )
            )
    order_of = {name: i for i, name in enumerate(tensors)}
    return sorted(found, key=lambda family: order_of[family.name])


def without_norm(coupler: Coupler, units: Axis) -> Iterator[tuple[str, str, Axis]]:
    """(name, kind, labels) of families of which no weight makes the units, but a scale, say.

    Args:
        coupler: the labels.
        units: those that are asked for.
    """
    slices, kinds = list(_slices(coupler)), _kinds(coupler)
    for labels, places in _alike([vector for *_, vector in slices], len(coupler.labels)):
        if np.isin(labels, units).any():
            yield slices[places[0]][0], kinds(labels[0]), labels


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
    counted = Role.CUT if coupler.frees_inputs else Role.NORM
    along: dict[str, int] = {}  # one dim of each tensor, or its weights would count twice
    live = {
        (name, varying(axis)[0])
        for node, name in coupler.trace.names.items()
        for axis in coupler.axes(node)
    }
    for (name, dim), said in sorted(roles.items()):
        if counted in said and (name, dim) in live:
            along.setdefault(name, dim)
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
            elif along.get(name) == dim:
                role = Role.NORM
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
    examples_of = coupler.trace.examples_of
    shared: list[tuple[Axis, float]] = []
    for site in coupler.sites:
        if isinstance(site, Contraction):
            both = (site.labels, site.rows)
            each = site.macs / examples_of(site.node)
            shared += [(labels, each) for labels in both if labels is not None]
    for product in coupler.products:
        read = [] if product.summed is None else [product.summed]
        axes = [coupler.vector(product.weight or product.node, dim) for dim in product.dims]
        each = product.macs / examples_of(product.node)
        shared += [(axis, each) for axis in (*read, *axes) if axis is not None]
    for labels, total in shared:
        if len(labels):  # a layer may have no width at all
            np.add.at(macs, coupler.labels.find(labels), total / len(labels))
    return macs


def groups_of(kind: str, found: list[Family], pinned: Callable[[], Sequence[Pin]]) -> Groups:
    """The families of one kind.

    Args:
        kind: "channels", "neurons", "heads", or "units" for all of them.
        found: all families.
        pinned: asked if there is none.

    Raises:
        GroupError: if there is none, saying what there is, and what keeps the others.
    """
    chosen = [family for family in found if kind in ("units", family.kind)]
    if not chosen:
        others, pins = sorted({family.kind for family in found}), pinned()
        raise GroupError(
            f"no {kind} can be removed from this model"
            + (f"; it has {' and '.join(others)}" if others else ", nor any other units")
            + "".join(f"; {pin}" for pin in pins[:SHOWN])
            + (f"; and {len(pins) - SHOWN} more" if len(pins) > SHOWN else "")
        )
    return Groups(kind, chosen)
