"""A penalty of a user's own, in a file of its own, with `value` and `prox` and nothing else.

Public names only. A recipe names it as "stranger_penalty:Firm".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.methods import Strength
from lissom.penalties import Numbers, Penalty, number_of


@dataclass(frozen=True)
class Firm(Penalty):
    """Σ p(x) with p(x) = λx − x²/2γ up to γλ and γλ²/2 beyond, as MCP has it."""

    strength: Numbers
    gamma: float = 3.0
    strengths = {"strength": Strength("λ of a stranger")}  # noqa: RUF012
    differentiable = True
    weighed = True

    def value(self, norms: Tensor) -> Tensor:
        strength = number_of(self, self.strength, norms)
        near = torch.minimum(norms, torch.as_tensor(self.gamma * strength))
        return (strength * near - near**2 / (2 * self.gamma)).sum()

    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        strength = number_of(self, self.strength, norms)
        s = t if metric is None else t / metric
        s = torch.as_tensor(s).expand_as(norms).clamp(max=1e20)
        soft = (norms - s * strength).clamp(min=0) / (1 - s / self.gamma)
        firm = torch.where(norms <= self.gamma * strength, soft, norms)
        hard = torch.where(norms <= strength * (s * self.gamma).sqrt(), 0, norms)
        return torch.where(s < self.gamma, firm, hard)


@dataclass(frozen=True)
class Ball(Penalty):
    """√(Σ x²) ≤ ν over all groups that come together: all are scaled down. It has no metric."""

    radius: float
    joint = True
    has_metric = False

    def value(self, norms: Tensor) -> Tensor:
        inside = norms.norm() <= self.radius * (1 + 1e-5)
        return torch.where(inside, 0.0, torch.inf)

    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        assert metric is None
        return norms * (self.radius / norms.norm().clamp(min=1e-30)).clamp(max=1)


@dataclass(frozen=True)
class Counted(Penalty):
    """λ for each group that is not zero, and its weights' squares: it works under gates."""

    strength: float
    weighed = True

    @property
    def open_cost(self) -> float:  # type: ignore[override]
        return self.strength

    @property
    def open_square(self) -> float:  # type: ignore[override]
        return self.strength / 2

    def value(self, norms: Tensor) -> Tensor:
        return self.strength * ((norms != 0).sum() + (norms**2).sum() / 2)

    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        s = self.strength * (t if metric is None else t / metric)
        return torch.where(norms**2 <= 2 * s * (1 + s), 0, norms / (1 + s))
