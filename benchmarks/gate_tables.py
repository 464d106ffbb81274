"""Tables of docs/results/ on stochastic gates, from their records: (columns, rows) each."""

import statistics
from typing import Any

import published

from lissom.recipes import read_recipe

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def gates(network: str, *records: Record) -> Table:
    """What gates left of a network, with the published rows beside."""
    rows = []
    for label, found in (row for record in records for row in by_label(record).items()):
        small = [run["small"] for run in found]
        errors = spread([100 * one["test"]["error"] for one in small])
        weights = spread([one["weights"] / 1000 for one in small])
        macs = spread([one["macs"] / 1000 for one in small], 0)
        left = ", ".join("-".join(map(str, one["neurons"])) for one in small)
        seeds = counted(len(small))
        method = f"**lissom, {label}**"
        rows.append([method, left, weights, macs, errors, seeds, helps(found[0])])
    for row in published.rows("gates", network):
        weights, macs = published.thousands(network, row)
        told = published.error(row), published.source(row)
        rows.append([row["method"], row.get("left", ""), weights, macs, *told, ""])
    columns = ["method", "left", "thousand weights", "thousand MACs"]
    return [*columns, "test error, %", "seeds, or source", "helped by"], rows


def counted(seeds: int) -> str:
    """How many seeds there were."""
    return "one seed" if seeds == 1 else f"{seeds} seeds"


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


def helps(run: Record) -> str:
    """What a recipe trains with besides its method, of what makes errors lower."""
    recipe = read_recipe(run["recipe"], run["set"])
    dropout = recipe.model.arguments.get("input_dropout", 0)
    shown_more = recipe.teacher and recipe.teacher.recipe.train.augment
    named = {
        "a teacher trained with augmentation" if shown_more else "a teacher": recipe.teacher,
        f"input dropout {dropout:g}": dropout,
        "augmentation": recipe.train.augment,
        "label smoothing": recipe.task.label_smoothing,
        "weight decay": recipe.optimizer.arguments.get("weight_decay"),
        "an average of weights": recipe.train.average_from is not None,
    }
    return ", ".join(name for name, given in named.items() if given) or "none"


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
