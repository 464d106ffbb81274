"""The tables of the README: what was published, what lissom's records say, and who is better."""

import shlex
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import curve_tables
import exact_tables
import published
import vgg_tables
from gate_tables import by_label, counted, helps, spread
from lc_tables import left, settings, total

from lissom.curves import Setting

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
Load = Callable[[str], Record]

SEEDS = 3


def summary(load: Load) -> Table:
    """One row for each claim.

    Args:
        load: load(study), its record.
    """
    compressed = settings(load("lc"), load("lc-shifts"), load("lc-no-teacher"))
    perceptron, lenet5 = (by_label(load(f"gates-{name}")) for name in ("mlp", "lenet5"))
    without, taught, tiny = (
        compressed[key]
        for key in (("no teacher", 0.02), ("shifts, longer", 0.02), ("teacher", 0.01))
    )
    [longer] = by_label(load("gates-lenet5-longer")).values()
    radio = load("curves-modrec")
    layer = load("curves-lenet300-first-layer")
    rows = [
        [
            "LeNet-300-100, 2 % of the weights",
            f"{weights('LC, ℓ0 + ℓ2')}; {weights('RigL')}",
            f"**{error(without)}**",
            helps(without[0]),
        ],
        ["the same", "", f"**{error(taught)}**", helps(taught[0])],
        [
            "LeNet-300-100, 1 % of the weights",
            weights("RigL+"),
            f"**{error(tiny)}** at 2,662 weights",
            helps(tiny[0]),
        ],
        [
            "784-300-100 by gates on pixels and neurons",
            theirs("MLP", "L0, λ = 0.1/N"),
            *units(perceptron["λ = 0.1/N"]),
        ],
        [
            "the same, λ by layer",
            theirs("MLP", "L0, λ by layer"),
            *units(perceptron["λ by layer"]),
        ],
        [
            "the same, as small as can be",
            theirs("MLP", "VIBNet"),
            *units(by_label(load("gates-mlp-shifts"))["budget, shifts"]),
        ],
        [
            "LeNet-5 by gates",
            theirs("LeNet-5", "L0, λ = 0.1/N"),
            *units(lenet5["λ = 0.1/N"]),
        ],
        [
            "the same, as small as can be",
            theirs("LeNet-5", "BC-GHS"),
            *units(longer, bold=False),
        ],
        [
            "first layer of LeNet-300-100 by gates, for 20 points of accuracy",
            "8,000 × smaller (Ahmed)",
            f"**{factor(layer, 0.2)}**",
            helps(of_curve(layer)),
        ],
        [
            "dense layer of a radio network by gates",
            "95 % removed, accuracy + 1 point (Ahmed, on RML2016.10a)",
            f"{gain(radio)}, on RML2016-like data",
            helps(of_curve(radio)),
        ],
        [
            "784-64-64-10 by L1, exact zeros",
            f"{zeros(load('henrikson'), 'subgradient')} by a term in the loss",
            f"**{zeros(load('henrikson-l1'), 'L1')}** by proximal steps",
            helps(by_label(load("henrikson-l1"))["L1"][0]),
        ],
        [
            "the same as the article does it, in Adagrad",
            "over 35 % (Henrikson)",
            zeros(load("henrikson"), "proximal Adagrad"),
            helps(by_label(load("henrikson"))["proximal Adagrad"][0]),
        ],
        *images(load),
        *removed(load("pruners")),
    ]
    return ["", "published, or another tool", "lissom", "helped by"], rows


def lost(load: Load) -> Table:
    """Where others are better, or the dense network is."""
    [smallest] = by_label(load("gates-lenet5-longer")).values()
    macs = [run["small"]["macs"] / 1000 for run in smallest]
    bc = published.thousands("LeNet-5", published.row("gates", "LeNet-5", "BC-GHS"))
    sparse_vd = published.row("weights", "LeNet-5", "sparse variational dropout")
    [small] = by_label(load("topk-lenet5")).values()
    ranks = "select ranks, α = 1e-6"
    [poster] = by_label(load("lc-published")).values()
    layer, decayed = load("curves-lenet300-first-layer"), load("modrec-dense")
    henrikson = by_label(load("henrikson"))
    rows = [
        [
            "LeNet-5, single weights",
            f"{published.error(sparse_vd)} % at 1/{sparse_vd['smaller']} (sparse variational "
            "dropout), no teacher",
            f"{error(small)} at 1/{total(small[0]) / left(small[0]):.0f}, with a teacher",
        ],
        [
            "LeNet-5 by units, as small as can be",
            f"1.0 % at {bc[0]} k weights and {bc[1]} k MACs, no teacher (BC-GHS)",
            f"{units(smallest, bold=False)[0]} and {statistics.mean(macs):.0f} k MACs, "
            "with a teacher",
        ],
        [
            "LeNet-5 by units, about 10 k weights",
            theirs("LeNet-5", "constrained L0"),
            "no run of this size",
        ],
        [
            "784-300-100 by units, as small as can be",
            theirs("MLP", "VIBNet") + ", no teacher",
            units(by_label(load("gates-mlp"))["budget, teacher"], bold=False)[0]
            + ", with a teacher, without augmentation",
        ],
        [
            "LeNet-300-100, 2 %, under the poster's protocol",
            weights("LC, ℓ0 + ℓ2"),
            error(poster),
        ],
        [
            "LeNet-300-100 by ranks that are selected, the toolkit's example",
            published.PUBLISHED["toolkit"][ranks] + " % (LC toolkit)",
            error(by_label(load("lc-toolkit"))[ranks]),
        ],
        [
            "first layer of LeNet-300-100 by gates, for 0.1 points",
            "16 × smaller (Ahmed)",
            factor(layer, 0.001),
        ],
        [
            "radio network, its accuracy at any size",
            f"error {error(by_label(decayed)['weight decay'])}, dense under weight decay",
            f"error {spread(curve_tables.tested(sparse(load('curves-modrec'))))} %, sparse",
        ],
        [
            "784-64-64-10, the dense network",
            error(henrikson["dense, trained as the next row"])
            + f" ({helps(henrikson['dense, trained as the next row'][0])})",
            error(by_label(load("henrikson-l1"))["L1"]),
        ],
        [
            "VGG on JPEG CIFAR-10, 2 % of the single weights",
            "the dense network",
            above(load, "vgg-full", "TopK, weights, teacher", 0.0199) + ", with a teacher",
        ],
        [
            "ResNet-20 on JPEG CIFAR-10, half of the MACs",
            "the dense network",
            above(load, "resnet20", "gates, channels", 0.5),
        ],
        [
            "the same, 5 % of the single weights",
            "the dense network",
            above(load, "resnet20", "TopK, weights", 0.05),
        ],
    ]
    return ["", "others", "lissom"], rows


def images(load: Load) -> list[list[str]]:
    """A VGG at full width, against its dense network."""
    apib = published.row("channels", "VGG-16", "APIB")
    bests = [row for row in vgg_tables.CLAIMS["formanek"]["rows"] if row["check"] == "best_above"]
    [kernels] = [row for row in bests if (row["of"], row["label"]) == ("kernels", "threshold")]
    drop = float(kernels["accuracy"]) - float(kernels["dense"])

    def row(what: str, theirs: str, label: str, value: float | None, mark: str = "") -> list[str]:
        ours = mark + above(load, "vgg-full", label, value, size=True) + mark
        return [what, theirs, ours, helps(setting(load, "vgg-full", label, value).runs[0])]

    return [
        row(
            "VGG on JPEG CIFAR-10 by gates on channels",
            f"{apib['points']} points at MACs ÷ {apib['macs']} (APIB, VGG-16 on CIFAR-10)",
            "gates, channels, teacher",
            0.4,
        ),
        row("the same, smaller", "", "gates, channels, teacher", 0.25),
        row(
            "the same by 3×3 kernels",
            f"{drop:+.2f} points at {kernels['left']} % of the weights (Formanek & Hadházi)",
            "TopK, kernels, teacher",
            None,
            mark="**",
        ),
    ]


def above(load: Load, study: str, label: str, value: float | None, *, size: bool = False) -> str:
    """The test accuracy of a setting above the dense network's."""
    one, dense = setting(load, study, label, value), setting(load, study, "dense", None)
    shown = f"{spread([accuracy - dense.accuracy for accuracy in one.accuracies])} points"
    if not shown.startswith("-"):
        shown = f"+{shown}"
    if size and "gates" in label:
        shown += f" at MACs ÷ {one.fewer_macs:.2f}"
    elif size:
        shown += f" at {one.left:.2f} % of the weights"
    return shown if len(one.runs) == SEEDS else f"{shown} ({counted(len(one.runs))})"


def setting(load: Load, study: str, label: str, value: float | None) -> vgg_tables.Setting:
    """The runs of a setting so far."""
    [found] = [
        one for one in vgg_tables.settings(load, study) if (one.label, one.value) == (label, value)
    ]
    return found


def error(runs: list[Record]) -> str:
    """Test error over the seeds, whose number is said where it is not the page's three."""
    shown = f"{spread([100 * run['test']['error'] for run in runs])} %"
    return shown if len(runs) == SEEDS else f"{shown} ({counted(len(runs))})"


def weights(method: str) -> str:
    """What others report of LeNet-300-100's single weights."""
    row = published.row("weights", "LeNet-300-100", method)
    return f"{row['error']} % at {row['left']} ({method})"


def theirs(network: str, method: str) -> str:
    """What others report of a network without units, and its size."""
    row = published.row("gates", network, method)
    size, _ = published.thousands(network, row)
    return f"{row['error']} % at {size} k ({method.split(',')[0]})"


def units(runs: list[Record], *, bold: bool = True) -> tuple[str, str]:
    """Error and weights of networks without their dead units, and what helped."""
    small = [run["small"] for run in runs]
    size = statistics.mean(one["weights"] for one in small) / 1000
    shown = f"**{error(small)}**" if bold else error(small)
    return f"{shown} at {size:.{1 if size >= 10 else 2}f} k", helps(runs[0])


def of_curve(record: Record) -> Record:
    """The recipe of a curve and what was changed of it, as a run has them."""
    _, _, recipe, *options = shlex.split(record["curves"][0]["command"])
    changes = [after for flag, after in pairwise(options) if flag == "--set"]
    return {"recipe": recipe, "set": changes}


def factor(record: Record, loss: float) -> str:
    """By how much the layer is smaller within a loss on validation data, and the test points."""
    [found] = curve_tables.curves(record).values()
    times, points = curve_tables.factor(found, loss, record["axis"]).split(" (")
    return f"{times} smaller (test error {points.removesuffix(')')})"


def gain(record: Record) -> str:
    """What the sparse radio network has removed and gained."""
    [found] = curve_tables.curves(record).values()
    axis = record["axis"]
    setting = sparse(record)
    gained = -float(curve_tables.added(found, setting))
    removed = 100 * (1 - setting.size(axis) / found.settings[0].size(axis))
    return f"{removed:.1f} % removed, accuracy {gained:+.2f} points"


def sparse(record: Record) -> Setting:
    """The best of the settings that are 95 % of the layer smaller, by validation data."""
    [found] = curve_tables.curves(record).values()
    axis = record["axis"]
    return found.budget(**{axis: 0.05 * found.settings[0].size(axis)})


def removed(record: Record) -> list[list[str]]:
    """Units removed without a difference, by lissom and by Torch-Pruning with an oracle."""
    columns, rows = exact_tables.pruners(record)
    by_tool = {(row[0], row[1]): dict(zip(columns, row, strict=True)) for row in rows}
    found = []
    for damage, shown in (("biases left", "biases left in"), ("all zero", "biases zero as well")):
        cells = []
        for tool in ("Torch-Pruning with an oracle", "lissom"):
            row = by_tool[damage, tool]
            cells.append(row["units removed exactly"])
        number = len(exact_tables.networks(record))
        what = (
            f"units removed exactly from {number} architectures in which {row['units zeroed']} "
            f"were zeroed, {shown}, with what only these read"
        )
        theirs = f"{cells[0]} (Torch-Pruning, told which and what comes out exact)"
        found.append([what, theirs, f"**{cells[1]}**", ""])
    return found


def zeros(record: Record, label: str) -> str:
    """Exact zeros of all variables, and the error."""
    runs = by_label(record)[label]
    totals = [run["nonzeros"]["total"] for run in runs]
    part = statistics.mean(100 * (1 - total["nonzeros"] / total["weights"]) for total in totals)
    return f"{part:.0f} %, error {error(runs)}"
