"""Budgets instead of λ: dual ascent on the expected size."""

import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lissom.arguments import positive
from lissom.errors import GateError, warn
from lissom.schedules import Schedule, value_at

SIZES = ("weights", "macs", "bytes")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A stated expected size, as fractions of the whole network's, instead of a λ to guess.

        lissom.gate(optimizer, net, {neurons: L0(0)}, budget=Budget(weights=0.05))

    Several sizes may be named. The penalty then has a term for each, whose multiplier rises until
    E[size] is at the target.

    Attributes:
        weights: of the trainable weights of the whole network, biases included; or a schedule.
        macs: of its multiply–accumulates; gate(…, example_inputs=x) is needed.
        bytes: of its trainable weights.
        rate: η, how quickly multipliers rise: by at most η a step.
        damping: ρ, how strongly a violation acts at once: the size ends at most the fraction 1/ρ
            below its target.

    Raises:
        GateError: for numbers that cannot be, or if no size is named.

    Source: Gallego-Posada et al. 2022.
    """

    weights: float | Schedule | None = None
    macs: float | Schedule | None = None
    bytes: float | Schedule | None = None
    rate: float = 5e-3
    damping: float = 30.0

    def __post_init__(self) -> None:
        if not self.targets:
            raise GateError("a budget names a size: weights=0.05, say, or macs or bytes")
        for name in ("rate", "damping"):
            number = getattr(self, name)
            if not positive(number):
                raise GateError(f"{name} is a number above 0, got {number!r}", field=name)
        for size, target in self.targets.items():
            for step in (0, sys.maxsize):
                fraction = value_at(target, step)
                if not positive(fraction) or not fraction <= 1:
                    raise GateError(
                        f"{size} is a fraction of the whole, above 0 and up to 1, got {fraction!r}",
                        field=size,
                    )

    @property
    def targets(self) -> dict[str, float | Schedule]:
        """The sizes that are named."""
        given = {size: getattr(self, size) for size in SIZES}
        return {size: target for size, target in given.items() if target is not None}


@dataclass
class Constraint:
    """v = log(E[cost] / target) ≤ 0, with its multiplier λ.

    v is relative, so that one pair of numbers serves every size and every cost. With e = ρv, cut
    off to [−2, 1], λ(1 + e)·∇v joins the gradient of the loss, and λ ← max(0, λ + ηe) after each
    step. Both cuts matter:

    * Gates move slowly, so a far target is violated for long. λ rises by at most η a step, however
      far it is.
    * λ is still too large when the target is met. But from v = −1/ρ on nothing pushes gates shut
      any more, however large λ is, and below it they are pushed open again, for as long as λ lasts:
      an optimizer with momentum goes on by itself, and of gates that are shut few come back.

    At rest λ is the slope of the loss by log(size) as the gates feel it: it falls towards 0 once
    they are decided.

    Attributes:
        cost: what is limited.
        target: as a fraction of the whole, or its schedule.
        total: the cost with every gate open.
        rate: η, the largest step of the multiplier upwards.
        damping: ρ > 0; the size ends between exp(−1/ρ) of its target and the target.
        multiplier: λ.

    Source: Gallego-Posada et al. 2022, eq. 7–9, with the logarithm, and with a proportional part
    and cuts in place of their dual restarts.
    """

    cost: str
    target: float | Schedule
    total: float
    rate: float
    damping: float
    multiplier: Tensor = field(default_factory=lambda: torch.zeros(()))
    _candidate: Tensor | None = None  # e of the last term, which may have been printed only
    _error: Tensor | None = None  # e of the last term that was in the loss

    def term(self, expected: Tensor, step: int) -> Tensor:
        """What is added to the loss at a step."""
        violation = torch.log(expected / self.limit(step))
        self._candidate = (self.damping * violation.detach()).clamp(-2, 1)
        self.multiplier = self.multiplier.to(violation)
        force = self.multiplier * (1 + self._candidate)
        return force * violation

    def in_the_loss(self) -> None:
        """The last term was in the loss, and will move λ."""
        self._error = self._candidate

    def follow(self) -> None:
        """λ ← max(0, λ + ηe), with the violation of the last term that was in the loss."""
        if self._error is not None:
            self.multiplier = (self.multiplier + self.rate * self._error).clamp(min=0)
            self._error = None

    def limit(self, step: int) -> float:
        """The target at a step, as a cost."""
        return value_at(self.target, step) * self.total

    def check(self, least: float) -> None:
        """Refuse what cannot be reached.

        Raises:
            GateError: for a target below what no gate can remove.
        """
        for step in (0, sys.maxsize):
            target = value_at(self.target, step)
            if target * self.total < least:
                raise GateError(
                    f"{self.cost}={target:g} cannot be reached: {least / self.total:.3g} of the "
                    f"{self.cost} stay when every gate is closed. Gate more groups, or ask for "
                    "more",
                    field=f"budget.{self.cost}",
                )

    def value(self) -> float:
        """λ, for a checkpoint."""
        return float(self.multiplier)

    def set(self, multiplier: float) -> None:
        """Go on with a λ that was kept."""
        self.multiplier = torch.tensor(multiplier, dtype=torch.float64)


def constraints(budget: Budget, bounds: Callable[[str], tuple[float, float]]) -> list[Constraint]:
    """A constraint for each size that a budget names.

    Args:
        budget: what is asked for.
        bounds: the least and the greatest cost that gates can leave.

    Raises:
        GateError: for targets that no gates can reach.
    """
    found = []
    for cost, target in budget.targets.items():
        least, total = bounds(cost)
        constraint = Constraint(cost, target, total, budget.rate, budget.damping)
        constraint.check(least)
        found.append(constraint)
    return found


def notice_narrow(budgets: Sequence[Constraint], m: int, least: Callable[[str], float]) -> None:
    """Warn of a budget in which not every family of units can have one multiple of m.

    Args:
        budgets: that are to be met.
        m: of which widths are multiples.
        least: the cost of a network with one multiple in each family.
    """
    for one in budgets:
        if (needed := least(one.cost)) > (limit := one.limit(sys.maxsize)):
            warn(
                f"with multiple_of={m} a network that has {m} units or all in each family has "
                f"{needed:,.0f} {one.cost}, and the budget is {limit:,.0f}: some family would be "
                "left with none. A smaller multiple_of or a larger budget helps"
            )


def allowed(
    budgets: Sequence[Constraint], step: int, cost: Callable[[int, str], float], most: int
) -> int:
    """How many gates may be open.

    Args:
        budgets: that are to be met.
        step: at which.
        cost: of the first so many gates, by bisection.
        most: all gates.
    """

    def too_many(count: int) -> bool:
        return any(cost(count, one.cost) > one.limit(step) for one in budgets)

    return max(0, bisect_left(range(most + 1), True, key=too_many) - 1)
