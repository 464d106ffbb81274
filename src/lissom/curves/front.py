"""What a cloud of (size, error) says: its Pareto front, its knee, and the slope in between.

Plain functions of numbers. Sizes are looked at in halvings: x = log₂ size of them leave a single
weight. An empty network counts as half a weight, x = −1.
"""

import math
from collections.abc import Sequence

import numpy as np


def halvings(size: float) -> float:
    """x = log₂ size: how many halvings leave a single weight; −1 for nothing at all."""
    return math.log2(max(size, 0.5))


def log2_errors(errors: Sequence[float], least: float | None = None) -> list[float]:
    """log₂ of errors ≥ 0, where 0 counts as half of the smallest one above it.

    Args:
        errors: the errors.
        least: the smallest one above 0, if these are not all that are compared.
    """
    if least is None:
        least = above_zero(errors)
    return [math.log2(max(error, least / 2)) for error in errors]


def above_zero(errors: Sequence[float]) -> float:
    """The smallest of those that are > 0; 1 if there is none."""
    return min((error for error in errors if error > 0), default=1.0)


def pareto(sizes: Sequence[float], errors: Sequence[float]) -> list[int]:
    """{i: no j with sizeⱼ ≤ sizeᵢ and errorⱼ ≤ errorᵢ, one of them less}, largest size first.

    Equal points do not dominate each other.
    """
    points = list(zip(sizes, errors, strict=True))

    def dominated(size: float, error: float) -> bool:
        return any(s <= size and e <= error and (s, e) != (size, error) for s, e in points)

    kept = [i for i, point in enumerate(points) if not dominated(*point)]
    return sorted(kept, key=lambda i: -sizes[i])


def knee(sizes: Sequence[float], errors: Sequence[float], largest: float) -> int | None:
    """argmax (1 − x̂ − ŷ): the point of a front furthest below a chord.

    x̂ and ŷ are log₂ size and log₂ error, scaled to [0, 1], so the chord runs from (1, 0), the
    lowest error at the largest size, to (0, 1), the emptiest point: the factor
    by which the size falls is weighed against the factor by which the error rises. On a linear
    scale an error of 20 % would still look small beside the 90 % of an empty network. The largest
    network may be dominated by one that was trained longer, and is where the chord begins all the
    same. An error of 0 counts as half of the smallest one above it. Of equals, the smallest
    network.

    Args:
        sizes: of the points of a front, largest first.
        errors: of the same points, ≥ 0.
        largest: the largest size of all, on the front or not.

    Returns:
        Its index; None for fewer than three points, or if none lies below the chord.

    Source: Satopää, Albrecht, Irwin & Raghavan 2011, *Finding a "Kneedle" in a haystack*, without
    its smoothing.
    """
    if len(sizes) < 3:
        return None
    x, y = [halvings(size) for size in sizes], log2_errors(errors)
    wide, high = halvings(largest) - min(x), max(y) - min(y)
    if not wide or not high:
        return None
    below = [1 - (x_ - min(x)) / wide - (y_ - min(y)) / high for x_, y_ in zip(x, y, strict=True)]
    best = max(range(len(x)), key=lambda i: (below[i], i))
    return best if below[best] > 1e-12 else None


def slope(sizes: Sequence[float], errors: Sequence[float], at: float) -> float:
    """(E(x − ½) − E(x + ½)) / 1: what one halving around the size `at` adds to the error.

    E is the straight line between neighbouring points of the front, over x = log₂ size. At an end
    the half of it beyond is left out, and the difference divided by the width that is left.

    Args:
        sizes: of the points of a front, largest first; at least two that differ.
        errors: of the same points.
        at: a size between the smallest and the largest.
    """
    x = [halvings(size) for size in reversed(sizes)]
    y = list(reversed(errors))
    here = halvings(at)
    low, high = max(here - 0.5, x[0]), min(here + 0.5, x[-1])
    smaller, larger = np.interp([low, high], x, y)
    return float(smaller - larger) / (high - low)
