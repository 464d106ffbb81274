"""The table of the README: what was published, and what lissom's records say."""

import statistics
from collections.abc import Callable
from typing import Any

import curve_tables
import exact_tables
from gate_tables import by_label, spread
from lc_tables import settings

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def summary(load: Callable[[str], Record]) -> Table:
    """One row for each claim.

    Args:
        load: load(study), its record.
    """
    compressed = settings(load("lc"))
    perceptron, lenet5 = (by_label(load(f"gates-{name}")) for name in ("mlp", "lenet5"))
    rows = [
        [
            "LeNet-300-100, 2 % of the weights",
            "1.76 % (LC, ℓ0 + ℓ2)",
            f"**{error(compressed['no teacher', 0.02])}**; "
            f"**{error(compressed['teacher', 0.02])}** with a teacher",
        ],
        [
            "LeNet-300-100, 1 % of the weights",
            "1.69 % at 3,100 weights (RigL+)",
            f"**{error(compressed['teacher', 0.01])}** at 2,662 weights, with a teacher",
        ],
        [
            "784-300-100 by gates on pixels and neurons",
            "1.4 % at 69.3 k weights (L0)",
            units(perceptron["λ = 0.1/N"]),
        ],
        ["the same, λ by layer", "1.8 % at 26.6 k (L0)", units(perceptron["λ by layer"])],
        [
            "the same, as small as can be",
            "1.6 % at 9.6 k (VIBNet)",
            f"{units(perceptron['budget, teacher'], bold=False)}, with a teacher",
        ],
        ["LeNet-5 by gates", "0.9 % at 38.3 k (L0)", units(lenet5["λ = 0.1/N"])],
        [
            "the same, as small as can be",
            "1.0 % at 2.75 k (BC-GHS)",
            f"{units(lenet5['budget, teacher'], bold=False)}, with a teacher",
        ],
        [
            "first layer of LeNet-300-100 by gates, for 20 points of accuracy",
            "8,000 × smaller (Ahmed)",
            largest_factor(load("curves-lenet300-first-layer")),
        ],
        [
            "dense layer of a radio network by gates, no dropout or weight decay",
            "95 % removed, accuracy + 1 point (Ahmed, on RML2016.10a)",
            gain(load("curves-modrec")),
        ],
        [
            "784-64-64-10 by L1, exact zeros",
            f"{zeros(load, 'subgradient')} by a term in the loss",
            f"**{zeros(load, 'per layer')}** by proximal steps",
        ],
        [
            "58 architectures, dead units with biases left: removed exactly",
            f"{exact(load, 'Torch-Pruning')} (Torch-Pruning)",
            f"**{exact(load, 'lissom')}**",
        ],
    ]
    return ["", "published, or another tool", "lissom"], rows


def error(runs: list[Record]) -> str:
    """Test error over the seeds."""
    return f"{spread([100 * run['test']['error'] for run in runs])} %"


def units(runs: list[Record], *, bold: bool = True) -> str:
    """Error and weights of networks without their dead units."""
    small = [run["small"] for run in runs]
    weights = statistics.mean(one["weights"] for one in small) / 1000
    shown = f"**{error(small)}**" if bold else error(small)
    return f"{shown} at {weights:.{1 if weights >= 10 else 2}f} k"


def largest_factor(record: Record) -> str:
    """By how much the layer is smaller within 20 points on validation data, and the points lost."""
    [found] = curve_tables.curves(record).values()
    times, points = curve_tables.factor(found, 0.2, record["axis"]).split(" (+")
    return f"**{times} smaller** for {points.removesuffix(')')} points"


def gain(record: Record) -> str:
    """The best of the settings that are 95 % of the layer smaller, by validation data."""
    [found] = curve_tables.curves(record).values()
    axis = record["axis"]
    dense = found.settings[0].size(axis)
    setting = found.budget(**{axis: 0.05 * dense})
    gained = -float(curve_tables.added(found, setting))
    removed = 100 * (1 - setting.size(axis) / dense)
    return f"**{removed:.1f} % removed, accuracy {gained:+.2f} points**, on RML2016-like data"


def zeros(load: Callable[[str], Record], label: str) -> str:
    """Exact zeros of all variables, and the error."""
    runs = by_label(load("henrikson"))[label]
    totals = [run["nonzeros"]["total"] for run in runs]
    part = statistics.mean(100 * (1 - total["nonzeros"] / total["weights"]) for total in totals)
    return f"{part:.0f} %, error {error(runs)}"


def exact(load: Callable[[str], Record], tool: str) -> str:
    """How many architectures a tool left with the same output, and how much it removed."""
    row = next(
        row for row in exact_tables.pruners(load("pruners"))[1]
        if row[:2] == ["biases left", tool]
    )  # fmt: skip
    return f"{row[2]} of {sum(map(int, row[2:5]))}"
