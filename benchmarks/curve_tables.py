"""Tables of docs/results/ on trade-off curves, from their records: (columns, rows) each."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import published
from gate_tables import spread

from lissom.curves import Curve, Point, Setting
from lissom.curves.placing import Plan
from lissom.errors import PathError

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

LOSSES = (0.001, 0.005, 0.01, 0.2)
BUDGETS = (20_000, 5_000, 2_000)
POINT = tuple(field.name for field in fields(Point))


def curves(record: Record) -> dict[str, Curve]:
    """The curves of a study by name, without their networks."""
    return {entry["name"]: curve(entry) for entry in record["curves"]}


def curve(entry: Record) -> Curve:
    """One of them; the non-zeros of each tensor are further axes of its sizes."""
    order = Plan(tuple(entry["path"]["strengths"]), entry["path"]["points"]).order
    points = []
    for known in entry["points"]:
        given = {name: known[name] for name in POINT if name in known}
        given["folder"] = Path(f"seed{known['seed']}") / known["folder"]
        given["error"] = math.nan if known["error"] is None else known["error"]
        if not known["failed"]:
            given["sizes"] = {**known["sizes"], **known["nonzeros"]}
        points.append(Point(**given))
    points.sort(key=lambda p: (p.from_scratch, order(p.strength), p.seed))
    return Curve(
        tuple(points),
        Path(entry["name"]),
        parameters=tuple(entry["path"]["parameters"]),
        strength_name=entry["path"]["strength_name"],
    )


def answers(records: Iterable[Record]) -> Table:
    """Where the knee of each curve is, and by what the size may be divided for a loss."""
    rows = []
    for record in records:
        axis = record["axis"]
        for name, found in curves(record).items():
            dense = found.settings[0]
            rows.append(
                [
                    f"{record['title']}: {name}",
                    f"{dense.size(axis):,.0f}",
                    spread(tested(dense)),
                    knee(found, axis),
                    *(factor(found, loss, axis) for loss in LOSSES),
                ]
            )
    columns = ["curve", "dense size", "test error, %", "knee: removed (test error added)"]
    return [*columns, *(f"{100 * loss:g} %" for loss in LOSSES)], rows


def knee(found: Curve, axis: str) -> str:
    """What is removed at the knee, over the seeds' own knees, and what that costs."""
    try:
        at = found.knee(axis)
    except PathError:
        return "none"
    dense = found.settings[0]
    low, high = at.range or (at.size, at.size)
    parts = [f"{100 * (1 - size / dense.size(axis)):.2f}" for size in (high, low)]
    removed = " … ".join(dict.fromkeys(parts))
    return f"{removed} % ({added(found, at.setting)})"


def factor(found: Curve, loss: float, axis: str) -> str:
    """Dense size over that of the smallest setting within a loss on validation data."""
    setting = found.within(error=loss, axis=axis)
    times = found.settings[0].size(axis) / setting.size(axis)
    return f"{times:,.0f} × ({added(found, setting)})"


def added(found: Curve, setting: Setting) -> str:
    """Test error above the dense one's, in points of a per cent."""
    dense = found.settings[0].test_error
    assert dense is not None
    assert setting.test_error is not None
    return f"{100 * (setting.test_error - dense):+.2f}"


def asked(record: Record) -> Table:
    """What budgets and losses were asked of each curve, and what its networks do."""
    rows = []
    for name, found in curves(record).items():
        dense = found.settings[0]
        answers = {f"{n:,} non-zeros": found.budget(nonzeros=n) for n in BUDGETS}
        answers |= {f"{100 * e:g} points": found.within(error=e) for e in LOSSES[:3]}
        for question, setting in answers.items():
            lost = 100 * (setting.error - dense.error)
            rows.append(
                [name, question, f"{setting.largest():,.0f}", f"{lost:+.2f}", added(found, setting)]
            )
    columns = ["curve", "asked for", "non-zeros, largest of the seeds"]
    return [*columns, "validation error added, points", "test error added, points"], rows


def rivals(record: Record) -> Table:
    """What others report of LeNet-5's single weights, and our curves at no more weights."""
    found = curves(record)
    dense = next(iter(found.values())).settings[0].size()
    rows = []
    for row in published.rows("weights", "LeNet-5"):
        cells = [f"1/{row['smaller']}", row["method"], published.error(row)]
        for curve in found.values():
            setting = curve.budget(nonzeros=dense / row["smaller"])
            cells.append(f"{spread(tested(setting))} at 1/{dense / setting.size():.0f}")
        rows.append([*cells, published.source(row)])
    return ["weights left", "published", "error, %", *found, "source"], rows


def settings(record: Record) -> Table:
    """All settings of the first curve from dense to empty, on the axis of its study."""
    axis = record["axis"]
    found = next(iter(curves(record).values()))
    dense = found.settings[0].size(axis)
    rows = [
        [
            number_or_dense(one.strength, 3),
            f"{one.size(axis):,.0f}",
            f"{dense / (one.size(axis) or 0.5):,.0f} ×",
            *errors(one),
        ]
        for one in found.settings
    ]
    columns = [found.strength_name, axis, "smaller", "validation error, %", "test error, %"]
    return columns, rows


def shrunk(record: Record) -> Table:
    """All settings of the first curve from dense to empty, as they are after shrinking."""
    found = next(iter(curves(record).values()))
    rows = [
        [
            number_or_dense(one.strength, 3),
            *(f"{one.size(axis):,.0f}" for axis in ("weights", "macs")),
            *errors(one),
        ]
        for one in found.settings
    ]
    columns = [found.strength_name, "weights", "MACs", "validation error, %", "test error, %"]
    return columns, rows


def from_scratch(record: Record) -> Table:
    """Each strength of the first curve: warm-started and trained from scratch at full length."""
    found = next(iter(curves(record).values()))
    from_scratch = {setting.strength: setting for setting in found.from_scratch}
    rows = []
    for setting in found.settings[1:]:
        pair = (setting, from_scratch[setting.strength])
        sizes = [f"{one.size():,.0f}" for one in pair]
        warm, other = map(errors, pair)
        rows.append([f"{setting.strength:.3g}", *sizes, warm[0], other[0], warm[1], other[1]])
    columns = ["κ", "non-zeros: warm", "from scratch", "validation error, %: warm", "from scratch"]
    return [*columns, "test error, %: warm", "from scratch"], rows


def one_training(nested: Record, path: Record) -> Table:
    """Cuts of one training beside the first curve of another study, at the same strengths."""
    ours, other = (next(iter(curves(record).values())) for record in (nested, path))
    epochs = [
        sum(p["epochs"] for p in record["curves"][0]["points"] if counted(p))
        for record in (nested, path)
    ]
    rows = []
    for one in ours.settings:
        beside = next((s for s in other.settings if near(one.strength, s.strength)), None)
        pairs = zip(errors(one), errors(beside) if beside else ["", ""], strict=True)
        sizes = [f"{s.size():,.0f}" if s else "" for s in (one, beside)]
        rows.append(
            [number_or_dense(one.strength, 3), *sizes, *(x for pair in pairs for x in pair)]
        )
    names = [f"one training, {epochs[0]} epochs", f"point by point, {epochs[1]} epochs"]
    columns = [
        f"{what}{name}" for what in ("non-zeros: ", "validation error, %: ") for name in names
    ]
    return ["κ", *columns, "test error, %: one training", "point by point"], rows


def counted(point: Record) -> bool:
    """Whether a point is one of a single seed's path."""
    return point["seed"] == 0 and not point["from_scratch"]


def near(one: float | None, other: float | None) -> bool:
    """Whether two strengths are the same but for rounding."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-3)


def number_or_dense(strength: float | None, digits: int = 2) -> str:
    """The strength of a setting; None is that of the dense one."""
    return "dense" if strength is None else f"{strength:.{digits}g}"


def errors(setting: Setting) -> list[str]:
    """Errors on validation and test data over the seeds, in per cent."""
    return [spread([100 * p.error for p in setting.points]), spread(tested(setting))]


def tested(setting: Setting) -> list[float]:
    """Test errors of the seeds, in per cent."""
    return [100 * p.test_error for p in setting.points if p.test_error is not None]


def costs(records: Iterable[Record]) -> Table:
    """Epochs of whole curves: of a seed in all, and in trainings of its dense network."""
    rows = []
    for record in records:
        for entry in record["curves"]:
            warm = [p for p in entry["points"] if not p["from_scratch"]]
            from_scratch = [p for p in entry["points"] if p["from_scratch"]]
            number = str(len(warm) // entry["path"]["seeds"])
            total = round(sum(p["epochs"] for p in warm) / entry["path"]["seeds"])
            epochs = [ratio(points, warm) for points in (warm, from_scratch)]
            rows.append([f"{record['title']}: {entry['name']}", number, str(total), *epochs])
    columns = ["curve", "points", "epochs", "× its dense network's", "as many from scratch besides"]
    return columns, rows


def ratio(points: list[Record], warm: list[Record]) -> str:
    """The sum over a seed's points in units of its dense one, as a mean over the seeds."""
    if not points:
        return ""
    found = []
    for dense in (p for p in warm if p["strength"] is None):
        total = sum(p["epochs"] for p in points if p["seed"] == dense["seed"])
        found.append(total / dense["epochs"])
    return f"{statistics.mean(found):.2f}"
