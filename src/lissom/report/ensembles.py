"""Figures of ensembles: accuracy by their size, and whether their confidence can be trusted."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from matplotlib.figure import Figure

from lissom.arguments import as_annotated
from lissom.ensemble import Calibration
from lissom.errors import EnsembleError, LissomError
from lissom.report.style import COLOURS, FAINT, legend, tidy

TEAL, ORANGE, *_ = COLOURS
BySize = Mapping[int, Sequence[float]]


@as_annotated(LissomError)
def ensemble_sizes(
    accuracies: BySize | Mapping[str, BySize], single: float | Mapping[str, float] | None = None
) -> Figure:
    """Box plots of accuracy against the number of networks that answer together.

        ensemble_sizes({"λ = 0": by_size, "λ = 0.1/N": other})     # panels of the same height

    Args:
        accuracies: by size, as `accuracy_by_size` finds them; or {name: by size}, a panel for each.
        single: the accuracy of the one deterministic network, as a line; by name for panels.

    Raises:
        EnsembleError: if `single` has other names than the panels.

    Source: Ahmed, fig. 8–9.
    """
    if all(isinstance(found, Mapping) for found in accuracies.values()):
        panels = cast(Mapping[str, BySize], accuracies)
    else:
        panels = {"": cast(BySize, accuracies)}
    lines = single if isinstance(single, Mapping) else dict.fromkeys(panels, single)
    if lines.keys() != panels.keys():
        raise EnsembleError(f"single is for panels {list(panels)}, and has {list(lines)}")
    figure = Figure(figsize=(2 + 4 * len(panels), 4), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False).flat
    for axes, (name, found) in zip(row, panels.items(), strict=True):
        axes.boxplot(
            [[100 * a for a in drawn] for drawn in found.values()],
            tick_labels=[str(size) for size in found],
            medianprops={"color": ORANGE},
            boxprops={"color": TEAL},
            whiskerprops={"color": TEAL},
            capprops={"color": TEAL},
            flierprops={"marker": ".", "markeredgecolor": FAINT},
        )
        line = lines[name]
        if line is not None:
            label = "one network, finalized"
            axes.axhline(100 * line, color=FAINT, ls="--", lw=1, label=label)
            legend(axes)
        axes.set_title(name, fontsize="small", loc="left", parse_math=False)
        axes.set(xlabel="networks in the ensemble")
        tidy(axes)
    figure.axes[0].set(ylabel="accuracy, %")
    return figure


@as_annotated(LissomError)
def reliability(found: Calibration) -> Figure:
    """The fraction of right answers against the confidence, and how many answers have it.

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
    axes.set(ylabel="fraction of right answers", ylim=(0, 1.02))
    axes.set_title(f"calibration error {found.error:.3f}", fontsize="small", loc="left")
    bins = len(accuracy)
    places = (np.arange(bins) + 0.5) / bins
    below.bar(places, found.counts.cpu().numpy(), width=0.9 / bins, color=TEAL)
    below.set(xlabel="confidence", ylabel="examples", yscale="symlog", xlim=(0, 1.02))
    for one in (axes, below):
        tidy(one)
    return figure
