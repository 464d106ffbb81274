"""Accuracies that were found for each point of a curve, to be read by point or by setting."""

from collections.abc import Mapping
from statistics import fmean

from lissom.curves import Point, Setting
from lissom.curves.storing import name_of


class ByPoint:
    """Several accuracies of each point, by the point's folder: {"seed0/dense": (0.9, …)}."""

    points: Mapping[str, tuple[float, ...]]

    def of(self, point: Point) -> tuple[float, ...] | None:
        """The accuracies of a point; None if they are not known."""
        return self.points.get(name_of(point))

    def mean(self, setting: Setting) -> tuple[float, ...] | None:
        """Of each the mean over the seeds; None if not all of them are known."""
        found = [self.of(point) for point in setting.points]
        known = [accuracies for accuracies in found if accuracies is not None]
        if len(known) < len(found):
            return None
        return tuple(fmean(column) for column in zip(*known, strict=True))
