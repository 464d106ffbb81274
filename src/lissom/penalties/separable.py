"""Penalties that look at one group at a time: P(r) = Σ_g p(r_g)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.errors import PenaltyError
from lissom.penalties.abilities import METRIC, refusal
from lissom.penalties.numbers import (
    Number,
    Numbers,
    added,
    as_like,
    as_norms,
    check_number,
    none,
    number_of,
)
from lissom.penalties.parts import Part, zero_up_to_
from lissom.penalties.penalty import Penalty, fold, fold_, in_float32, parts_in_float32, step_in
from lissom.strength import Strength

LAMBDA = {"strength": Strength("λ", grows=True)}


@dataclass(frozen=True, repr=False)
class L0(Penalty):
    """λ·#{g : x_g ≠ 0}: λ for every group that is not zero, whatever its size.

    prox(r, t, d) = r if r² > 2tλ/d, else 0: a hard threshold; survivors are untouched.

    Args:
        strength: λ ≥ 0, a schedule of it, or tensors of it for each group.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 10–11 (which prints the threshold as ρμ: that is `Threshold`).
    """

    strength: Numbers
    strengths = LAMBDA
    weighed = True

    def __post_init__(self) -> None:
        check_number("L0 needs a finite strength λ ≥ 0", self.strength)

    @property
    def open_cost(self) -> Numbers:  # type: ignore[override]
        """λ₀ of an open gate: λ."""
        return self.strength

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        return (number_of(self, self.strength, norms) * (norms != 0).to(norms.dtype)).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        strength = number_of(self, self.strength, norms)
        if none(strength):
            return norms.clone()
        return torch.where(norms <= _square_root(2 * strength * step_in(t, metric)), 0, norms)

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        for values, t, metric in ((part.values, part.t, part.metric) for part in parts):
            strength = number_of(self, self.strength, values)
            if none(strength) or none(t):
                continue
            least = 2 * t * strength
            if metric is not None:  # r² > 2tλ/d is d·r² > 2tλ
                gain = metric().mul_(values).mul_(values)
                if isinstance(least, Tensor):  # where λ is 0, d·r² may be 0 in rounding
                    values.mul_(gain.gt_(least).logical_or_(least == 0))
                else:
                    zero_up_to_(values, gain, least)
            elif isinstance(least, Tensor):
                values.mul_(values.abs() > least.sqrt())
            else:
                torch.ops.aten.hardshrink.out(values, math.sqrt(least), out=values)

    def merge(self, other: "L0") -> "L0":
        return L0(added("L0", self.strength, other.strength))


@dataclass(frozen=True, repr=False)
class L1(Penalty):
    """λ Σ_g x_g: the lasso on single weights, the group lasso on larger groups.

    prox(r, t, d) = max(r − tλ/d, 0): a soft threshold, which also shrinks the survivors.

    With a tensor of strengths it is the reweighted lasso: λ_g = λ/(r_g + ε), renewed now and then
    (Candès, Wakin & Boyd 2008, eq. 5).

    Args:
        strength: λ ≥ 0, a schedule of it, or tensors of it for each group.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 8–9 (there ‖·‖²/μ without ½, hence the threshold ρμ/2).
    """

    strength: Numbers
    strengths = LAMBDA
    differentiable = True
    weighed = True
    folds = True
    homogeneous = True

    def __post_init__(self) -> None:
        check_number("L1 needs a finite strength λ ≥ 0", self.strength)

    @property
    def linear(self) -> Numbers:
        return self.strength

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        return (number_of(self, self.strength, norms) * norms).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        strength = number_of(self, self.strength, norms)
        return norms.clone() if none(strength) else fold(norms, t, metric, strength, 0.0)[0]

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        for part in parts:
            fold_(part, number_of(self, self.strength, part.values), 0.0)

    def merge(self, other: "L1") -> "L1":
        return L1(added("L1", self.strength, other.strength))


@dataclass(frozen=True, repr=False)
class L2(Penalty):
    """λ Σ_g x_g²: ridge; shrinks and never gives a zero. Useful in sums.

    prox(r, t, d) = r / (1 + 2tλ/d).

    Args:
        strength: λ ≥ 0, a schedule of it, or tensors of it for each group.

    Raises:
        PenaltyError: if λ < 0 or not finite.

    Source: Formanek & Hadházi eq. 4–5.
    """

    strength: Numbers
    strengths = LAMBDA
    differentiable = True
    weighed = True
    folds = True
    open_cost = 0.0

    def __post_init__(self) -> None:
        check_number("L2 needs a finite strength λ ≥ 0", self.strength)

    @property
    def quadratic(self) -> Numbers:
        return self.strength

    @property
    def open_square(self) -> Numbers:  # type: ignore[override]
        """λ₂ of an open gate: λ."""
        return self.strength

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        return (number_of(self, self.strength, norms) * norms.square()).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        strength = number_of(self, self.strength, norms)
        return norms.clone() if none(strength) else fold(norms, t, metric, 0.0, strength)[0]

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        for part in parts:
            fold_(part, 0.0, number_of(self, self.strength, part.values))

    def merge(self, other: "L2") -> "L2":
        return L2(added("L2", self.strength, other.strength))


@dataclass(frozen=True, repr=False)
class MCP(Penalty):
    """Σ_g p(x_g), p(x) = λx − x²/2γ up to x = γλ and γλ²/2 beyond: L1 that spares the large.

    With s = t/d the prox is, for s < γ, 0 up to r = sλ, (r − sλ)/(1 − s/γ) up to r = γλ, and r
    beyond. For s ≥ γ the objective is concave up to γλ, so that the least is at 0 or at r:
    r where r > λ√(sγ), else 0.

    Args:
        strength: λ ≥ 0, a schedule of it, or tensors of it for each group.
        gamma: γ > 0, or a schedule of it. Towards ∞ it is L1.

    Raises:
        PenaltyError: if λ < 0 or not finite, or γ ≤ 0.

    Source: Zhang 2010, *Nearly unbiased variable selection under minimax concave penalty*, eq. 2.1.
    """

    strength: Numbers
    gamma: Number = 3.0
    strengths = LAMBDA
    differentiable = True
    weighed = True

    def __post_init__(self) -> None:
        check_number("MCP needs a finite strength λ ≥ 0", self.strength)
        check_number("MCP needs a finite γ > 0", self.gamma, single=True)
        if self.gamma == 0:
            raise PenaltyError(f"MCP needs a finite γ > 0, got {self.gamma!r}")

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        strength, gamma = (number_of(self, n, norms) for n in (self.strength, self.gamma))
        near = norms.clamp(max=gamma * strength)  # beyond, the value stays as it is
        return (strength * near - near.square() / (2 * gamma)).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        strength, gamma = (number_of(self, n, norms) for n in (self.strength, self.gamma))
        s = as_like(step_in(t, metric), norms)
        concave = s >= gamma
        firm = (norms - s * strength).clamp(min=0) / torch.where(concave, 1, 1 - s / gamma)
        dead = norms <= strength * torch.where(concave, (s * gamma).sqrt(), s)
        between = ~concave & (norms <= gamma * strength)
        return torch.where(dead, 0, torch.where(between, firm.minimum(norms), norms))


@dataclass(frozen=True, repr=False)
class Lq(Penalty):
    """λ Σ_g x_g^q with q = ½ or ⅔: nearer to L0 than L1 is, and the survivors shrink less.

    With s = t/d the prox is 0 up to a threshold and the largest root of x + sλq·x^(q−1) = r beyond.

    Args:
        strength: λ ≥ 0, a schedule of it, or tensors of it for each group.
        q: 0.5 or 2/3, where the root has a closed form.

    Raises:
        PenaltyError: if λ < 0 or not finite, or for another q.

    Source: q = ½: Xu, Chang, Xu & Zhang 2012, *L1/2 regularization: a thresholding representation
    theory*, eq. 10–12. q = ⅔: Cao, Sun & Xu 2013, *Fast image deconvolution using closed-form
    thresholding formulas of Lq (q = ½, ⅔) regularization*, eq. 13. Both have (x − r)² without ½.
    """

    strength: Numbers
    q: float = 0.5
    strengths = LAMBDA
    weighed = True

    def __post_init__(self) -> None:
        check_number("Lq needs a finite strength λ ≥ 0", self.strength)
        check_number("Lq needs q = 0.5 or q = 2/3", self.q, single=True)
        known = isinstance(self.q, float | int)
        if not known or not any(math.isclose(self.q, q, rel_tol=1e-3) for q in (1 / 2, 2 / 3)):
            raise PenaltyError(
                f"Lq has its prox in closed form for q = 0.5 and q = 2/3, got {self.q!r}; q = 0 is "
                "L0, and q = 1 is L1"
            )

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        q = 1 / 2 if self.q < 0.6 else 2 / 3
        return (number_of(self, self.strength, norms) * norms**q).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        r = norms.double()
        mu = 2 * number_of(self, self.strength, r) * as_like(step_in(t, metric), r)
        # In units of μ^(1/(2 − q)) the objective (x − r)² + μx^q is without a number.
        unit = mu ** (2 / 3 if self.q < 0.6 else 3 / 4)
        scaled = r / unit
        x, threshold = _half(scaled) if self.q < 0.6 else _two_thirds(scaled.clamp(max=1e50))
        found = torch.where(scaled <= threshold, 0, (r * x).minimum(r))
        return torch.where((unit == 0) | r.isnan(), r, found).to(norms)


@dataclass(frozen=True, repr=False)
class Threshold(Penalty):
    """Every norm below θ dies, whatever the learning rate: ½θ²·#{g : x_g ≠ 0} with t held at 1.

    prox(r) = r if r ≥ θ, else 0. It has no metric: in an adaptive one use `L0`.

    Args:
        threshold: θ ≥ 0, in the unit of the norms, or a schedule of it, or tensors of it for each
            group.

    Raises:
        PenaltyError: if θ < 0 or not finite, or if a metric is given to `prox`.

    Source: *L0 with uniform threshold*, Formanek & Hadházi eq. 11 (θ = ρμ).
    """

    threshold: Numbers
    strengths = {"threshold": Strength("θ", grows=True)}  # noqa: RUF012
    has_metric = False
    sums = False

    def __post_init__(self) -> None:
        check_number("Threshold needs a finite norm θ ≥ 0", self.threshold)

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        threshold = number_of(self, self.threshold, norms)
        return (0.5 * threshold**2 * (norms != 0).to(norms.dtype)).sum()

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        if metric is not None:
            raise PenaltyError(refusal("a metric", self, METRIC) or "")
        return torch.where(norms < number_of(self, self.threshold, norms), 0, norms)


@dataclass(frozen=True, repr=False)
class NonNegative(Penalty):
    """x ≥ 0: no weight is negative. On single weights, and mostly added to other penalties.

    prox(x) = max(x, 0), whatever the metric; added to a penalty that does not fall with the norm,
    negative weights are 0 first, and the rest is the penalty's own prox. After `finalize` weights
    that are trained on may have any sign.
    """

    folds = True
    signed = True
    homogeneous = True

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        return torch.where((norms < 0).any(), math.inf, 0.0).to(norms)

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        return norms.clamp(min=0)

    def prox_(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.values.clamp_(min=0)

    def merge(self, other: "NonNegative") -> "NonNegative":
        return self


def _square_root(number: float | Tensor) -> float | Tensor:
    return number.sqrt() if isinstance(number, Tensor) else math.sqrt(number)


def _half(r: Tensor) -> tuple[Tensor, float]:
    """x/r of the minimiser of (x − r)² + √x, and the r up to which it is 0."""
    angle = torch.arccos((r / 3) ** -1.5 / 8)
    return 2 / 3 * (1 + torch.cos(2 / 3 * (math.pi - angle))), 54 ** (1 / 3) / 4


def _two_thirds(r: Tensor) -> tuple[Tensor, float]:
    """The same for (x − r)² + x^⅔."""
    angle = torch.arccosh(27 / 16 * r.square())
    a = 2 / math.sqrt(3) * torch.cosh(angle / 3).sqrt()
    return ((a + (2 * r / a - a.square()).sqrt()) / 2) ** 3 / r, 2 / 3 * 3**0.25
