"""Numbers that change during training: a λ, a fraction or a learning-rate factor by step.

A schedule is a function of a step n = 0, 1, 2, …; every number of a penalty may be one:
`L0(linear(0, 2e-4, steps=1000))`, `TopK(fraction=cubic(1, 0.02, steps=4000))`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lissom.arguments import as_annotated, check_fields, fits, shown
from lissom.errors import LissomError

__all__ = ["Schedule", "cosine", "cubic", "exponential", "linear", "multistep"]


@dataclass(frozen=True)
class Schedule:
    """A value by step: from `start` to `end` over `steps`, along `shape`, then `end` for ever.

    Attributes:
        start: value at step 0 (and before).
        end: value at step `steps` and after.
        steps: length, in optimizer steps; 0 jumps to `end` at once.
        shape: f with f(0) = 0 and f(1) = 1; the value is start + (end − start)·f(n/steps).
        next: what follows when this one is over, in steps of its own.
    """

    start: float
    end: float
    steps: int
    shape: Callable[[float], float]
    next: "Schedule | None" = None

    def __post_init__(self) -> None:
        if not fits(self.steps, int) or self.steps < 0:
            raise LissomError(
                f"a schedule needs a whole number of steps ≥ 0, got {shown(self.steps)}"
            )
        check_fields(self, LissomError)
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise LissomError(f"a schedule runs between finite numbers, got {self}")

    @as_annotated(LissomError)
    def __call__(self, step: int) -> float:
        """The value at `step`."""
        step = max(step, 0)
        if step >= self.steps:
            return self.next(step - self.steps) if self.next else self.end
        return self.start + (self.end - self.start) * self.shape(step / self.steps)

    @as_annotated(LissomError)
    def then(self, after: "Schedule") -> "Schedule":
        """This schedule, followed by another that counts its steps from the end of this one."""
        last = self.next.then(after) if self.next else after
        return Schedule(self.start, self.end, self.steps, self.shape, last)

    @property
    def ends(self) -> tuple[float, ...]:
        """Where it begins and ends, and so of all that follows: no shape of ours goes beyond."""
        return (self.start, self.end, *(self.next.ends if self.next else ()))

    def __repr__(self) -> str:
        part = f"{self.start:g}→{self.end:g} over {self.steps} steps"
        return f"{part}, {self.next}" if self.next else part


@as_annotated(LissomError, "steps")
def linear(start: float, end: float, steps: int) -> Schedule:
    """From `start` to `end` in a straight line over `steps`; a warm-up is `linear(0, λ, n)`."""
    return Schedule(start, end, steps, _linear)


@as_annotated(LissomError, "steps")
def cubic(start: float, end: float, steps: int) -> Schedule:
    """end + (start − end)(1 − n/steps)³: quick at first, slow at the end.

    The gradual pruning ramp of Zhu & Gupta 2017, eq. 1, for `TopK(fraction=…)`.
    """
    return Schedule(start, end, steps, _cubic)


@as_annotated(LissomError, "steps")
def exponential(start: float, end: float, steps: int) -> Schedule:
    """start·(end/start)^(n/steps): the same factor each step. Both ends must be > 0."""
    if not (start > 0 and end > 0):
        raise LissomError(
            f"an exponential schedule keeps its sign and never reaches 0: it needs start > 0 and "
            f"end > 0, got {start!r} and {end!r}; linear() and cubic() can reach 0"
        )
    if start == end:
        return linear(start, end, steps)
    return Schedule(start, end, steps, _Exponential(end / start))


@as_annotated(LissomError, "steps")
def cosine(start: float, end: float, steps: int) -> Schedule:
    """From `start` to `end` along half a cosine over `steps` (Loshchilov & Hutter 2017)."""
    return Schedule(start, end, steps, _cosine)


@as_annotated(LissomError)
def multistep(start: float, gamma: float, milestones: Sequence[int]) -> Schedule:
    """start·γ^k after k of the milestones: a learning rate that falls in steps.

    Args:
        start: before the first milestone.
        gamma: the factor γ > 0 at each of them.
        milestones: steps in ascending order, the first ≥ 1.

    Raises:
        LissomError: for another order, or no milestone at all.
    """
    lengths = [last - first for first, last in pairwise([0, *milestones])]
    if not lengths or min(lengths) < 1:
        raise LissomError(
            f"milestones are steps in ascending order, such as [60, 120, 160], got {milestones!r}"
        )
    value = start * gamma ** len(lengths)
    schedule = linear(value, value, 0)
    for passed, length in reversed(list(enumerate(lengths))):
        value = start * gamma**passed
        schedule = linear(value, value, length).then(schedule)
    return schedule


# Shapes with names, so that what has a schedule can be pickled and compared.


def _linear(x: float) -> float:
    return x


def _cubic(x: float) -> float:
    return 1 - (1 - x) ** 3


@dataclass(frozen=True)
class _Exponential:
    ratio: float

    def __call__(self, x: float) -> float:
        value: float = (self.ratio**x - 1) / (self.ratio - 1)
        return value


def _cosine(x: float) -> float:
    return (1 - math.cos(math.pi * x)) / 2


def value_at(number: "float | Schedule", step: int) -> float:
    """The number itself, or a schedule's value at `step`."""
    return number(step) if isinstance(number, Schedule) else number
