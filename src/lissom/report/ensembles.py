"""Figures of ensembles: accuracy by their size, and whether their confidence can be trusted."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lissom.ensemble import Calibration
from lissom.report.style import COLOURS, FAINT, legend, tidy

TEAL, ORANGE, *_ = COLOURS


def ensemble_sizes(
    accuracies: Mapping[int, Sequence[float]], single: float | None = None
) -> Figure:
    """Box plots of accuracy against the number of networks that answer together.

    Args:
        accuracies: by size, as `accuracy_by_size` finds them.
        single: the accuracy of the one deterministic network, as a line.

    Source: Ahmed, fig. 8–9.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    shown = [[100 * a for a in found] for found in accuracies.values()]
    axes.boxplot(
        shown,
        tick_labels=[str(size) for size in accuracies],
        medianprops={"color": ORANGE},
        boxprops={"color": TEAL},
        whiskerprops={"color": TEAL},
        capprops={"color": TEAL},
        flierprops={"marker": ".", "markeredgecolor": FAINT},
    )
    if single is not None:
        axes.axhline(100 * single, color=FAINT, ls="--", lw=1, label="one network, gates hardened")
        legend(axes)
    axes.set(xlabel="networks in the ensemble", ylabel="accuracy, %")
    tidy(axes)
    return figure


def reliability(found: Calibration) -> Figure:
    """The part of right answers against the confidence, and how many answers have it.

    Args:
        found: by `calibration`. A perfect one lies on the dotted diagonal.

    Source: Guo et al. 2017, fig. 1.
    """
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, accuracy = found.confidence.cpu().numpy(), found.accuracy.cpu().numpy()
    known = ~np.isnan(accuracy)
    axes.plot([0, 1], [0, 1], ":", color=FAINT, lw=1)
    axes.plot(confidence[known], accuracy[known], "o-", color=TEAL)
    axes.set(ylabel="part of right answers", ylim=(0, 1.02))
    axes.set_title(f"calibration error {found.error:.3f}", fontsize="small", loc="left")
    bins = len(accuracy)
    places = (np.arange(bins) + 0.5) / bins
    below.bar(places, found.counts.cpu().numpy(), width=0.9 / bins, color=TEAL)
    below.set(xlabel="confidence", ylabel="examples", yscale="symlog", xlim=(0, 1.02))
    for one in (axes, below):
        tidy(one)
    return figure
