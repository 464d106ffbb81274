"""Widths of layers that are multiples, since runtimes compute channels in blocks, of 16, say."""

from collections.abc import Iterable
from typing import Protocol

import torch

from lissom.arguments import fits, shown
from lissom.errors import LissomError


class Sized(Protocol):
    """Groups of a name, that have norms of a shape (see `lissom.groups.Partition`)."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> torch.Size: ...

    @property
    def single(self) -> bool: ...


def check_multiple(multiple_of: object, error: type[LissomError]) -> None:
    """Refuse what no width is a multiple of.

    Raises:
        LissomError: of the given kind, unless it is a whole number ≥ 1.
    """
    if not fits(multiple_of, int) or multiple_of < 1:  # type: ignore[operator]
        raise error(
            f"multiple_of is a whole number ≥ 1, such as 16, got {shown(multiple_of)}",
            field="multiple_of",
        )


def require_widths(blocks: Iterable[Sized], what: str, error: type[LissomError]) -> None:
    """Refuse groups that are no families of units, and have no width.

    Raises:
        LissomError: of the given kind, saying what rounds widths.
    """
    if others := [block.name for block in blocks if block.single or len(block.shape) > 1]:
        raise error(
            f"{what} rounds the widths of families of units, and {', '.join(others)} is cut "
            "into other groups: choose lissom.channels(model, example_inputs), neurons or units"
        )


def width(count: int, n: int, multiple_of: int) -> int:
    """How many units of a family live, if so many are wanted: the nearest of m, 2m, … and n.

    Of two as near it is the larger, and 0 is near to 0 only.

    Args:
        count: of units that are wanted.
        n: of all units of the family.
        multiple_of: m.
    """
    below = count - count % multiple_of
    above = min(n, below + multiple_of)
    nearer_below = count - below < above - count
    return below if count == 0 or (below > 0 and nearer_below) else above
