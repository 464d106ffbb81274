"""Budgets instead of prices: dual ascent on the expected size."""

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lissom.errors import GateError
from lissom.schedules import Schedule, value_at


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
        target: as a part of the whole, or its schedule.
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

    def penalty(self, expected: Tensor, step: int, update: bool) -> Tensor:
        """What is added to the loss; λ moves afterwards."""
        violation = torch.log(expected / self.limit(step))
        error = (self.damping * violation.detach()).clamp(-2, 1)
        self.multiplier = self.multiplier.to(violation)
        force = self.multiplier * (1 + error)
        if update:
            self.multiplier = (self.multiplier + self.rate * error).clamp(min=0)
        return force * violation

    def limit(self, step: int) -> float:
        """The target at a step, as a cost."""
        return value_at(self.target, step) * self.total

    def check(self, least: float) -> None:
        """Refuse what cannot be reached.

        Raises:
            GateError: for a part that is not in (0, 1], or below what no gate can remove.
        """
        for step in (0, sys.maxsize):
            target = value_at(self.target, step)
            if not isinstance(target, int | float) or not 0 < target <= 1:
                raise GateError(
                    f"{self.cost} is a part of the whole, above 0 and up to 1, got {target!r}"
                )
            if target * self.total < least:
                raise GateError(
                    f"{self.cost}={target:g} cannot be reached: {least / self.total:.3g} of the "
                    f"{self.cost} stay when every gate is shut. Gate more groups, or ask for more"
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"cost": self.cost, "multiplier": float(self.multiplier)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.multiplier = torch.tensor(state["multiplier"], dtype=torch.float64)


def constraints(
    targets: Mapping[str, float | Schedule | None],
    bounds: Callable[[str], tuple[float, float]],
    rate: float,
    damping: float,
) -> list[Constraint]:
    """A constraint for each target that is given.

    Args:
        targets: by cost.
        bounds: the least and the greatest cost that gates can leave.
        rate: η.
        damping: ρ.

    Raises:
        GateError: for targets that no gates can reach, or impossible numbers.
    """
    wanted = {cost: target for cost, target in targets.items() if target is not None}
    if not wanted:
        raise GateError("name a target, such as constrain(weights=0.05) or constrain(macs=0.1)")
    for name, number in (("rate", rate), ("damping", damping)):
        if not isinstance(number, int | float) or not 0 < number < math.inf:
            raise GateError(f"{name} is a number above 0, got {number!r}")
    made = []
    for cost, target in wanted.items():
        least, total = bounds(cost)
        made.append(Constraint(cost, target, total, rate, damping))
        made[-1].check(least)
    return made


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
