"""Answers of a curve: a strength with the networks of all seeds, and the knee."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from lissom.curves.point import ErrorScale, Point, size_text, strength_text


@dataclass(frozen=True)
class Setting:
    """One strength, over the seeds that worked there.

    Attributes:
        strength: None for the dense network.
        points: of these seeds, in their order.
        failed: the other seeds' points.
        from_scratch: whether they were trained from untrained networks.
        scale: what errors are.
    """

    strength: float | None
    points: tuple[Point, ...]
    failed: tuple[Point, ...] = ()
    from_scratch: bool = False
    scale: ErrorScale = field(default=ErrorScale(), repr=False)

    @property
    def error(self) -> float:
        """The mean over the seeds."""
        return fmean(point.error for point in self.points)

    @property
    def made(self) -> str:
        """How: "trained"; "cut" from one training of all sizes, or "fine-tuned" after that."""
        return ", ".join(dict.fromkeys(point.made for point in self.points))

    @property
    def error_std(self) -> float:
        """The standard deviation over the seeds; NaN for one."""
        return spread([point.error for point in self.points])

    @property
    def test_error(self) -> float | None:
        """The mean over the seeds; None if no test was given."""
        errors = [p.test_error for p in self.points if p.test_error is not None]
        return fmean(errors) if errors else None

    def size(self, axis: str = "nonzeros") -> float:
        """The mean over the seeds."""
        return fmean(point.size(axis) for point in self.points)

    def size_std(self, axis: str = "nonzeros") -> float:
        """The standard deviation over the seeds; NaN for one."""
        return spread([point.size(axis) for point in self.points])

    def largest(self, axis: str = "nonzeros") -> float:
        """The largest over the seeds."""
        return max(point.size(axis) for point in self.points)

    def to_dict(self) -> dict[str, Any]:
        """Means and standard deviations, null for what is not known, as JSON has them."""
        axes = self.points[0].sizes or {}
        return {
            "strength": self.strength,
            "from_scratch": self.from_scratch,
            "made": self.made,
            "seeds": [point.seed for point in self.points],
            "failed": [point.seed for point in self.failed],
            "error": self.error,
            "error_std": none_for_nan(self.error_std),
            "test_error": self.test_error,
            "sizes": {axis: self.size(axis) for axis in axes},
            "sizes_std": {axis: none_for_nan(self.size_std(axis)) for axis in axes},
        }

    def __str__(self) -> str:
        return (
            f"{'from scratch, ' * self.from_scratch}{strength_text(self.strength)}: "
            f"{self.scale.name} {self.scale.text(self.error, self.error_std)}, "
            f"{self.size():,.0f} nonzeros"
        )


@dataclass(frozen=True)
class Knee:
    """Where a curve bends most.

    Attributes:
        setting: on the front of the means.
        axis: of the sizes.
        by_seed: the knee of each seed's own curve; without seeds whose curve has none.
    """

    setting: Setting
    axis: str
    by_seed: Mapping[int, Point]

    @property
    def strength(self) -> float | None:
        """Of the setting."""
        return self.setting.strength

    @property
    def error(self) -> float:
        """Of the setting."""
        return self.setting.error

    @property
    def size(self) -> float:
        """Of the setting, on the axis."""
        return self.setting.size(self.axis)

    @property
    def range(self) -> tuple[float, float] | None:
        """The smallest and the largest size at the seeds' own knees; None if there is none."""
        sizes = [point.size(self.axis) for point in self.by_seed.values()]
        return (min(sizes), max(sizes)) if sizes else None

    def __str__(self) -> str:
        found = (
            f"knee at {strength_text(self.strength)}: {size_text(self.size, self.axis)} "
            f"{self.axis}, {self.setting.scale.name} {self.setting.scale.text(self.error)}"
        )
        if self.range is None or len(self.by_seed) < 2:
            return found
        low, high = (size_text(size, self.axis) for size in self.range)
        return f"{found} (seeds: {low} to {high} {self.axis})"


def spread(values: Sequence[float]) -> float:
    """The standard deviation; NaN for one value."""
    return stdev(values) if len(values) > 1 else math.nan


def none_for_nan(value: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if math.isnan(value) else value
