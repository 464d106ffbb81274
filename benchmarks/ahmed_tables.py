"""Tables and figures of docs/ahmed.md, from records of ahmed.py and of ensembles."""

import statistics
from typing import Any

import curve_tables
import torch
from gate_tables import by_label, spread
from matplotlib.figure import Figure

from lissom.report import (
    AdversarialCurve,
    confusion_matrix,
    connectivity,
    ensemble_sizes,
    per_radius,
    per_value,
)

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

NAMES = {"lenet300-first-layer": "MNIST", "modrec": "radio"}


def points(curve: Record, closer: Record) -> Table:
    """Each setting: what is left of the gated layer and of the network, its inputs and errors."""
    axis = curve["axis"]
    [found] = curve_tables.curves(curve).values()
    dense = found.settings[0].size(axis)
    rows = []
    for setting, known in zip(found.settings, closer["inputs"], strict=True):
        left = setting.size(axis)
        rows.append(
            [
                curve_tables.number_or_dense(setting.strength),
                f"{left:,.0f}",
                f"{100 * (1 - left / dense):.2f} %",
                *curve_tables.errors(setting),
                spread(known["inputs"], 0),
                f"{setting.size('weights'):,.0f}",
                f"{setting.size('macs'):,.0f}",
            ]
        )
    return [
        "λ",
        "weights of fc1",
        "removed",
        "validation error, %",
        "test error, %",
        "inputs of fc1 read",
        "weights, shrunk",
        "MACs",
    ], rows


def pixels(closer: Record) -> Table:
    """How many inputs of the first layer are read at each setting."""
    total = sum(map(len, closer["patterns"][0]["readers"]))
    rows = [
        [
            curve_tables.number_or_dense(known["strength"]),
            f"{statistics.mean(known['nonzeros']):,.0f}",
            spread(known["inputs"], 0),
            spread([100 * error for error in known["test_error"]]),
        ]
        for known in closer["inputs"]
    ]
    return ["λ", "weights of fc1", f"pixels read, of {total}", "test error, %"], rows


def trees(records: dict[str, Record]) -> Table:
    """What boosted trees learn from dense and sparse networks, and from the labels."""
    rows = []
    for name, record in records.items():
        for setting, known in record["settings"].items():
            found = known["trees"]
            pupils, others = (
                [one[kind] for one in found] for kind in ("from_network", "from_labels")
            )
            rows.append(
                [
                    f"{NAMES[name]}, {setting}",
                    percent([one["network"] for one in found]),
                    percent([one["accuracy"] for one in pupils]),
                    *(percent([one["agreement"] for one in kind]) for kind in (pupils, others)),
                    *(percent([one["copied"] for one in kind]) for kind in (pupils, others)),
                ]
            )
        # The same trees for all networks: they learn the same labels of the same examples.
        rows.append([f"{NAMES[name]}, the labels", "", percent([others[0]["accuracy"]]), *[""] * 4])
    columns = ["teacher", "its accuracy, %", "its trees', %"]
    answers = ["they answer as it does, %", "trees from labels do, %"]
    return [*columns, *answers, "they share its mistakes, %", "trees from labels do, %"], rows


def ensembles(record: Record) -> Table:
    """Accuracy by the number of networks: means of the draws, over the seeds."""
    rows = []
    for label, runs in by_label(record).items():
        found = [run["ensemble"] for run in runs]
        layers = [run["nonzeros"]["fc1.weight"] for run in runs]
        removed = [100 * (1 - layer["nonzeros"] / layer["weights"]) for layer in layers]
        sizes = found[0]["accuracy"]
        rows.append(
            [
                label,
                spread(removed, 1),
                percent([one["single"] for one in found]),
                *(percent([statistics.mean(one["accuracy"][n]) for one in found]) for n in sizes),
                spread([one["calibration_error"] for one in found], 4),
            ]
        )
    columns = ["", "removed of fc1, %", "deployed", *(f"{n} drawn" for n in sizes)]
    return [*columns, "calibration error"], rows


def percent(fractions: list[float]) -> str:
    """Mean and spread over the seeds, in per cent."""
    return spread([100 * fraction for fraction in fractions])


def boxes(record: Record) -> Figure:
    """Accuracy against the number of networks, of the first seed, a panel for each λ."""
    first = {label: runs[0]["ensemble"] for label, runs in by_label(record).items()}
    shown = {
        label: {int(size): drawn for size, drawn in one["accuracy"].items()}
        for label, one in first.items()
    }
    return ensemble_sizes(shown, {label: one["single"] for label, one in first.items()})


def attacked(curve: Record, closer: Record) -> Figure:
    """Accuracy under PGD along the curve."""
    [found] = curve_tables.curves(curve).values()
    known = closer["attacks"]
    accuracies = {key: tuple(told) for key, told in known["pgd"].items()}
    return per_radius(found, AdversarialCurve(tuple(known["radii"]), accuracies), curve["axis"])


def patterns(closer: Record) -> Figure:
    """How many neurons read each input, for growing λ."""
    weights = {}
    for known in closer["patterns"]:
        counts = torch.tensor(known["readers"])
        shape = (counts.shape[0], counts.shape[1])
        title = "dense" if known["strength"] is None else f"λ = {known['strength']:.2g}"
        # Any weights with these counts: the first of each column.
        weights[f"{title}: {100 * known['removed']:.2f} % removed"] = (
            torch.arange(known["units"])[:, None] < counts.flatten()
        )
    return connectivity(weights, shape)


def snrs(closer: Record) -> Figure:
    """Accuracy by SNR, dense against sparse."""
    named = {
        name: [{float(snr): accuracy for snr, accuracy in seed.items()} for seed in known["by_snr"]]
        for name, known in closer["settings"].items()
    }
    return per_value(named, "SNR label, dB")


def confused(closer: Record, setting: str) -> Figure:
    """What each modulation is taken for."""
    known = closer["settings"][setting]
    return confusion_matrix(torch.tensor(known["confusions"]), known["names"])
