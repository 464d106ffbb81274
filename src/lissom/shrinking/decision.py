"""Which units can go without changing the function: the greatest set that nothing reads.

Start from all units and put back, until nothing changes, each one whose value matters somewhere:
it is not known to be zero there, cannot be folded into a bias there, and a surviving weight reads
it. What only dead units read is dead too, so the set cascades backwards and closes over residual
cycles.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.coupling.constants import Constants, compact
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import PINNED, Axis
from lissom.coupling.resizing import Counts
from lissom.coupling.sites import Contraction, MustVanish, Site

Mask = NDArray[np.bool_]
Share = tuple[Contraction, int, int, float | complex]


@dataclass
class Decision:
    """What goes.

    Attributes:
        gone: for each label that stands for its set, whether the unit goes.
        copies: for each label, how many copies of the unit come beside it, which nothing reads;
            None for no copies at all.
        reasons: for each unit that stays although its own weights are zero, why.
        folds: the constants that an operation takes into its bias, one for each entry it read.
        shared: for each unit that is a constant and goes, since another one stands for it: the
            operation, the entry of the other, its own, and what its constant is times the other's.
        standing: the units that stand for these.
        last: units that could go, but are the last of their tensor.
        rounded: units that could go, but fill up a width.
    """

    gone: Mask
    copies: Counts | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    folds: dict[Contraction, Tensor] = field(default_factory=dict)
    shared: dict[int, list[Share]] = field(default_factory=dict)
    standing: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    rounded: set[int] = field(default_factory=set)

    @property
    def times(self) -> Counts:
        """For each label, how often its unit is there afterwards."""
        once = (~self.gone).astype(np.int64)
        return once if self.copies is None else once + self.copies


@dataclass(eq=False)
class _Read:
    """A site with what is known of it.

    Attributes:
        site: the place.
        labels: found, one for each of the K entries.
        reader: the operation, the module it stands in, and the dim it reads.
        free: entries that do not matter here, whatever reads them: zero.
        constant: entries that are the same whatever the input.
        foldable: those of them that a bias can take.
        shareable: whether the columns of constants can be added up.
        constants: their values.
        touches: [K, rows per group], whether a weight is not zero; None if all of them matter.
        rows: labels of the rows, shaped [groups, rows per group]; None if all of them are alive.
        group: of each of the K entries.
        called_often: whether its layer is read through at other places too.
    """

    site: Site
    reader: str
    labels: Axis
    free: Mask
    constant: Mask
    foldable: Mask
    shareable: bool = False
    constants: Tensor | None = None
    touches: Mask | None = None
    rows: Axis | None = None
    group: NDArray[np.int64] | None = None
    called_often: bool = False

    def why(self, entry: int) -> str:
        """Why an entry that is needed is needed, in words."""
        if isinstance(self.site, MustVanish):
            return f"{self.reader} needs it to be zero"
        if not self.constant[entry]:
            return f"{self.reader} reads it"
        if self.site.pads:
            return f"it is a constant, but {self.reader} pads with zeros beside it"
        if self.called_often:
            return f"it is a constant, but {self.reader} is called more than once"
        if self.site.takes is None:
            return f"it is a constant, but {self.reader} has no bias that could take it"
        return f"it is a constant, and was not to be folded into the bias of {self.reader}"

    def needed(self, gone: Mask) -> Mask:
        """Which of the K entries matter while the units in `gone` are away."""
        matters: Mask = ~(self.free | self.foldable)
        if self.touches is None or not matters.any():
            return matters
        if self.rows is None:
            return matters & self.touches.any(1)
        assert self.group is not None
        alive = ~gone[self.rows]
        if len(alive) == 1:
            return matters & self.touches[:, alive[0]].any(1)
        return matters & (self.touches & alive[self.group]).any(1)


class Decider:
    """All that is known about what can go; `decide` may be asked again with units to keep."""

    def __init__(
        self,
        coupler: Coupler,
        constants: Constants,
        *,
        fold: bool,
        into: Collection[str] | None = None,
    ) -> None:
        """See what is known.

        Args:
            coupler: the labels, and where they are read.
            constants: what is known of every tensor.
            fold: whether constants may go.
            into: the biases that may take them; None for all, for those that have to be made, and
                for the columns of another constant.
        """
        self.coupler = coupler
        self._find = coupler.labels.find(np.arange(len(coupler.labels)))
        self._candidates = np.zeros(len(coupler.labels), bool)
        self._dims: list[Axis] = []
        for node in coupler.trace.names:
            for axis in coupler.axes(node):
                self._candidates[axis] = True
                self._dims.append(axis.ravel())
        for axis in coupler.inputs.values():
            self._candidates[self._find[axis]] = True
            self._dims.append(self._find[axis].ravel())
        self._candidates[PINNED] = False
        self._reads = [
            _look(site, coupler, constants, fold, into)
            for site in coupler.sites
            if coupler.labels.find(site.labels).any()
        ]
        self._agree_on_folds()

    def decide(self, stay: Mask | None = None, round_to: int = 1) -> Decision:
        """The greatest set of units that can go together.

        Args:
            stay: labels that must stay.
            round_to: leave a multiple of this many units in each tensor.
        """
        stay = np.zeros_like(self._candidates) if stay is None else stay.copy()
        shared: dict[int, list[Share]] = {}
        standing: set[int] = set()
        while True:
            gone = self._candidates & ~stay
            decision = Decision(gone, shared=shared, standing=standing)
            while True:
                self._put_back_what_is_read(decision)
                back = self._last_ones(decision) | self._rounding(decision, round_to)
                if not back:
                    break
                decision.gone[list(back)] = False
                for label in back & shared.keys():
                    del shared[label]
            if not self._share_constants(decision, stay):
                break
        self._collect_folds(decision)
        return decision

    def _put_back_what_is_read(self, decision: Decision) -> None:
        gone = decision.gone
        represented = np.zeros_like(gone)
        represented[list(decision.shared)] = True
        while True:
            before = int(gone.sum())
            for read in self._reads:
                needed = read.needed(gone) & gone[read.labels] & ~represented[read.labels]
                for entry in np.flatnonzero(needed).tolist():
                    decision.reasons[int(read.labels[entry])] = read.why(entry)
                gone[read.labels[needed]] = False
            if int(gone.sum()) == before:
                return

    def _last_ones(self, decision: Decision) -> set[int]:
        """One unit for each tensor that would lose all of them."""
        back: set[int] = set()
        for labels in self._dims:
            if decision.gone[labels].all() and not back & set(labels.tolist()):
                back.add(int(labels[0]))
        decision.last |= back
        return back

    def _rounding(self, decision: Decision, multiple: int) -> set[int]:
        """Units that fill every width up to a multiple, where there are so many."""
        if multiple == 1:
            return set()
        for labels in self._dims:
            away = decision.gone[labels]
            units, counts = np.unique(labels[away], return_counts=True)
            missing = -int((~away).sum()) % multiple
            if missing > int(away.sum()):
                continue
            back: set[int] = set()
            for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
                if missing > 0:
                    back.add(unit)
                    missing -= count
            if back:
                decision.rounded |= back
                return back
        return set()

    def _share_constants(self, decision: Decision, stay: Mask) -> bool:
        """Of the constants that the same operations read, one is enough: Σ w_j c_j = c Σ w_j c_j/c.

        This holds beside a padding too, where no bias could take them. What stands for others joins
        `stay`.

        Returns:
            Whether any more units can go.
        """
        fixed = stay.copy()
        fixed[[*decision.last, *decision.rounded]] = True
        spoiled = ~self._candidates
        places: dict[int, list[tuple[int, int]]] = {}
        for number, read in enumerate(self._reads):
            needed = read.needed(decision.gone) & ~decision.gone[read.labels]
            alike = needed & read.constant & read.shareable
            spoiled[read.labels[needed & ~alike]] = True
            for entry in np.flatnonzero(alike).tolist():
                places.setdefault(int(read.labels[entry]), []).append((number, entry))
        groups: dict[tuple[int, ...], list[int]] = {}
        for label, found in places.items():
            numbers = tuple(number for number, _ in found)
            if not spoiled[label] and len(set(numbers)) == len(numbers):
                groups.setdefault(numbers, []).append(label)
        more = False
        for numbers, labels in groups.items():
            standing = [label for label in labels if stay[label]]
            first = max(standing or labels, key=lambda label: self._size(places[label]))
            for label in labels:
                if label == first or fixed[label]:
                    continue
                decision.shared[label] = [
                    self._share(number, entry, other)
                    for number, (_, entry), (_, other) in zip(
                        numbers, places[first], places[label], strict=True
                    )
                ]
                stay[first] = more = True
                decision.standing.add(first)
        return more

    def _size(self, places: list[tuple[int, int]]) -> float:
        """The smallest of a unit's constants: what stands for others should not be tiny."""
        found = [(self._reads[number].constants, entry) for number, entry in places]
        return min(abs(c[entry].item()) for c, entry in found if c is not None)

    def _share(self, number: int, entry: int, other: int) -> Share:
        read = self._reads[number]
        assert isinstance(read.site, Contraction) and read.constants is not None
        return read.site, entry, other, (read.constants[other] / read.constants[entry]).item()

    def _agree_on_folds(self) -> None:
        """A layer that is called more than once has one bias, but may see several constants."""
        taken: dict[str, int] = {}
        for site in self.coupler.sites:
            if isinstance(site, Contraction) and site.takes:
                taken[site.takes] = taken.get(site.takes, 0) + 1
        for read in self._reads:
            if isinstance(read.site, Contraction) and taken.get(read.site.takes or "", 0) > 1:
                read.foldable[:] = False
                read.called_often = True

    def _collect_folds(self, decision: Decision) -> None:
        for read in self._reads:
            if not isinstance(read.site, Contraction) or read.constants is None:
                continue
            away = decision.gone[read.labels] & ~read.free & read.foldable
            if away.any():
                constants = torch.where(torch.from_numpy(away), read.constants, 0)
                decision.folds[read.site] = constants


def _look(
    site: Site,
    coupler: Coupler,
    constants: Constants,
    fold: bool,
    into: Collection[str] | None,
) -> _Read:
    labels = coupler.labels.find(site.labels)
    reader = f"{coupler.trace.place(site.node)} (dim {site.dim})"
    if isinstance(site, MustVanish):
        known = constants.of(site.source, site.output, reader=site.node)
        x = compact(known, but=site.dim)
        free = _all_along(x == 0, site.dim)
        return _Read(site, reader, labels, free, free, np.zeros_like(free))
    x = compact(constants.of(site.source, reader=site.node), but=site.dim)
    zero = _all_along(x == 0, site.dim)
    nonzero = constants.nonzero(site.other)
    inner, outer = site.other_dims
    may = site.takes is not None and (into is None or site.takes in into)
    takes = fold and may and constants.fixed(site.other)
    finite = constants.of(site.other).isfinite() if constants.fixed(site.other) else None
    if finite is not None and not finite.all():  # 0·∞ is not 0
        zero &= _all_along(finite, inner)
        takes = False
    rows: Axis | None = None
    if outer is None:
        touches = _any_along(nonzero, inner)[:, None]
    else:
        kept = (inner % nonzero.ndim, outer % nonzero.ndim)
        rest = tuple(d for d in range(nonzero.ndim) if d not in kept)
        flat = nonzero.any(rest) if rest else nonzero  # ty: the two dims, in their order
        touches = (flat if kept[0] < kept[1] else flat.T).numpy()  # [in, out]
        if site.rows is not None:
            rows = coupler.labels.find(site.rows).reshape(site.groups, -1)
    group = np.arange(len(labels)) // (len(labels) // site.groups)
    if touches.shape[0] < len(labels):  # [in per group, out] → [in, out per group]
        per_group = touches.reshape(touches.shape[0], site.groups, -1)
        touches = per_group.transpose(1, 0, 2).reshape(len(labels), -1)
    values, constant = _constants_along(x, site.dim)
    exact = finite is not None and bool(finite.all())
    alone = site.other in coupler.trace.names and len(site.other.users) == 1
    return _Read(
        site,
        reader,
        labels,
        zero,
        constant,
        constant & takes,
        fold and into is None and exact and alone and site.groups == 1 and outer is not None,
        values,
        touches,
        rows,
        group,
    )


def _constants_along(x: Tensor, dim: int) -> tuple[Tensor, Mask]:
    """The constants along a dim, and where there is one."""
    rows = x.movedim(dim, 0).reshape(x.shape[dim], -1)
    first = rows[:, 0]
    same = (rows == first[:, None]).all(1)
    return torch.where(same, first, 0), same.numpy()


def _all_along(mask: Tensor, dim: int) -> Mask:
    rest = [d for d in range(mask.ndim) if d != dim % mask.ndim]
    return (mask.all(dim=rest) if rest else mask).numpy()


def _any_along(mask: Tensor, dim: int) -> Mask:
    return ~_all_along(~mask, dim)
