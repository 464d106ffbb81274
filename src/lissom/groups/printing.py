"""Groups as printed tables."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lissom.tables import table, text

if TYPE_CHECKING:
    from lissom.groups.partitions import Partition

NAME_WIDTH = 20  # of one among several; the end of a name says more than its beginning
COUPLED = ("norm of", "zeroed", "cut", "weights each", "MACs each")
PLAIN = ("parameter", "module", "shape", "weights each")


def groups_table(kind: str, partitions: "Sequence[Partition]", alive: Sequence[int]) -> str:
    """A line for each partition, with its number of groups and of those that are not zero.

    Args:
        kind: what a group is.
        partitions: all of one kind.
        alive: groups of each that are not zero.
    """
    coupled = partitions[0].macs is not None
    columns, cells = (COUPLED, _coupled) if coupled else (PLAIN, _plain)
    counts = [partition.shape.numel() for partition in partitions]
    rows = [
        [*cells(partition), count, left]
        for partition, count, left in zip(partitions, counts, alive, strict=True)
    ]
    total = ["total", *[""] * (len(columns) - 1), sum(counts), sum(alive)]
    return text(table([*columns, kind, "non-zero"], rows, total=total))


def members_table(partition: "Partition") -> str:
    """A line for each tensor that its groups run through."""
    rows = [
        [m.name, m.role, _sizes(m.tensor), ", ".join(map(str, m.dims)), _sliced(m.index, m.shape)]
        for m in partition.members
    ]
    title = f"{partition.shape.numel():,} groups, {_each(partition.cost())} weights each"
    return text(table(["member", "role", "shape", "dim", "slices"], rows, title=title))


def _plain(partition: "Partition") -> list[object]:
    alone = len(partition.members) == 1
    name = partition.name if alone else _among(partition.names)
    shape = _sizes(partition.members[0].tensor) if alone else ""
    return [name, type(partition.module).__name__, shape, _each(partition.weights_each())]


def _coupled(partition: "Partition") -> list[object]:
    def named(role: str) -> str:
        parameters = [m for m in partition.members if isinstance(m.tensor, nn.Parameter)]
        return _among([m.name.rpartition(".")[0] or m.name for m in parameters if m.role == role])

    roles = [named(role) for role in ("norm", "zeroed", "cut")]
    return [*roles, _each(partition.cost()), partition.macs]


def _among(names: Sequence[str]) -> str:
    """The first of some names, and how many others there are."""
    first, *others = dict.fromkeys(names) or [""]
    first = first if len(first) <= NAME_WIDTH else "…" + first[1 - NAME_WIDTH :]
    return f"{first} + {len(others)}" if others else first


def _each(counts: int | Tensor) -> int | str:
    """One number where all are equal, else the least and the greatest."""
    if isinstance(counts, int):
        return counts
    least, most = int(counts.min()), int(counts.max())
    return least if least == most else f"{least:,}–{most:,}"


def _sliced(index: Tensor | None, shape: Sequence[int]) -> int:
    return prod(shape) if index is None else int((index >= 0).sum())


def _sizes(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
