"""What others report (published.toml), as rows of our tables."""

import tomllib
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PUBLISHED: dict[str, Any] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


def rows(table: str, network: str) -> list[Row]:
    """What is known of a network, in order."""
    [found] = [entry["rows"] for entry in PUBLISHED[table] if entry["network"] == network]
    return list(found)


def row(table: str, network: str, method: str) -> Row:
    """One of them."""
    [found] = [one for one in rows(table, network) if one["method"] == method]
    return found


def error(row: Row) -> str:
    """Its error, and whether it is the last epoch's."""
    return row["error"] + (" (last epoch)" if row.get("epoch") == "last" else "")


def source(row: Row) -> str:
    """Where it is from."""
    found: str = PUBLISHED["sources"][row["source"]]
    return found


def thousands(network: str, row: Row) -> tuple[str, str]:
    """Its weights and multiply–accumulates, in thousands; the latter only where units are known."""
    if "left" not in row:
        return f"{row['weights']:.1f}", ""
    weights, macs = sizes(network, row["left"])
    return f"{weights / 1000:.{1 if weights >= 10_000 else 2}f}", f"{macs / 1000:.0f}"


def sizes(network: str, left: str) -> tuple[int, int]:
    """Weights and multiply–accumulates of what is left, by our own count.

    Args:
        network: "MLP" (784-300-100) or "LeNet-5".
        left: maps of convolutions, and inputs of dense layers.
    """
    if network == "MLP":
        first, second, third = map(int, left.split("-"))
        weights = first * second + second * third + 10 * third
        return weights, weights
    maps, more, first, second = map(int, left.split("-"))
    convolutions = 25 * maps, 25 * maps * more
    dense = first * second + 10 * second
    macs = 24 * 24 * convolutions[0] + 8 * 8 * convolutions[1] + dense
    return sum(convolutions) + dense, macs
