"""The tables of docs/results/microcontrollers.md, from the record of benchmarks/generated_c.py."""

from typing import Any

import published

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
    for net in record["networks"]:
        ours, others = net["Cortex-M4 -Os float"], net["emx -Os"]
        name = f"{NAMES[net['name']]}: {net['weights']:,} weights"
        errors = f"{100 * net['int8_error']:.2f} (float32 {100 * net['error']:.2f})"
        rows.append([f"**{name}**", "**lissom, int8**", *sizes(ours), errors, ""])
        flash, instructions = (others[key] / ours[key] for key in ("flash", "instructions"))
        said = f"flash × {flash:.1f}, instructions × {instructions:.1f}"
        error = f"{100 * net['error']:.2f}"
        rows.append([name, "emx-onnx-cgen, float32", *sizes(others), error, said])
    for row in published.rows("devices", "MNIST"):
        shown = [row.get(key, "") for key in ("flash", "ram", "instructions", "error")]
        rows.append([row["method"], "", *shown, published.source(row)])
    columns = ["network", "C", "flash, bytes", "RAM, bytes", "instructions", "test error, %", ""]
    return columns, rows


def on_boards(record: Record) -> Table:
    """Flash, RAM and instructions of int8 on every board, by a float and by a uint8 input."""
    rows = []
    for net in record["networks"]:
        for setting, cost in net.items():
            if isinstance(cost, dict) and setting.endswith("float") and "-Os" in setting:
                bytewise = net[setting.replace("float", "uint8")]
                board = setting.split()[0]
                rows.append(
                    [NAMES[net["name"]], board, *sizes(cost), f"{bytewise['instructions']:,}"]
                )
    columns = ["network", "board", "flash, bytes", "RAM, bytes", "instructions"]
    return [*columns, "by uint8"], rows


def sizes(cost: dict[str, int]) -> list[str]:
    """Flash, RAM and instructions in the words of a table."""
    return [f"{cost[key]:,}" for key in ("flash", "ram", "instructions")]
