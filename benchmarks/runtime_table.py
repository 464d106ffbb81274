"""The tables of docs/faster.md, from the records of several benchmarks: (columns, rows)."""

from typing import Any

from lissom.turns import time_text

Record = dict[str, Any]
NAMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FORMS = ("weights", "two of four", "units", "padded", "rounded", "int8", "units, int8")


def padding(record: Record) -> tuple[list[str], list[list[str]]]:
    """Times over those of the dense network in ONNX Runtime, a row for both batch sizes."""
    columns = ["", "channels dead", "MACs left", "… in whole blocks"]
    columns += [f"{form}, batch {batch}" for form in ("ragged", "padded") for batch in (1, 32)]
    rows = []
    for one, many in zip(record["runs"][::2], record["runs"][1::2], strict=True):
        ratios = [run["models"].get(form) for form in ("ragged", "padded") for run in (one, many)]
        macs = [f"{one['ratios'][kind]:.2f}" for kind in ("plain", "rounded")]
        times = [f"{found['ratio']:.2f}" if found else "1" for found in ratios]
        rows.append([one["network"], f"{100 * one['dead']:.0f} %", *macs, *times])
    return columns, rows


def shrunk(record: Record) -> tuple[list[str], list[list[str]]]:
    """Trained and shrunk networks: weights, multiply–accumulates, and what their times come to."""
    dense, *_ = record["networks"]
    columns = ["setting", "weights", "MACs", "MACs ÷"]
    for batch in dense["times"]:
        columns += [f"batch {batch}", "time ÷"]
    rows = []
    for one in record["networks"]:
        cells = [one["name"], f"{one['weights']:,}", f"{one['macs']:,}"]
        cells.append(f"{dense['macs'] / one['macs']:.2f}")
        for time in one["times"].values():
            cells += [time_text(time["seconds"]), f"{1 / time['ratio']:.2f}"]
        rows.append(cells)
    for name in record["missing"]:
        if name != dense["name"]:  # whose times do not depend on a run
            rows.append([name, "not run yet", *[""] * (len(columns) - 2)])
    return columns, rows


def aligned(record: Record) -> tuple[list[str], list[list[str]]]:
    """Times and MACs over those of the dense network, for networks that were trained to widths."""
    rows = []
    for run in record["runs"]:
        ratios = [f"{run[name]:.2f}" for name in ("macs", "ratio", "over_macs")]
        trained = run["trained"].removeprefix("multiple_of=")
        rows.append([run["network"], trained, str(run["batch"]), *ratios])
    return ["", "`multiple_of`", "batch", "MACs left", "time", "time over MACs"], rows


def c_speed(record: Record) -> tuple[list[str], list[list[str]]]:
    """Times of one example on a PC, and over those of the dense network in ONNX Runtime."""
    forms = [*record["networks"][0]["times"]]
    rows = [
        [network["run"]]
        + [f"{time_text(found['seconds'])}, {found['ratio']:.2f}" for found in times.values()]
        for network in record["networks"]
        for times in [network["times"]]
    ]
    return ["recipe", *forms], rows


def runtimes(record: Record) -> tuple[list[str], list[list[str]]]:
    """Times over those of the dense network; below a network's name the MACs that are left."""
    dead, weights = (f"{100 * record[name]:.0f} %" for name in ("dead", "weights"))
    columns = ["", "", "dense", f"{weights} of the weights", "2 of 4 weights"]
    columns += [f"{dead} of the units", "… padded", "… widths of 16", "int8", "… and the units"]
    rows: list[list[str]] = []
    for run in record["runs"]:
        first = not rows or all(row[0] != run["network"] for row in rows)
        times = run["models"]
        cells = [f"{times[form]['ratio']:.2f}" if form in times else "" for form in FORMS]
        name = run["network"] if first else ""
        rows.append([name, NAMES[run["runtime"]], time_text(times["dense"]["seconds"]), *cells])
        if run["runtime"] == [*NAMES][-1]:
            macs = run["macs"]
            left = {form: f"{macs[form] / macs['dense']:.2f}" for form in ("units", "rounded")}
            shown = [left.get(form, "") for form in FORMS]
            rows.append(["", "*MACs*", f"{macs['dense'] / 1e6:,.1f} M", *shown])
    return columns, rows
