"""Text tables, drawn by rich, for everything in lissom that is printed."""

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    total: Sequence[object] | None = None,
) -> Table:
    """A table whose numbers stand on the right; `total` is set off below a line."""
    grid = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_footer=bool(total))
    listed = [list(row) for row in rows]
    sample = [*listed, list(total)] if total else listed
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) or row[i] == "" for row in sample)
        footer = _cell(total[i]) if total else ""
        wraps = i == len(columns) - 1 and not numeric
        justify: Literal["left", "right"] = "right" if numeric else "left"
        head, width = escape(column), len(column)
        grid.add_column(head, footer, justify=justify, no_wrap=not wraps, min_width=width)
    for row in listed:
        grid.add_row(*map(_cell, row))
    return grid


def text(grid: Table, width: int = 120) -> str:
    """The table as plain text, without colour."""
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
