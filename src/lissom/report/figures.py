"""Figures of a run, each a function that returns a matplotlib figure."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lissom.report.style import legend, tidy

PARTS = {"train": "#8a8f98", "valid": "#e39b2f", "test": "#0d7d76"}


def history(events: Sequence[dict[str, Any]]) -> Figure:
    """Error by part and non-zeros by variable, over the epochs of a run.

    Where there were gates, a second row shows those that are open, and the expected cost.

    Args:
        events: the evaluations of a run, as in events.jsonl.
    """
    gated = [event for event in events if "gates" in event]
    rows = 2 if gated else 1
    figure = Figure(figsize=(9, 3.4 * rows), layout="constrained")
    error, size, *below = figure.subplots(rows, 2).flat
    epochs = [event["epochAfter"] for event in events]
    for part, colour in PARTS.items():
        if all(f"inacc_{part}" in event for event in events):
            percent = [100 * event[f"inacc_{part}"] for event in events]
            error.plot(epochs, percent, color=colour, label=part)
    error.set(xlabel="epoch", ylabel="error, %", ylim=(0, None))
    counts = [event["num_nonzero"] for event in events]
    for name in counts[-1] if counts else ():
        bold = name == "total"
        alive = [count[name]["numNz"] for count in counts]
        if not bold and min(alive) == max(alive):
            continue  # biases, mostly: a flat line says nothing
        size.plot(epochs, alive, label=name, color="#0d7d76" if bold else None, lw=2 if bold else 1)
    size.set(xlabel="epoch", ylabel="non-zero weights", yscale="symlog", ylim=(0, None))
    if gated:
        _gates(below[0], below[1], gated)
    for axes in (error, size, *below):
        tidy(axes)
        if axes.lines:
            legend(axes)
    return figure


def _gates(opened: Axes, cost: Axes, events: Sequence[dict[str, Any]]) -> None:
    """Open gates by group, at test time and (dashed) in expectation; expected weights and MACs."""
    epochs, gates = [event["epochAfter"] for event in events], [event["gates"] for event in events]
    for name in gates[-1]["left"]:
        [line] = opened.plot(epochs, [now["left"][name] for now in gates], label=name)
        expected = [now["open"][name] for now in gates]
        opened.plot(epochs, expected, color=line.get_color(), ls="--", lw=1)
    opened.set(xlabel="epoch", ylabel="open gates (dashed: expected)", ylim=(0, None))
    for name in gates[-1]["expected"]:
        label = {"macs": "MACs"}.get(name, name)
        cost.plot(epochs, [now["expected"][name] for now in gates], label=label)
    cost.set(xlabel="epoch", ylabel="expected", yscale="log")


def svg(figure: Figure) -> str:
    """The figure as an SVG element to be put into a page; the same for the same figure."""
    out = StringIO()
    nobody = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "lissom"}):
        figure.savefig(out, format="svg", transparent=True, metadata=nobody)
    text = out.getvalue()
    return text[text.index("<svg") :]
