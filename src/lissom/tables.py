"""Text tables, drawn by rich, for everything in lissom that is printed.

What is printed has names in it that users gave. They are not rich's markup, though "RMSE [m/s]" and
"own:two:" look like it.
"""

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def plain_console(**given: Any) -> Console:
    """A console of rich that prints texts as they are: without markup and emoji."""
    return Console(markup=False, emoji=False, **given)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    total: Sequence[object] | None = None,
) -> Table:
    """A table whose numbers stand on the right; `total` is set off below a line."""
    head = None if title is None else Text(title, "italic")
    grid = Table(box=box.SIMPLE_HEAD, title=head, title_justify="left", show_footer=bool(total))
    listed = [list(row) for row in rows]
    sample = [*listed, list(total)] if total else listed
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) or row[i] == "" for row in sample)
        footer = _cell(total[i]) if total else Text()
        wraps = i == len(columns) - 1 and not numeric
        justify: Literal["left", "right"] = "right" if numeric else "left"
        given: Any = {"justify": justify, "no_wrap": not wraps, "min_width": len(column)}
        grid.add_column(Text(column), footer, **given)
    for row in listed:
        grid.add_row(*map(_cell, row))
    return grid


def text(grid: Table, width: int = 120) -> str:
    """The table as plain text, without colour."""
    out = StringIO()
    plain_console(file=out, width=width, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _cell(value: object) -> Text:
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))
