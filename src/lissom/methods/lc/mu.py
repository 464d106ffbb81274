"""μ, the weight of the penalty in the L step: given step by step, or found on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import CompressionError

SHARE = 0.1  # of the loss's gradient that the pull is at first
BATCHES = 16  # whose gradients are measured for that
GROWTH = 1.5  # of μ after a step that is behind


@dataclass
class Given:
    """μ_0, μ_1, …: one number for each step.

    Attributes:
        values: the numbers.
        tolerance: of ‖w − θ‖/‖w‖, at which the steps end before.
    """

    values: Sequence[float]
    tolerance: float = 0.0

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.values)

    def __call__(self, step: int) -> float:
        """μ of a step."""
        return self.values[step]

    def begin(self, gap: float) -> None:
        """Called after direct compression; the numbers are given, whatever came of it."""

    def follow(self, step: int, gap: float) -> None:
        """Called after each C step; the next number is given, too."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: there is nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There was nothing to keep."""


@dataclass
class Automatic:
    """μ that follows the distance between w and θ, so that nothing is to be tuned.

    At first the pull μ‖w − θ‖ is a tenth of the gradient of the loss, as the first batches show it.
    From then on ‖w − θ‖/‖w‖ should fall by the same factor in each step, from what it is after
    direct compression to the tolerance in the last one; μ grows by half after each step behind.
    Where the optimizer is known, μ stays below 1/lr, beyond which gradient descent overshoots.

    Attributes:
        steps: at most; fewer if the tolerance is met before.
        tolerance: of ‖w − θ‖/‖w‖.
        mu: the present μ, 0 until it is found.
        first: ‖w − θ‖/‖w‖ after direct compression; where that moved nothing, as at the beginning
            of a schedule, the first that is not 0.
        optimizer: of the L step, if it is known.
    """

    steps: int
    tolerance: float
    mu: float = 0.0
    first: float = 0.0
    optimizer: Optimizer | None = None
    _squares: list[Tensor] = field(default_factory=list)  # ‖gradient‖² of the first batches

    def __call__(self, step: int) -> float:
        """The present μ."""
        return self.mu

    @property
    def ready(self) -> bool:
        """Whether enough batches were seen."""
        return len(self._squares) >= BATCHES

    def begin(self, gap: float) -> None:
        """Note how far direct compression moved the weights."""
        self.first = gap

    def measure(self, squares: Tensor | None) -> None:
        """Note ‖gradient of the loss‖² of a step, if it had one."""
        if squares is not None:
            self._squares.append(squares)

    def settle(self, distance: float) -> None:
        """Set μ by what was measured, and by ‖w − θ‖.

        Raises:
            CompressionError: if there was no backward pass.
        """
        if not self._squares:
            raise CompressionError(
                "mu = None is found by the gradients of the first L step, and what is compressed "
                "had none in it: give mu, or compress what is trained"
            )
        # On the CPU, where those that were loaded from a checkpoint are.
        squares = torch.stack([square.cpu() for square in self._squares])
        gradient = math.sqrt(float(squares.mean()))
        self.mu = SHARE * gradient / distance if distance > 0 and gradient > 0 else 1.0

    def follow(self, step: int, gap: float) -> None:
        """Change μ by what ‖w − θ‖/‖w‖ is after a step."""
        self.first = self.first or gap
        if self.first > 0:
            path = self.first * (self.tolerance / self.first) ** ((step + 1) / self.steps)
            if gap > path:
                self.mu = max(self.mu, min(GROWTH * self.mu, self.limit()))

    def limit(self) -> float:
        """The largest μ that the optimizer can follow."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return min(
            (1 / float(group["lr"]) for group in groups if group["lr"] > 0), default=math.inf
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "mu": self.mu,
            "first": self.first,
            "squares": [float(square) for square in self._squares],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.mu, self.first = state["mu"], state["first"]
        self._squares = [torch.as_tensor(s, dtype=torch.float64) for s in state["squares"]]
