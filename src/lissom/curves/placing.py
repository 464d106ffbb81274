"""Where the next point goes: a pure function of the points there are, so that it can be repeated.

Three ways to give the strengths: a list is taken as it is; an interval is filled by a coarse grid,
then where the curve bends; a single guess is first widened to an interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

from lissom.curves.front import above_zero, log2_errors

FACTOR = 8.0  # between the strengths of a scan
DENSE = 0.99  # of the dense size: so much is left where the first group dies
SPLITS = 3  # of an interval of the coarse grid; beyond, the curve jumps rather than bends


@dataclass(frozen=True)
class Seen:
    """What the seeds found at one strength.

    Attributes:
        strength: positive.
        halvings: log₂ size, for each seed that worked.
        errors: for the same seeds.
        empty: whether no answer depends on its input any more, for all of them.
    """

    strength: float
    halvings: tuple[float, ...]
    errors: tuple[float, ...]
    empty: bool


@dataclass(frozen=True)
class Plan:
    """Which strengths a path visits, and in which order they grow sparser.

    Attributes:
        strengths: one guess, the two ends of an interval, or a list, from dense to empty.
        points: how many there may be, with the dense one; a list has its own length.
    """

    strengths: tuple[float, ...]
    points: int

    @classmethod
    def of(cls, strengths: Sequence[float], points: int) -> "Plan":
        """A path of so many points, for an interval or a guess; a list has one for each."""
        return cls(tuple(strengths), points if len(strengths) <= 2 else 1 + len(strengths))

    def order(self, strength: float | None) -> float:
        """Grows from dense (None) to empty."""
        falls = len(self.strengths) > 1 and self.strengths[0] > self.strengths[-1]
        return -math.inf if strength is None else -strength if falls else strength

    def following(
        self, tried: Sequence[float], seen: Sequence[Seen], dense: float | None
    ) -> list[float]:
        """The strengths of the next round, from dense to empty; none when the path is complete.

        Args:
            tried: all strengths so far, whether they worked or not.
            seen: those of them that worked, from dense to empty.
            dense: log₂ of the dense size; None if that is not known.
        """
        left = self.points - 1 - len(tried)
        if len(self.strengths) > 2:
            return [] if tried else list(self.strengths)
        if left <= 0:
            return []
        if len(self.strengths) == 2:
            coarse = _grid(self.strengths[0], self.strengths[1], coarse_points(self.points))
            if not tried:
                return coarse
            return bend(seen, tried, _distance(*coarse[:2]))
        wider = scan(self.strengths[0], tried, seen, dense)
        return bend(seen, tried, math.log(FACTOR)) if wider is None else [wider]


def scan(
    guess: float, tried: Sequence[float], seen: Sequence[Seen], dense: float | None
) -> float | None:
    """The next strength of a search for both ends of a curve; None when both are found.

    In factors of 8 down from the guess, until 99 % of the dense size is left: there the first group
    dies. Then up from it, until the network is empty: there the last one has died. A strength that
    failed ends its direction.
    """
    if not tried:
        return guess
    by_strength = {one.strength: one for one in seen}
    first, last = by_strength.get(min(tried)), by_strength.get(max(tried))
    # Sizes are known by their logarithms.
    if first and dense is not None and fmean(first.halvings) < dense + math.log2(DENSE):
        return min(tried) / FACTOR
    if last and not last.empty:
        return max(tried) * FACTOR
    return None


def bend(seen: Sequence[Seen], tried: Sequence[float], coarse: float) -> list[float]:
    """The geometric mean of the two neighbouring strengths between which the curve may bend most.

        argmax |Δ log₂ error|/range · |Δ log₂ size|/range

    A curve that falls in one direction lies in the rectangle of its two neighbouring points, so a
    straight line between them is wrong by at most half of its area: the largest rectangle is
    halved (Hamacher, Pedersen & Ruzika 2007, box algorithms). Logarithms, since otherwise most
    points would lie where the error is beyond all use. Of equal areas, such as none, the one with
    the largest step in size. A difference of means below two standard errors over the seeds counts
    as none. An interval is left alone if its two points have the same size and the same error; if
    both are empty or no better than an empty one; if a strength within it was tried in vain; and if
    it was halved three times from the coarse grid, since the curve jumps there, and no strength in
    between would show more.

    Args:
        seen: what is known, by strength.
        tried: all strengths so far.
        coarse: |log ratio| of neighbouring strengths in the coarse grid.

    Returns:
        One strength, or none if there is no interval worth it.
    """
    errors = [fmean(one.errors) for one in seen]
    sizes = [fmean(one.halvings) for one in seen]
    least = above_zero([error for one in seen for error in one.errors])
    levels = [log2_errors(one.errors, least) for one in seen]
    means = [fmean(level) for level in levels]
    high = max(means, default=0) - min(means, default=0)
    wide = max(sizes, default=0) - min(sizes, default=0)
    chance = min((fmean(one.errors) for one in seen if one.empty), default=math.inf)
    lost = [one.empty or error >= chance for one, error in zip(seen, errors, strict=True)]
    best, most = None, (0.0, 0.0, 0.0)
    for (a, a_level, a_lost), (b, b_level, b_lost) in pairwise(
        zip(seen, levels, lost, strict=True)
    ):
        middle = math.sqrt(a.strength * b.strength)
        narrow = _distance(a.strength, b.strength) < 1.01 * coarse / 2**SPLITS
        if narrow or (a_lost and b_lost) or any(_between(a, strength, b) for strength in tried):
            continue
        rise = _change(a_level, b_level) / (high or 1)
        fall = _change(a.halvings, b.halvings) / (wide or 1)
        worth = (rise * fall, fall, rise)
        if worth > most:
            best, most = middle, worth
    return [] if best is None else [best]


def coarse_points(points: int) -> int:
    """How many strengths of an interval are a grid: two thirds of them.

    What begins with the weights of a much larger network gets less of its training while sparse,
    so that a wide grid costs more than the bends that it leaves points for.
    """
    return max(2, 2 * (points - 1) // 3)


def _grid(first: float, last: float, number: int) -> list[float]:
    """`number` strengths from first to last, with the same factor between neighbours."""
    steps = number - 1
    between = [first * (last / first) ** (i / steps) for i in range(1, steps)]
    return [first, *between, last]


def _distance(a: float, b: float) -> float:
    return abs(math.log(b / a))


def _between(a: Seen, strength: float, b: Seen) -> bool:
    """Whether a strength within an interval was tried; it is no neighbour, so it failed."""
    return min(a.strength, b.strength) < strength < max(a.strength, b.strength)


def _change(a: Sequence[float], b: Sequence[float]) -> float:
    """|mean a − mean b|, or 0 if that is below two standard errors over the seeds."""
    difference = abs(fmean(a) - fmean(b))
    noise = math.sqrt(sum(variance(one) / len(one) for one in (a, b) if len(one) > 1))
    return difference if difference > 2 * noise else 0.0
