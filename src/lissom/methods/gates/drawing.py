"""Draws of many gates at once, and how many are expected to be open: fast, with exact gradients.

The formulas are those of `lissom.hard_concrete`; here they are evaluated in place, with gradients
written out. A graph that is compiled takes the plain formulas, which the compiler fuses itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lissom.groups import Spread
from lissom.hard_concrete import HardConcrete, logistic

aten = torch.ops.aten
POOL = 2**22  # numbers; 16 MiB
MIX = 1_000_003


class Noise:
    """Logistic noise, fresh or from a pool, from torch's global generator or by (seed, draw).

    Args:
        seed: None for the global generator.
        pooled: take neighbours from a random place of a fixed pool. Within a draw they are
            independent; between draws the same numbers come again, at other gates.
    """

    def __init__(self, seed: int | None, pooled: bool) -> None:
        self.seed, self.pooled = seed, pooled
        self._pool: Tensor | None = None

    def __call__(self, like: Tensor, draw: int) -> Tensor:
        """Noise in the shape of `like`, for the draw of that number."""
        like = like.detach()
        if self.pooled and 2 * like.numel() <= POOL:
            seed = -1 if self.seed is None else self.seed
            pool, n = self._pool_on(like), like.numel()
            if torch.compiler.is_compiling():
                taken: Tensor = window(pool, n, seed, draw)
                return taken.view(like.shape)
            start = _start(pool, n, seed, draw)
            return pool[start : start + n].view(like.shape)  # no copy
        drawn: Tensor = logistic(like) if self.seed is None else seeded(like, self.seed, draw)
        return drawn

    def _pool_on(self, like: Tensor) -> Tensor:
        if self._pool is None or self._pool.device != like.device or self._pool.dtype != like.dtype:
            with torch.inference_mode(False):  # the next call may want a gradient
                empty = torch.empty(POOL, dtype=like.dtype, device=like.device)
                self._pool = seeded(empty, self.seed or 0, -1)
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}  # the same one is made again


# Operators of their own, since a compiled graph has no generators, and slices at no random place.


@torch.library.custom_op("lissom::seeded", mutates_args=())
def seeded(like: Tensor, seed: int, draw: int) -> Tensor:
    """Logistic noise that depends on (seed, draw) alone."""
    return logistic(like, torch.Generator(like.device).manual_seed(_mixed(seed, draw)))


@torch.library.custom_op("lissom::window", mutates_args=())
def window(pool: Tensor, n: int, seed: int, draw: int) -> Tensor:
    """`n` neighbours from a random place of a pool; seed −1 stands for the global generator."""
    start = _start(pool, n, seed, draw)
    return pool[start : start + n].clone()


@seeded.register_fake
def _(like: Tensor, seed: int, draw: int) -> Tensor:
    return torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


@window.register_fake
def _(pool: Tensor, n: int, seed: int, draw: int) -> Tensor:
    return pool.new_empty(n)


@dataclass
class Values:
    """Gates as they were drawn, or as they are in evaluation mode.

    Attributes:
        z: a number for each group, or for each example and group.
    """

    z: Tensor

    def times(self, weight: Tensor, spread: Spread) -> Tensor:
        """w·z."""
        return weight * spread(self.z).to(weight.dtype)


@dataclass
class Singles:
    """Gates of single weights, drawn where they are used and again in the backward pass.

    So nothing is kept for it but the products that the layers keep themselves.

    Attributes:
        law: of the gates.
        log_alpha: one for each weight.
        noise: one for each weight.
    """

    law: HardConcrete
    log_alpha: Tensor
    noise: Tensor

    def times(self, weight: Tensor, spread: Spread) -> Tensor:
        """w·z."""
        if torch.compiler.is_compiling():
            return weight * spread(self.law.sample(self.log_alpha, self.noise)).to(weight.dtype)
        product: Tensor = _Product.apply(weight, self.log_alpha, self.noise, self.law)  # type: ignore[no-untyped-call]
        return product


Drawn = Values | Singles
Weight = float | Tensor  # one for all gates of a block, or one for each


def draw(law: HardConcrete, log_alpha: Tensor, noise: Tensor) -> Tensor:
    """z as `law.sample(log_alpha, noise)` gives it."""
    if torch.compiler.is_compiling():
        return law.sample(log_alpha, noise)
    drawn: Tensor = _Draw.apply(log_alpha, noise, law)  # type: ignore[no-untyped-call]
    return drawn


def expected_sum(
    law: HardConcrete, log_alpha: Tensor, sizes: Sequence[int], weights: Sequence[Weight]
) -> Tensor:
    """Σ_b Σ_g weights_bg P(z_g ≠ 0) over blocks b of gates, which stand in `log_alpha` in turn."""
    if torch.compiler.is_compiling():
        return _weighted(law.p_nonzero(log_alpha), sizes, weights)
    total: Tensor = _Expected.apply(log_alpha, law, sizes, weights)  # type: ignore[no-untyped-call]
    return total


def _weighted(p: Tensor, sizes: Sequence[int], weights: Sequence[Weight]) -> Tensor:
    blocks = zip(p.split(list(sizes)), weights, strict=True)
    return torch.stack([_sum(part, weight) for part, weight in blocks]).sum()


def _sum(p: Tensor, weight: Weight) -> Tensor:
    return (weight * p).sum() if isinstance(weight, Tensor) else weight * p.sum()


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor, noise: Tensor, law: HardConcrete) -> Tensor:
        s = _concrete(law, log_alpha, noise)
        ctx.save_for_backward(s)
        ctx.law = law
        return _gate(law, s).to(log_alpha.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        [s] = ctx.saved_tensors
        return _by_log_alpha_(ctx.law, grad.to(s.dtype, copy=True), s).to(grad.dtype), None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, log_alpha: Tensor, noise: Tensor, law: HardConcrete
    ) -> Tensor:
        ctx.save_for_backward(weight, log_alpha, noise)
        ctx.law = law
        z = _gate(law, _concrete(law, log_alpha, noise)).to(weight.dtype)
        return z.view_as(weight).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, log_alpha, noise = ctx.saved_tensors
        s = _concrete(ctx.law, log_alpha, noise)
        by_weight = _gate(ctx.law, s).to(grad.dtype).view_as(grad).mul_(grad)
        by_gate = torch.mul(grad, weight).view_as(s).to(s.dtype)
        by_log_alpha = _by_log_alpha_(ctx.law, by_gate, s).to(log_alpha.dtype)
        return by_weight, by_log_alpha, None, None


def _concrete(law: HardConcrete, log_alpha: Tensor, noise: Tensor) -> Tensor:
    """s = σ((ε + log α)/β)."""
    return noise.add(log_alpha).div_(law.beta).sigmoid_()


def _gate(law: HardConcrete, s: Tensor) -> Tensor:
    """z, stretched and clamped."""
    return F.hardtanh_(s.mul(law.zeta - law.gamma).add_(law.gamma), 0, 1)


def _by_log_alpha_(law: HardConcrete, by_gate: Tensor, s: Tensor) -> Tensor:
    """The gradient by log α from that by z, which is overwritten."""
    width = law.zeta - law.gamma
    low, high = -law.gamma / width, (1 - law.gamma) / width
    aten.hardtanh_backward.grad_input(by_gate, s, low, high, grad_input=by_gate)
    aten.sigmoid_backward.grad_input(by_gate, s, grad_input=by_gate)
    return by_gate.mul_(width / law.beta)


class _Expected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        log_alpha: Tensor,
        law: HardConcrete,
        sizes: Sequence[int],
        weights: Sequence[Weight],
    ) -> Tensor:
        ctx.save_for_backward(log_alpha)
        ctx.law, ctx.sizes, ctx.weights = law, sizes, weights
        return _weighted(law.p_nonzero(log_alpha), sizes, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        [log_alpha] = ctx.saved_tensors
        p = ctx.law.p_nonzero(log_alpha)
        by_log_alpha = p.mul_(1 - p)
        for part, weight in zip(by_log_alpha.split(list(ctx.sizes)), ctx.weights, strict=True):
            part.mul_(weight * grad)
        return by_log_alpha, None, None, None


def _start(pool: Tensor, n: int, seed: int, draw: int) -> int:
    generator = None if seed < 0 else torch.Generator().manual_seed(_mixed(seed, draw))
    return int(torch.randint(len(pool) - n + 1, (), generator=generator))


def _mixed(seed: int, draw: int) -> int:
    return (seed * MIX + draw + 1) % 2**63
