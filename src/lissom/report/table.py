"""The words of the page about curves that are there without a script: answers, and all points."""

from collections.abc import Mapping
from typing import Any

from lissom.curves import Curve, Setting
from lissom.curves.point import number_or_dense
from lissom.curves.results import spread
from lissom.errors import PathError
from lissom.report.curve_data import WITHIN
from lissom.report.series import Scale, axis_words, halvings, knee_of, removed

AXIS = "nonzeros"  # of the answers; the picture has them all


def answers(curves: Mapping[str, Curve], scale: Scale) -> list[dict[str, Any]]:
    """For each curve its knee, the smallest network within 0.5 points, and what a halving adds.

    Each is {what: words} or says why there is none.
    """
    return [{"name": name, **_answers(curve, scale)} for name, curve in curves.items()]


def _answers(curve: Curve, scale: Scale) -> dict[str, Any]:
    found: dict[str, Any] = {}
    places = {id(setting): place for place, setting in enumerate(curve.settings)}
    try:
        knee = curve.knee(AXIS)
        found["knee"] = {**_told(curve, knee.setting, scale), "at": places[id(knee.setting)]}
        if knee.range is not None and knee.range[0] < knee.range[1]:
            found["knee"]["seeds"] = f"{knee.range[0]:,.0f} to {knee.range[1]:,.0f}"
        cost = curve.slope(knee, AXIS)
        found["halving"] = f"{100 * cost:+.2f}" if scale.percent else f"{cost:+.3g}"
    except PathError as error:
        found["no_knee"] = str(error)
    if scale.percent:
        try:
            within = curve.within(WITHIN, AXIS)
            found["within"] = {**_told(curve, within, scale), "at": places[id(within)]}
        except PathError as error:
            found["not_within"] = str(error)
    return found


def _told(curve: Curve, setting: Setting, scale: Scale) -> dict[str, str]:
    saved = halvings(curve, setting.size(AXIS), AXIS)
    return {
        "removed": _percent(curve, setting.size(AXIS)),
        "factor": factor(saved),
        "nonzeros": f"{setting.size(AXIS):,.0f}",
        "height": _height(scale.shown(setting)[0], scale),
    }


def rows(curves: Mapping[str, Curve], scale: Scale) -> list[dict[str, Any]]:
    """For each curve a table: its columns, and for each setting its cells."""
    return [{"name": name, **_table(curve, scale)} for name, curve in curves.items()]


def _table(curve: Curve, scale: Scale) -> dict[str, Any]:
    axes = [axis for axis in curve.axes if axis != "bits"]  # 8 · bytes
    settings = (*curve.settings, *curve.from_scratch)
    found = knee_of(curve, AXIS)
    knee = found.setting if found else None
    dominated = {id(setting) for setting in curve.dominated(AXIS)}
    what = "%" if scale.percent else "error"
    columns = [
        curve.strength_label,
        f"validation, {what}",
        *([f"test, {what}"] if scale.test else []),
        "removed",
    ]
    return {
        "columns": [
            *columns,
            *map(axis_words, axes),
            "seconds",
        ],
        "rows": [
            {
                "cells": [
                    number_or_dense(setting.strength),
                    _cell([point.error for point in setting.points], scale),
                    *([_cell(list(scale.errors(setting).values()), scale)] if scale.test else []),
                    _percent(curve, setting.size(AXIS)),
                    *(number(axis, setting.size(axis)) for axis in axes),
                    f"{sum(p.seconds for p in (*setting.points, *setting.failed)):,.1f}",
                ],
                "place": place,
                "dominated": id(setting) in dominated,
                "marks": _marks(setting, setting is knee, id(setting) in dominated),
            }
            for place, setting in enumerate(settings)
        ],
        "failed": [(str(point), point.failed) for point in curve.failed],
    }


def _marks(setting: Setting, knee: bool, dominated: bool) -> list[str]:
    """What is to be said of a setting besides its numbers."""
    marks = {"knee": knee, "dominated": dominated, "from scratch": setting.from_scratch}
    failed = f"{len(setting.failed)} failed"
    return [
        *(mark for mark, holds in marks.items() if holds),
        *([failed] if setting.failed else []),
    ]


def _cell(errors: list[float], scale: Scale) -> str:
    heights = [scale.height(error) for error in errors]
    mean, std = sum(heights) / len(heights), spread(heights)
    return _height(mean, scale) + (f" ± {_height(std, scale)}" if len(heights) > 1 else "")


def _height(value: float, scale: Scale) -> str:
    return f"{value:.2f}" if scale.percent else f"{value:.4g}"


def _percent(curve: Curve, size: float) -> str:
    """As many digits as tell what is left to two: 98.7 %, 99.85 %."""
    saved = halvings(curve, size, AXIS)
    if saved <= 0 or not size:
        return "100 %" if not size else "0 %"
    left = 100 * 2**-saved
    digits = max(1, len(removed(saved).partition(".")[2]) + 1)
    return f"{100 - left:.{min(digits, 6)}f} %"


def factor(saved: float) -> str:
    """2^x: 1.0 ×, 74 ×, 8,100 ×."""
    times = 2**saved
    return f"{times:.1f} ×" if times < 20 else f"{times:,.0f} ×"


def number(axis: str, size: float) -> str:
    """A count, of which the mean over seeds may be no whole number; or a time."""
    if axis == "latency":
        return f"{1e6 * size:.3g} µs" if size < 1e-3 else f"{1e3 * size:.3g} ms"
    return f"{size:,.0f}" if size >= 10 or size == int(size) else f"{size:.3g}"
