"""Draws of many gates at once, and the price of leaving them open: fast, with exact gradients.

The formulas are those of `lissom.hard_concrete`; here they are evaluated in place, with gradients
written out. A graph that is compiled takes the plain formulas, which the compiler fuses itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lissom.hard_concrete import HardConcrete, logistic

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
            taken: Tensor = window(self._pool_on(like), like.numel(), seed, draw)
            return taken.view(like.shape)
        drawn: Tensor = logistic(like) if self.seed is None else seeded(like, self.seed, draw)
        return drawn

    def _pool_on(self, like: Tensor) -> Tensor:
        if self._pool is None or self._pool.device != like.device or self._pool.dtype != like.dtype:
            self._pool = seeded(like.new_empty(POOL), self.seed or 0, -1)
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
    generator = None if seed < 0 else torch.Generator().manual_seed(_mixed(seed, draw))
    start = int(torch.randint(len(pool) - n + 1, (), generator=generator))
    return pool[start : start + n].clone()


@seeded.register_fake
def _(like: Tensor, seed: int, draw: int) -> Tensor:
    return torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


@window.register_fake
def _(pool: Tensor, n: int, seed: int, draw: int) -> Tensor:
    return pool.new_empty(n)


def draw(law: HardConcrete, log_alpha: Tensor, noise: Tensor) -> Tensor:
    """z as `law.sample(log_alpha, noise)` gives it."""
    if torch.compiler.is_compiling():
        return law.sample(log_alpha, noise)
    drawn: Tensor = _Draw.apply(log_alpha, noise, law)  # type: ignore[no-untyped-call]
    return drawn


def expected_price(law: HardConcrete, log_alpha: Tensor, prices: Tensor) -> Tensor:
    """Σ_g prices_g · P(z_g ≠ 0)."""
    if torch.compiler.is_compiling():
        return (law.p_nonzero(log_alpha) * prices).sum()
    priced: Tensor = _Price.apply(log_alpha, prices, law)  # type: ignore[no-untyped-call]
    return priced


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor, noise: Tensor, law: HardConcrete) -> Tensor:
        s = noise.add(log_alpha).div_(law.beta).sigmoid_()
        ctx.save_for_backward(s)
        ctx.law = law
        stretched = s.mul(law.zeta - law.gamma).add_(law.gamma)
        return torch.nn.functional.hardtanh_(stretched, 0, 1).to(log_alpha.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (s,), law = ctx.saved_tensors, ctx.law
        width = law.zeta - law.gamma
        low, high = -law.gamma / width, (1 - law.gamma) / width
        inside = torch.ops.aten.hardtanh_backward(grad.to(s.dtype), s, low, high)
        by_logit = torch.ops.aten.sigmoid_backward(inside, s)
        return by_logit.mul_(width / law.beta).to(grad.dtype), None, None


class _Price(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor, prices: Tensor, law: HardConcrete) -> Tensor:
        p = law.p_nonzero(log_alpha)
        ctx.save_for_backward(p, prices)
        return torch.dot(p, prices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        p, prices = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(prices, p).mul_(grad), None, None


def _mixed(seed: int, draw: int) -> int:
    return (seed * MIX + draw + 1) % 2**63
