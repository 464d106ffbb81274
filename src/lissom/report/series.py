"""What a picture of curves shows, as numbers: places, heights, spreads, the front and the knee.

Sizes are shown as halvings saved, x = log₂(dense size/size): so 90 %, 99 % and 99.9 % removed are
equally far apart, and the differences that matter near the sparse end can be seen.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from lissom.arguments import fits, shown
from lissom.curves import Curve, Knee, Setting
from lissom.curves.results import spread
from lissom.errors import PathError
from lissom.measuring.runtimes import RUNTIMES

Curves = Curve | Mapping[str, Curve]


@dataclass(frozen=True)
class Scale:
    """How errors are read, the same for all curves of a picture.

    Attributes:
        test: whether all points have a test error; otherwise it is that on validation.
        percent: whether errors are fractions, shown in percent.
        name: of the error, as `lissom.path(error_name=)` was given it.
        unit: behind its numbers: "%", "°C", or "" for none.
    """

    test: bool
    percent: bool
    name: str = "error"
    unit: str = "%"

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> "Scale":
        """For curves that are shown together.

        Raises:
            PathError: if they count different errors, for which there is no common axis.
        """
        curves = list(curves)
        [(name, unit), *others] = dict.fromkeys(map(_counted, curves))
        if others:
            counted = "; ".join(f"{curve.out}: {_counted(curve)[0]}" for curve in curves)
            raise PathError(
                f"curves are shown together where they count the same error, got {counted}. "
                "Make a page of each"
            )
        points = [p for curve in curves for p in curve.points if not p.failed]
        test = all(p.test_error is not None for p in points)
        known = [p.error for p in points] + [p.test_error or 0 for p in points]
        fraction = unit == "fraction"
        percent = fraction and all(0 <= error <= 1 for error in known)
        return cls(test, percent, name, "%" if percent else "" if fraction else unit)

    @property
    def accuracy(self) -> bool:
        """Whether what is right is shown, and not what is wrong."""
        return self.percent and self.name == "error"

    @property
    def what(self) -> str:
        """The number that is shown: "accuracy", or the error by its name."""
        return "accuracy" if self.accuracy else self.name

    @property
    def label(self) -> str:
        """Of the axis on which heights are."""
        return f"{self.part} {self.what}{f', {self.unit}' if self.unit else ''}"

    @property
    def part(self) -> str:
        """Of the data: test or validation."""
        return "test" if self.test else "validation"

    def errors(self, setting: Setting) -> dict[int, float]:
        """By seed."""
        by_seed = {p.seed: p.test_error if self.test else p.error for p in setting.points}
        return {seed: error for seed, error in by_seed.items() if error is not None}

    def height(self, error: float) -> float:
        """An accuracy or an error in percent, or the error itself."""
        if self.accuracy:
            return 100 * (1 - error)
        return 100 * error if self.percent else error

    def number(self, height: float) -> str:
        """A height as people read it, without its unit."""
        return f"{height:.2f}" if self.percent else f"{height:.4g}"

    def told(self, height: float) -> str:
        """A height with its unit."""
        return f"{self.number(height)} {self.unit}".rstrip()

    def shown(self, setting: Setting) -> tuple[float, float]:
        """Mean and standard deviation over the seeds of what is shown; NaN for one seed."""
        heights = [self.height(error) for error in self.errors(setting).values()]
        return fmean(heights), spread(heights)


def _counted(curve: Curve) -> tuple[str, str]:
    """The name and the unit of a curve's error."""
    return curve.error_name, curve.error_unit


@dataclass(frozen=True)
class Shown:
    """A setting's place in a picture.

    Attributes:
        setting: that is shown.
        halvings: x = log₂(dense size/size).
        height: mean accuracy or error over the seeds.
        spread: its standard deviation over the seeds; NaN for one.
    """

    setting: Setting
    halvings: float
    height: float
    spread: float


@dataclass(frozen=True)
class Series:
    """One curve on one axis.

    The front and the knee are those of the errors on validation, whatever is shown.

    Attributes:
        front: from dense to empty.
        dominated: the warm-started rest.
        from_scratch: started from untrained networks.
        knee: one of the front; None if it has none.
        knee_range: the halvings of the seeds' own knees, smallest and largest; None if unknown.
    """

    front: tuple[Shown, ...]
    dominated: tuple[Shown, ...]
    from_scratch: tuple[Shown, ...]
    knee: Shown | None
    knee_range: tuple[float, float] | None

    @classmethod
    def of(cls, curve: Curve, axis: str, scale: Scale) -> "Series":
        """Read a curve.

        Raises:
            PathError: for an axis that the curve does not have.
        """

        def shown(settings: Iterable[Setting]) -> tuple[Shown, ...]:
            return tuple(
                Shown(s, halvings(curve, s.size(axis), axis), *scale.shown(s)) for s in settings
            )

        front = shown(curve.front(axis))
        knee = knee_of(curve, axis)
        ends = knee.range if knee else None
        return cls(
            front=front,
            dominated=shown(curve.dominated(axis)),
            from_scratch=shown(curve.from_scratch),
            knee=next((one for one in front if knee and one.setting is knee.setting), None),
            knee_range=(halvings(curve, ends[1], axis), halvings(curve, ends[0], axis))
            if ends
            else None,
        )


def axis_words(axis: str, curves: Iterable[Curve] = ()) -> str:
    """What is counted on an axis, as a person reads it, and where latencies were measured."""
    runtimes = dict.fromkeys(curve.runtime for curve in curves)
    names = [RUNTIMES[name].name if name in RUNTIMES else name for name in runtimes if name]
    if axis == "latency" and names:
        return f"latency in {' and '.join(names)}"
    return {"nonzeros": "non-zero weights", "macs": "MACs"}.get(axis, axis)


def by_name(curves: Curves) -> dict[str, Curve]:
    """Curves by the name that the legend gives them; a single one has none.

    Raises:
        PathError: if there is none, or something else among them.
    """
    named = {"": curves} if isinstance(curves, Curve) else curves
    if not isinstance(named, Mapping) or not named or not fits(named, Mapping[str, Curve]):
        raise PathError(
            "a picture is made of a curve, as lissom.path returns it, or of a dict of them by "
            f"name; got {shown(curves)}"
        )
    return dict(named)


def dense_size(curve: Curve, axis: str) -> float:
    """The mean size of the dense networks; of the largest ones if all dense ones failed."""
    dense = [s.size(axis) for s in curve.settings if s.strength is None]
    return dense[0] if dense else max(s.size(axis) for s in curve.settings)


def halvings(curve: Curve, size: float, axis: str) -> float:
    """log₂(dense size/size), where nothing at all counts as half of one, as for the knee."""
    return math.log2((dense_size(curve, axis) or 0.5) / (size or 0.5))


def knee_of(curve: Curve, axis: str) -> Knee | None:
    """The knee, or None where the front has none."""
    try:
        return curve.knee(axis)
    except PathError:
        curve.front(axis)  # an unknown axis is still a mistake
        return None


def marks(most: float) -> list[tuple[float, str]]:
    """Places and words for an axis of halvings: 0, 50, 90, 99, 99.9 … % removed.

    Up to ten halvings there is room for 80, 95, 98 … too; below one, for 10, 20, 30 ….

    Args:
        most: halvings that are shown.
    """
    if most < 1:
        factors = [1 / (1 - tenth / 10) for tenth in range(6)]
    elif most <= 10:
        factors = [step * 10.0**power for power in range(4) for step in (1, 2, 5)]
    else:
        factors = [1, 2, *(10.0**power for power in range(1, 16))]
    return [
        (math.log2(factor), f"{removed(math.log2(factor))} %")
        for factor in factors
        if math.log2(factor) <= most + 0.2
    ]


def removed(saved: float) -> str:
    """100·(1 − 2^−x) with as many digits as tell it from 100: 0, 90, 99, 99.5, 99.98."""
    left = 100 * 2**-saved
    return f"{100 - left:.{max(0, math.ceil(-math.log10(left) - 1e-9))}f}"
