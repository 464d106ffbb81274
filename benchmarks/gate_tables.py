"""Tables of docs/results.md on stochastic gates, from their records: (columns, rows) each."""

import statistics
from typing import Any

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

# Network, method, what is left (maps of convolutions, inputs of dense layers), thousand weights,
# error in %: as published, many of them the best test error seen in training.
PUBLISHED = (
    ("MLP", "L0, λ = 0.1/N (Louizos et al.)", "219-214-100", 69.3, "1.4"),
    ("MLP", "the same, the authors' code, last epoch", "220-212-100", 68.8, "1.37"),
    ("MLP", "SBP (Neklyudov et al.)", "245-160-55", 48.6, "1.6"),
    ("MLP", "L0, λ by layer (Louizos et al.)", "266-88-33", 26.6, "1.8"),
    ("MLP", "the same, the authors' code, last epoch", "290-78-38", 26.0, "1.89"),
    ("MLP", "VIBNet (Dai et al.)", "97-71-33", 9.6, "1.6"),
    ("LeNet-5", "L0, λ = 0.1/N (Louizos et al.)", "20-25-45-462", 38.3, "0.9"),
    ("LeNet-5", "L0, λ by layer (Louizos et al.)", "9-18-65-25", 6.2, "1.0"),
    ("LeNet-5", "BC-GHS (Louizos et al.)", "5-10-76-16", 2.75, "1.0"),
)


def gates(records: dict[str, Record]) -> Table:
    """What gates left of each network, with the published rows beside."""
    rows = []
    for network, record in records.items():
        for label, found in by_label(record).items():
            small = [run["small"] for run in found]
            errors = spread([100 * one["test"]["error"] for one in small])
            weights = spread([one["weights"] / 1000 for one in small])
            left = ", ".join("-".join(map(str, one["neurons"])) for one in small)
            rows.append([network, f"**lissom, {label}**", left, weights, errors, str(len(small))])
        for row in PUBLISHED:
            if row[0] == network:
                rows.append([network, row[1], row[2], f"{row[3]:g}", row[4], ""])
    return ["network", "method", "left", "thousand weights", "test error, %", "seeds"], rows


def budgets(record: Record) -> Table:
    """Expected and deployed size over the target, and the error."""
    rows = []
    for target in sorted({run["target"] for run in record["runs"]}, reverse=True):
        cells = [f"{100 * target:g} %"]
        for gated, cost in (
            ("neurons", "weights"),
            ("neurons", "macs"),
            ("single weights", "weights"),
        ):
            mine = [
                run for run in record["runs"]
                if (run["gated"], run["cost"], run["target"]) == (gated, cost, target)
            ]  # fmt: skip
            ratios = [
                statistics.mean(run[kind][cost] / target for run in mine)
                for kind in ("expected", "deployed")
            ]
            error = statistics.mean(100 * run["error"] for run in mine)
            cells.append(f"{ratios[0]:.3f} / {ratios[1]:.3f} / {error:.2f} %")
        rows.append(cells)
    return ["target", "units, weights", "units, MACs", "single weights"], rows


def cost(record: Record) -> Table:
    """A gated step over the dense one that is run in the same way."""
    kinds = list(record["times"][0]["ratios"])
    rows = [
        [
            "compiled" if row["compiled"] else "eager",
            "fused" if row["fused Adam"] else "default",
            str(row["batch"]),
            f"{1e3 * row['dense seconds']:.2f}",
            *(f"{row['ratios'][kind]:.2f}" for kind in kinds),
        ]
        for row in record["times"]
    ]
    rows.append(["kept for backward", "", "", "", *(f"{record['memory'][k]:.2f}" for k in kinds)])
    shown = ["dense, against itself" if kind == "dense" else kind for kind in kinds]
    return ["step", "Adam", "batch", "dense, ms", *shown], rows


def by_label(record: Record) -> dict[str, list[Record]]:
    """The runs of a study, in order, gathered by label."""
    found: dict[str, list[Record]] = {}
    for run in record["runs"]:
        found.setdefault(run["label"], []).append(run)
    return found


def spread(numbers: list[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds."""
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean
