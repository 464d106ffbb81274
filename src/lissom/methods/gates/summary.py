"""Gates as a printed table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.groups import Partition
from lissom.tables import table, text


def summary(
    blocks: Sequence[Partition], p: Sequence[Tensor], z: Sequence[Tensor], test: str
) -> str:
    """For each block how many gates there are, are expected to be open, and are open at test.

    Args:
        blocks: that are gated.
        p: P(z ≠ 0) of each.
        z: the deterministic gates of each.
        test: how these are called.
    """
    expected = [float(chances.sum()) for chances in p]
    opened = [int(torch.count_nonzero(gates)) for gates in z]
    rows = [
        [block.name, chances.numel(), f"{left:.1f}", alive]
        for block, chances, left, alive in zip(blocks, p, expected, opened, strict=True)
    ]
    total = ["total", sum(q.numel() for q in p), f"{sum(expected):.1f}", sum(opened)]
    return text(table(["gated", "gates", "expected open", f"open ({test})"], rows, total=total))
