"""The κ-th largest of many numbers, exactly, and how many that are equal to it are among the κ."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lissom.scratch import scratch


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


def kth_largest(numbers: Tensor, k: int) -> Cut:
    """The k-th largest of a vector.

    Args:
        numbers: [n]. NaN counts as largest, and is not told apart.
        k: 1 ≤ k ≤ n.
    """
    below = len(numbers) - k
    parted = _parted(numbers, below)
    threshold = parted[below].clone()
    if bool(threshold.isnan()) or not bool((parted[:below] == threshold).any()):
        return Cut(threshold, None)
    return Cut(threshold, int((parted[below:] == threshold).sum()))


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
