"""Draws of many gates at once, and how many are expected to be open: fast, with exact gradients.

The formulas are those of `lissom.hard_concrete`; here they are evaluated in place, with gradients
written out. A graph that is compiled takes the plain formulas, which the compiler fuses itself.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lissom.hard_concrete import HardConcrete, logistic
from lissom.penalties import widen
from lissom.scratch import scratch

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

    def __call__(self, like: Tensor, draw: Tensor) -> Tensor:
        """Noise in the shape of `like`, for the draw of that number, a tensor on the CPU."""
        like = like.detach()
        if self.pooled and 2 * like.numel() <= POOL:
            seed = -1 if self.seed is None else self.seed
            pool, n = self._pool_on(like), like.numel()
            if torch.compiler.is_compiling():
                taken: Tensor = window(pool, n, seed, draw)
                return taken.view(like.shape)
            start = _start(pool, n, seed, int(draw))
            return pool[start : start + n].view(like.shape)  # no copy
        if self.seed is None:
            return logistic(like)
        if not torch.compiler.is_compiling():
            return _seeded(like, self.seed, int(draw))
        drawn: Tensor = seeded(like, self.seed, draw)
        return drawn

    def _pool_on(self, like: Tensor) -> Tensor:
        if self._pool is None or self._pool.device != like.device or self._pool.dtype != like.dtype:
            with torch.inference_mode(False):  # the next call may want a gradient
                empty = torch.empty(POOL, dtype=like.dtype, device=like.device)
                self._pool = seeded(empty, self.seed or 0, torch.tensor(-1))
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}  # the same one is made again


# Operators of their own, since a compiled graph has no generators, and slices at no random place.


@torch.library.custom_op("lissom::seeded", mutates_args=())
def seeded(like: Tensor, seed: int, draw: Tensor) -> Tensor:
    """Logistic noise that depends on (seed, draw) alone."""
    return _seeded(like, seed, int(draw))


@torch.library.custom_op("lissom::window", mutates_args=())
def window(pool: Tensor, n: int, seed: int, draw: Tensor) -> Tensor:
    """`n` neighbours from a random place of a pool; seed −1 stands for the global generator."""
    start = _start(pool, n, seed, int(draw))
    return pool[start : start + n].clone()


@seeded.register_fake
def _(like: Tensor, seed: int, draw: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


@window.register_fake
def _(pool: Tensor, n: int, seed: int, draw: Tensor) -> Tensor:
    return pool.new_empty(n)


Weight = float | Tensor  # one for all gates, or one for each
Shapes = Sequence[torch.Size]  # of the norms of each block, and so of its gates


def draw(law: HardConcrete, log_alpha: Tensor, noise: Tensor, shapes: Shapes) -> list[Tensor]:
    """z as `law.sample(log_alpha, noise)` gives it, a tensor for each block.

    Args:
        law: of the gates.
        log_alpha: of all blocks, [n], or [B, n] with B draws of each.
        noise: of its shape.
        shapes: of the blocks; z is shaped so, behind B where there is one.
    """
    if torch.compiler.is_compiling():
        return by_block(law.sample(log_alpha, noise), shapes)
    drawn: tuple[Tensor, ...] = _Draw.apply(log_alpha, noise, law, shapes)  # type: ignore[no-untyped-call]
    return list(drawn)


def by_block(flat: Tensor, shapes: Shapes) -> list[Tensor]:
    """A number for each gate, [..., n], as a tensor for each block."""
    parts = flat.split([shape.numel() for shape in shapes], -1)
    lead = flat.shape[:-1]
    return [part.view(*lead, *shape) for part, shape in zip(parts, shapes, strict=True)]


def expected_sum(law: HardConcrete, log_alpha: Tensor, weights: Weight) -> Tensor:
    """Σ_g weights_g P(z_g ≠ 0)."""
    if torch.compiler.is_compiling():
        return _weighted(law.p_nonzero(log_alpha), weights)
    total: Tensor = _Expected.apply(log_alpha, law, weights)  # type: ignore[no-untyped-call]
    return total


def _weighted(p: Tensor, weights: Weight) -> Tensor:
    return torch.dot(p, weights.to(p)) if isinstance(weights, Tensor) else weights * p.sum()


class _Draw(torch.autograd.Function):
    """z = clamp(s(ζ − γ) + γ) of s = σ((ε + log α)/β).

    The gradient follows from z alone: where 0 < z < 1, s = (z − γ)/(ζ − γ), and so
    ∂z/∂log α = (ζ − γ) s(1 − s)/β = (z − γ)(ζ − z)/((ζ − γ)β).
    """

    @staticmethod
    def forward(
        ctx: Any, log_alpha: Tensor, noise: Tensor, law: HardConcrete, shapes: Shapes
    ) -> tuple[Tensor, ...]:
        z = noise.add(log_alpha).div_(law.beta).sigmoid_()
        F.hardtanh_(z.mul_(law.zeta - law.gamma).add_(law.gamma), 0, 1)
        ctx.save_for_backward(z)
        ctx.law, ctx.shapes, ctx.dtype = law, shapes, log_alpha.dtype
        ctx.set_materialize_grads(False)
        return tuple(by_block(z.to(log_alpha.dtype), shapes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None, None]:
        [z] = ctx.saved_tensors
        law: HardConcrete = ctx.law
        found = torch.empty_like(z)
        blocks = (by_block(x, ctx.shapes) for x in (z, found))
        for grad, drawn, out in zip(grads, *blocks, strict=True):
            if grad is None:  # a block that this call did not read
                out.zero_()
            else:
                aten.hardtanh_backward.grad_input(grad.to(z.dtype), drawn, 0, 1, grad_input=out)
        slope = torch.sub(z, law.gamma, out=scratch(z, "slope"))
        found.mul_(slope).mul_(slope.neg_().add_(law.zeta - law.gamma))
        return found.mul_(1 / ((law.zeta - law.gamma) * law.beta)).to(ctx.dtype), None, None, None


class _Expected(torch.autograd.Function):
    """Σ w p, of which nothing but log α is kept: p is found again sooner than fresh memory is."""

    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor, law: HardConcrete, weights: Weight) -> Tensor:
        ctx.save_for_backward(log_alpha)
        ctx.law, ctx.weights = law, weights
        return _weighted(_p_nonzero(law, log_alpha), weights).to(log_alpha.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        [log_alpha] = ctx.saved_tensors
        p = _p_nonzero(ctx.law, log_alpha)
        found = p.neg().add_(1).mul_(p).mul_(ctx.weights * grad)
        return found.to(log_alpha.dtype), None, None


def _p_nonzero(law: HardConcrete, log_alpha: Tensor) -> Tensor:
    """As `law.p_nonzero`, in memory that the next call uses again."""
    wide = widen(log_alpha)
    shift = law.beta * math.log(-law.gamma / law.zeta)
    return torch.sub(wide, shift, out=scratch(wide, "chances")).sigmoid_()


def _seeded(like: Tensor, seed: int, draw: int) -> Tensor:
    return logistic(like, torch.Generator(like.device).manual_seed(_mixed(seed, draw)))


def _start(pool: Tensor, n: int, seed: int, draw: int) -> int:
    generator = None if seed < 0 else torch.Generator().manual_seed(_mixed(seed, draw))
    return int(torch.randint(len(pool) - n + 1, (), generator=generator))


def _mixed(seed: int, draw: int) -> int:
    return (seed * MIX + draw + 1) % 2**63
