"""The tables of docs/results/microcontrollers.md, from the record of benchmarks/generated_c.py."""

from statistics import fmean
from typing import Any

import published
from gate_tables import spread

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
DENSE_LENET = "LeNet-5, not pruned, kernels of CMSIS-NN, int8"
NAMES = {
    "lenet": "LeNet-5, dense weights",
    "mlp-0.02": "784-300-100, 2 %",
    "mlp-0.02-coded": "784-300-100, 2 %, a codebook of 4 bits",
    "mlp-0.01": "784-300-100, 1 %",
}


def on_cortex_m4(record: Record) -> Table:
    """lissom's C beside that of emx-onnx-cgen, of the same networks, and what others report."""
    rows = []
    for kind, nets in by_name(record).items():
        ours, others = (mean_of(nets, setting) for setting in ("Cortex-M4 -Os float", "emx -Os"))
        weights = round(fmean(net["weights"] for net in nets))
        name = f"{NAMES[kind]}: {weights:,} weights" + f", {len(nets)} seeds" * (len(nets) > 1)
        int8, error = (spread([100 * net[key] for net in nets]) for key in ("int8_error", "error"))
        errors = f"{int8} (float32 {error})"
        rows.append([f"**{name}**", "**lissom, int8**", *sizes(ours), errors, ""])
        flash, instructions = (others[key] / ours[key] for key in ("flash", "instructions"))
        said = f"flash × {flash:.1f}, instructions × {instructions:.1f}"
        rows.append([name, "emx-onnx-cgen, float32", *sizes(others), error, said])
    for row in published.rows("devices", "MNIST"):
        shown = [row.get(key, "") for key in ("flash", "ram", "instructions", "error")]
        rows.append([row["method"], "", *shown, published.source(row)])
    columns = ["network", "C", "flash, bytes", "RAM, bytes", "instructions", "test error, %", ""]
    return columns, rows


def before_and_after(record: Record, curves: Record) -> Table:
    """LeNet-5 on a Cortex-M4: the dense one, and what gates left of it.

    Args:
        record: of the small networks.
        curves: of LeNet-5, which begin with a dense one.
    """
    nets = by_name(record)["lenet"]
    cost = mean_of(nets, "Cortex-M4 -Os float")
    dense_error = next(p["test_error"] for p in curves["curves"][0]["points"] if not p["strength"])
    [other] = [r for r in published.rows("devices", "MNIST") if r["method"] == DENSE_LENET]
    weights, macs = published.sizes("LeNet-5", "20-50-800-500")
    costs = (
        ("weights", weights, fmean(net["weights"] for net in nets)),
        ("multiply–accumulates an image", macs, fmean(net["macs"] for net in nets)),
        ("flash, bytes", as_number(other["flash"]), cost["flash"]),
        ("instructions an image", as_number(other["instructions"]), cost["instructions"]),
    )
    rows = [
        [name, f"{dense:,}", f"{small:,.0f}", f"÷ {dense / small:.0f}"]
        for name, dense, small in costs
    ]
    accuracies = [100 * (1 - net["int8_error"]) for net in nets]
    lost = 100 * (1 - dense_error) - fmean(accuracies)
    shown = f"{100 * (1 - dense_error):.2f} %", f"{spread(accuracies)} %"
    rows.append(["test accuracy", *shown, f"− {lost:.1f} points"])
    return ["", "dense", "shrunk", ""], rows


def as_number(text: str) -> int:
    """Of a published row."""
    return int(text.replace(",", ""))


def on_boards(record: Record) -> Table:
    """Flash, RAM and instructions of int8 on every board, by a float and by a uint8 input."""
    rows = []
    for kind, nets in by_name(record).items():
        for setting in nets[0]:
            if setting.endswith("-Os float"):
                cost, bytewise = (
                    mean_of(nets, setting.replace("float", entry)) for entry in ("float", "uint8")
                )
                board = setting.split()[0]
                rows.append([NAMES[kind], board, *sizes(cost), f"{bytewise['instructions']:,}"])
    columns = ["network", "board", "flash, bytes", "RAM, bytes", "instructions"]
    return [*columns, "by uint8"], rows


def by_name(record: Record) -> dict[str, list[Record]]:
    """The networks of each kind, one for each seed."""
    found: dict[str, list[Record]] = {}
    for net in record["networks"]:
        found.setdefault(net["name"], []).append(net)
    return found


def mean_of(nets: list[Record], setting: str) -> dict[str, int]:
    """The costs in a setting, as means over the seeds."""
    costs = [net[setting] for net in nets]
    return {key: round(fmean(cost[key] for cost in costs)) for key in costs[0]}


def sizes(cost: dict[str, int]) -> list[str]:
    """Flash, RAM and instructions in the words of a table."""
    return [f"{cost[key]:,}" for key in ("flash", "ram", "instructions")]
