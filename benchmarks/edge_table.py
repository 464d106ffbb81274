"""The first table of the README, from the record of benchmarks/edge.py: (columns, rows)."""

from statistics import fmean
from typing import Any

from gate_tables import spread

Record = dict[str, Any]


def edge(record: Record) -> tuple[list[str], list[list[str]]]:
    """What the dense and the small network are, as means over seeds, and by what it is less."""

    def mean(name: str, key: str) -> float:
        return fmean(pair["models"][name][key] for pair in record["pairs"])

    def row(label: str, key: str, text: str, scale: float = 1) -> list[str]:
        dense, small = mean("dense", key), mean("small", key)
        shown = [text.format(scale * value) for value in (dense, small)]
        return [label, *shown, f"÷ {dense / small:.1f}"]

    rows = [
        row("weights", "weights", "{:,.0f}"),
        row("multiply–accumulates an image", "macs", "{:,.0f}"),
        row("ONNX file", "onnx", "{:,.0f} kB", 1e-3),
    ]
    for backend in record["pairs"][0]["times"]:
        times = [pair["times"][backend] for pair in record["pairs"]]
        shown = [
            f"{1000 * fmean(t[n]['seconds'] for t in times):.3f} ms" for n in ("dense", "small")
        ]
        ratio = fmean(1 / t["small"]["ratio"] for t in times)
        rows.append([f"one image, one core, {backend}", *shown, f"÷ {ratio:.1f}"])
    errors = {
        name: [100 * (1 - pair["models"][name]["test_error"]) for pair in record["pairs"]]
        for name in ("dense", "small")
    }
    lost = [d - s for d, s in zip(errors["dense"], errors["small"], strict=True)]
    accuracies = [f"{spread(errors[name])} %" for name in ("dense", "small")]
    rows.append(["test accuracy", *accuracies, f"− {fmean(lost):.1f} points"])
    return ["", "dense", "shrunk", ""], rows
