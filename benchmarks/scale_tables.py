"""Tables of what it costs to leave one machine, from benchmarks/results/scale.json."""

from typing import Any

Table = tuple[list[str], list[list[str]]]

CHAIN, SEEDS, MACHINES = 12, 84, 100  # points of a seed, one after another: 1,008 in all
TRAININGS = (1, 10, 60, 600)  # seconds of a point
NETWORK = 125e6  # bytes a second that one machine sends: 1 Gbit/s


def shards(record: dict[str, Any]) -> Table:
    """A step with TopK over that of the optimizer alone."""
    found = record["shards"]
    rows = [
        [name, f"{v['ms']:,.0f}", f"{v['time']:.2f}", f"{v['MB']:,.0f}", f"{v['memory']:.2f}"]
        for name, v in found["variants"].items()
    ]
    return ["AdamW, and then", "ms a step", "×", "MB a process, at most", "×"], rows


def paths(record: dict[str, Any]) -> Table:
    """Two processes beside one another."""
    found = record["paths"]
    row = [found["one"], found["two"], found["speedup"], found["lowest"], found["highest"]]
    columns = [
        "one seed, one process, s",
        "two seeds, two processes, s",
        "work in the same time, ×",
    ]
    return columns, [
        [f"{row[0]:.1f}", f"{row[1]:.1f}", "{:.2f} ({:.2f} … {:.2f})".format(*row[2:])]
    ]


def sent(record: dict[str, Any]) -> Table:
    """What goes from machine to machine."""
    found = record["sent"]
    rows = [
        ["what all points share, kB", f"{found['job bytes'] / 1e3:,.0f}"],
        ["packing it, once; unpacking it, once a process, ms", _pair(found, "pack", "unpack")],
        ["what a point leaves in the store, kB", f"{found['point bytes'] / 1e3:,.0f}"],
        ["putting it there; getting it from there, ms", _pair(found, "put", "get")],
        ["the driver's own work for a point that is there, ms", f"{1e3 * found['hand out']:.0f}"],
    ]
    return ["", ""], rows


def thousand(record: dict[str, Any]) -> Table:
    """A thousand points on a hundred machines, by these times."""
    points, found = CHAIN * SEEDS, record["sent"]
    each = found["hand out"] + found["get"] + found["job bytes"] / NETWORK
    rows = []
    for training in TRAININGS:
        chain = CHAIN * (training + found["put"] + found["unpack"])
        driver = points * each
        limit = "the driver" if driver > chain else "the chain of a seed's points"
        whole = max(chain, driver)
        used = points * training / (whole * MACHINES)
        rows.append([f"{training}", f"{whole:,.0f}", f"{100 * used:.0f} %", limit])
    return ["s a point", "s in all", "machines at work", "what limits"], rows


def _pair(found: dict[str, Any], *names: str) -> str:
    return "; ".join(f"{1e3 * found[name]:.0f}" for name in names)
