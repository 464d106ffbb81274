"""The tables of docs/results/removal.md: columns and rows from the records."""

import statistics
from typing import Any

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
DAMAGES = {"clean": "all zero", "biases left": "biases left"}
PARTS = ("trace", "couple", "constants", "decide", "surgery", "verification")
CLOCKS = {"perf_counter": "2 threads, by the clock", "process_time": "1 thread, of the processor"}


def pruners(record: Record) -> Table:
    """For each tool and damage: how many networks, and how many units went without a difference."""
    rows = []
    for damage, shown in DAMAGES.items():
        for tool in tools(record):
            reports = [n["damages"][damage]["tools"][tool] for n in networks(record)]
            outcomes = [report["outcome"] for report in reports]
            zeroed = [n["damages"][damage]["dead"] for n in networks(record)]
            exact = [report for report in reports if report["outcome"] == "exact"]
            units = sum(report["units"] for report in exact)
            pairs = list(zip(zeroed, reports, strict=True))
            whole = sum(r in exact and r["units"] >= dead for dead, r in pairs)
            nothing = sum(r in exact and r["units"] == 0 for _, r in pairs)
            rows.append(
                [
                    shown,
                    tool,
                    *(str(outcomes.count(each)) for each in ("exact", "wrong", "crashed")),
                    f"{whole}, {nothing}",
                    f"{sum(zeroed):,}",
                    f"{units:,}",
                    f"{sum(report['parameters_removed'] for report in exact):,}",
                    f"{statistics.median(report['seconds'] for report in reports):.2f}",
                ]
            )
    columns = ["damage", "tool", "exact", "wrong", "crashed"]
    columns += ["exact with all, with nothing removed", "units zeroed"]
    columns += ["units removed exactly", "parameters removed exactly", "seconds, median"]
    return columns, rows


def pruners_each(record: Record) -> Table:
    """Each architecture: units removed, or what went wrong."""
    columns = ["network"]
    for shown in DAMAGES.values():
        columns += [f"{shown}: dead units", *(f"{tool}" for tool in tools(record))]
    rows = []
    for network in networks(record):
        row = [network["name"]]
        for damage in DAMAGES:
            found = network["damages"][damage]
            row += [str(found["dead"]), *(outcome(found["tools"][tool]) for tool in tools(record))]
        rows.append(row)
    return columns, rows


def networks(record: Record) -> list[Record]:
    """Those that could be built and have units."""
    return [network for network in record["networks"] if network.get("damages")]


def tools(record: Record) -> list[str]:
    return list(networks(record)[0]["damages"]["clean"]["tools"])


def outcome(report: Record) -> str:
    if report["outcome"] == "exact":
        return str(report["units"])
    return report["outcome"] + (
        f" ({report['difference']:.1g})" if report["outcome"] == "wrong" else ""
    )


def fuzz(record: Record) -> Table:
    """What thousands of random networks came to."""
    drawn = f"{record['networks']:,}"
    seeds = f"seeds {record['first']:,} to {record['first'] + record['networks'] - 1:,}"
    rows = [
        ["random networks", f"{drawn} ({seeds})"],
        ["kinds of blocks", str(len(record["blocks"]))],
        ["crashes", str(record["crashes"])],
        [f"differences above {record['tolerance']:.0e}", str(record["differences"])],
        ["largest difference", f"{record['largest_difference']:.1e}"],
        ["networks that lost units", f"{record['shrunk']:,}"],
        ["units removed", f"{record['removed']:,} of {record['units']:,}"],
        ["of these folded into biases", f"{record['folded']:,}"],
        ["parameters removed", f"{record['weights'] - record['weights_left']:,}"],
        ["given as the traced graph", f"{record['graphs']:,}"],
        ["networks with units kept because the code fixes a size", str(record["code_fixes"])],
        ["operations without a rule met", ", ".join(sorted(record["unknown"])) or "none"],
        ["seconds for each, mean", f"{record['seconds'] / record['networks']:.2f}"],
    ]
    return ["", ""], rows


def coupling(record: Record) -> Table:
    """Seconds of a whole shrink, and of its parts."""
    rows = []
    for name, clocks in record["shrinking"].items():
        for clock, shown in CLOCKS.items():
            seconds = clocks[clock]["seconds"]
            whole = (ranged(seconds["shrink"]), ranged(seconds["shrink, verify=False"]))
            parts = (f"{seconds[part]['median']:.2f}" for part in PARTS)
            rows.append([name, shown, f"{record['bounds'][name]:g}", *whole, *parts])
    return ["network", "seconds", "bound", "`shrink`", "`verify=False`", *PARTS], rows


def unit_norms(record: Record) -> Table:
    """What norms and prox of the units cost beside a training step."""
    clocks = record["training"]
    rows = []
    for name in clocks["perf_counter"]:
        found = [clocks[clock][name] for clock in CLOCKS]
        rows.append([name, *(f"{1000 * f['median']:,.0f}" for f in found)])
        rows[-1] += [ranged(f["ratio"], 4) for f in found]
    shown = list(CLOCKS.values())
    return ["ResNet-50", *(f"ms, {s}" for s in shown), *(f"× the step, {s}" for s in shown)], rows


def live(record: Record) -> Table:
    """What a step and a training cost at full size and of what lives, over the dense network's."""
    bounds, rows = record["bounds"], []
    for name, found in record["networks"].items():
        for kind, of, full, small in (
            ("step", "steps", "frozen zeros at full size", "small"),
            ("training", "trainings", "TopK at full size", "TopK"),
        ):
            three = [found[of][key] for key in ("dense", full, small)]
            ratios = [f"{one['ratio']:.2f}" for one in three[1:]]
            seconds = three[0]["seconds"]
            dense = f"{1000 * seconds:,.1f} ms" if kind == "step" else f"{seconds:,.0f} s"
            errors = [f"{100 * one['test error']:.2f}" for one in three if "test error" in one]
            rows.append([name, kind, dense, *ratios, f"≤ {bounds[kind]:g}", " / ".join(errors)])
    columns = ["network", "", "dense", "× at full size", "× of what lives", "goal"]
    return [*columns, "test error, % (dense / full size / what lives)"], rows


def latency(record: Record) -> Table:
    """The shrunk VGG beside the built one, and how many times faster than the dense one."""
    models = record["models"]
    dense = models["dense"]["macs"]
    rows = []
    for run in record["runs"]:
        timed = run["models"]
        faster = {name: timed["dense"]["ratio"] / found["ratio"] for name, found in timed.items()}
        rows.append(
            [
                run["backend"],
                str(run["batch"]),
                str(run["threads"]),
                *map(milliseconds, (timed["dense"], timed["built at half width"])),
                milliseconds(timed["shrunk to half width"]),
                *(f"{timed[name]['ratio']:.2f}" for name in NAMES),
                *(f"{faster[name]:.2f}" for name in FASTER),
            ]
        )
    fewer = ["MACs", *[""] * 7, *(f"{dense / models[n]['macs']:.2f}" for n in FASTER)]
    columns = ["", "batch", "threads", "dense, ms", "built, ms", "shrunk, ms"]
    columns += ["built again / built", "shrunk / built"]
    return [*columns, "× faster: half", "ragged", "ragged, `round_to=8`"], [*rows, fewer]


def speed(record: Record) -> str:
    """What the README says of it."""
    ranges = {}
    for backend in ("ONNX Runtime", "torch"):
        found = [run["models"] for run in record["runs"] if run["backend"] == backend]
        faster = [one["dense"]["ratio"] / one["shrunk to half width"]["ratio"] for one in found]
        ranges[backend] = f"{min(faster):.1f} to {max(faster):.1f}"
    models = record["models"]
    macs = models["dense"]["macs"] / models["shrunk to half width"]["macs"]
    return (
        f"The VGG of the papers, shrunk to half its width, takes 1/{macs:.3g} of the MACs\n"
        f"and runs {ranges['ONNX Runtime']} times faster in ONNX Runtime, and {ranges['torch']}\n"
        "times in eager PyTorch, on one core or two; the same VGG built at half width is no\n"
        "faster ([table](docs/results/removal.md#latency))."
    )


NAMES = ("built once more", "shrunk to half width")
FASTER = ("shrunk to half width", "ragged", "ragged, round_to=8")


def milliseconds(found: Record) -> str:
    low, high = (1000 * seconds for seconds in found["quartiles"])
    return f"{1000 * found['seconds']:.2f} ({low:.2f} … {high:.2f})"


def ranged(found: Record, digits: int = 1) -> str:
    ends = f"{found['lowest']:.{digits}f} … {found['highest']:.{digits}f}"
    return f"{found['median']:.{digits}f} ({ends})"
