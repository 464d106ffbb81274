"""What Formanek & Hadházi say of their experiment, and what our runs of it say, so far.

A row of claims.toml says of which granularity it is (`of`). Claims about what has not run have no
verdict; the others have that of the runs there are.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import hypot
from operator import itemgetter
from typing import Any

from gate_tables import spread
from verdicts import Found, against, holds, smaller
from vgg_tables import CLAIMS, NOT_YET, Setting, by_penalty, dense, deviation, settings

Record = dict[str, Any]
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
Load = Callable[[str], Record]


def table(load: Load) -> Table:
    """What the paper says of its experiment, and what our runs do so far."""
    rows = []
    for row in CLAIMS["formanek"]["rows"]:
        if "of" in row:
            found = CHECKS[row["check"]](load, row)
            rows.append([row["reports"], found.ours, found.seeds, f"**{found.verdict}**"])
    return ["the paper", "ours", "seeds", "verdict"], rows


def dense_accuracy(load: Load, row: Row) -> Found:
    """The dense network on JPEG CIFAR-10, which is no figure to compare with that on CIFAR-10."""
    found = dense(load)
    if found is None:
        return Found(NOT_YET)
    variance = f", variance {statistics.variance(found.accuracies):.3f}" if found.runs[1:] else ""
    weights = found.runs[0]["nonzeros"]["total"]["weights"]
    shown = f"{found.accuracy:.2f} %{variance}, {weights:,} weights, JPEG CIFAR-10"
    signs = {"spread": holds(deviation(found.accuracies) < 1)} if found.runs[1:] else {}
    return Found(shown, signs, str(len(found.runs)))


def gains(load: Load, row: Row) -> Found:
    """Whether penalties are above the dense network between two compressions."""
    low, high = map(float, row["removed"])
    parts, signs = [], {}
    for label in row["labels"]:
        best, above = best_gain(load, row["of"], label, low, high)
        parts.append(shown_gain(label, best, above, low, high))
        if above and "points" in row:
            signs[label] = against(above, row["points"], higher=True)
        elif above:
            signs[label] = holds(beyond(above, dense(load)))
    return told(load, row, parts, signs if len(signs) == len(row["labels"]) else {})


def l1_loses(load: Load, row: Row) -> Found:
    """Whether L1 is below the dense network wherever less is removed than is said."""
    base, found = dense(load), by_penalty(settings(load, f"vgg-{row['of']}"))["L1"]
    gains = [one.accuracy - base.accuracy for one in found if base and one.removed < row["below"]]
    if not gains:
        return told(load, row, [f"L1: {NOT_YET}"], {})
    shown = f"L1 {max(gains):+.2f} points in one setting"
    if gains[1:]:
        shown = f"L1 {min(gains):+.2f} … {max(gains):+.2f} points in {len(gains)} settings"
    return told(load, row, [shown], {"L1": holds(max(gains) < 0)})


def gap(load: Load, row: Row) -> Found:
    """Whether no λ of L1 ends between two compressions."""
    low, high = map(float, row["removed"])
    found = by_penalty(settings(load, f"vgg-{row['of']}"))["L1"]
    if not found:
        return told(load, row, [f"L1: {NOT_YET}"], {})
    inside = [one for one in found if low < one.removed < high]
    shown = ", ".join(f"λ = {one.value:g} removes {one.removed:.0f} %" for one in inside)
    none = f"none of {len(found)} settings is between"
    return told(load, row, [shown or none], {"gap": holds(not inside)})


def best_above(load: Load, row: Row) -> Found:
    """The best network with more than 90 % removed, against the paper's."""
    best, above = best_gain(load, row["of"], row["label"], 90, 100)
    parts = [shown_gain(row["label"], best, above, 90, 100)]
    if best is None or not above:
        return told(load, row, parts, {})
    left, drop = row["left"], f"{float(row['accuracy']) - float(row['dense']):.2f}"
    signs = {"accuracy": against(above, drop, higher=True)}
    if signs["accuracy"] >= 0:  # fewer weights are no merit of a network that has lost its answer
        signs["weights"] = smaller(best.left, float(left))
    return replace(told(load, row, parts, signs), published=f"{drop} points")


def ahead(load: Load, row: Row) -> Found:
    """Whether one penalty is above others at each of some compressions, or beyond."""
    found = by_penalty(settings(load, f"vgg-{row['of']}"))
    parts, signs = [], {}
    for least in row["removed"]:
        bests = {
            label: max((one.accuracy for one in found[label] if one.removed >= least), default=None)
            for label in (row["label"], *row["others"])
        }
        known = {label: best for label, best in bests.items() if best is not None}
        each = ", ".join(f"{label} {best:.2f} %" for label, best in known.items())
        parts.append(f"from {least} %: {each or NOT_YET}")
        ours = known.pop(row["label"], None)
        if ours is not None and known:
            signs[f"from {least} %"] = holds(ours > max(known.values()))
    return told(load, row, parts, signs)


def falls(load: Load, row: Row) -> Found:
    """Whether L1 loses more at once than the compress rate, with about so much removed.

    At once means from one setting to the next stronger one. An epoch that is chosen on held-out
    data is one before the network has fallen, so that the stronger one may have removed less.
    """
    parts, worst = [], {}
    for label in ("L1", "compress rate"):
        found = by_penalty(settings(load, f"vgg-{row['of']}"))[label]
        found.sort(key=lambda one: one.value or 0.0, reverse=label == "compress rate")
        losses = [(a.accuracy - b.accuracy, a, b) for a, b in pairwise(found)]
        if not losses:
            parts.append(f"{label}: {NOT_YET}")
            continue
        worst[label] = max(losses, key=itemgetter(0))
        lost, before, after = worst[label]
        removed = f"from {before.removed:.0f} to {after.removed:.0f} % removed"
        parts.append(f"{label} {-lost:+.2f} points {removed}")
    if len(worst) < 2:
        return told(load, row, parts, {})
    (lost, before, _), (by_rate, *_) = worst["L1"], worst["compress rate"]
    sudden = lost > by_rate and abs(before.removed - row["at"]) <= row["within"]
    return told(load, row, parts, {"fall": holds(sudden)})


def best_gain(
    load: Load, granularity: str, label: str, low: float, high: float
) -> tuple[Setting | None, list[float]]:
    """The best setting by held-out data between two compressions, and each seed above dense."""
    base, found = dense(load), by_penalty(settings(load, f"vgg-{granularity}"))[label]
    inside = [one for one in found if low <= one.removed <= high]
    best = max(inside, key=lambda one: one.chosen_by, default=None)
    gains = [accuracy - base.accuracy for accuracy in best.accuracies] if best and base else []
    return best, gains


def shown_gain(
    label: str, best: Setting | None, gains: list[float], low: float, high: float
) -> str:
    """It, in words."""
    if best is None:
        return f"{label}: no run between {low:g} and {high:g} % removed yet"
    above = f"{spread(gains)} points" if gains else "no dense run yet"
    return f"{best.name}: {above} with {best.removed:.2f} % removed"


def beyond(gains: Sequence[float], base: Setting | None) -> bool:
    """Whether gains are more than the spreads of both over seeds."""
    noise = hypot(deviation(gains), deviation(base.accuracies) if base else 0.0)
    return statistics.mean(gains) > noise


def told(load: Load, row: Row, parts: Sequence[str], signs: Mapping[str, int]) -> Found:
    """With how many runs there are, of how many."""
    found = settings(load, f"vgg-{row['of']}")
    seeds = {run["seed"] for one in found for run in one.runs}
    count = f"{len(seeds)} ({sum(len(one.runs) for one in found)} runs)" if found else ""
    return Found("; ".join(parts), signs, count)


CHECKS: dict[str, Callable[[Load, Row], Found]] = {
    check.__name__: check
    for check in (dense_accuracy, gains, l1_loses, gap, best_above, ahead, falls)
}
