"""Penalties that are budgets: 0 where the budget is met and ∞ elsewhere.

The prox of a budget is the projection onto it in the given metric, and does not depend on t.
It is met exactly, over all the norms that come together: those of one layer or of all layers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lissom.errors import PenaltyError
from lissom.penalties import Elastic, Number, Part, Penalty, plain, soft_threshold_
from lissom.schedules import Schedule, value_at
from lissom.scratch import scratch
from lissom.selection import kth_largest

LEAST = 1e-30  # stands for d = 0, where a group may move for nothing: 1/d stays finite


@dataclass(frozen=True, repr=False)
class TopK(Penalty):
    """At most κ groups live: P(x) = 0 if #{x ≠ 0} ≤ κ, else ∞, plus the penalties added to it.

    prox keeps the κ groups with the largest gain and zeroes the others. Alone, the gain is
    d·r²: the largest norms, or in Adam's metric the largest w²·√v. With + L1(λ₁) + L2(λ₂) the
    survivors are shrunk as those say, and the gain is d·u²/(1 + 2tλ₂/d), u = max(r − tλ₁/d, 0).
    Equal gains: the first ones stay. Where parameter groups have several learning rates, each has
    its own t in u and in the shrinking; with + L0(λ₀) a group of the κ must also gain more than
    tλ₀, which is the exact minimum where t is the same for all.

    Args:
        count: κ ≥ 0, or a schedule of it.
        fraction: κ as a fraction of all groups, in [0, 1], rounded to the nearest number; or a
            schedule of it: `fraction=cubic(1, 0.02, steps=4000)` prunes gradually.
        per_layer: whether κ is counted in each layer or over all layers together. Per layer with
            `fraction=1 − n/100` it is Formanek's *L0 with compress rate* n %.
        plus: the penalty added to it, by `+`.

    Raises:
        PenaltyError: unless exactly one of count and fraction is given, in its range.

    Source: Idelbayev & Carreira-Perpiñán eq. 5–6 (C step, t = 1/μ: survivors × μ/(μ + 2λ)).
    """

    count: int | Schedule | None = None
    fraction: Number | None = None
    per_layer: bool = False
    plus: Elastic = Elastic()

    def __post_init__(self) -> None:
        if (self.count is None) == (self.fraction is None):
            raise PenaltyError(
                f"TopK needs a count or a fraction: TopK(5000) or TopK(fraction=0.02); got "
                f"count={self.count!r}, fraction={self.fraction!r}"
            )
        if isinstance(self.count, float) and not self.count.is_integer():
            raise PenaltyError(
                f"TopK counts whole groups, got {self.count!r}; a fraction of them is "
                f"TopK(fraction={self.count!r})"
            )
        if not isinstance(self.count, Schedule | None) and not self.count >= 0:
            raise PenaltyError(f"TopK needs a count ≥ 0, got {self.count!r}")
        if not isinstance(self.fraction, Schedule | None) and not 0 <= self.fraction <= 1:
            raise PenaltyError(f"TopK needs a fraction from 0 to 1, got {self.fraction!r}")

    def at(self, step: int) -> Self:
        """This budget with every schedule replaced by its value at `step`, a count rounded."""
        count = round(self.count(step)) if isinstance(self.count, Schedule) else self.count
        fraction = value_at(self.fraction, step) if self.fraction is not None else None
        plus = self.plus.at(step)
        if (count, fraction, plus) == (self.count, self.fraction, self.plus):
            return self
        return replace(self, count=count, fraction=fraction, plus=plus)

    def kappa(self, n: int) -> int:
        """How many of n groups may live."""
        if self.fraction is not None:
            return min(n, math.floor(plain(self, self.fraction) * n + 0.5))
        assert self.count is not None
        return min(n, round(plain(self, self.count)))

    def value(self, norms: Tensor) -> Tensor:
        if int((norms != 0).sum()) > self.kappa(norms.numel()):
            return torch.tensor(math.inf, dtype=norms.dtype, device=norms.device)
        return self.plus.value(norms)

    def _prox(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor:
        gain = self.plus.gain(norms, t, metric).flatten()
        order = gain.argsort(descending=True, stable=True)
        dead = order[self.kappa(len(gain)) :]
        alive = torch.ones_like(gain, dtype=torch.bool).index_fill_(0, dead, False) | gain.isnan()
        return torch.where(alive.view_as(norms), self.plus._prox(norms, t, metric), 0)

    def _prox_(self, parts: Sequence[Part]) -> None:
        n = sum(part.values.numel() for part in parts)
        kappa = self.kappa(n)
        if kappa == 0:
            for part in parts:
                part.values.mul_(0)  # NaN stays NaN
        elif kappa < n:
            plain_sizes = not (self.plus.l1 or self.plus.l2 or any(p.metric for p in parts))
            _keep_largest_(parts, self._score, kappa, n, by_size=plain_sizes)
        if self.plus.l0 or self.plus.l1 or self.plus.l2:
            self.plus._prox_(parts)

    def _score(self, part: Part, out: Tensor) -> Tensor:
        """The gains of a part, written to `out`."""
        metric = part.metric() if part.metric else None
        if self.plus.l1 or self.plus.l2:
            return out.copy_(self.plus.gain(part.values.abs(), part.t, metric))
        torch.abs(part.values, out=out)
        return out if metric is None else out.mul_(metric.sqrt_())

    def __add__(self, other: Penalty) -> Penalty:
        total = self.plus + other if isinstance(other, Elastic) else None
        return replace(self, plus=total) if isinstance(total, Elastic) else super().__add__(other)

    __radd__ = __add__

    def __repr__(self) -> str:
        size = f"fraction={self.fraction}" if self.fraction is not None else f"{self.count}"
        layer = ", per_layer=True" if self.per_layer else ""
        nothing = self.plus == Elastic() and not self.plus.written
        plus = "" if nothing else f" + {self.plus}"
        return f"TopK({size}{layer}){plus}"


@dataclass(frozen=True, repr=False)
class L1Ball(Penalty):
    """The norms sum to at most ν: P(x) = 0 if Σ x ≤ ν, else ∞.

    prox(r) = max(r − τ/d, 0) with the smallest τ ≥ 0 that meets the budget.

    Args:
        radius: ν ≥ 0, in the unit of the norms, or a schedule of it.
        per_layer: whether ν is for each layer or for all layers together.

    Raises:
        PenaltyError: if ν < 0 or not finite.

    Source: Duchi et al. 2008, fig. 1 (by sorting; the fused twin is Michelot's 1986 iteration).
    """

    radius: Number
    per_layer: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.radius, Schedule) and not 0 <= self.radius < math.inf:
            raise PenaltyError(f"L1Ball needs a finite radius ν ≥ 0, got {self.radius!r}")

    def value(self, norms: Tensor) -> Tensor:
        # Projected norms meet ν up to the rounding of their sum.
        slack = 1 + max(1e-6, 4 * torch.finfo(norms.dtype).eps)
        over = norms.sum(dtype=torch.float64) > plain(self, self.radius) * slack
        return torch.where(over, math.inf, 0.0).to(norms)

    def _prox(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor:
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

    def _prox_(self, parts: Sequence[Part]) -> None:
        radius = plain(self, self.radius)
        if radius == 0:
            for part in parts:
                part.values.mul_(0)
            return
        tau, alive_before = 0.0, math.inf
        while True:  # Newton's method from below: each round drops the groups that τ kills
            excess, inverses, alive = -radius, 0.0, 0
            for part in parts:
                inverse = _inverse(part)
                limit = tau if inverse is None else tau * inverse
                shrunk = (part.values.abs() - limit).clamp_(min=0).nan_to_num_(0.0)
                count = int(shrunk.count_nonzero())
                excess += float(shrunk.sum(dtype=torch.float64))
                alive += count
                inverses += count if inverse is None else float((inverse * (shrunk > 0)).sum())
            if tau == 0 and excess <= 0:
                return
            if alive >= alive_before or alive == 0:  # more alive than before: by rounding
                break
            tau, alive_before = tau + excess / inverses, alive
        for part in parts:
            inverse = _inverse(part)
            if inverse is None:
                torch.ops.aten.softshrink.out(part.values, tau, out=part.values)
            else:
                soft_threshold_(part.values, inverse.mul_(tau))

    def __repr__(self) -> str:
        return f"L1Ball({self.radius}{', per_layer=True' if self.per_layer else ''})"


def _inverse(part: Part) -> Tensor | None:
    return part.metric().clamp_(min=LEAST).reciprocal_() if part.metric else None


def _keep_largest_(
    parts: Sequence[Part],
    score: Callable[[Part, Tensor], Tensor],
    kappa: int,
    n: int,
    *,
    by_size: bool,
) -> None:
    """Zero all but the κ values with the largest scores; of equal ones the first stay.

    `by_size` says that the scores are the sizes of the values, which then need no second look.
    """
    flat = scratch(parts[0].values.new_empty(()).expand(n), "scores")
    pieces = flat.split([part.values.numel() for part in parts])
    scores = [
        score(part, piece.view_as(part.values)) for part, piece in zip(parts, pieces, strict=True)
    ]
    cut = kth_largest(flat, kappa)
    if by_size and cut.ties is None and cut.threshold > 0:
        below = float(cut.threshold.nextafter(torch.zeros_like(cut.threshold)))
        for part in parts:
            torch.ops.aten.hardshrink.out(part.values, below, out=part.values)
        return
    spare = cut.ties
    for part, numbers in zip(parts, scores, strict=True):
        if spare is None:
            keep = numbers.ge_(cut.threshold)
        else:
            tied = numbers == cut.threshold
            first = tied.flatten().cumsum(0).view_as(tied) <= spare
            keep = (numbers > cut.threshold) | (tied & first)
            spare = max(0, spare - int(tied.sum()))
        part.values.mul_(keep)  # and not masked: NaN stays NaN for the user to see
