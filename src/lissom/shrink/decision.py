"""Which units can go without changing the function: the greatest set that nothing reads.

Start from all units and put back, until nothing changes, each one whose value matters somewhere:
it is not known to be zero there, cannot be folded into a bias there, and a surviving weight reads
it. What only dead units read is dead too, so the set cascades backwards and closes over residual
cycles.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import PINNED, Axis
from lissom.coupling.sites import Contraction, MustVanish, Site
from lissom.shrink.constants import Constants, compact

Mask = NDArray[np.bool_]


@dataclass
class Decision:
    """What goes.

    Attributes:
        gone: for each label that stands for its set, whether the unit goes.
        reasons: for each unit that stays although its own weights are zero, why.
        folds: the constants that an operation takes into its bias, one for each entry it read.
        last: units that could go, but are the last of their tensor.
        rounded: units that could go, but fill up a width.
    """

    gone: Mask
    reasons: dict[int, str] = field(default_factory=dict)
    folds: dict[Contraction, Tensor] = field(default_factory=dict)
    last: set[int] = field(default_factory=set)
    rounded: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Read:
    """A site with what is known of it.

    Attributes:
        site: the place.
        labels: found, one for each of the K entries.
        reader: the module it stands in.
        free: entries that do not matter here, whatever reads them: zero.
        constant: entries that are the same whatever the input.
        foldable: those of them that a bias can take.
        constants: their values.
        touches: [K, rows per group], whether a weight is not zero; None if all of them matter.
        rows: labels of the rows, shaped [groups, rows per group]; None if all of them are alive.
        group: of each of the K entries.
    """

    site: Site
    reader: str
    labels: Axis
    free: Mask
    constant: Mask
    foldable: Mask
    constants: Tensor | None = None
    touches: Mask | None = None
    rows: Axis | None = None
    group: NDArray[np.int64] | None = None

    def why(self, entry: int) -> str:
        """Why an entry that is needed is needed, in words."""
        if isinstance(self.site, MustVanish):
            return f"{self.reader} needs it to be zero"
        if not self.constant[entry]:
            return f"{self.reader} reads it"
        if self.site.pads:
            return f"it is a constant, but {self.reader} pads with zeros beside it"
        if self.site.takes is None:
            return f"it is a constant, but {self.reader} has no bias of its own to take it"
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

    def __init__(self, coupler: Coupler, constants: Constants, *, fold: bool) -> None:
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
            _look(site, coupler, constants, fold)
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
        gone = self._candidates.copy()
        if stay is not None:
            gone &= ~stay
        decision = Decision(gone)
        while True:
            self._put_back_what_is_read(decision)
            back = self._last_ones(decision) | self._rounding(decision, round_to)
            if not back:
                break
            gone[list(back)] = False
        self._collect_folds(decision)
        return decision

    def _put_back_what_is_read(self, decision: Decision) -> None:
        gone = decision.gone
        while True:
            before = int(gone.sum())
            for read in self._reads:
                needed = read.needed(gone) & gone[read.labels]
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
        """Units that fill every width up to a multiple, as far as there are units."""
        if multiple == 1:
            return set()
        for labels in self._dims:
            away = decision.gone[labels]
            units, counts = np.unique(labels[away], return_counts=True)
            missing = -int((~away).sum()) % multiple
            back: set[int] = set()
            for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
                if missing > 0:
                    back.add(unit)
                    missing -= count
            if back:
                decision.rounded |= back
                return back
        return set()

    def _agree_on_folds(self) -> None:
        """A layer that is called more than once has one bias, but may see several constants."""
        taken: dict[str, int] = {}
        for site in self.coupler.sites:
            if isinstance(site, Contraction) and site.takes:
                taken[site.takes] = taken.get(site.takes, 0) + 1
        for read in self._reads:
            if isinstance(read.site, Contraction) and taken.get(read.site.takes or "", 0) > 1:
                read.foldable[:] = False

    def _collect_folds(self, decision: Decision) -> None:
        for read in self._reads:
            if not isinstance(read.site, Contraction) or read.constants is None:
                continue
            away = decision.gone[read.labels] & ~read.free & read.foldable
            if away.any():
                constants = torch.where(torch.from_numpy(away), read.constants, 0)
                decision.folds[read.site] = constants


def _look(site: Site, coupler: Coupler, constants: Constants, fold: bool) -> _Read:
    labels = coupler.labels.find(site.labels)
    reader = coupler.trace.module(site.node)[0] or site.node.name
    if isinstance(site, MustVanish):
        x = compact(constants.of(site.source, site.output), but=site.dim)
        free = _all_along(x == 0, site.dim)
        return _Read(site, reader, labels, free, free, np.zeros_like(free))
    x = compact(constants.of(site.source), but=site.dim)
    zero = _all_along(x == 0, site.dim)
    nonzero = constants.nonzero(site.other)
    inner, outer = site.other_dims
    takes = bool(fold and site.takes and constants.fixed(site.other))
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
    if site.groups > 1:  # [in per group, out] → [in, out per group]
        per_group = touches.reshape(touches.shape[0], site.groups, -1)
        touches = per_group.transpose(1, 0, 2).reshape(len(labels), -1)
    values, constant = _constants_along(x, site.dim)
    foldable = constant & takes
    return _Read(site, reader, labels, zero, constant, foldable, values, touches, rows, group)


def _constants_along(x: Tensor, dim: int) -> tuple[Tensor, Mask]:
    """The constants along a dim, and where there is one."""
    rows = x.movedim(dim, 0).flatten(1)
    first = rows[:, 0]
    same = (rows == first[:, None]).all(1)
    return torch.where(same, first, 0), same.numpy()


def _all_along(mask: Tensor, dim: int) -> Mask:
    rest = [d for d in range(mask.ndim) if d != dim % mask.ndim]
    return (mask.all(dim=rest) if rest else mask).numpy()


def _any_along(mask: Tensor, dim: int) -> Mask:
    return ~_all_along(~mask, dim)
