"""Tables, figures and claims of the VGG of Formanek & Hadházi, from records that may have gaps.

A record may hold a part of the runs that studies.toml asks for, so a row that has none yet says so,
and a claim about what is not there has no verdict.
"""

import statistics
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import published
from gate_tables import helps, spread
from matplotlib.figure import Figure

Record = dict[str, Any]
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
Load = Callable[[str], Record]

PLANS = Path(__file__).with_name("studies.toml")
CLAIMS: dict[str, Record] = tomllib.loads(
    Path(__file__).with_name("claims.toml").read_text(encoding="utf-8")
)
PENALTIES = ("L1", "threshold", "compress rate")
COLOURS = dict(zip(PENALTIES, ("#2a9d4a", "#222222", "#c8322b"), strict=True))  # the paper's
GRANULARITIES = ("weights", "kernels", "channels")
PAPERS = ("vgg-dense", *(f"vgg-{each}" for each in GRANULARITIES))  # as in the paper
STUDIES = (*PAPERS, "vgg-modern", "vgg-full")
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

    @property
    def kilobytes(self) -> float | None:
        """By entropy, in thousands of bytes, of the runs that have them; None if none does."""
        known = [run["coded"] / 1000 for run in self.runs if "coded" in run]
        return statistics.mean(known) if known else None

    @property
    def fewer_macs(self) -> float | None:
        """By how much shrinking divides them; None where nothing was shrunk."""
        found = [run["shrunk"] for run in self.runs if "shrunk" in run]
        known = [one["macs_before"] / one["macs_after"] for one in found]
        return statistics.mean(known) if known else None


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
    """The unpenalised runs, of the first study that has any."""
    for study in PAPERS:
        for one in settings(load, study):
            if one.label == "dense":
                return one
    return None


def asked(study: str) -> list[tuple[str, float | None]]:
    """Labels and values of a study of studies.toml."""
    plans = tomllib.loads(PLANS.read_text(encoding="utf-8"))
    return [
        (entry.get("label", entry["recipe"]), value)
        for entry in plans.get(study, {"runs": []})["runs"]
        for value in entry.get("values", [None])
    ]


def runs_table(study: str, load: Load) -> Table:
    """Every setting of a study: what is left, accuracy, seeds and help."""
    found = {(one.label, one.value): one for one in settings(load, study)}
    base = found.get(("dense", None)) or dense(load)
    rows = []
    for key in dict.fromkeys([*asked(study), *found]):
        if key not in found:
            rows.append([Setting(*key, ()).name, NOT_YET, *[""] * 6])
            continue
        one = found[key]
        against_dense = f"{one.accuracy - base.accuracy:+.2f}" if base else ""
        rows.append(
            [
                one.name,
                f"{one.left:.2f} %",
                "" if one.kilobytes is None else f"{one.kilobytes:,.1f}",
                "" if one.fewer_macs is None else f"{one.fewer_macs:.2f}",
                spread(one.accuracies),
                against_dense,
                str(len(one.runs)),
                helps(one.runs[0]),
            ]
        )
    columns = ["setting", "weights of convolutions left", "kB by entropy", "MACs ÷"]
    columns += ["test accuracy, %", "against dense, points", "seeds", "helped by"]
    return without_empty(columns, rows)


def without_empty(columns: list[str], rows: list[list[str]]) -> Table:
    """A table without the columns in which no row says anything."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def dense_table(load: Load) -> Table:
    """The dense network over its initialisations, beside the paper's (table II)."""
    theirs = published.PUBLISHED["formanek"]
    parts = ("train", "valid", "test")
    rows = [
        ["Formanek & Hadházi, CIFAR-10", theirs["weights"]]
        + [f"{theirs[part]['mean']} ({theirs[part]['variance']})" for part in parts]
        + [theirs["initialisations"]]
    ]
    found = [one for one in (*settings(load, "vgg-dense-full"), dense(load)) if one is not None]
    if not found:
        rows.append(["lissom", NOT_YET, "", "", "", ""])
    for one in found:
        cells = []
        for part in parts:
            known = [100 - 100 * run[part]["error"] for run in one.runs if run.get(part)]
            shown = f"{statistics.mean(known):.2f}" if known else ""
            cells.append(f"{shown} ({statistics.variance(known):.3f})" if len(known) > 1 else shown)
        weights = one.runs[0]["nonzeros"]["total"]["weights"]
        name = "lissom, JPEG CIFAR-10"
        rows.append([name, f"{weights:,}", *cells, str(len(one.runs))])
    return dense_columns(), rows


def dense_columns() -> list[str]:
    parts = [f"{part} accuracy, %: mean (variance)" for part in ("training", "held-out", "test")]
    return ["", "weights", *parts, "initialisations"]


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


def bytes_figure(load: Load, studies: Sequence[str]) -> Figure | None:
    """Test error against the bytes that entropy allows, of all studies; None without any."""
    drawn, axes = plt.subplots(figsize=(8.6, 4.2), layout="constrained")
    empty = True
    for study in studies:
        known = [one for one in settings(load, study) if one.kilobytes is not None]
        x = [one.kilobytes for one in known]
        y = [100 - one.accuracy for one in known]
        if known:
            empty = False
            axes.errorbar(
                x, y, [deviation(one.accuracies) for one in known], fmt="o", ms=4, capsize=2,
                label=study.removeprefix("vgg-"),
            )  # fmt: skip
    for row, marker in zip(published.rows("bytes", "VGG-16"), "*^", strict=True):
        label = f"{row['method']}, VGG-16, CIFAR-10"
        axes.plot(row["kilobytes"], float(row["error"]), marker, color="gray", ms=9, label=label)
    if empty:
        plt.close(drawn)
        return None
    axes.set(xscale="log", yscale="log", xlabel="kB by entropy", ylabel="test error, %")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.25, which="both")
    drawn.legend(frameon=False, fontsize="small", loc="outside right upper")
    return drawn


def bytes_table(load: Load, studies: Sequence[str]) -> Table:
    """The settings of all studies that no other beats in both bytes and error, and LilNetX's."""
    known = [
        (one.kilobytes, 100 - one.accuracy, study, one)
        for study in studies
        for one in settings(load, study)
        if one.kilobytes is not None
    ]
    rows, least = [], float("inf")
    for kilobytes, error, study, one in sorted(known, key=lambda found: found[:2]):
        if error < least:
            least = error
            errors = spread([100 - accuracy for accuracy in one.accuracies])
            name, seeds = f"**{study}, {one.name}**", f"{len(one.runs)} seeds"
            rows.append([name, f"{kilobytes:,.1f}", errors, seeds, helps(one.runs[0])])
    if not rows:
        rows.append(["lissom", NOT_YET, "", "", ""])
    for row in published.rows("bytes", "VGG-16"):
        name = f"{row['method']}, VGG-16, CIFAR-10"
        rows.append([name, str(row["kilobytes"]), row["error"], published.source(row), ""])
    return ["setting", "kB", "test error, %", "seeds, or source", "helped by"], rows


def deviation(numbers: Sequence[float]) -> float:
    """Standard deviation over seeds, 0 for a single one."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
