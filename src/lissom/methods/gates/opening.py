"""Which gates stay open at the end, of those in an order, and what `shrink` leaves then."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.coupling import Family
from lissom.groups import Partition
from lissom.widths import width


def first(order: Tensor, count: int, sizes: Sequence[int], multiple_of: int) -> Tensor:
    """So many gates in an order are open, or the widths nearest to what each family has of them.

    Args:
        order: of all gates, the first to stay first: [n].
        count: how many are open.
        sizes: gates of each block.
        multiple_of: m, of which widths of families are multiples.

    Returns:
        bool [n].
    """
    opened = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    opened[order[:count]] = True
    if multiple_of > 1:
        ranks = order.argsort().split(list(sizes))
        for family, rank in zip(opened.split(list(sizes)), ranks, strict=True):
            wanted = width(int(family.sum()), len(family), multiple_of)
            family.zero_()[rank.argsort()[:wanted]] = True
    return opened


def left(opened: Tensor, blocks: Sequence[Partition]) -> Tensor:
    """1 for each unit that `shrink` leaves, else 0: a family that is closed keeps one, as it is.

    Args:
        opened: bool [n], gates of all blocks.
        blocks: that have them.
    """
    found = opened.double()
    for block, family in zip(blocks, found.split([b.shape.numel() for b in blocks]), strict=True):
        if isinstance(block, Family) and not family.any():
            family[:1] = 1
    return found
