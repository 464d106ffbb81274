"""Tables of docs/results/ on learning–compression, from their records: (columns, rows) each."""

import statistics
from collections.abc import Iterable
from typing import Any

import published
from gate_tables import by_label, counted, helps, spread

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

BITS = 32  # of a weight


def best(records: Iterable[Record]) -> Table:
    """Our recipes at a given number of weights, with published rows beside."""
    rows = []
    for (label, value), found in settings(*records).items():
        counts = {left(run) for run in found}
        shown = ", ".join(f"{count:,}" for count in sorted(counts))
        errors = spread([100 * run["test"]["error"] for run in found])
        size, seeds = f"{shown} ({100 * value:.3g} %)", counted(len(found))
        rows.append([f"**lissom, {label}**", size, errors, seeds, helps(found[0])])
    for row in published.rows("weights", "LeNet-300-100"):
        told = published.error(row), published.source(row)
        rows.append([row["method"], row["left"], *told, ""])
    return ["method", "weights left", "test error, %", "seeds, or source", "helped by"], rows


def poster(*records: Record) -> Table:
    """The poster's rows and ours: error, weights, and neurons that are left."""
    rows = []
    for label, found in (row for record in records for row in by_label(record).items()):
        theirs = published.PUBLISHED["poster"].get(label, {})
        part = statistics.mean(100 * left(run) / total(run) for run in found)
        rows.append(
            [
                label,
                spread([100 * run["test"]["error"] for run in found]),
                theirs.get("error", ""),
                f"{part:.1f} %",
                theirs.get("weights", ""),
                ", ".join("-".join(map(str, run["small"]["neurons"])) for run in found),
                theirs.get("neurons", ""),
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
        theirs = published.PUBLISHED["toolkit"].get(label, "")
        smaller = f"{BITS * total(found[0]) / bits:.1f} ×"
        rows.append([label, errors, theirs, smaller, ", ".join(dict.fromkeys(ranks))])
    return ["compression", "test error, %", "toolkit", "smaller", "ranks"], rows


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


def settings(*records: Record) -> dict[tuple[str, float], list[Record]]:
    """The runs of studies, in order, gathered by label and value."""
    found: dict[tuple[str, float], list[Record]] = {}
    for run in (run for record in records for run in record["runs"]):
        found.setdefault((run["label"], run["value"]), []).append(run)
    return found


def left(run: Record) -> int:
    """Weights that are not zero, without biases."""
    return sum(v["nonzeros"] for k, v in run["nonzeros"].items() if k.endswith("weight"))


def total(run: Record) -> int:
    """All weights, without biases."""
    return sum(v["weights"] for k, v in run["nonzeros"].items() if k.endswith("weight"))
