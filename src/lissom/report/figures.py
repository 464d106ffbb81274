"""Figures of a run, each a function that returns a matplotlib figure."""

import math
from collections.abc import Sequence
from io import StringIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lissom.report.style import legend, tidy
from lissom.training import Evaluation

WIDE = 20  # between the largest and the smallest number: beyond, they are drawn on a log scale
PARTS = {"train": "#8a8f98", "valid": "#e39b2f", "test": "#0d7d76"}


def history(events: Sequence[Evaluation]) -> Figure:
    """Error by part and non-zeros by variable, over the epochs of a run.

    Further rows show how a method stood, such as how many gates were open.

    Args:
        events: the evaluations of a run, in their order.
    """
    under = [event for event in events if event.more.get("method", {}).get("curves")]
    panels = list(under[-1].more["method"]["curves"]) if under else []
    rows = 1 + math.ceil(len(panels) / 2)
    figure = Figure(figsize=(9, 3.4 * rows), layout="constrained")
    error, size, *below = figure.subplots(rows, 2).flat
    epochs = [event.epoch for event in events]
    what, unit, times = judged_by(events[-1]) if events else ("error", "%", 100)
    for name, colour in PARTS.items():
        parts = [getattr(event, name) for event in events]
        if None not in parts:
            error.plot(epochs, [times * part.error for part in parts], color=colour, label=name)
    error.set(xlabel="epoch", ylabel=f"{what}, {unit}" if unit else what, ylim=(0, None))
    counts = [event.nonzeros for event in events]
    for name in counts[-1] if counts else ():
        bold = name == "total"
        alive = [count[name].nonzeros for count in counts]
        if not bold and min(alive) == max(alive):
            continue  # biases, mostly: a flat line says nothing
        size.plot(epochs, alive, label=name, color="#0d7d76" if bold else None, lw=2 if bold else 1)
    size.set(xlabel="epoch", ylabel="non-zeros", yscale="symlog", ylim=(0, None))
    for name, axes in zip(panels, below, strict=False):
        _method_curves(axes, name, under)
    for axes in below[len(panels) :]:
        axes.set_visible(False)
    for axes in (error, size, *below):
        tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch 1.25
        if axes.lines:
            legend(axes)
    return figure


def judged_by(event: Evaluation) -> tuple[str, str, int]:
    """What its errors are called, the unit that is shown, and how many of it make an error of 1."""
    told = event.more.get("judged_by", {"name": "error", "unit": "fraction"})
    name, unit = told["name"], told["unit"]
    return (name, "%", 100) if unit == "fraction" else (name, unit, 1)


def _method_curves(axes: Axes, panel: str, events: Sequence[Evaluation]) -> None:
    """Numbers in which a method says how it stands, over the epochs."""
    epochs = [event.epoch for event in events]
    lines = [event.more["method"]["curves"].get(panel, {}) for event in events]
    shown = {name: [line.get(name, math.nan) for line in lines] for name in lines[-1]}
    for name, values in shown.items():
        axes.plot(epochs, values, label={"macs": "MACs"}.get(name, name))
    known = [value for values in shown.values() for value in values if not math.isnan(value)]
    axes.set(xlabel="epoch", ylabel=panel)
    if min(known) > 0 and max(known) > WIDE * min(known):
        axes.set(yscale="log")
    else:
        axes.set(ylim=(min(0, *known), None))


def svg(figure: Figure) -> str:
    """The figure as an SVG element to be put into a page; the same for the same figure."""
    out = StringIO()
    nobody = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "lissom"}):
        figure.savefig(out, format="svg", transparent=True, metadata=nobody)
    text = out.getvalue()
    return text[text.index("<svg") :]
