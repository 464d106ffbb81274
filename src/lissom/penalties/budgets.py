"""Penalties that are budgets: 0 where the budget is met and ∞ elsewhere.

The prox of a budget is the projection onto it in the given metric, and does not depend on t.
It is met exactly, over all the norms that come together: those of one layer or of all layers. A
proximal optimizer asks it of what its steps were about; the rest stays, and is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from lissom.errors import PenaltyError
from lissom.penalties import together
from lissom.penalties.abilities import Per, check_per
from lissom.penalties.numbers import Number, as_norms, check_number, number_of
from lissom.penalties.parts import Part, zero_up_to_
from lissom.penalties.penalty import LEAST, Penalty, in_float32, parts_in_float32
from lissom.schedules import Schedule
from lissom.scratch import scratch
from lissom.selection import kth_largest
from lissom.strength import Strength
from lissom.widths import check_multiple, width


@dataclass(frozen=True, repr=False)
class TopK(Penalty):
    """At most κ groups live: P(x) = 0 if #{x ≠ 0} ≤ κ, else ∞.

    prox keeps the κ groups with the largest d·r² and zeroes the others: the largest norms, or in
    Adam's metric the largest w²·√v. Equal ones: the first stay.

    In TopK + L1(λ₁) + L2(λ₂) survivors are shrunk as those say, and the κ are the largest d'·r'²
    (see `Sum`). Where parameter groups have several learning rates, each has its own t in that;
    with + L0(λ₀) a group of the κ must also gain more than tλ₀, which is the exact minimum where t
    is the same for all.

    Args:
        count: κ ≥ 0, or a schedule of it.
        fraction: κ as a fraction of all groups, in [0, 1], rounded to the nearest number; or a
            schedule of it: `fraction=cubic(1, 0.02, steps=4000)` prunes gradually.
        per: "all" counts κ over all layers together, "layer" in each layer. Per layer with
            `fraction=1 − n/100` it is Formanek's *L0 with compress rate* n %. "block" counts in
            each run of neighbours: {lissom.blocks(net, 4): TopK(2, per="block")} is 2:4 sparsity.
            A fraction is of a whole run, also where the last of a row is shorter.
        multiple_of: m, for groups that are units, as of `lissom.channels`: runtimes compute in
            blocks of 16 channels, say, and 33 cost as much as 48. Each family of n units gets the
            width nearest to what it has of the κ largest: of the widths m, 2m, … and n. Of two as
            near it is the larger, and 0 is near to 0 only: of 32, 30 becomes 32 and never 16, and
            9 becomes 16; of 30, 22 becomes 16, and 23 becomes 30. The largest of the family live.
            So κ holds to within m/2 for each family, or m where it has less than one multiple.

    Raises:
        PenaltyError: unless exactly one of count and fraction is given, in its range; for a
            multiple_of that is no whole number ≥ 1, or goes with per="block".

    Source: Idelbayev & Carreira-Perpiñán eq. 5–6 (C step, t = 1/μ; with L2 survivors ×
    μ/(μ + 2λ)).
    """

    count: int | Schedule | None = None
    fraction: Number | None = None
    per: Per = field(default="all", kw_only=True)
    multiple_of: int = field(default=1, kw_only=True)
    strengths = {  # noqa: RUF012
        "fraction": Strength("fraction kept", ramps=True, dense=1.0),
        "count": Strength("groups kept", ramps=True),
    }
    joint = True

    def __post_init__(self) -> None:
        if (self.count is None) == (self.fraction is None):
            raise PenaltyError(
                f"TopK needs a count or a fraction: TopK(5000) or TopK(fraction=0.02); got "
                f"count={self.count!r}, fraction={self.fraction!r}"
            )
        if self.count is not None:
            check_number("TopK needs a count ≥ 0", self.count, single=True)
            if not isinstance(self.count, Schedule) and self.count % 1:
                raise PenaltyError(
                    f"TopK counts whole groups, got {self.count!r}; a fraction of them is "
                    f"TopK(fraction={self.count!r})"
                )
        if self.fraction is not None:
            check_number("TopK needs a fraction from 0 to 1", self.fraction, single=True)
            fraction = self.fraction
            if max(fraction.ends if isinstance(fraction, Schedule) else (fraction,)) > 1:
                raise PenaltyError(f"TopK needs a fraction from 0 to 1, got {self.fraction!r}")
        check_per(self, "all", "layer", "block")
        check_multiple(self.multiple_of, PenaltyError)
        if self.multiple_of > 1 and self.per == "block":
            raise PenaltyError(
                f"multiple_of={self.multiple_of} rounds the widths of layers, and per='block' "
                "counts in each run of neighbours: leave out one of them",
                field="multiple_of",
            )

    @property
    def by_family(self) -> bool:  # type: ignore[override]
        """Whether it rounds the widths of families."""
        return self.multiple_of > 1

    @property
    def ranks(self) -> bool:  # type: ignore[override]
        """Whether a count may be added, which would take units from rounded widths."""
        return not self.by_family

    def at(self, step: int) -> Self:
        """This budget with every schedule replaced by its value at `step`, a count rounded."""
        if isinstance(self.count, Schedule):
            return replace(self, count=round(self.count(step)))
        return super().at(step)

    def kappa(self, n: int) -> int:
        """How many of n groups may live."""
        if self.fraction is not None:
            return min(n, math.floor(plain(self, self.fraction) * n + 0.5))
        assert self.count is not None
        return min(n, round(plain(self, self.count)))

    def width(self, count: int, n: int) -> int:
        """How many units of a family of n live if `count` of them are among the κ largest."""
        return width(count, n, self.multiple_of)

    def value(self, norms: Tensor) -> Tensor:
        counted = self._counted(as_norms(self, norms))
        over = (counted != 0).sum(-1) > self._kept(counted)
        return torch.where(over.any(), math.inf, 0.0).to(norms)

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        gain = self._counted(norms if metric is None else norms * metric.sqrt())
        order = gain.argsort(stable=True, descending=True)
        dead = order[..., self._kept(self._counted(norms)) :]
        alive = torch.ones_like(gain, dtype=torch.bool).scatter_(-1, dead, False) | gain.isnan()
        return torch.where(alive.view_as(norms), norms, 0)

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        if self.per == "block":
            for part in parts:
                x = self.prox(part.values.abs(), part.t, part.metric and part.metric())
                part.values.mul_(x != 0)
            return
        shared = parts[0].share is not None
        n = together.count(parts)
        kappa = self.kappa(n)
        if not self.by_family:
            if shared:
                together.keep_largest_(parts, kappa, n)
            else:
                _keep_largest_(parts, kappa)
            return
        if shared:
            raise PenaltyError(
                f"{self} rounds the widths of families, and here each process has some units of a "
                "family: choose lissom.channels(model, example_inputs), neurons or units"
            )
        for part, count in zip(parts, _shares(parts, kappa), strict=True):  # each is a family
            _keep_largest_([part], self.width(count, part.values.numel()))

    def _kept(self, counted: Tensor) -> int:
        """How many live of those that share a budget, or of one family."""
        n = counted.shape[-1]
        if not self.by_family:
            return self.kappa(n)
        return self.width(min(self.kappa(n), int(counted.count_nonzero())), n)

    def _counted(self, norms: Tensor) -> Tensor:
        """Norms with those that share a budget along the last dim."""
        return norms if self.per == "block" else norms.flatten()


@dataclass(frozen=True, repr=False)
class L1Ball(Penalty):
    """The norms sum to at most ν: P(x) = 0 if Σ x ≤ ν, else ∞.

    prox(r) = max(r − τ/d, 0) with the smallest τ ≥ 0 that meets the budget.

    Args:
        radius: ν ≥ 0, in the unit of the norms, or a schedule of it.
        per: whether ν is for "all" layers together or for each "layer".

    Raises:
        PenaltyError: if ν < 0 or not finite.

    Source: Duchi et al. 2008, fig. 1 (by sorting; the fused twin is Michelot's 1986 iteration).
    """

    radius: Number
    per: Per = field(default="all", kw_only=True)
    strengths = {"radius": Strength("ν", ramps=True)}  # noqa: RUF012
    joint = True

    def __post_init__(self) -> None:
        check_number("L1Ball needs a finite radius ν ≥ 0", self.radius, single=True)
        check_per(self, "all", "layer")

    def value(self, norms: Tensor) -> Tensor:
        wide = as_norms(self, norms)
        # Projected norms meet ν up to the rounding of their sum.
        slack = 1 + max(1e-6, 4 * torch.finfo(norms.dtype).eps)
        over = wide.sum(dtype=torch.float64) > plain(self, self.radius) * slack
        return torch.where(over, math.inf, 0.0).to(norms)

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        radius = plain(self, self.radius)
        wide = norms.double()  # or rounding would break the budget
        known = wide.nan_to_num(0.0)
        if known.sum() <= radius:
            return norms.clone()
        inverse = torch.ones_like(wide) if metric is None else 1 / metric.double().clamp(min=LEAST)
        # τ at which each group dies, and the τ that meets ν if just it and those before it live.
        death, order = (known / inverse).flatten().sort(descending=True)
        sums = known.flatten()[order].cumsum(0)
        inverses = inverse.flatten()[order].cumsum(0)
        taus = (sums - radius) / inverses
        tau = taus[max(1, int((death > taus).sum())) - 1] if radius > 0 else death[0]
        dead = wide / inverse <= tau
        return torch.where(dead, 0, (wide - tau * inverse).clamp(min=0)).to(norms)

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        radius, share = plain(self, self.radius), parts[0].share
        counted = [part for part in parts if part.share is None or part.share.counts]
        if radius == 0:
            for part in parts:
                part.values.mul_(0)
            return
        tau, alive_before = 0.0, math.inf
        while True:  # Newton's method from below: each round drops the groups that τ kills
            excess, inverses, alive = -radius, 0.0, 0
            for part in counted:
                shrunk, inverse = _shrunk(part, tau)
                count = int(shrunk.nan_to_num_(0.0).count_nonzero())
                excess += float(shrunk.sum())
                alive += count
                inverses += count if inverse is None else float((inverse * (shrunk > 0)).sum())
            if share is not None:
                sums = torch.tensor([excess + radius, inverses, alive], dtype=torch.float64)
                excess, inverses, alive = share.crowd.sum(sums).tolist()
                excess -= radius
            if tau == 0 and excess <= 0:
                return
            if alive >= alive_before or alive == 0:  # more alive than before: by rounding
                break
            tau, alive_before = tau + excess / inverses, alive
        for part in parts:
            shrunk, _ = _shrunk(part, tau)
            part.values.copy_(shrunk.copysign_(part.values))


def plain(penalty: Penalty, number: Number) -> float:
    """A number of a budget that must not be a schedule by now."""
    return float(number_of(penalty, number, torch.empty(0)))


def _shrunk(part: Part, tau: float) -> tuple[Tensor, Tensor | None]:
    """max(|v| − τ/d, 0) and 1/d (None for 1), in float64, or rounding would break the budget."""
    sizes = part.values.abs().double()
    if part.metric is None:
        return sizes.sub_(tau).clamp_(min=0), None
    inverse = part.metric().clamp_(min=LEAST).double().reciprocal_()
    return sizes.sub_(tau * inverse).clamp_(min=0), inverse


def _shares(parts: Sequence[Part], kappa: int) -> list[int]:
    """How many of the κ groups with the largest scores are in each part; zeros are in none."""
    scores = torch.cat([part.score().flatten() for part in parts])
    alive = torch.cat([part.values.flatten() != 0 for part in parts])
    kept = torch.zeros_like(alive)
    kept[scores.argsort(stable=True, descending=True)[:kappa]] = True
    sizes = [part.values.numel() for part in parts]
    return [int(share.sum()) for share in (kept & alive).split(sizes)]


def _keep_largest_(parts: Sequence[Part], kappa: int) -> None:
    """Zero all but the κ values with the largest scores; of equal ones the first stay."""
    n = sum(part.values.numel() for part in parts)
    if kappa == 0:
        for part in parts:
            part.values.mul_(0)  # NaN stays NaN
    if not 0 < kappa < n:
        return
    widest = max((part.values for part in parts), key=lambda values: values.itemsize)
    flat = scratch(widest.new_empty(()).expand(n), "scores")
    pieces = flat.split([part.values.numel() for part in parts])
    scores = [
        part.score(out=piece.view_as(part.values))
        for part, piece in zip(parts, pieces, strict=True)
    ]
    cut = kth_largest(flat, kappa, parts[0].near)
    spare, below = cut.ties, cut.threshold.nextafter(torch.full_like(cut.threshold, -math.inf))
    for part, numbers in zip(parts, scores, strict=True):
        same = part.values.dtype == numbers.dtype
        if spare is None and same and not cut.threshold.isnan():
            zero_up_to_(part.values, numbers, float(below))
            continue
        keep = numbers >= cut.threshold
        if spare is not None:
            tied = numbers == cut.threshold
            keep &= ~tied | (tied.flatten().cumsum(0).view_as(tied) <= spare)
            spare = max(0, spare - int(tied.sum()))
        part.values.mul_(keep)  # and not masked: NaN stays NaN for the user to see
