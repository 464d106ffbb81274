"""What a group costs: functions of its norm, and their proximal maps.

A penalty P is a function of the norms r_g ≥ 0 of groups of weights. It has two methods:

    value(r)           = P(r)
    prox(r, t, metric) = argmin_x ½ Σ_g d_g (x_g − r_g)² + t·P(x),     d = metric, 1 if not given

`prox` is the plain formula; `prox_` is its fused twin, in place on single signed weights and over
parts of many tensors. Budgets, the penalties that are 0 or ∞, live in `budgets`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from lissom.errors import PenaltyError
from lissom.schedules import Schedule
from lissom.scratch import scratch

Number = float | Schedule


@dataclass(frozen=True)
class Part:
    """Signed numbers that a prox may change in place, with their step t and their metric.

    Attributes:
        values: of any shape and sign; P is even, so the prox keeps the sign.
        t: the step, ≥ 0.
        metric: gives d, shaped like `values`, in memory that the prox may write to and that the
            next call of any part's metric may use again; or None for d = 1.
    """

    values: Tensor
    t: float
    metric: Callable[[], Tensor] | None = None


class Penalty(ABC):
    """A cost of the norms of groups; add penalties with `+` where the prox has a closed form.

    Attributes:
        per_layer: whether a budget holds for each layer on its own instead of for all together.
        has_metric: whether the prox is defined for d ≠ 1 too.
    """

    per_layer: bool = False
    has_metric: bool = True

    @property
    def differentiable(self) -> bool:
        """Whether the gradient of `value` says anything (a count has none)."""
        return False

    def require_metric(self) -> None:
        """Refuse a metric where the prox has none.

        Raises:
            PenaltyError: saying what would work.
        """
        if not self.has_metric:
            raise PenaltyError(
                f"{self} compares the norms themselves and knows no metric; use L0, whose "
                "threshold √(2tλ/d) follows it, or metric='euclidean'"
            )

    @abstractmethod
    def value(self, norms: Tensor) -> Tensor:
        """P(norms), a tensor of no dimension.

        Args:
            norms: of any shape, ≥ 0.
        """

    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        """argmin_x ½ Σ_g d_g (x_g − r_g)² + t·P(x), with r = norms and d = metric.

        Args:
            norms: of any shape and float dtype, ≥ 0. NaN stays NaN.
            t: the step, ≥ 0: a learning rate, or 1/μ. A tensor gives each group its own.
            metric: d ≥ 0, shaped like norms; None means d = 1.

        Returns:
            x, in the shape and dtype of norms, with 0 ≤ x ≤ norms. Computed in float32 where norms
            are float16 or bfloat16, so that small steps do not vanish.
        """
        wide = widen(norms)
        return self._prox(wide, t, None if metric is None else metric.to(wide)).to(norms.dtype)

    def prox_(self, parts: Sequence[Part]) -> None:
        """Apply the prox in place to signed numbers that come in parts; a budget is met jointly."""
        wide = [
            part if (values := widen(part.values)) is part.values else replace(part, values=values)
            for part in parts
        ]
        self._prox_(wide)
        for part, computed in zip(parts, wide, strict=True):
            if computed is not part:
                part.values.copy_(computed.values)

    def at(self, step: int) -> Self:
        """This penalty with every schedule replaced by its value at `step`."""
        numbers: dict[str, Any] = vars(self)
        scheduled = {k: v(step) for k, v in numbers.items() if isinstance(v, Schedule)}
        return replace(self, **scheduled) if scheduled else self  # type: ignore[type-var]

    @abstractmethod
    def _prox(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _prox_(self, parts: Sequence[Part]) -> None: ...

    def __add__(self, other: "Penalty") -> "Penalty":
        if not isinstance(other, Penalty):
            return NotImplemented  # compressions know what may be added to them
        raise PenaltyError(
            f"{self} + {other} has no prox in closed form; L0, L1 and L2 add up to one another, "
            "and any of them may be added to TopK"
        )

    def __radd__(self, other: "Penalty") -> "Penalty":
        return Penalty.__add__(other, self) if isinstance(other, Penalty) else NotImplemented


@dataclass(frozen=True, repr=False)
class Elastic(Penalty):
    """λ₀·#{x ≠ 0} + λ₁ Σ x + λ₂ Σ x²: what `L0`, `L1`, `L2` and their sums are.

    With s = t/d and u = max(r − sλ₁, 0), the prox is u / (1 + 2sλ₂) where
    u² > 2sλ₀(1 + 2sλ₂), and 0 elsewhere.

    Attributes:
        l0: λ₀ ≥ 0, or a schedule of it.
        l1: λ₁.
        l2: λ₂.
        written: the terms that the user wrote, which are printed even where λ is 0.
    """

    l0: Number = 0.0
    l1: Number = 0.0
    l2: Number = 0.0
    written: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        for name, strength in self._strengths():
            if not isinstance(strength, Schedule) and not 0 <= strength < math.inf:
                raise PenaltyError(f"{name} needs a finite strength λ ≥ 0, got {strength!r}")

    @property
    def differentiable(self) -> bool:
        """Whether no term is a count."""
        return self.l0 == 0

    def value(self, norms: Tensor) -> Tensor:
        l0, l1, l2 = self._numbers()
        norms = widen(norms)
        value = l1 * norms.sum() + l2 * norms.square().sum()
        return value + l0 * (norms != 0).sum() if l0 else value

    def _prox(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor:
        l0, l1, l2 = self._numbers()
        s = t if metric is None else t / metric
        # A strength of 0 is left out, since where d = 0 it would be ∞·0.
        u = (norms - s * l1).clamp(min=0) if l1 else norms
        damping = 1 + 2 * s * l2 if l2 else 1.0
        x = u / damping
        return torch.where(u <= (2 * s * l0 * damping) ** 0.5, 0, x) if l0 else x

    def _prox_(self, parts: Sequence[Part]) -> None:
        l0, l1, l2 = self._numbers()
        for values, t, metric in ((p.values, p.t, p.metric) for p in parts):
            if metric is None:
                damping = 1 + 2 * t * l2
                if l1:
                    torch.ops.aten.softshrink.out(values, t * l1, out=values)
                if l0:
                    cut = math.sqrt(2 * t * l0 * damping)
                    torch.ops.aten.hardshrink.out(values, cut, out=values)
                if l2:
                    values.div_(damping)
                continue
            d = metric()
            if l1:
                soft_threshold_(values, torch.div(t * l1, d, out=scratch(d, "limit")))
            if l2:
                values.div_(1 + (2 * t * l2) / d)
                d.add_(2 * t * l2)
            if l0:  # u²/(1+2sλ₂) > 2sλ₀ is x²·(d + 2tλ₂) > 2tλ₀ in the shrunk x
                values.mul_(d.mul_(values).mul_(values).gt_(2 * t * l0))

    def gain(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor:
        """√(2·(objective at x_g = 0 − objective at the best x_g ≠ 0)), λ₀ aside, for each group.

        The root, because squares of very small and very large norms would be 0 and ∞ alike.
        """
        _, l1, l2 = self._numbers()
        s = t if metric is None else t / metric
        u = (norms - s * l1).clamp(min=0) if l1 else norms
        u = u if metric is None else u * metric.sqrt()
        return u / (1 + 2 * s * l2) ** 0.5 if l2 else u

    def __add__(self, other: Penalty) -> Penalty:
        if not isinstance(other, Elastic):
            return NotImplemented  # the budgets know what may be added to them
        pairs = zip(self._strengths(), other._strengths(), strict=True)
        l0, l1, l2 = (_sum(name, one, two) for (name, one), (_, two) in pairs)
        return Elastic(l0, l1, l2, self.written | other.written)

    def _strengths(self) -> list[tuple[str, Number]]:
        return [("L0", self.l0), ("L1", self.l1), ("L2", self.l2)]

    def _numbers(self) -> tuple[float, float, float]:
        return plain(self, self.l0), plain(self, self.l1), plain(self, self.l2)

    def __repr__(self) -> str:
        terms = [
            f"{name}({strength})"
            for name, strength in self._strengths()
            if strength != 0 or name in self.written
        ]
        return " + ".join(terms) or "L0(0.0)"


def L0(strength: Number) -> Elastic:  # noqa: N802
    """λ·#{g : x_g ≠ 0}: λ for every group that is not zero, whatever its size.

    prox(r, t) = r if r² > 2tλ, else 0: a hard threshold at √(2tλ); survivors are untouched.

    Args:
        strength: λ ≥ 0, or a schedule of it.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 10–11 (which prints the threshold as ρμ: that is `Threshold`).
    """
    return Elastic(l0=strength, written=frozenset({"L0"}))


def L1(strength: Number) -> Elastic:  # noqa: N802
    """λ Σ_g x_g: the lasso on single weights, the group lasso on larger groups.

    prox(r, t) = max(r − tλ, 0): a soft threshold, which also shrinks the survivors.

    Args:
        strength: λ ≥ 0, or a schedule of it.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 8–9 (there ‖·‖²/μ without ½, hence the threshold ρμ/2).
    """
    return Elastic(l1=strength, written=frozenset({"L1"}))


def L2(strength: Number) -> Elastic:  # noqa: N802
    """λ Σ_g x_g²: ridge; shrinks and never gives a zero. Useful in sums.

    prox(r, t) = r / (1 + 2tλ).

    Args:
        strength: λ ≥ 0, or a schedule of it.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 4–5.
    """
    return Elastic(l2=strength, written=frozenset({"L2"}))


@dataclass(frozen=True, repr=False)
class Threshold(Penalty):
    """Every norm below θ dies, whatever the learning rate: ½θ²·#{g : x_g ≠ 0} with t held at 1.

    prox(r) = r if r ≥ θ, else 0. It has no metric: in an adaptive one use `L0`.

    Args:
        threshold: θ ≥ 0, in the unit of the norms, or a schedule of it.

    Raises:
        PenaltyError: if θ < 0 or not finite, or if a metric is given to `prox`.

    Source: *L0 with uniform threshold*, Formanek & Hadházi eq. 11 (θ = ρμ).
    """

    threshold: Number
    has_metric = False

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Schedule) and not 0 <= self.threshold < math.inf:
            raise PenaltyError(f"Threshold needs a finite norm θ ≥ 0, got {self.threshold!r}")

    def value(self, norms: Tensor) -> Tensor:
        return 0.5 * plain(self, self.threshold) ** 2 * (norms != 0).sum()

    def _prox(self, norms: Tensor, t: float | Tensor, metric: Tensor | None) -> Tensor:
        if metric is not None:
            self.require_metric()
        return torch.where(norms < plain(self, self.threshold), 0, norms)

    def _prox_(self, parts: Sequence[Part]) -> None:
        for part in parts:
            metric = part.metric() if part.metric else None
            part.values.mul_(self._prox(part.values.abs(), part.t, metric) != 0)

    def __repr__(self) -> str:
        return f"Threshold({self.threshold})"


def plain(penalty: Penalty, number: Number) -> float:
    """A number of a penalty that must not be a schedule by now."""
    if isinstance(number, Schedule):
        raise PenaltyError(f"{penalty} follows a schedule: take penalty.at(step) and use that")
    return number


def soft_threshold_(values: Tensor, limit: Tensor) -> None:
    """sign(v)·max(|v| − limit, 0) in place, each value with a limit of its own."""
    sizes = torch.abs(values, out=scratch(values, "sizes")).sub_(limit).clamp_(min=0)
    torch.copysign(sizes, values, out=values)


def widen(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, in which a step of 1e-7 is not lost; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _sum(name: str, one: Number, two: Number) -> Number:
    if isinstance(one, Schedule) or isinstance(two, Schedule):
        if one == 0 or two == 0:
            return one if two == 0 else two
        raise PenaltyError(
            f"{name}({one}) + {name}({two}) would add a number to a schedule; write the sum as one "
            "schedule"
        )
    return one + two
