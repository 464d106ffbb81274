"""What a network answers to which examples: taken for which class, and right at which value."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from lissom.arguments import as_annotated, shown
from lissom.curves.results import spread
from lissom.errors import LissomError
from lissom.groups.making import WHOLE_NUMBERS
from lissom.report.style import COLOURS, INK, legend, tidy, verbatim
from lissom.training.evaluation import check_labelled, logits_of

FRACTIONS = LinearSegmentedColormap.from_list("fractions", ["#ffffff", "#0d7d76", "#06302d"])


@as_annotated(LissomError)
def confusions(net: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 2000) -> Tensor:
    """C[i, j]: how many examples of class i the network takes for class j, int64 [k, k].

    Args:
        net: gives logits [n, k]; it is run in evaluation mode.
        x: inputs [n, …].
        y: labels [n], 0 … k − 1.
        batch_size: how many inputs it gets at a time.

    Raises:
        LissomError: for x and y of different lengths, none at all, or a label ≥ k.
    """
    answers, classes = _answers(net, x, y, batch_size)
    if not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise LissomError(
            f"labels of {classes} logits are 0 … {classes - 1}, got {int(y.min())} … {int(y.max())}"
        )
    cells = torch.bincount(classes * y.long() + answers, minlength=classes**2)
    return cells.view(classes, classes).cpu()


@as_annotated(LissomError)
def accuracy_by(
    net: nn.Module, x: Tensor, y: Tensor, values: Tensor, *, batch_size: int = 2000
) -> dict[float, float]:
    """The fraction of right answers among the examples of each value, such as an SNR in dB.

        accuracy_by(net, data.test_x, data.test_y, data.test_snr)     # {-4.0: 0.52, …, 18.0: 0.81}

    Args:
        net: as for `confusions`.
        x: inputs [n, …].
        y: labels [n].
        values: [n], one of a few for each example.
        batch_size: how many inputs it gets at a time.

    Raises:
        LissomError: for x, y and values of different lengths, none at all, or NaN.
    """
    if values.is_complex() or values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        raise LissomError(f"values are real numbers, got {shown(values)}")
    if values.shape != y.shape or bool(values.isnan().any()):
        raise LissomError(
            f"a number for each label, got values{list(values.shape)} and y{list(y.shape)}, "
            f"{int(values.isnan().sum())} of the values NaN"
        )
    answers, _ = _answers(net, x, y, batch_size)
    right = (answers == y).double()
    return {float(v): float(right[values == v].mean()) for v in values.unique()}


@as_annotated(LissomError)
def confusion_matrix(counts: Tensor, names: Sequence[str] | None = None) -> Figure:
    """The fractions of each class (a row, 100 % in all) that are taken for each class (a column).

    Args:
        counts: what `confusions` found.
        names: of the classes; their numbers by default.

    Raises:
        LissomError: for counts that are not square, or another number of names.
    """
    if counts.dtype not in (*WHOLE_NUMBERS, torch.float32, torch.float64):
        raise LissomError(f"confusions are counts, got {shown(counts)}")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise LissomError(f"confusions of k classes are [k, k], got {list(counts.shape)}")
    called = [str(name) for name in (range(len(counts)) if names is None else names)]
    if len(called) != len(counts):
        raise LissomError(f"there are {len(counts)} classes and {len(called)} names: {called}")
    percent = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = 2 + 0.42 * len(counts)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(percent.numpy(), cmap=FRACTIONS, vmin=0, vmax=100)
    for i, row in enumerate(percent.tolist()):
        for j, share in enumerate(row):
            if share >= 0.5:
                ink = "white" if share > 45 else INK
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", size=8, color=ink)
    places = range(len(called))
    axes.set_xticks(places, called, rotation=90)
    axes.set_yticks(places, called)
    axes.set(xlabel="answer", ylabel="class")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    return figure


@as_annotated(LissomError)
def per_value(
    accuracies: Mapping[str, Sequence[Mapping[float, float]]], label: str = "value"
) -> Figure:
    """Accuracy against a value of the examples, a line for each network: its mean over the seeds.

        per_value({"dense": [by_snr], "sparse": [other]}, "SNR label, dB")

    Bands are ± one standard deviation over the seeds.

    Args:
        accuracies: {name: what `accuracy_by` found for each of its seeds}.
        label: of the values.

    Raises:
        LissomError: if a name has no seeds, or its seeds have different values.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, (name, seeds) in zip(cycle(COLOURS), accuracies.items(), strict=False):
        values = sorted({value for seed in seeds for value in seed})
        if not values or any(len(seed) != len(values) for seed in seeds):
            raise LissomError(f"the seeds of {name!r} have different values, or there are none")
        table = 100 * np.array([[seed[value] for value in values] for seed in seeds])
        mean, std = table.mean(0), np.array([spread(column) for column in table.T])
        axes.plot(values, mean, "o-", ms=4, color=colour, label=verbatim(name))
        if np.isfinite(std).all():
            axes.fill_between(values, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel=label, ylabel="accuracy, %")
    tidy(axes)
    legend(axes)
    return figure


def _answers(net: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """The class of the largest logit of each example, and how many classes there are."""
    check_labelled(x, y)
    logits = logits_of(net, x, batch_size)
    if logits.ndim != 2:
        raise LissomError(f"a classifier gives logits [n, k], and this one {list(logits.shape)}")
    return logits.argmax(1), logits.shape[1]
