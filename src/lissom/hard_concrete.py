"""The hard-concrete law: a random gate in [0, 1] that is exactly 0, or exactly 1, with mass.

With u ~ U(0, 1) and logistic noise ε = log u − log(1 − u),

    s = σ((ε + log α)/β),    z = min(1, max(0, s(ζ − γ) + γ)),    γ < 0 < 1 < ζ.

The stretched sigmoid leaves [0, 1] on both sides, so z is 0 and 1 with positive probability, and
its gradient by log α is defined between them.

Source: Louizos, Welling & Kingma 2018, eq. 10–13.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.arguments import as_annotated, check_fields, shown
from lissom.errors import LissomError, nearest

# Gauss–Legendre on [0, 1] for the mean, an integral of a smooth function: 12 digits.
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)
POINTS, WEIGHTS = ((_POINTS + 1) / 2).tolist(), (_WEIGHTS / 2).tolist()

MANY = 2**16  # numbers, from which on a generator of their own is made in less than it saves

TestGate = Literal["published", "median", "mean", "mode"]
TEST_GATES: tuple[str, ...] = get_args(TestGate)


@dataclass(frozen=True)
class HardConcrete:
    """z ~ HardConcrete(log α; β, γ, ζ).

    All methods take log α of any shape, and answer in its shape and dtype; halves are computed in
    float32. Their gradients are exact, and finite for every log α.

    Attributes:
        beta: the temperature β > 0; the smaller, the closer to 0 or 1.
        gamma: the left end γ < 0 of the stretched interval.
        zeta: the right end ζ > 1.

    Raises:
        LissomError: if they are not so.
    """

    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1

    def __post_init__(self) -> None:
        check_fields(self, LissomError)
        if not (
            0 < self.beta < math.inf and -math.inf < self.gamma < 0 and 1 < self.zeta < math.inf
        ):
            raise LissomError(
                "a hard-concrete law needs beta > 0, gamma < 0 and zeta > 1, got "
                f"beta={self.beta!r}, gamma={self.gamma!r}, zeta={self.zeta!r}"
            )

    @as_annotated(LissomError)
    def sample(self, log_alpha: Tensor, noise: Tensor | None = None) -> Tensor:
        """z, reparametrised: differentiable by log α for fixed noise (eq. 10–11).

        Args:
            log_alpha: log α.
            noise: ε, logistic; drawn by `logistic` from torch's global generator if not given.
        """
        wide = _wide(log_alpha)
        noise = logistic(log_alpha) if noise is None else noise
        return self._stretched((wide + noise) / self.beta).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def p_nonzero(self, log_alpha: Tensor) -> Tensor:
        """P(z ≠ 0) = σ(log α − β log(−γ/ζ)), the expected L0 norm of a gate (eq. 12)."""
        shift = self.beta * math.log(-self.gamma / self.zeta)
        return (_wide(log_alpha) - shift).sigmoid_().to(log_alpha.dtype)

    @as_annotated(LissomError)
    def p_one(self, log_alpha: Tensor) -> Tensor:
        """P(z = 1) = 1 − P(z < 1)."""
        shift = self.beta * math.log((1 - self.gamma) / (self.zeta - 1))
        return torch.sigmoid(_wide(log_alpha) - shift).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def mean(self, log_alpha: Tensor) -> Tensor:
        """E[z] = ∫₀¹ P(z > x) dx, by quadrature to 1e-12; never exactly zero."""
        wide = _wide(log_alpha)
        total = torch.zeros_like(wide)
        for x, weight in zip(POINTS, WEIGHTS, strict=True):
            total = total + weight * torch.sigmoid(wide - self._logistic_at(x))
        return total.clamp(max=1).to(log_alpha.dtype)  # the weights' sum is rounded

    @as_annotated(LissomError)
    def median(self, log_alpha: Tensor) -> Tensor:
        """The z of which half of the draws are below: the gate of ε = 0.

        Zero where P(z ≠ 0) ≤ ½.
        """
        return self._stretched(_wide(log_alpha) / self.beta).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def mode(self, log_alpha: Tensor) -> Tensor:
        """The heavier of the atoms: 1 where P(z = 1) > P(z = 0), else 0. It has no gradient."""
        wide = _wide(log_alpha)
        return (self.p_one(wide) > 1 - self.p_nonzero(wide)).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def published(self, log_alpha: Tensor) -> Tensor:
        """The paper's test-time gate min(1, max(0, σ(log α)(ζ − γ) + γ)) (eq. 13).

        It leaves β out, and is nearer to the mean than the median is. Zero where P(z ≠ 0) ≤ 0.31
        (for the default β, γ, ζ).
        """
        return self._stretched(_wide(log_alpha)).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def test_gate(self, log_alpha: Tensor, kind: str) -> Tensor:
        """The deterministic gate of that name, one of `TEST_GATES`."""
        if kind not in TEST_GATES:
            raise LissomError(f"there is no test gate {kind!r}.{nearest(kind, TEST_GATES)}")
        gate: Tensor = getattr(self, kind)(log_alpha)
        return gate

    @as_annotated(LissomError)
    def cdf(self, x: Tensor | float, log_alpha: Tensor) -> Tensor:
        """P(z ≤ x): P(z = 0) at x = 0, and 1 from x = 1 on."""
        wide = _wide(log_alpha)
        at = torch.as_tensor(x, dtype=wide.dtype, device=wide.device)
        stretched = ((at - self.gamma) / (self.zeta - self.gamma)).clamp(1e-30, 1 - 1e-7)
        inside = torch.sigmoid(self.beta * torch.logit(stretched) - wide)
        below = torch.where(at < 0, torch.zeros_like(inside), inside)
        return torch.where(at >= 1, torch.ones_like(inside), below).to(log_alpha.dtype)

    @as_annotated(LissomError)
    def quantile(self, u: Tensor | float, log_alpha: Tensor) -> Tensor:
        """The smallest z with P(≤ z) ≥ u, for 0 < u < 1: the draw that u makes."""
        wide = _wide(log_alpha)
        noise = torch.logit(torch.as_tensor(u, dtype=wide.dtype, device=wide.device))
        return self._stretched((wide + noise) / self.beta).to(log_alpha.dtype)

    def _stretched(self, logits: Tensor) -> Tensor:
        stretched = torch.sigmoid(logits) * (self.zeta - self.gamma) + self.gamma
        return F.hardtanh(stretched, 0, 1)  # a clamp whose gradient is vectorised: 8 × faster

    def _logistic_at(self, x: float) -> float:
        """−ε of the draw that gives z = x at log α = 0."""
        s = (x - self.gamma) / (self.zeta - self.gamma)
        return self.beta * (math.log(s) - math.log1p(-s))


def logistic(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Logistic noise ε = log u − log(1 − u) in float32 or wider.

    Args:
        like: a tensor of the shape, dtype and device.
        generator: of the random numbers; torch's global one if None.
    """
    dtype = torch.float32 if like.itemsize < 4 else like.dtype
    many = like.is_cpu and dtype == torch.float32 and like.numel() >= MANY
    if many and not torch.compiler.is_compiling():
        u = _uniform(like.shape, generator)
    else:
        u = torch.rand(like.shape, dtype=dtype, device=like.device, generator=generator)
    return u.logit_(eps=torch.finfo(dtype).tiny)


def _uniform(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """u ~ U(0, 1) in float32, by a generator that torch's own seeds and that is faster than it.

    u is in [2⁻²⁴, 1 − 2⁻²⁴], so that its logistic noise is finite.
    """
    seed, n = int(torch.randint(2**63 - 1, (), generator=generator)), shape.numel()
    bits = np.random.SFC64(seed).random_raw((n + 1) // 2).view(np.int32)[:n]
    return torch.from_numpy(bits).float().mul_(2.0**-32 - 2.0**-55).add_(0.5).view(shape)


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise LissomError(f"log α is a tensor of float32 or the like, got {shown(tensor)}")
    return tensor.float() if tensor.itemsize < 4 else tensor
