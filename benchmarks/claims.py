"""What the five documents report (claims.toml), and what our records say of each.

A verdict follows from figures: *beaten* where ours is better than the published one by more than
the spread over seeds and what its last digit hides, *reproduced* where it is as good or where what
is claimed holds, *contradicted* where it is worse or does not hold, *not run* where there is no
record. Where figures decide nothing, claims.toml has the verdict and why.
"""

import statistics
from collections.abc import Callable
from typing import Any

import curve_tables
import formanek_claims
import lc_tables
import published
import vgg_tables
from gate_tables import by_label, helps, spread
from verdicts import Found, against, holds, smaller

from lissom.curves import Setting
from lissom.models import vgg

Record = dict[str, Any]
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
Load = Callable[[str], Record]

VERDICTS = ("reproduced", "beaten", "contradicted", "not run")
MARGIN = 4  # pixels: digits of MNIST are centred in 20 × 20 of its 28 × 28


def table(load: Load) -> Table:
    """A row for each claim: what is reported, what we found, and the verdict.

    Args:
        load: load(study), its record; FileNotFoundError where there is none.
    """
    rows = []
    for document in vgg_tables.CLAIMS.values():
        name = document["name"]
        for row in document["rows"]:
            used: dict[str, Record] = {}
            found = look(lambda study, used=used: used.setdefault(study, load(study)), row)
            ours = "; ".join(filter(None, (found.ours, row.get("why"))))
            page = [f"[page]({row['page']})"] if "page" in row else []
            evidence = ", ".join([*page, *(f"`{study}`" for study in used)])
            verdict = f"**{row.get('verdict', found.verdict)}**"
            reports = row["reports"] + (f" ({found.published})" if found.published else "")
            rows.append([name, reports, ours, found.seeds, verdict])
            rows[-1].append(evidence)
            name = ""
    return ["document", "reports", "ours", "seeds", "verdict", "evidence"], rows


def counts(rows: list[list[str]]) -> str:
    """How many rows of `table` have which verdict, in a sentence."""
    verdicts = [row[-2].strip("*") for row in rows]
    whole = [f"{verdicts.count(word)} {word}" for word in VERDICTS]
    parts = len(verdicts) - sum(map(verdicts.count, VERDICTS))
    return f"{len(rows)} results: {', '.join(whole)}, {parts} beaten in part."


def records(load: Load) -> Table:
    """A row for each record behind `table`: how, where and when it was made, by which code."""
    used: dict[str, Record] = {}
    table(lambda study: used.setdefault(study, load(study)))
    rows = []
    for name, record in sorted(used.items()):
        made = [record, *record.get("runs", [])]
        machines = dict.fromkeys(str(one["machine"]) for one in made if "machine" in one)
        dates = sorted({str(one["date"]) for one in made if "date" in one})
        when = " … ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "not kept"
        where = "; ".join(machines) or "not kept"
        rows.append([f"`{name}`", f"`{record['command']}`", where, when])
    return ["record", "made by", "machine", "date"], rows


def look(load: Load, row: Row) -> Found:
    """What our records say of one claim."""
    if "check" not in row:
        return Found("")
    found: Found = CHECKS[row["check"]](load, row)
    return found


def gates(load: Load, row: Row) -> Found:
    """Error and size of networks without units, against a published one."""
    runs = by_label(load(row["record"]))[row["label"]]
    small = [run["small"] for run in runs]
    theirs = published.row("gates", row["network"], row["method"])
    sizes = published.sizes(row["network"], theirs["left"])
    errors = [100 * one["test"]["error"] for one in small]
    weights, macs = (statistics.mean(one[kind] for one in small) for kind in ("weights", "macs"))
    signs = {"error": against(errors, theirs["error"]), "weights": smaller(weights, sizes[0])}
    shown = f"{spread(errors)} % at {weights / 1000:,.1f} k"
    size = f"{sizes[0] / 1000:,.1f} k"
    if sizes[0] != sizes[1]:  # of dense layers alone, they are the same
        signs["MACs"] = smaller(macs, sizes[1])
        shown += f" and {macs / 1000:,.0f} k MACs"
        size += f" and {sizes[1] / 1000:,.0f} k MACs"
    return Found(f"{shown} ({told(runs[0])})", signs, seeds(runs), size)


def expected_macs(load: Load, row: Row) -> Found:
    """Whether the expected multiply–accumulates fall from the first evaluation to the last."""
    ratios, runs = {}, load(row["record"])["runs"]
    for label, found in by_label(load(row["record"])).items():
        histories = [[left["macs"] for _, left in run["small"]["history"]] for run in found]
        ratios[label] = [history[-1] / history[0] for history in histories]
    shown = ", ".join(f"× {spread(found)} ({label})" for label, found in ratios.items())
    falls = all(ratio < 1 for found in ratios.values() for ratio in found)
    return Found(f"last over first: {shown}", {"fall": holds(falls)}, seeds(runs))


def open_gates(load: Load, row: Row) -> Found:
    """Whether fewer gates are expected to be open for each larger λ."""
    means, runs = {}, load(row["record"])["runs"]
    for label, found in by_label(load(row["record"])).items():
        counts = [
            sum(run["method"]["curves"]["gates expected to be open"].values()) for run in found
        ]
        means[label] = statistics.mean(counts)
    order = [*means.values()]
    shown = ", ".join(f"{count:,.0f} ({label})" for label, count in means.items())
    falls = order == sorted(order, reverse=True)
    return Found(f"gates expected to be open: {shown}", {"fall": holds(falls)}, seeds(runs))


def removed_within(load: Load, row: Row) -> Found:
    """What the best network costs that has at most so much of the layer."""
    dense, best, axis, number = along(load(row["record"]), row)
    lost = [-points for points in gains(dense, best)]
    removed = 100 * (1 - best.size(axis) / dense.size(axis))
    shown = f"{removed:.2f} % removed, test error {statistics.mean(lost):+.2f} points"
    return Found(shown, {"loss": holds(statistics.mean(lost) < float(row["loses"]))}, number)


def gained(load: Load, row: Row) -> Found:
    """The same, where the error is said to fall."""
    dense, best, axis, number = along(load(row["record"]), row)
    gain = gains(dense, best)
    removed = 100 * (1 - best.size(axis) / dense.size(axis))
    shown = (
        f"{removed:.2f} % removed, test accuracy {spread(gain)} points higher, RML2016-like data"
    )
    return Found(shown, {"gain": against(gain, row["points"], higher=True)}, number)


def along(record: Record, row: Row) -> tuple[Setting, Setting, str, str]:
    """Dense, and the best by validation data with at most so much of the layer; axis and seeds."""
    [found] = curve_tables.curves(record).values()
    axis, dense = record["axis"], found.settings[0]
    best = found.budget(**{axis: (1 - float(row["removed"]) / 100) * dense.size(axis)})
    return dense, best, axis, seeds_of_curve(record)


def gains(dense: Setting, best: Setting) -> list[float]:
    """Test accuracy that each seed has gained over its dense network, in points."""
    before = {point.seed: point.test_error for point in dense.points}
    return [100 * (before[point.seed] - point.test_error) for point in best.points]


def factor(load: Load, row: Row) -> Found:
    """By how much the layer is smaller within a loss on validation data."""
    record = load(row["record"])
    [found] = curve_tables.curves(record).values()
    axis, loss = record["axis"], float(row["loses"]) / 100
    times = found.settings[0].size(axis) / found.within(error=loss, axis=axis).size(axis)
    shown = f"{curve_tables.factor(found, loss, axis).replace(' (', ' (test error ')}"
    return Found(shown, {"factor": -smaller(times, float(row["times"]))}, seeds_of_curve(record))


def margins(load: Load, row: Row) -> Found:
    """Which part of the pixels on the margins is read, and of those in the middle."""
    patterns = [one for one in load(row["record"])["patterns"] if one["strength"] is not None]
    shown, fewer = [], []
    for pattern in patterns[:2]:
        read: dict[bool, list[bool]] = {True: [], False: []}
        for y, line in enumerate(pattern["readers"]):
            for x, readers in enumerate(line):
                size = len(line)
                inside = MARGIN <= x < size - MARGIN and MARGIN <= y < size - MARGIN
                read[inside].append(readers > 0)
        margin, middle = (100 * statistics.mean(read[inside]) for inside in (False, True))
        fewer.append(margin < middle)
        shown.append(
            f"{100 * pattern['removed']:.1f} % removed: {margin:.0f} % of the pixels of the outer "
            f"{MARGIN} lines are read, {middle:.0f} % of the others"
        )
    return Found("; ".join(shown), {"margins": holds(all(fewer))}, "1")


def classes(load: Load, row: Row) -> Found:
    """What classes lose for 20 points of accuracy."""
    record = load(row["record"])
    [found], [entry] = curve_tables.curves(record).values(), record["curves"]
    points = entry["classes"]["points"]
    small = found.within(error=0.2, axis=record["axis"])
    dense = {point.seed: points[str(point.folder)] for point in found.settings[0].points}
    losses = [
        [100 * (a - b) for a, b in zip(dense[p.seed], points[str(p.folder)], strict=True)]
        for p in small.points
    ]
    by_class = [statistics.mean(lost) for lost in zip(*losses, strict=True)]
    shown = ", ".join(f"{digit}: {by_class[digit]:.0f}" for digit in (5, 8, 2, 0, 1))
    more = min(by_class[5], by_class[8], by_class[2]) > max(by_class[0], by_class[1])
    return Found(f"points lost by {shown}", {"order": holds(more)}, seeds_of_curve(record))


def accuracies(run: Record) -> dict[int, list[float]]:
    """Of the ensembles of a run, by the number of networks, in per cent."""
    return {int(n): [100 * a for a in drawn] for n, drawn in run["ensemble"]["accuracy"].items()}


def more_networks(load: Load, row: Row) -> Found:
    """Whether ten networks are better than one, and vary less from draw to draw."""
    shown, signs = [], {}
    for label, runs in list(by_label(load(row["record"])).items())[:2]:
        found = [accuracies(run) for run in runs]
        means = [[statistics.mean(one[n]) for one in found] for n in (1, 10)]
        spreads = [statistics.mean(statistics.stdev(one[n]) for one in found) for n in (1, 10)]
        shown.append(
            f"{label}: {spread(means[0])} % of 1 and {spread(means[1])} % of 10, with a deviation "
            f"over draws of {spreads[0]:.2f} and {spreads[1]:.2f}"
        )
        better = all(ten > one for one, ten in zip(*means, strict=True))
        signs |= {
            f"accuracy, {label}": holds(better),
            f"deviation, {label}": holds(spreads[1] < spreads[0]),
        }
    return Found("; ".join(shown), signs, seeds(load(row["record"])["runs"]))


def two_networks(load: Load, row: Row) -> Found:
    """Two networks of λ = 0.1/N against the finalized one of λ = 0, seed by seed."""
    labels = by_label(load(row["record"]))
    one = [100 * run["ensemble"]["single"] for run in labels["λ = 0"]]
    two = [statistics.mean(accuracies(run)[2]) for run in labels["λ = 0.1/N"]]
    gain = [b - a for a, b in zip(one, two, strict=True)]
    better = statistics.mean(gain) > statistics.stdev(gain)
    shown = f"{spread(two)} % against {spread(one)} %: no more than the spread over seeds"
    if better:
        shown = f"{spread(two)} % against {spread(one)} %"
    return Found(shown, {"accuracy": holds(better)}, seeds(labels["λ = 0"]))


def beyond_ten(load: Load, row: Row) -> Found:
    """What 50 networks gain over 10, within the spread over seeds or not."""
    shown, signs = [], {}
    for label, runs in by_label(load(row["record"])).items():
        tens, fifties = ([statistics.mean(accuracies(run)[n]) for run in runs] for n in (10, 50))
        gain = statistics.mean(fifties) - statistics.mean(tens)
        shown.append(f"{gain:+.2f} points ({label})")
        signs[label] = holds(gain <= statistics.stdev(tens))
    return Found(f"50 over 10: {', '.join(shown)}", signs, seeds(load(row["record"])["runs"]))


def diminishing(load: Load, row: Row) -> Found:
    """Whether networks gain accuracy, and each doubling less than the one before."""
    shown, signs = [], {}
    for label, runs in by_label(load(row["record"])).items():
        found = [accuracies(run) for run in runs]
        means = [statistics.mean(statistics.mean(one[n]) for one in found) for n in (1, 2, 10, 20)]
        first, last = means[1] - means[0], means[3] - means[2]
        shown.append(f"from 1 to 2 {first:+.2f}, from 10 to 20 {last:+.2f} points ({label})")
        signs[label] = holds(means[3] > means[0] and last < first)
    return Found("; ".join(shown), signs, seeds(load(row["record"])["runs"]))


def calibration(load: Load, row: Row) -> Found:
    """How far the confidences of networks that vote are from how often they are right."""
    shown = [
        f"{spread([run['ensemble']['calibration_error'] for run in runs], 3)} ({label})"
        for label, runs in by_label(load(row["record"])).items()
    ]
    ours = f"calibration error on MNIST: {', '.join(shown)}"
    return Found(ours, seeds=seeds(load(row["record"])["runs"]))


def inputs_read(load: Load, row: Row) -> Found:
    """Inputs of the layer that some neuron reads, dense and in the sparsest setting above it."""
    record = load(row["record"])
    dense, *sparse = record["inputs"]
    last = sparse[-1]
    means = [statistics.mean(one["inputs"]) for one in (dense, last)]
    shown = f"{means[1]:,.0f} of {means[0]:,.0f} at the largest λ, RML2016-like data"
    return Found(shown, {"inputs": holds(means[1] < means[0])}, str(len(dense["inputs"])))


def trees(load: Load, row: Row) -> Found:
    """The accuracy of trees that learned a network's answers, beside the network's."""
    found = load(row["record"])["settings"]["best"]["trees"]
    networks, pupils = (
        spread([100 * value for value in values])
        for values in (
            [one["network"] for one in found],
            [one["from_network"]["accuracy"] for one in found],
        )
    )
    return Found(f"MNIST: trees {pupils} %, their networks {networks} %", seeds=str(len(found)))


def vgg_weights(load: Load, row: Row) -> Found:
    """Trainable weights of `lissom.models.vgg`."""
    count = sum(parameter.numel() for parameter in vgg().parameters())
    same = f"{count:,}" == row["weights"]
    return Found(f"{count:,} of `lissom.models.vgg()`", {"weights": holds(same)})


def prox_cost(load: Load, row: Row) -> Found:
    """A training step with the prox of L0, and of L1, over one without."""
    methods = load(row["record"])["times"][0]["methods"]
    l0, l1 = methods["L0"], methods["L1"]
    shown = f"time of a step with L0's prox × {l0['ratio']:.2f}, with L1's × {l1['ratio']:.2f}"
    return Found(shown, {"time": holds(l0["ratio"] <= max(l1["ratio"], l1["highest"]))})


def zeros(load: Load, row: Row) -> Found:
    """Exact zeros of all variables, and the error."""
    runs = by_label(load(row["record"]))[row["label"]]
    totals = [run["nonzeros"]["total"] for run in runs]
    parts = [100 * (1 - total["nonzeros"] / total["weights"]) for total in totals]
    errors = [100 * run["test"]["error"] for run in runs]
    signs = {}
    if "exactly" in row:
        signs["zeros"] = holds(parts == [float(row["exactly"])] * len(parts))
    elif "over" in row:
        signs["zeros"] = holds(min(parts) > float(row["over"]))
    shown = f"{spread(parts, 1)} % zeros, error {spread(errors)} %"
    return Found(f"{shown} ({told(runs[0])})", signs, seeds(runs))


def variables(load: Load, row: Row) -> Found:
    """How many weights the network has."""
    counts = {run["nonzeros"]["total"]["weights"] for run in load(row["record"])["runs"]}
    shown = ", ".join(map(str, sorted(counts)))
    return Found(shown, {"weights": holds(shown == row["weights"])})


def zeros_in_runtimes(load: Load, row: Row) -> Found:
    """Times of a network with most weights at zero over those of the dense one."""
    record = load(row["record"])
    times = {
        run["runtime"]: run["models"]["weights"]["ratio"]
        for run in record["runs"]
        if run["network"] == row["network"]
    }
    shown = ", ".join(f"× {ratio:.2f} in {name}" for name, ratio in times.items())
    left = 1 - float(row["zeros"]) / 100
    less = {name: holds(ratio <= left) for name, ratio in times.items()}
    part = f"{100 * record['weights']:.0f} % zeros in {row['network']}"
    return Found(f"time with {part}: {shown}", less)


def poster(load: Load, row: Row) -> Found:
    """A row of the poster."""
    runs = by_label(load(row["record"]))[row["label"]]
    theirs = published.PUBLISHED["poster"][row["label"]]
    errors = [100 * run["test"]["error"] for run in runs]
    part = statistics.mean(100 * lc_tables.left(run) / lc_tables.total(run) for run in runs)
    signs = {
        "error": against(errors, theirs["error"]),
        "weights": smaller(part, float(theirs["weights"].removesuffix(" %"))),
    }
    neurons = "-".join(map(str, runs[0]["small"]["neurons"]))
    return Found(f"{spread(errors)} % at {part:.1f} %, {neurons} left", signs, seeds(runs))


def any_recipe(load: Load, row: Row) -> Found:
    """Our best error without a teacher at a number of weights."""
    runs = lc_tables.settings(load(row["record"]))[row["label"], row["value"]]
    errors = [100 * run["test"]["error"] for run in runs]
    shown = f"{spread(errors)} % ({told(runs[0])})"
    return Found(shown, {"error": against(errors, row["error"])}, seeds(runs))


def decay_helps(load: Load, row: Row) -> Found:
    """Test errors of ℓ0 + ℓ2, ℓ0 and ℓ1."""
    labels = by_label(load("lc-poster"))
    errors = {
        label: [100 * run["test"]["error"] for run in labels[label]]
        for label in ("ℓ0 + ℓ2", "ℓ0", "ℓ1")
    }
    means = {label: statistics.mean(found) for label, found in errors.items()}
    ours = means.pop("ℓ0 + ℓ2")
    signs = {
        f"than {label}": holds(ours < mean - statistics.stdev(errors[label]))
        for label, mean in means.items()
    }
    shown = ", ".join(f"{spread(found)} % ({label})" for label, found in errors.items())
    return Found(shown, signs, seeds(labels["ℓ0"]))


def decay_empties(load: Load, row: Row) -> Found:
    """Neurons of the first hidden layer that are left."""
    labels = by_label(load("lc-poster"))
    left = {
        label: [run["small"]["neurons"][1] for run in labels[label]]
        for label in ("ℓ0", "ℓ0 + ℓ2", "ℓ1")
    }
    shown = ", ".join(f"{spread(found, 0)} ({label})" for label, found in left.items())
    fewer = max(left["ℓ0 + ℓ2"]) < min(left["ℓ0"]) and max(left["ℓ1"]) < min(left["ℓ0"])
    return Found(shown, {"neurons": holds(fewer)}, seeds(labels["ℓ0"]))


def exact_number(load: Load, row: Row) -> Found:
    """The numbers of weights that the seeds have left."""
    labels = by_label(load("lc-poster"))
    left = {label: sorted(map(lc_tables.left, labels[label])) for label in ("ℓ0 + ℓ2", "ℓ1")}
    shown = ", ".join(
        f"{' … '.join(f'{n:,}' for n in dict.fromkeys((found[0], found[-1])))} ({label})"
        for label, found in left.items()
    )
    exact = [len(set(found)) == 1 for found in left.values()] == [True, False]
    return Found(shown, {"number": holds(exact)}, seeds(labels["ℓ1"]))


CHECKS: dict[str, Callable[[Load, Row], Found]] = formanek_claims.CHECKS | {
    check.__name__: check
    for check in (
        gates,
        expected_macs,
        open_gates,
        removed_within,
        gained,
        factor,
        margins,
        classes,
        more_networks,
        two_networks,
        beyond_ten,
        diminishing,
        calibration,
        inputs_read,
        trees,
        vgg_weights,
        prox_cost,
        zeros,
        variables,
        zeros_in_runtimes,
        poster,
        any_recipe,
        decay_helps,
        decay_empties,
        exact_number,
    )
}


def told(run: Record) -> str:
    """How it was trained: its label, and what helped."""
    helped = helps(run)
    return run["label"] + (f"; helped by {helped}" if helped != "none" else "")


def seeds(runs: list[Record]) -> str:
    """How many there were."""
    return str(len({run["seed"] for run in runs}))


def seeds_of_curve(record: Record) -> str:
    """How many there were."""
    return str(record["curves"][0]["path"]["seeds"])
