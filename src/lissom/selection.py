"""The κ-th largest of many numbers, exactly, without sorting them or copying them all.

Small inputs are partitioned at once. Large ones follow Floyd & Rivest 1975 (SELECT): a sample
brackets the answer, one pass over the numbers counts what lies above the bracket and collects
what lies inside, and only those few are partitioned.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.scratch import SMALL

SAMPLE = 2**16  # numbers that bracket the answer; the bracket holds ≈ 8·√(p(1−p)/SAMPLE) of all


@dataclass(frozen=True)
class Cut:
    """Which numbers are among the κ largest: those above `threshold`, and some equal to it.

    Attributes:
        threshold: the κ-th largest number, a tensor of no dimension.
        ties: how many of the numbers equal to the threshold are in, first come first served;
            None if all are.
    """

    threshold: Tensor
    ties: int | None


def kth_largest(numbers: Callable[[], Iterable[Tensor]], k: int, n: int) -> Cut:
    """Find the `k`-th largest of `n` numbers that come in parts.

    Args:
        numbers: gives the parts, tensors of any shape, as often as it is called. NaN counts as
            largest. A part is used before the next one is asked for.
        k: 1 ≤ k ≤ n.
        n: how many numbers there are in all.
    """
    if n <= SMALL:
        return cut_(torch.cat([part.flatten() for part in numbers()]), k)
    low, high = _bracket(numbers(), k, n)
    while True:
        above, at_low, inside = 0, 0, []
        for part in numbers():
            over = ~(part <= high)  # so that NaN is over
            above += int(over.sum())
            at_low += int((part == low).sum())  # counted and not kept: they may be all the zeros
            inside.append(part[(part > low) & ~over])
        candidates = torch.cat(inside)
        reached = above + len(candidates)
        if above < k <= reached:
            return cut_(candidates, k - above)
        if reached < k <= reached + at_low:
            return Cut(low, None if k == reached + at_low else k - reached)
        # An unlucky sample: look on the side where the answer must be.
        infinity = torch.full_like(low, torch.inf)
        low, high = (high, infinity) if above >= k else (-infinity, low)
        if above >= k and bool(low == high):  # NaN only are left above
            return Cut(torch.full_like(low, torch.nan), None)


def cut_(numbers: Tensor, k: int) -> Cut:
    """The k-th largest of a vector, whose numbers may be in another order afterwards."""
    n = len(numbers)
    if numbers.device.type == "cpu":  # NumPy's partition is vectorised: 17 × torch.kthvalue
        parts = numbers.numpy()
        parts.partition(n - k)
        threshold = torch.from_numpy(parts[n - k : n - k + 1].copy())[0]
        tied = n > k and bool(parts[: n - k].max() == parts[n - k])
    else:
        threshold = numbers.kthvalue(n - k + 1).values
        tied = int((~(numbers < threshold)).sum()) > k and not bool(threshold.isnan())
    return Cut(threshold, k - int((~(numbers <= threshold)).sum()) if tied else None)


def _bracket(parts: Iterable[Tensor], k: int, n: int) -> tuple[Tensor, Tensor]:
    """Two numbers that the k-th largest of n almost surely lies between, from a sample."""
    stride = n // SAMPLE | 1  # odd, so that it does not run along a column
    offset, filled, sampled = 0, 0, torch.empty(0)
    for part in parts:
        if not filled:  # one buffer for all: many small pieces would hold holes in memory open
            sampled = part.new_empty(n // stride + 1)
        piece = part.flatten()[offset::stride]
        sampled[filled : filled + len(piece)] = piece
        filled += len(piece)
        offset = (offset - part.numel()) % stride
    # NaN is above every bound, and no bound itself: the answer would be on neither side of it.
    sample = sampled[:filled].nan_to_num_(torch.inf, torch.inf, -torch.inf)
    sample = sample.sort(descending=True).values
    share = k / n
    rank, margin = share * len(sample), 4 * (len(sample) * share * (1 - share)) ** 0.5 + 4
    low, high = int(rank + margin), int(rank - margin)
    infinity = torch.full_like(sample[0], torch.inf)
    return (
        sample[low] if low < len(sample) else -infinity,
        sample[high] if high >= 0 else infinity,
    )
