"""Make the tables and figures of the documentation from benchmarks/results/*.json.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    fail if a table is not what the results say

A table stands in a Markdown file between <!-- results: NAME --> and <!-- end -->.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "results.md")
FIGURES = ROOT / "docs" / "figures"
COLOURS = {"L1": "#2a9d4a", "threshold": "#222222", "compress rate": "#c8322b"}  # Formanek's


def load(name: str) -> dict[str, Any]:
    """A result file."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def settings(name: str) -> list[dict[str, Any]]:
    """The settings of a study, each with the errors (%) and non-zero weights of its seeds."""
    found: dict[tuple[str, Any], dict[str, Any]] = {}
    for run in load(name)["runs"]:
        key = (run["label"], run["value"])
        entry = found.setdefault(
            key, {"label": key[0], "value": key[1], "errors": [], "alive": [], "runs": []}
        )
        weights = [v for k, v in run["num_nonzero"].items() if priced(name, k)]
        entry["errors"].append(100 * run["inacc_test"])
        entry["alive"].append(sum(v["numNz"] for v in weights))
        entry["all"] = sum(v["num"] for v in weights)
        entry["runs"].append(run)
    return list(found.values())


def priced(study: str, variable: str) -> bool:
    """Whether a variable's weights are counted: weights, and in LeNet-5 those of kernels."""
    kernels = study == "formanek-kernels"
    return variable.endswith("weight") and ("conv" in variable or not kernels)


def spread(numbers: list[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds."""
    mean = statistics.mean(numbers)
    if len(numbers) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {deviation(numbers):.{digits}f}"


def deviation(numbers: list[float]) -> float:
    """Standard deviation over seeds, 0 for a single one."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def markdown(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines)


def alive(entry: dict[str, Any]) -> str:
    """Weights that are left, and which part of all."""
    mean = statistics.mean(entry["alive"])
    return f"{mean:,.0f} ({100 * mean / entry['all']:.2f} %)"


def plain_table(name: str) -> str:
    """Setting, weights left, test error and spread."""
    rows = []
    for entry in settings(name):
        label = entry["label"] if entry["value"] is None else f"{entry['label']} {entry['value']:g}"
        errors = spread(entry["errors"])
        rows.append([label, alive(entry), errors, str(len(entry["errors"]))])
    return markdown(["setting", "weights left", "test error, %", "seeds"], rows)


def henrikson_table() -> str:
    """Zeros as the article counts them: of all variables, biases included."""
    rows = []
    for entry in settings("henrikson"):
        totals = [run["num_nonzero"]["total"] for run in entry["runs"]]
        zeros = [100 * (1 - t["numNz"] / t["num"]) for t in totals]
        rows.append([entry["label"], spread(zeros), spread(entry["errors"])])
    return markdown(["recipe", "exact zeros, % of 55,050", "test error, %"], rows)


def lambda_table() -> str:
    """What is minimised, L + λ‖w‖₁, and where each optimizer ended."""
    price = 1e-4
    rows = []
    for entry in settings("lambda"):
        objectives = [run["ent_train"] + price * run["l1"] for run in entry["runs"]]
        norms = [run["l1"] for run in entry["runs"]]
        rows.append(
            [
                entry["label"],
                alive(entry),
                spread(norms, 0),
                spread(objectives, 4),
                spread(entry["errors"]),
            ]
        )
    columns = ["optimizer, metric", "weights left", "‖w‖₁", "L + λ‖w‖₁ in training"]
    return markdown([*columns, "test error, %"], rows)


def cost_table() -> str:
    """Ratios to the plain step, and the microseconds of that."""
    by_threads = load("cost")["threads"]
    rows = []
    for name in by_threads["1"]:
        cells = [
            f"{entry['ratio']:.2f} ({entry['lowest']:.2f} … {entry['highest']:.2f})"
            for entry in (variants[name] for variants in by_threads.values())
        ]
        rows.append(["plain, against itself" if name == "plain" else name, *cells])
    return markdown(["with", "× the plain step, 1 thread", "2 threads"], rows)


def large_text() -> str:
    """One sentence about the global TopK."""
    record = load("cost-large")
    return (
        f"One global TopK over {record['weights']:,} weights took {record['seconds']:.1f} s on "
        f"{record['threads']} threads and {record['copies']:.2f} × the memory of the weights on "
        "top of them."
    )


TABLES: dict[str, Callable[[], str]] = {
    "topk": lambda: plain_table("topk"),
    "henrikson": henrikson_table,
    "formanek-weights": lambda: plain_table("formanek-weights"),
    "formanek-kernels": lambda: plain_table("formanek-kernels"),
    "lambda": lambda_table,
    "cost": cost_table,
    "cost-large": large_text,
}


def removed(entry: dict[str, Any]) -> float:
    """Weights removed, %, on average over seeds."""
    return 100 * (1 - statistics.mean(entry["alive"]) / entry["all"])


def formanek_figure(name: str, title: str, close: tuple[float, float]) -> None:
    """Test accuracy against the part of the weights that was removed (Formanek fig. 2–3).

    The right panel looks closely at the accuracies from `close[0]` to `close[1]`. Single weights
    are shown together with what gradual TopK and healing reach.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.8))
    entries = settings(name)
    dense = statistics.mean(next(e for e in entries if e["label"] == "dense")["errors"])
    for axes in panels:
        for label, colour in COLOURS.items():
            chosen = sorted((e for e in entries if e["label"] == label), key=removed)
            y = [100 - statistics.mean(e["errors"]) for e in chosen]
            error = [deviation(e["errors"]) for e in chosen]
            x = list(map(removed, chosen))
            axes.errorbar(
                x, y, error, marker="o", color=colour, label=label, capsize=2, lw=1.2, ms=4
            )
        if name == "formanek-weights":
            for entry, marker in zip(settings("topk")[:2], "*^", strict=True):
                x, y = removed(entry), 100 - statistics.mean(entry["errors"])
                label = f"gradual TopK, {entry['label']}, healed"
                axes.plot(x, y, marker, color="#0d7d76", ms=11, label=label)
        axes.axhline(100 - dense, color="gray", ls=":", label="dense")
        axes.set(xlabel="weights removed, %", ylabel="test accuracy, %")
        axes.grid(alpha=0.25)
    panels[0].legend(frameon=False, loc="lower left", fontsize="small")
    panels[1].set(ylim=close)
    figure.suptitle(title)
    save(figure, name)


def save(figure: plt.Figure, name: str) -> None:
    """Write an SVG that is the same whenever the data are."""
    FIGURES.mkdir(exist_ok=True)
    figure.tight_layout()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main(check: bool) -> int:
    """Bring every page up to date, or tell which is not."""
    stale = []
    for page in PAGES:
        old = page.read_text()
        new = re.sub(
            r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)",
            lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}",
            old,
            flags=re.DOTALL,
        )
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new)
    if check:
        if stale:
            print(f"not what the results say: {', '.join(stale)}; run benchmarks/tables.py")
        return len(stale)
    formanek_figure("formanek-weights", "LeNet-300-100 on MNIST, single weights", (96, 99))
    formanek_figure("formanek-kernels", "LeNet-5 on MNIST, 5×5 kernels", (97, 99.5))
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
