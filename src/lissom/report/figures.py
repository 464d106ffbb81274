"""Figures of a run, each a function that returns a matplotlib figure."""

from collections.abc import Sequence
from io import StringIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lissom.report.style import legend, tidy
from lissom.training import Evaluation

PARTS = {"train": "#8a8f98", "valid": "#e39b2f", "test": "#0d7d76"}


def history(events: Sequence[Evaluation]) -> Figure:
    """Error by part and non-zeros by variable, over the epochs of a run.

    Where there were gates, a second row shows those that are open, and the expected cost.

    Args:
        events: the evaluations of a run, in their order.
    """
    gated = [event for event in events if "gates" in event.more]
    rows = 2 if gated else 1
    figure = Figure(figsize=(9, 3.4 * rows), layout="constrained")
    error, size, *below = figure.subplots(rows, 2).flat
    epochs = [event.epoch for event in events]
    for name, colour in PARTS.items():
        parts = [getattr(event, name) for event in events]
        if None not in parts:
            percent = [100 * part.error for part in parts]
            error.plot(epochs, percent, color=colour, label=name)
    error.set(xlabel="epoch", ylabel="error, %", ylim=(0, None))
    counts = [event.nonzeros for event in events]
    for name in counts[-1] if counts else ():
        bold = name == "total"
        alive = [count[name].nonzeros for count in counts]
        if not bold and min(alive) == max(alive):
            continue  # biases, mostly: a flat line says nothing
        size.plot(epochs, alive, label=name, color="#0d7d76" if bold else None, lw=2 if bold else 1)
    size.set(xlabel="epoch", ylabel="non-zeros", yscale="symlog", ylim=(0, None))
    if gated:
        _gates(below[0], below[1], gated)
    for axes in (error, size, *below):
        tidy(axes)
        if axes.lines:
            legend(axes)
    return figure


def _gates(opened: Axes, cost: Axes, events: Sequence[Evaluation]) -> None:
    """Open gates by group, at test time and (dashed) in expectation; expected weights and MACs."""
    epochs, gates = [event.epoch for event in events], [event.more["gates"] for event in events]
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
