"""The tables of docs/results/microcontrollers.md, from the record of benchmarks/generated_c.py."""

from statistics import fmean
from typing import Any

import published
from gate_tables import spread

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
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
