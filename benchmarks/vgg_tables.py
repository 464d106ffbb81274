"""Tables, figures and claims of the VGG of Formanek & Hadházi, from records that may have gaps.

A record may hold a part of the runs that studies.toml asks for, so a row that has none yet says so,
and a claim about what is not there has no verdict.
"""

import statistics
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import published
from gate_tables import helps, spread
from matplotlib.figure import Figure
from provenance import changed
from verdicts import Found, against, holds, smaller

Record = dict[str, Any]
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
Load = Callable[[str], Record]

STUDIES = Path(__file__).with_name("studies.toml")
CLAIMS: dict[str, Record] = tomllib.loads(
    Path(__file__).with_name("claims.toml").read_text(encoding="utf-8")
)
PENALTIES = ("L1", "threshold", "compress rate")
COLOURS = dict(zip(PENALTIES, ("#2a9d4a", "#222222", "#c8322b"), strict=True))  # the paper's
GRANULARITIES = ("weights", "kernels", "channels")
NOT_YET = "not run yet"


@dataclass(frozen=True)
class Setting:
    """The runs of one label and value, over the seeds so far.

    Attributes:
        label: the penalty, or "dense".
        value: λ, threshold or fraction kept; None for one without.
        runs: at least one.
    """

    label: str
    value: float | None
    runs: Sequence[Record]

    @property
    def name(self) -> str:
        return self.label if self.value is None else f"{self.label} {self.value:g}"

    @property
    def accuracies(self) -> list[float]:
        """On test data, in per cent."""
        return [100 - 100 * run["test"]["error"] for run in self.runs]

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def chosen_by(self) -> float:
        """The mean accuracy on held-out data, or on test data where there are none."""
        return -statistics.mean(run.get("valid", run["test"])["error"] for run in self.runs)

    @property
    def left(self) -> float:
        """Non-zero weights, of convolutions where there are any, in per cent of all of theirs."""
        weights = [counted(run["nonzeros"]) for run in self.runs]
        alive, every = (
            sum(found[kind] for run in weights for found in run) for kind in ("nonzeros", "weights")
        )
        return 100 * alive / every

    @property
    def removed(self) -> float:
        return 100 - self.left


def counted(variables: Mapping[str, Record]) -> list[Record]:
    """The variables whose weights count: those of convolutions, which alone are penalised."""
    weights = {name: found for name, found in variables.items() if name.endswith("weight")}
    convolutions = [found for name, found in weights.items() if "conv" in name]
    return convolutions or [*weights.values()]


def settings(load: Load, *studies: str) -> list[Setting]:
    """What studies have run so far, in the order of their records."""
    found: dict[tuple[str, float | None], dict[int, Record]] = {}
    for study in studies:
        try:
            runs = load(study)["runs"]
        except FileNotFoundError:
            continue
        for run in runs:
            found.setdefault((run["label"], run["value"]), {}).setdefault(run["seed"], run)
    return [Setting(*key, list(runs.values())) for key, runs in found.items()]


def by_penalty(found: Iterable[Setting]) -> dict[str, list[Setting]]:
    """Of each penalty what has run so far, from dense to empty."""
    order = sorted(found, key=lambda one: one.removed)
    return {label: [one for one in order if one.label == label] for label in PENALTIES}


def dense(load: Load) -> Setting | None:
    """The unpenalised runs, one of each seed."""
    studies = ("vgg-dense", *(f"vgg-{granularity}" for granularity in GRANULARITIES))
    return next((one for one in settings(load, *studies) if one.label == "dense"), None)


def asked(study: str) -> list[tuple[str, float | None]]:
    """Labels and values of a study of studies.toml."""
    plans = tomllib.loads(STUDIES.read_text(encoding="utf-8"))
    return [
        (entry.get("label", entry["recipe"]), value)
        for entry in plans.get(study, {"runs": []})["runs"]
        for value in entry.get("values", [None])
    ]


def runs_table(study: str, load: Load) -> Table:
    """Every setting of a study: what is left, accuracy, seeds, and whether its code has changed."""
    found = {(one.label, one.value): one for one in settings(load, study)}
    base = found.get(("dense", None)) or dense(load)
    rows = []
    for key in dict.fromkeys([*asked(study), *found]):
        if key not in found:
            rows.append([Setting(*key, ()).name, NOT_YET, "", "", "", "", ""])
            continue
        one = found[key]
        against_dense = f"{one.accuracy - base.accuracy:+.2f}" if base else ""
        rows.append(
            [
                one.name,
                f"{one.left:.2f} %",
                spread(one.accuracies),
                against_dense,
                str(len(one.runs)),
                helps(one.runs[0]),
                code(one.runs),
            ]
        )
    columns = ["setting", "weights of convolutions left", "test accuracy, %"]
    return [*columns, "against dense, points", "seeds", "helped by", "code"], rows


def dense_table(load: Load) -> Table:
    """The dense network over its initialisations, beside the paper's (table II)."""
    theirs = published.PUBLISHED["formanek"]
    parts = ("train", "valid", "test")
    rows = [
        ["Formanek & Hadházi, CIFAR-10", theirs["weights"]]
        + [f"{theirs[part]['mean']} ({theirs[part]['variance']})" for part in parts]
        + [theirs["initialisations"], ""]
    ]
    found = dense(load)
    if found is None:
        return dense_columns(), [*rows, ["lissom", NOT_YET, "", "", "", "", ""]]
    cells = []
    for part in parts:
        known = [100 - 100 * run[part]["error"] for run in found.runs if run.get(part)]
        shown = f"{statistics.mean(known):.2f}" if known else ""
        cells.append(f"{shown} ({statistics.variance(known):.3f})" if len(known) > 1 else shown)
    weights = found.runs[0]["nonzeros"]["total"]["weights"]
    name = "lissom, JPEG CIFAR-10"
    rows.append([name, f"{weights:,}", *cells, str(len(found.runs)), code(found.runs)])
    return dense_columns(), rows


def dense_columns() -> list[str]:
    parts = [f"{part} accuracy, %: mean (variance)" for part in ("training", "held-out", "test")]
    return ["", "weights", *parts, "initialisations", "code"]


def code(runs: Iterable[Record]) -> str:
    """How many runs are of code that has changed since."""
    runs = list(runs)
    old = sum(map(changed, runs))
    return f"{old} of {len(runs)} changed since" if old else "as it is now"


def figure(
    found: Mapping[str, Sequence[Setting]],
    base: float,
    close: tuple[float, float],
    marks: Mapping[str, tuple[float, float]] = {},
    relative: bool = False,
) -> Figure:
    """Test accuracy against the weights removed (the paper's figures 2 to 4).

    Args:
        found: settings by the penalty.
        base: the dense accuracy, %.
        close: accuracies that the right panel shows.
        marks: published points by name, (removed in %, accuracy).
        relative: accuracies are above the dense one's, in points, also those of close and marks.
    """
    drawn, panels = plt.subplots(1, 2, figsize=(9.6, 3.8))
    zero = base if relative else 0.0
    for axes in panels:
        for label, chosen in found.items():
            x = [one.removed for one in chosen]
            y = [one.accuracy - zero for one in chosen]
            spreads = [deviation(one.accuracies) for one in chosen]
            style = {"marker": "o", "color": COLOURS[label], "capsize": 2, "lw": 1.2, "ms": 4}
            axes.errorbar(x, y, spreads, label=label, **style)
        for (name, (x, y)), marker in zip(marks.items(), "*^", strict=False):
            colour = COLOURS.get(name.partition(",")[0], "#0d7d76")
            axes.plot(x, y, marker, color=colour, ms=11, label=name)
        axes.axhline(base - zero, color="gray", ls=":", label="dense")
        above = "test accuracy above dense, points" if relative else "test accuracy, %"
        axes.set(xlabel="weights removed, %", ylabel=above)
        axes.grid(alpha=0.25)
    panels[0].legend(frameon=False, loc="lower left", fontsize="small")
    panels[1].set(ylim=close)
    return drawn


def vgg_figure(load: Load, granularity: str) -> Figure | None:
    """The figure of one granularity, with the paper's points; None while something is missing."""
    found, base = settings(load, f"vgg-{granularity}"), dense(load)
    if base is None or not found:
        return None
    marks = {
        f"{row['label']}, published": (
            100 - float(row["left"]),
            float(row["accuracy"]) - float(row["dense"]),
        )
        for row in CLAIMS["formanek"]["rows"]
        if row.get("of") == granularity and "accuracy" in row
    }
    drawn = figure(by_penalty(found), base.accuracy, (-6, 4), marks, relative=True)
    drawn.suptitle(f"VGG on JPEG CIFAR-10, {granularity}; dense {base.accuracy:.2f} %")
    return drawn


def deviation(numbers: Sequence[float]) -> float:
    """Standard deviation over seeds, 0 for a single one."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def claims(load: Load) -> Table:
    """What the paper says of its experiment, and what our runs do so far."""
    rows = []
    for row in CLAIMS["formanek"]["rows"]:
        if "of" in row:
            found = CHECKS[row["check"]](load, row)
            rows.append([row["reports"], found.ours, found.seeds, f"**{found.verdict}**"])
    return ["the paper", "ours", "seeds", "verdict"], rows


# Claims of the paper: what our runs say, so far. A row of claims.toml says of which granularity.


def dense_accuracy(load: Load, row: Row) -> Found:
    """The dense network on JPEG CIFAR-10, which is no figure to compare with that on CIFAR-10."""
    found = dense(load)
    if found is None:
        return Found(NOT_YET)
    variance = f", variance {statistics.variance(found.accuracies):.3f}" if found.runs[1:] else ""
    weights = found.runs[0]["nonzeros"]["total"]["weights"]
    shown = f"{found.accuracy:.2f} %{variance}, {weights:,} weights, JPEG CIFAR-10"
    same = deviation(found.accuracies) < 1
    return Found(shown, {"spread": holds(same)}, str(len(found.runs)))


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
    return told(load, row, parts, signs)


def l1_loses(load: Load, row: Row) -> Found:
    """Whether L1 is below the dense network wherever less is removed than is said."""
    base, found = dense(load), by_penalty(settings(load, f"vgg-{row['of']}"))["L1"]
    gains = [one.accuracy - base.accuracy for one in found if base and one.removed < row["below"]]
    if not gains:
        return told(load, row, [f"L1: {NOT_YET}"], {})
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
    signs = {
        "weights": smaller(best.left, float(left)),
        "accuracy": against(above, drop, higher=True),
    }
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
    """Whether L1 loses more than the compress rate where so much is removed."""
    parts, drops = [], {}
    for label in ("L1", "compress rate"):
        found = by_penalty(settings(load, f"vgg-{row['of']}"))[label]
        before = [one.accuracy for one in found if one.removed < row["at"]]
        after = [one.accuracy for one in found if one.removed >= row["at"]]
        if before and after:
            drops[label] = max(after) - max(before)
        parts.append(
            f"{label} {drops[label]:+.2f} points" if label in drops else f"{label}: {NOT_YET}"
        )
    both = len(drops) == 2
    signs = {"fall": holds(drops["L1"] < drops["compress rate"])} if both else {}
    return told(load, row, parts, signs)


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
    count = f"{len(seeds)}: {sum(len(one.runs) for one in found)} runs" if found else ""
    return Found("; ".join(parts), signs, count)


CHECKS: dict[str, Callable[[Load, Row], Found]] = {
    check.__name__: check
    for check in (dense_accuracy, gains, l1_loses, gap, best_above, ahead, falls)
}
