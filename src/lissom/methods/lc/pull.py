"""The L step's penalty (μ/2)‖w − c‖²_D, and its gradient, which joins that of the loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.penalties import widen
from lissom.scratch import scratch
from lissom.shards import Shard, local, summed


@torch.no_grad()
def penalty(
    weights: Sequence[Tensor],
    targets: Sequence[Tensor],
    mus: Sequence[float],
    metric: Sequence[Tensor] | None = None,
    shards: Sequence[Shard | None] = (),
) -> Tensor:
    """Σ (μ/2) d (w − c)², without a graph: `pull_` is its gradient.

    Args:
        weights: w, of which this process has what targets and metric are shaped like.
        targets: c, shaped like w.
        mus: μ of each, below 0 where the optimizer maximizes.
        metric: d ≥ 0, shaped like w; None means d = 1.
        shards: of the weights, where processes share them.
    """
    values = []
    for i, (w, c) in enumerate(zip(map(local, weights), targets, strict=True)):
        off = widen(torch.sub(w, c, out=scratch(w, "pull")).flatten())
        if metric is None:
            square = torch.dot(off, off)
        else:
            square = torch.dot(off.square(), metric[i].flatten().to(off))
        values.append(square * (mus[i] / 2))
    return summed(values, shards) if any(shards) else torch.stack(values).sum()


@torch.no_grad()
def pull_(
    weights: Sequence[Tensor],
    targets: Sequence[Tensor],
    mus: Sequence[float],
    metric: Sequence[Tensor] | None = None,
    scale: Tensor | None = None,
) -> None:
    """Add μ·d·(w − c), which draws the weights w to the targets c, to the gradients that they have.

    Args:
        weights: w, of which this process has what targets and metric are shaped like.
        targets: c, shaped like w.
        mus: μ of each, below 0 where the optimizer maximizes.
        metric: d ≥ 0, shaped like w; None means d = 1.
        scale: of all gradients at this moment; None for 1.
    """
    for i, (w, c) in enumerate(zip(weights, targets, strict=True)):
        here = local(w)
        off = torch.sub(here, c, out=scratch(here, "pull"))
        if metric is not None:
            off.mul_(metric[i])
        if scale is not None:
            off.mul_(scale.to(off))
        if w.grad is None:
            w.grad = torch.zeros_like(w)
        elif w.grad.layout is not torch.strided:
            w.grad = w.grad.to_dense()
        local(w.grad).add_(off, alpha=mus[i])
