"""Tables of docs/results.md on learning–compression, from their records: (columns, rows) each."""

from typing import Any

from gate_tables import spread

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

# Method, weights left, error in %: as published, some of them the best test error in training.
PUBLISHED = (
    ("ℓ0 + ℓ2 (Idelbayev & Carreira-Perpiñán)", "2.00 %", "1.76"),
    ("dynamic network surgery (Guo et al.)", "1.8 %", "1.99"),
    ("sparse variational dropout (Molchanov et al.)", "1.5 %", "1.92"),
    ("RigL+, last epoch", "about 3,100", "1.69"),
)


def best(record: Record) -> Table:
    """Our recipes at a given number of weights, with published rows beside."""
    rows = []
    for (label, value), found in settings(record).items():
        counts = {left(run) for run in found}
        shown = ", ".join(f"{count:,}" for count in sorted(counts))
        errors = spread([100 * run["inacc_test"] for run in found])
        rows.append(
            [f"**lissom, {label}**", f"{shown} ({100 * value:g} %)", errors, str(len(found))]
        )
    rows += [[method, size, error, ""] for method, size, error in PUBLISHED]
    return ["method", "weights left", "test error, %", "seeds"], rows


def settings(record: Record) -> dict[tuple[str, float], list[Record]]:
    """The runs of a study, in order, gathered by label and value."""
    found: dict[tuple[str, float], list[Record]] = {}
    for run in record["runs"]:
        found.setdefault((run["label"], run["value"]), []).append(run)
    return found


def left(run: Record) -> int:
    """Weights that are not zero, without biases."""
    return sum(v["numNz"] for k, v in run["num_nonzero"].items() if k.endswith("weight"))
