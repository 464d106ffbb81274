"""Figures of trade-off curves, each a function that returns a matplotlib figure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lissom.arguments import as_annotated
from lissom.curves import Curve
from lissom.curves.results import spread
from lissom.errors import LissomError, PathError
from lissom.report.adversarial import AdversarialCurve
from lissom.report.by_point import ByPoint
from lissom.report.classes import ClassAccuracy
from lissom.report.series import (
    Curves,
    Scale,
    Series,
    Shown,
    axis_words,
    by_name,
    halvings,
    knee_of,
    marks,
)
from lissom.report.style import COLOURS, FAINT, INK, legend, tidy, verbatim

Colour = tuple[float, float, float, float]
NOTHING = 1e-6  # a loss below it is rounding, which a log axis would make much of


@as_annotated(LissomError, "curves")
def trade_off(curves: Curves, axis: str = "nonzeros") -> Figure:
    """Accuracy against compression: the front with ± one standard deviation over the seeds.

    x is log₂(dense size/size), labelled with what is removed, so that 90 %, 99 % and 99.9 % are
    equally far apart; nothing left is drawn as half a weight left, as for the knee. Dominated
    settings are grey, those from scratch hollow; a diamond is the knee, with a bar from the
    smallest to the largest size at the seeds' own knees. What is shown is the accuracy on test data
    where all points have one, and otherwise on validation data; front and knee are always those on
    validation. Errors that are no fractions are shown as they are, with their name and unit.

    Args:
        curves: one curve, or {name: curve} for several in one picture.
        axis: of the sizes.

    Raises:
        PathError: for an axis that a curve does not have.

    Source: Ahmed, fig. 4 and 10.
    """
    named = by_name(curves)
    scale = Scale.of(named.values())
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    farthest = 0.0
    for colour, (name, curve) in zip(cycle(COLOURS), named.items(), strict=False):
        one = Series.of(curve, axis, scale)
        _front(axes, one.front, colour, name)
        _points(axes, one.dominated, FAINT, name, "dominated", mfc=FAINT)
        _points(axes, one.from_scratch, colour, name, "from scratch", mfc="none")
        if one.knee is not None:
            _knee(axes, one.knee, one.knee_range, colour, name)
        places = (s.halvings for s in (*one.front, *one.dominated, *one.from_scratch))
        farthest = max(farthest, *places)
    if not scale.accuracy:
        axes.invert_yaxis()  # up is better, as for accuracies
    axes.set(xlabel=_axis(axis, named.values()), ylabel=scale.label)
    _halvings(axes, farthest)
    tidy(axes)
    legend(axes)
    return figure


@as_annotated(LissomError, "curves")
def rate_distortion(curves: Curves, axis: str = "nonzeros") -> Figure:
    """What compression costs: error above the dense one's against halvings saved, log₂(dense/size).

    The loss is logarithmic; its band is ± one standard deviation of the seeds' own losses. Settings
    that lose nothing have no logarithm: they are triangles at the lower edge.

    Args:
        curves: one curve, or {name: curve} for several in one picture.
        axis: of the sizes.

    Raises:
        PathError: for an axis that a curve does not have, or if a dense network failed for all
            seeds: there is nothing to compare with.

    Source: Ahmed, fig. 5.
    """
    named = by_name(curves)
    scale = Scale.of(named.values())
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    factor = 100 if scale.percent else 1
    for colour, (name, curve) in zip(cycle(COLOURS), named.items(), strict=False):
        dense = next((s for s in curve.settings if s.strength is None), None)
        if dense is None:
            raise PathError(
                f"the dense network {f'of {name} ' if name else ''}failed for all seeds: there is "
                "no error to compare with"
            )
        ours = scale.errors(dense)
        rows: list[tuple[float, float, float]] = []
        for shown in Series.of(curve, axis, scale).front:
            errors = scale.errors(shown.setting)
            lost = [errors[seed] - ours[seed] for seed in errors.keys() & ours.keys()]
            if lost:
                rows.append((shown.halvings, factor * fmean(lost), factor * spread(lost)))
        x, y, std = np.array([row for row in rows if row[1] > NOTHING]).reshape(-1, 3).T
        axes.plot(x, y, "o-", color=colour, ms=4, label=verbatim(name) or "front")
        if np.isfinite(std).any():
            std = np.nan_to_num(std)
            low = np.maximum(y - std, y / 10)  # a log axis has no place for zero
            axes.fill_between(x, low, y + std, color=colour, alpha=0.15, lw=0, gid=f"{name} band")
        free = [row[0] for row in rows if row[1] <= NOTHING]
        axes.plot(
            free,
            [0.0] * len(free),
            "v",
            color=colour,
            ms=6,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            gid=f"{name} free",
        )
    unit = "% points" if scale.percent else scale.unit
    added = f"{scale.part} {scale.name} added"
    words = axis_words(axis, named.values())
    axes.set(xlabel=f"halvings of {words}", ylabel=f"{added}, {unit}" if unit else added)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.margins(y=0.1)
    tidy(axes)
    legend(axes)
    return figure


@as_annotated(LissomError)
def per_class(curve: Curve, classes: ClassAccuracy, axis: str = "nonzeros") -> Figure:
    """The accuracy of each class along a curve: which of them small networks give up first.

    Means over the seeds; the bold line is the mean over the classes. All warm-started settings are
    in it whose accuracies are known, dominated ones too.

    Args:
        curve: whose points were looked at.
        classes: what `class_accuracy(curve, x, y)` found.
        axis: of the sizes.

    Raises:
        PathError: if no setting of the curve was looked at.

    Source: Ahmed, fig. 7.
    """
    names = classes.names
    return _along(curve, classes, names, _spectrum(len(names)), axis, mean=True)


@as_annotated(LissomError)
def per_radius(curve: Curve, found: AdversarialCurve, axis: str = "nonzeros") -> Figure:
    """The accuracy under attacks of each radius along a curve: are small ones easier to mislead.

    Means over the seeds; darker lines are larger radii. All warm-started settings are in it whose
    accuracies are known, dominated ones too.

    Args:
        curve: whose points were looked at.
        found: what `adversarial_curve(curve, x, y, radii)` found.
        axis: of the sizes.

    Raises:
        PathError: if no setting of the curve was looked at.

    Source: Ahmed, abstract, which asks for it.
    """
    names = [f"radius {radius:g}" if radius else "no attack" for radius in found.radii]
    return _along(curve, found, names, _shades(found.radii), axis)


def _along(
    curve: Curve,
    found: ByPoint,
    names: Sequence[str],
    colours: Sequence[Colour],
    axis: str,
    *,
    mean: bool = False,
) -> Figure:
    """A line for each of the accuracies of the points, and if wanted their mean."""
    known = [(s, means) for s in curve.settings if (means := found.mean(s)) is not None]
    if not known:
        raise PathError(f"these accuracies are of another curve: they are of {list(found.points)}")
    known.sort(key=lambda one: -one[0].size(axis))
    x = [halvings(curve, s.size(axis), axis) for s, _ in known]
    table = 100 * np.array([means for _, means in known])  # [settings, lines]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for name, column, colour in zip(names, table.T, colours, strict=True):
        axes.plot(x, column, "o-", ms=3, lw=1, color=colour, label=verbatim(name))
    if mean:
        axes.plot(x, table.mean(axis=1), color=INK, lw=2.5, label="mean")
    if (knee := knee_of(curve, axis)) is not None:
        axes.axvline(halvings(curve, knee.size, axis), color=FAINT, ls=":", lw=1, label="knee")
    axes.set(xlabel=_axis(axis, [curve]), ylabel="accuracy, %")
    _halvings(axes, max(x))
    tidy(axes)
    legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _front(axes: Axes, front: Sequence[Shown], colour: str, name: str) -> None:
    x, y, std = _columns(front)
    axes.plot(x, y, "o-", color=colour, ms=4, label=verbatim(name) or "front", zorder=3)
    if np.isfinite(std).any():
        std = np.nan_to_num(std)  # a setting of one seed among those of several
        axes.fill_between(x, y - std, y + std, color=colour, alpha=0.15, lw=0, gid=f"{name} band")


def _points(
    axes: Axes, rows: Sequence[Shown], colour: str, name: str, kind: str, *, mfc: str
) -> None:
    """Settings off the front, as one artist."""
    if not rows:
        return
    x, y, std = _columns(rows)
    if np.isfinite(std).any():
        axes.errorbar(x, y, np.nan_to_num(std), fmt="none", ecolor=colour, elinewidth=0.8)
    label = _once(axes, kind)
    axes.plot(x, y, "o", ms=5, color=colour, mfc=mfc, gid=f"{name} {kind}", zorder=2, label=label)


def _knee(
    axes: Axes, knee: Shown, ends: tuple[float, float] | None, colour: str, name: str
) -> None:
    label = _once(axes, "knee")
    x, y = [knee.halvings], [knee.height]
    axes.plot(x, y, "D", ms=8, color=colour, mec="white", gid=f"{name} knee", zorder=5, label=label)
    if ends is not None and ends[0] < ends[1]:
        gid = f"{name} range"
        axes.plot(ends, y * 2, "|-", color=colour, lw=2, ms=9, gid=gid, zorder=4, label="_")


def _once(axes: Axes, kind: str) -> str:
    """A label for the first artist of a kind, and for the others one that no legend shows."""
    return "_" if any(str(line.get_gid()).endswith(f" {kind}") for line in axes.lines) else kind


def _columns(rows: Sequence[Shown]) -> Iterator[np.ndarray]:
    """x, y and the spread of y."""
    yield np.array([one.halvings for one in rows])
    yield np.array([one.height for one in rows])
    yield np.array([one.spread for one in rows])


def _halvings(axes: Axes, most: float) -> None:
    """Label an axis of halvings by what is removed."""
    places, words = zip(*marks(most), strict=True)
    axes.set_xticks(places, words)
    axes.set_xlim(min(-0.03 * most, axes.get_xlim()[0]), None)


def _axis(axis: str, curves: Iterable[Curve]) -> str:
    return f"{axis_words(axis, curves)} {'saved' if axis == 'latency' else 'removed'}"


def _spectrum(number: int) -> list[Colour]:
    """Colours for classes, of which there may be many."""
    if number <= 10:
        return [colormaps["tab10"](i) for i in range(number)]
    return [colormaps["turbo"](0.05 + 0.9 * i / (number - 1)) for i in range(number)]


def _shades(radii: Sequence[float]) -> list[Colour]:
    """From light to dark by the order of the radii."""
    order = sorted(radii)
    return [colormaps["viridis_r"](0.15 + 0.85 * order.index(r) / len(radii)) for r in radii]
