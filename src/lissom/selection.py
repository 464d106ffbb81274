"""The κ-th largest of many numbers, exactly, and how many that are equal to it are among the κ."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.scratch import scratch

Array = NDArray[Any]

BOOL = torch.empty((), dtype=torch.bool)
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
    # Elsewhere a look at a number takes as long as a sort, and NumPy's partition is not compiled.
    if not numbers.is_cpu or torch.compiler.is_compiling():
        return _cut(numbers.sort().values, k)
    some, left = numbers.numpy(), k
    if near is not None and near.threshold > 0:
        some, left = _about(some, k, near)
    if not 0 < left <= len(some):
        some, left = numbers.numpy(), k
    found = _cut(_parted(some, len(some) - left), left)
    if near is not None:
        near.note(float(found.threshold))
    return found


def _cut(parted: Any, k: int) -> Cut:
    """The cut of a vector, an array or a tensor, in which the k largest come last."""
    below = len(parted) - k
    threshold = parted[below]
    tied = threshold == threshold and (parted[:below] == threshold).any()  # NaN is not
    ties = int((parted[below:] == threshold).sum()) if tied else None
    return Cut(torch.as_tensor(threshold).clone(), ties)


def _about(numbers: Array, k: int, near: Near) -> tuple[Array, int]:
    """The few numbers about the last threshold, and how many of them are among the k largest.

    Two comparisons and a count of all numbers, in place of a partition.
    """
    few, others = (scratch(BOOL.expand(len(numbers)), use).numpy() for use in ("few", "others"))
    low, high = (near.threshold * (1 + sign * near.margin) for sign in (-1, 1))
    np.less_equal(numbers, high, out=few)
    larger = len(numbers) - np.count_nonzero(few)  # and NaN
    few &= np.greater_equal(numbers, low, out=others)
    return numbers[few], k - int(larger)


def _parted(numbers: Array, place: int) -> Array:
    """A vector in an order in which nothing before a place is larger than what is behind it."""
    sample = numbers[::64]
    if 4 * np.count_nonzero(sample == 0) > len(sample):  # a partition is slow where many are equal
        return np.sort(numbers)
    parted = scratch(torch.from_numpy(numbers), "order").numpy()
    parted[:] = numbers
    parted.partition(place)
    return parted


def ascending(numbers: Tensor) -> Tensor:
    """A vector in ascending order, NaN last."""
    if numbers.is_cpu:  # NumPy's sort is vectorised, torch's is not
        return torch.from_numpy(np.sort(numbers.numpy()))
    return numbers.sort().values
