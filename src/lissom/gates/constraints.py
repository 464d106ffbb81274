"""Budgets instead of prices: dual ascent on the expected size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lissom.errors import GateError
from lissom.schedules import Schedule, value_at


@dataclass
class Constraint:
    """log(E[cost] / target) ≤ 0, with its multiplier.

    The violation v is relative, so that one pair of rates serves every size and every cost:
    minimised is L + λv + (ρ/2)v², and λ ← max(0, λ + ηv) after each step. λ settles at what a
    network smaller by the factor e costs in units of the loss: the slope of the trade-off curve.

    Attributes:
        cost: what is limited.
        target: as a part of the whole, or its schedule.
        total: the cost with every gate open.
        rate: η, the step of the multiplier.
        damping: ρ, which keeps the two from circling.
        multiplier: λ.

    Source: Gallego-Posada et al. 2022, eq. 7–9, with the logarithm and the damping.
    """

    cost: str
    target: float | Schedule
    total: float
    rate: float
    damping: float
    multiplier: Tensor = field(default_factory=lambda: torch.zeros(()))

    def penalty(self, expected: Tensor, step: int, update: bool) -> Tensor:
        """What is added to the loss; λ moves afterwards."""
        target = value_at(self.target, step) * self.total
        violation = torch.log(expected / target)
        self.multiplier = self.multiplier.to(violation)
        force = (self.multiplier + self.damping * violation.detach()).clamp(min=0)
        if update:
            self.multiplier = (self.multiplier + self.rate * violation.detach()).clamp(min=0)
        return force * violation

    def check(self, least: float) -> None:
        """Refuse what cannot be reached.

        Raises:
            GateError: for a part that is not in (0, 1], or below what no gate can remove.
        """
        end = self.target
        while isinstance(end, Schedule) and end.next is not None:
            end = end.next
        last = end.end if isinstance(end, Schedule) else end
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
        self.multiplier = torch.tensor(state["multiplier"])
