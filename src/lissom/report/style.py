"""How all figures look: their colours, a light grid, names of curves as they are."""

from typing import Any

from matplotlib.axes import Axes

COLOURS = ("#0d7d76", "#c4571b", "#6a4fb3", "#2b6cb0", "#a6336b", "#6b7a12")  # as in style.css
FAINT = "#9aa1a8"
INK = "#1d2429"


def tidy(axes: Axes) -> None:
    """A light grid, and no lines at the top and at the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes, **place: Any) -> None:
    """With names as they are, dollars too."""
    for text in axes.legend(frameon=False, fontsize="small", **place).get_texts():
        text.set_parse_math(False)


def verbatim(name: str) -> str:
    """A name as a label; a legend would leave out what begins with an underscore."""
    return f"\u200a{name}" if name.startswith("_") else name
