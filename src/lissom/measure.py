"""Honest counting: how many weights of a model are not zero."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from lissom.errors import LissomError
from lissom.tables import table, text


@dataclass(frozen=True)
class Variable:
    """One parameter tensor: its name, its weights and how many of them are not zero."""

    name: str
    nonzeros: int
    weights: int


@dataclass(frozen=True)
class Measurement:
    """What `measure` found; printed as Henrikson's table.

    Attributes:
        variables: one entry for each parameter tensor, tied ones once.
        tolerance: weights with |w| ≤ tolerance were counted as zero.
    """

    variables: tuple[Variable, ...]
    tolerance: float = 0.0

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero, biases included."""
        return sum(variable.nonzeros for variable in self.variables)

    @property
    def weights(self) -> int:
        """All weights, biases included."""
        return sum(variable.weights for variable in self.variables)

    @property
    def sparsity(self) -> float:
        """The part of all weights that is zero, from 0 to 1."""
        return 1 - self.nonzeros / self.weights

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "variables": [asdict(variable) for variable in self.variables],
            "nonzeros": self.nonzeros,
            "weights": self.weights,
            "sparsity": self.sparsity,
            "tolerance": self.tolerance,
        }

    def table(self) -> Table:
        """A rich table: variable, non-zero weights, weights, and the part that is zero."""

        def row(name: str, nonzeros: int, weights: int) -> list[object]:
            return [name, nonzeros, weights, f"{100 * (1 - nonzeros / max(1, weights)):.2f} %"]

        return table(
            ["variable", "non-zeros", "weights", "zeros"],
            [row(v.name, v.nonzeros, v.weights) for v in self.variables],
            total=row("total", self.nonzeros, self.weights),
        )

    def __str__(self) -> str:
        return text(self.table())


@torch.no_grad()
def measure(model: nn.Module, *, tolerance: float = 0.0) -> Measurement:
    """Count the weights of a model that are not zero, tensor by tensor.

    Args:
        model: any module; every parameter is counted, biases too, and no buffer.
        tolerance: |w| ≤ tolerance counts as zero. The default counts exact zeros; Henrikson's
            article takes 1e-5.

    Raises:
        LissomError: if the tolerance is negative or the model has no parameters.
    """
    if not tolerance >= 0:
        raise LissomError(
            f"a tolerance is a size ≥ 0 below which weights count as zero, got {tolerance!r}"
        )
    variables = tuple(
        Variable(name, int((~(p.abs() <= tolerance)).sum()), p.numel())
        for name, p in model.named_parameters()
    )
    if not any(variable.weights for variable in variables):
        raise LissomError(f"{type(model).__name__} has no parameters to measure")
    return Measurement(variables, tolerance)
