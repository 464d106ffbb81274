"""The κ-th largest of many numbers, exactly, and how many that are equal to it are among the κ."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lissom.scratch import scratch

MOVES = 4.0  # of the size of the last one, within which a threshold is looked for
LEAST, MOST = 1e-3, 0.25  # of the threshold


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


@dataclass
class Near:
    """Where the threshold of numbers was that change a little from cut to cut, as weights do.

    A guess: it says where to look first, and nothing about what is found.

    Attributes:
        threshold: of the last cut; 0 if there is none to start from.
        margin: the part of it that the next threshold is expected to differ by at most.
    """

    threshold: float = 0.0
    margin: float = LEAST

    def note(self, threshold: float) -> None:
        """Note what was found: the margin grows at once, and shrinks slowly."""
        if self.threshold > 0:
            moved = abs(threshold / self.threshold - 1)
            self.margin = min(MOST, max(LEAST, MOVES * moved, 0.8 * self.margin))
        self.threshold = threshold


def kth_largest(numbers: Tensor, k: int, near: Near | None = None) -> Cut:
    """The k-th largest of a vector.

    Args:
        numbers: [n]. NaN counts as largest, and is not told apart.
        k: 1 ≤ k ≤ n.
        near: of the last cut of these numbers, where it is carried along; it is brought up to date.
    """
    if near is None or not numbers.is_cpu:  # elsewhere a look at a number takes as long as a sort
        return _anywhere(numbers, k)
    found = _within(numbers, k, near) if near.threshold > 0 else None
    cut = found or _anywhere(numbers, k)
    near.note(float(cut.threshold))
    return cut


def _anywhere(numbers: Tensor, k: int) -> Cut:
    below = len(numbers) - k
    parted = _parted(numbers, below)
    threshold = parted[below].clone()
    if bool(threshold.isnan()) or not bool((parted[:below] == threshold).any()):
        return Cut(threshold, None)
    return Cut(threshold, int((parted[below:] == threshold).sum()))


def _within(numbers: Tensor, k: int, near: Near) -> Cut | None:
    """The same where the threshold is near the last one; None if it is not.

    Two comparisons and a count of all numbers, and a partition of the few that are near.
    """
    values, bools = numbers.numpy(), torch.empty((), dtype=torch.bool).expand(len(numbers))
    some = scratch(bools, "some").numpy()
    low, high = (near.threshold * (1 + sign * near.margin) for sign in (-1, 1))
    np.less_equal(values, high, out=some)
    larger = len(values) - np.count_nonzero(some)  # and NaN
    some &= np.greater_equal(values, low, out=scratch(bools, "others").numpy())
    found = values[some]
    below = len(found) - (k - larger)
    if not 0 <= below < len(found):
        return None
    found.partition(below)
    threshold = numbers.new_tensor(found[below])
    if not (found[:below] == found[below]).any():
        return Cut(threshold, None)
    return Cut(threshold, int(np.count_nonzero(found[below:] == found[below])))


def _parted(numbers: Tensor, place: int) -> Tensor:
    """A vector in an order in which nothing before a place is larger than what is behind it."""
    sample = numbers[::64]
    many_zeros = 4 * int((sample == 0).sum()) > len(sample)
    if not numbers.is_cpu or many_zeros:  # a partition is slow where many are equal
        return ascending(numbers)
    parted = scratch(numbers, "order").copy_(numbers)
    parted.numpy().partition(place)
    return parted


def ascending(numbers: Tensor) -> Tensor:
    """A vector in ascending order, NaN last."""
    if numbers.is_cpu:  # NumPy's sort is vectorised, torch's is not
        return torch.from_numpy(np.sort(numbers.numpy()))
    return numbers.sort().values
