"""The κ-th largest of many numbers, exactly, and how many that are equal to it are among the κ."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
    ordered = ascending(numbers)
    below = len(ordered) - k
    threshold = ordered[below]
    if below == 0 or ordered[below - 1] != threshold or bool(threshold.isnan()):
        return Cut(threshold, None)
    return Cut(threshold, int((ordered[below:] == threshold).sum()))


def ascending(numbers: Tensor) -> Tensor:
    """A vector in ascending order, NaN last."""
    if numbers.is_cpu:  # NumPy's sort is vectorised: 20 times as fast as torch's
        return torch.from_numpy(np.sort(numbers.numpy()))
    return numbers.sort().values
