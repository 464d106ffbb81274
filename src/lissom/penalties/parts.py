"""Numbers that a prox changes in place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.selection import Near
from lissom.shards import Share


@dataclass(frozen=True)
class Part:
    """Numbers that a prox may change in place, with their step t and their metric.

    Attributes:
        values: of any shape and sign. A penalty of norms is even, so its prox keeps the sign.
        t: the step, ≥ 0.
        metric: gives d, shaped like `values`, in memory that the prox may write to and that the
            next call of any part's metric may use again; or None for d = 1.
        near: where a budget cut these numbers at the step before, as where it begins to look.
        share: what other processes have beside them, where they are looked at together and each
            process has some; then every part has one.
    """

    values: Tensor
    t: float | Tensor
    metric: Callable[[], Tensor] | None = None
    near: Near | None = None
    share: Share | None = None

    def score(self, out: Tensor | None = None) -> Tensor:
        """|v|√d, written to `out` if there is one, whose dtype may be a wider one."""
        if out is None or out.dtype == self.values.dtype:
            scores = torch.abs(self.values, out=out)
        else:
            scores = out.copy_(self.values).abs_()
        return scores.mul_(self.metric().sqrt_()) if self.metric else scores


def zero_up_to_(values: Tensor, sizes: Tensor, most: float) -> None:
    """Zero the values whose size is `most` or less, in one pass; NaN stays NaN."""
    torch.ops.aten.threshold_backward.grad_input(values, sizes, most, grad_input=values)
