"""Budgets instead of prices: dual ascent on the expected size."""

import sys
from collections.abc import Mapping
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
        last = value_at(self.target, sys.maxsize)
        if not isinstance(last, int | float) or not 0 < last <= 1:
            raise GateError(
                f"{self.cost} is a part of the whole, above 0 and up to 1, got {last!r}"
            )
        if last * self.total < least:
            raise GateError(
                f"{self.cost}={last:g} cannot be reached: {least / self.total:.3g} of the "
                f"{self.cost} stay when every gate is shut. Gate more groups, or ask for more"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"cost": self.cost, "multiplier": float(self.multiplier)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.multiplier = torch.tensor(state["multiplier"], dtype=torch.float64)
