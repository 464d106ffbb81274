"""The words of the page about curves that are there without a script: answers, and all points.

What depends on the size that is chosen is said once for each, by the name of the axis; the page
shows one of them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from lissom.curves import Curve, Setting
from lissom.curves.point import TRAINED, UNLISTED, number_or_dense
from lissom.curves.results import spread
from lissom.curves.storing import small_in
from lissom.errors import PathError
from lissom.report.series import Scale, axis_words, halvings, knee_of, removed
from lissom.turns import time_text

WITHIN = 0.005  # of fractions; of other errors a twentieth of the dense one's

Files = Mapping[Path, int]  # bytes of the shrunk network's file, by the point's folder


def axes_of(curves: Iterable[Curve]) -> list[str]:
    """The axes that any of the curves has."""
    return list(dict.fromkeys(axis for curve in curves for axis in curve.axes))


def file_sizes(curves: Iterable[Curve]) -> dict[Path, int]:
    """Of the networks that are there; a curve outlives them."""
    points = (point for curve in curves for point in curve.points if not point.failed)
    files = {point.folder: small_in(point.folder) for point in points}
    return {folder: file.stat().st_size for folder, file in files.items() if file.exists()}


def answers(
    curves: Mapping[str, Curve], scale: Scale, files: Files
) -> dict[str, list[dict[str, Any]]]:
    """For each axis and curve the knee, the smallest network near the dense one, and a halving.

    Each is {what: words} or says why there is none.
    """
    return {
        axis: [
            {"name": name, "number": number, **_answers(curve, axis, scale, files)}
            for number, (name, curve) in enumerate(curves.items())
        ]
        for axis in axes_of(curves.values())
    }


def _answers(curve: Curve, axis: str, scale: Scale, files: Files) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        knee = curve.knee(axis)
        found["knee"] = _told(curve, knee.setting, axis, scale, files)
        if knee.range is not None and knee.range[0] < knee.range[1]:
            low, high = (number(axis, size) for size in knee.range)
            found["knee"]["seeds"] = f"{low} to {high}"
        cost = curve.slope(knee, axis)
        found["halving"] = (
            f"{100 * cost:+.2f} points" if scale.percent else f"{cost:+.3g} {scale.unit}".rstrip()
        )
    except PathError as error:
        found["no_knee"] = str(error)
    try:
        within = curve.within(_within(curve, scale), axis)
        found["within"] = _told(curve, within, axis, scale, files)
    except PathError as error:
        found["not_within"] = str(error)
    return found


def _within(curve: Curve, scale: Scale) -> float:
    dense = [setting.error for setting in curve.settings if setting.strength is None]
    return WITHIN if scale.percent or not dense else 0.05 * dense[0]


def _told(curve: Curve, setting: Setting, axis: str, scale: Scale, files: Files) -> dict[str, Any]:
    return {
        "at": list(map(id, curve.settings)).index(id(setting)),
        "removed": _percent(curve, setting.size(axis), axis),
        "height": scale.told(scale.shown(setting)[0]),
        "sizes": _sizes(curve, setting, files),
    }


def _sizes(curve: Curve, setting: Setting, files: Files) -> list[dict[str, Any]]:
    """What people get: each size, and how much smaller it is than the dense network's."""
    found = [
        {
            "axis": axis,
            "name": axis_words(axis, [curve]),
            "size": number(axis, setting.size(axis)),
            "factor": factor(halvings(curve, setting.size(axis), axis), setting.size(axis)),
        }
        for axis in curve.axes
        if axis not in UNLISTED
    ]
    if all(point.folder in files for point in setting.points):
        size = fmean(files[point.folder] for point in setting.points)
        found.append({"axis": "file", "name": "file", "size": kilobytes(size), "factor": ""})
    return found


def rows(curves: Mapping[str, Curve], scale: Scale, files: Files) -> list[dict[str, Any]]:
    """For each curve a table: its columns, and for each setting its cells."""
    return [{"name": name, **_table(curve, scale, files)} for name, curve in curves.items()]


def _table(curve: Curve, scale: Scale, files: Files) -> dict[str, Any]:
    unit = f", {scale.unit}" if scale.unit else ""
    settings = (*curve.settings, *curve.from_scratch)
    knees = {axis: knee.setting for axis in curve.axes if (knee := knee_of(curve, axis))}
    dominated = {axis: set(map(id, curve.dominated(axis))) for axis in curve.axes}
    sizes = _sizes(curve, settings[0], files)
    columns = [
        ("strength", curve.strength_label),
        ("validation", f"validation{unit}"),
        *([("test", f"test{unit}")] if scale.test else []),
        ("removed", "removed"),
        *((size["axis"], size["name"]) for size in sizes),
        ("", "seconds"),
    ]
    return {
        "columns": columns,
        "rows": [
            {
                "cells": [
                    number_or_dense(setting.strength),
                    _cell([point.error for point in setting.points], scale),
                    *([_cell(list(scale.errors(setting).values()), scale)] if scale.test else []),
                    {axis: _percent(curve, setting.size(axis), axis) for axis in curve.axes},
                    *_columns(_sizes(curve, setting, files), sizes),
                    f"{sum(p.seconds for p in (*setting.points, *setting.failed)):,.1f}",
                ],
                "place": place,
                "marks": {
                    axis: _marks(setting, setting is knees.get(axis), id(setting) in beaten)
                    for axis, beaten in dominated.items()
                },
            }
            for place, setting in enumerate(settings)
        ],
        "failed": [(str(point), point.failed) for point in curve.failed],
    }


def _columns(sizes: list[dict[str, Any]], columns: list[dict[str, Any]]) -> list[str]:
    """A setting's sizes in the order of the columns; nothing where a file is gone."""
    known = {size["axis"]: size["size"] for size in sizes}
    return [known.get(column["axis"], "") for column in columns]


def _marks(setting: Setting, knee: bool, dominated: bool) -> list[str]:
    """What is to be said of a setting besides its numbers."""
    made = {setting.made: setting.made != TRAINED}
    marks = {"knee": knee, "dominated": dominated, "from scratch": setting.from_scratch, **made}
    failed = f"{len(setting.failed)} failed"
    return [
        *(mark for mark, holds in marks.items() if holds),
        *([failed] if setting.failed else []),
    ]


def _cell(errors: list[float], scale: Scale) -> str:
    heights = [scale.height(error) for error in errors]
    std = f" ± {scale.number(spread(heights))}" if len(heights) > 1 else ""
    return scale.number(fmean(heights)) + std


def _percent(curve: Curve, size: float, axis: str) -> str:
    """As many digits as tell what is left to two: 98.7 %, 99.85 %."""
    saved = halvings(curve, size, axis)
    if saved <= 0 or not size:
        return "100 %" if not size else "0 %"
    left = 100 * 2**-saved
    digits = max(1, len(removed(saved).partition(".")[2]) + 1)
    return f"{100 - left:.{min(digits, 6)}f} %"


def factor(saved: float, size: float = 1) -> str:
    """2^x: 1.0 × smaller, 74 × smaller, 8,100 × smaller; the same as in words.js."""
    times = 2**saved
    if not size:
        return "nothing left"
    return f"{f'{times:.1f}' if times < 20 else f'{times:,.0f}'} × smaller"


def number(axis: str, size: float) -> str:
    """A count, of which the mean over seeds may be no whole number; or a time."""
    if axis == "latency":
        return time_text(size)
    return f"{size:,.0f}" if size >= 10 or size == int(size) else f"{size:.3g}"


def kilobytes(size: float) -> str:
    """A file's size as people read it: 812 B, 84 kB, 1.3 MB; the same as in words.js."""
    if size < 1000:
        return f"{size:.0f} B"
    unit, size = ("MB", size / 1e6) if size >= 1e6 else ("kB", size / 1000)
    return f"{size:.1f} {unit}" if size < 10 else f"{size:,.0f} {unit}"
