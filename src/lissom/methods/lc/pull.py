"""The L step's penalty (μ/2)‖w − c‖²_D, with the gradient written out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lissom.penalties import widen
from lissom.scratch import scratch

SUM = 2  # aten's code of reduction="sum"


def pull(
    weights: Sequence[Tensor],
    targets: Sequence[Tensor],
    mu: float,
    metric: Sequence[Tensor] | None = None,
) -> Tensor:
    """(μ/2) Σ d (w − c)², which draws the weights w to the targets c.

    Args:
        weights: w, which get the gradient μ·d·(w − c).
        targets: c, shaped like w.
        mu: μ ≥ 0.
        metric: d ≥ 0, shaped like w; None means d = 1.
    """
    value: Tensor = _Pull.apply(targets, mu, metric, *weights)  # type: ignore[no-untyped-call]
    return value


class _Pull(Function):
    """Two passes over the weights forward, one backward; autograd's own takes twice as many."""

    @staticmethod
    def forward(
        ctx: Any,
        targets: Sequence[Tensor],
        mu: float,
        metric: Sequence[Tensor] | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.targets, ctx.mu, ctx.metric = targets, mu, metric
        squares = []
        for i, (w, c) in enumerate(zip(weights, targets, strict=True)):
            off = widen(torch.sub(w, c, out=scratch(w, "pull")).flatten())
            if metric is None:
                squares.append(torch.dot(off, off))
            else:
                squares.append(torch.dot(off.square(), metric[i].flatten().to(off)))
        return torch.stack(squares).sum() * (mu / 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grads = []
        for i, (w, c) in enumerate(zip(ctx.saved_tensors, ctx.targets, strict=True)):
            # 2(w − c)·(scale·μ/2) in one pass
            grad = torch.ops.aten.mse_loss_backward(scale * (ctx.mu / 2), w, c, SUM)
            grads.append(grad if ctx.metric is None else grad.mul_(ctx.metric[i]))
        return (None, None, None, *grads)
