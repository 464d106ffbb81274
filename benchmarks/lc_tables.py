"""Tables of docs/results.md on learning–compression, from their records: (columns, rows) each."""

import statistics
from typing import Any

from gate_tables import by_label, spread

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

# Method, weights left, error in %: as published, some of them the best test error in training.
PUBLISHED = (
    ("ℓ0 + ℓ2 (Idelbayev & Carreira-Perpiñán)", "2.00 %", "1.76"),
    ("dynamic network surgery (Guo et al.)", "1.8 %", "1.99"),
    ("sparse variational dropout (Molchanov et al.)", "1.5 %", "1.92"),
    ("RigL+, last epoch", "about 3,100", "1.69"),
)
POSTER = {
    "reference": ("2.01", "100 %", "784-300-100"),
    "ℓ0": ("2.33", "2.0 %", "344-210-100"),
    "ℓ1": ("2.44", "2.4 %", "476-37-84"),
    "ℓ0 + ℓ2": ("1.76", "2.0 %", "420-70-82"),
}
TOOLKIT = {
    "quantize all layers, k = 2 each": "2.56",
    "quantize first and third, k = 2 each": "2.26",
    "prune all but 5 %": "2.18",
    "prune all but 1 %, plus one codebook of k = 2": "2.17",
    "prune first to 5,000, second of rank 10, third k = 2": "2.13",
    "select ranks, α = 1e-6": "1.90",
}
BITS = 32  # of a weight


def best(record: Record) -> Table:
    """Our recipes at a given number of weights, with published rows beside."""
    rows = []
    for (label, value), found in settings(record).items():
        counts = {left(run) for run in found}
        shown = ", ".join(f"{count:,}" for count in sorted(counts))
        errors = spread([100 * run["test"]["error"] for run in found])
        rows.append(
            [f"**lissom, {label}**", f"{shown} ({100 * value:g} %)", errors, str(len(found))]
        )
    rows += [[method, size, error, ""] for method, size, error in PUBLISHED]
    return ["method", "weights left", "test error, %", "seeds"], rows


def poster(record: Record) -> Table:
    """The poster's rows and ours: error, weights, and neurons that are left."""
    rows = []
    for label, found in by_label(record).items():
        error, weights, neurons = POSTER.get(label, ("", "", ""))
        part = statistics.mean(100 * left(run) / total(run) for run in found)
        rows.append(
            [
                label,
                spread([100 * run["test"]["error"] for run in found]),
                error,
                f"{part:.1f} %",
                weights,
                ", ".join("-".join(map(str, run["small"]["neurons"])) for run in found),
                neurons,
            ]
        )
    columns = ["method", "test error, %", "poster", "weights left", "poster", "neurons left"]
    return [*columns, "poster"], rows


def toolkit(record: Record) -> Table:
    """The examples of the toolkit: its error and ours, and the size of what ours became."""
    rows = []
    for label, found in by_label(record).items():
        bits = statistics.mean(run["compressed"]["bits"] for run in found)
        ranks = ["-".join(map(str, run["compressed"]["ranks"].values())) for run in found]
        errors = spread([100 * run["test"]["error"] for run in found])
        smaller = f"{BITS * total(found[0]) / bits:.1f} ×"
        left_ranks = ", ".join(dict.fromkeys(ranks))
        rows.append([label, errors, TOOLKIT.get(label, ""), smaller, left_ranks])
    return ["compression", "test error, %", "toolkit", "smaller", "ranks"], rows


def l_steps(record: Record) -> Table:
    """A training step with the pull over the same step without."""
    rows = [
        [
            row["optimizer"],
            str(row["batch"]),
            f"{1e3 * row['plain_seconds']:.2f}",
            f"{row['ratios']['plain again']:.2f}",
            f"{row['ratios']['L step']:.2f}",
        ]
        for row in record["l_steps"]
    ]
    return ["optimizer", "batch", "plain step, ms", "plain again", "L step"], rows


def c_steps(record: Record) -> Table:
    """Seconds of a C step on a small and on a large network."""
    rows = [
        [
            row["name"],
            f"{1e3 * row['small']:.1f}",
            "" if row["large"] is None else f"{row['large']:.0f}",
        ]
        for row in record["c_steps"]
    ]
    return ["C step", "266,200 weights, ms", f"{record['large_weights']:,} weights, s"], rows


def settings(record: Record) -> dict[tuple[str, float], list[Record]]:
    """The runs of a study, in order, gathered by label and value."""
    found: dict[tuple[str, float], list[Record]] = {}
    for run in record["runs"]:
        found.setdefault((run["label"], run["value"]), []).append(run)
    return found


def left(run: Record) -> int:
    """Weights that are not zero, without biases."""
    return sum(v["nonzeros"] for k, v in run["nonzeros"].items() if k.endswith("weight"))


def total(run: Record) -> int:
    """All weights, without biases."""
    return sum(v["weights"] for k, v in run["nonzeros"].items() if k.endswith("weight"))
