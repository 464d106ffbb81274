"""Widths that stay whatever the weights are, and the operation that keeps each of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, Axis, varying
from lissom.coupling.ops import operator_name
from lissom.groups import Role


@dataclass(frozen=True)
class Pin:
    """A width of weights that stays, because of one operation that reads or joins it.

    Attributes:
        operator: torch's name for it, such as "aten.fft_rfft"; "output" for what the model returns.
        module: the path of the module that calls it; "" for the model's own forward.
        dim: which dim of the tensor that it meets.
        width: the size of that dim.
        reason: what the operator's record says, or "".
        tensors: the weights that keep so many rows, by name.
    """

    operator: str
    module: str
    dim: int
    width: int
    reason: str
    tensors: tuple[str, ...]

    @property
    def of_output(self) -> bool:
        """Whether it is what the model returns that keeps it."""
        return self.operator == "output"

    def __str__(self) -> str:
        """Such as "aten.fft_rfft at encoder.block2 pins dim 1 (16 wide): it needs all of it"."""
        place = f" at {self.module}" if self.module else ""
        reason = f": {self.reason}" if self.reason else ""
        name = "the output" if self.of_output else self.operator
        return f"{name}{place} pins dim {self.dim} ({self.width} wide){reason}"


def pins(coupler: Coupler) -> list[Pin]:
    """For each weight whose rows are no units: what keeps them, in the order of the operations."""
    found: dict[tuple[fx.Node, int, int], list[str]] = {}
    for name, axis in _rows(coupler):
        label = int(coupler.labels.before_pinned(axis.ravel()[:1])[0])
        node = coupler.labels.cause_of(label)
        if isinstance(node, fx.Node):
            dim, width = _met(coupler, node, label) or (varying(axis)[0], axis.size)
            found.setdefault((node, dim, width), []).append(name)
    order = {node: i for i, node in enumerate(coupler.trace.nodes)}
    reasons = {op.node: reason for op, reason in coupler.declined}
    return [
        Pin(
            operator_name(node),
            coupler.trace.module(node)[0],
            dim,
            width,
            reasons.get(node, ""),
            tuple(dict.fromkeys(names)),
        )
        for (node, dim, width), names in sorted(found.items(), key=lambda pin: order[pin[0][0]])
    ]


def _rows(coupler: Coupler) -> Iterator[tuple[str, Axis]]:
    """The dims of weights that would make units, and cannot: their labels when they were new."""
    known = {node for node, _ in coupler.roles}
    for node, name in coupler.trace.names.items():
        if not isinstance(coupler.trace.tensors[node], nn.Parameter):
            continue
        for axis in coupler.fresh(node):
            [dim] = varying(axis)
            makes = Role.NORM in coupler.roles.get((node, dim), ())
            unread = node not in known and axis.ndim > 1  # by any operator with a rule
            if (makes or unread) and not coupler.labels.find(axis).any():
                yield name, axis


def _met(coupler: Coupler, node: fx.Node, label: int) -> tuple[int, int] | None:
    """(dim, width) of what an operation reads or gives in which this set of labels stands."""
    for near in (*node.all_input_nodes, node):
        kept = coupler.outputs(near)
        for axis in _flat(kept):
            if (coupler.labels.before_pinned(axis) == label).any():
                dim = max(varying(axis), key=lambda d: axis.shape[d], default=None)
                if dim is not None:
                    return dim, axis.shape[dim]
    return None


def _flat(kept: Axes | list[Axes]) -> Iterator[Axis]:
    for axes in kept if isinstance(kept, list) else [kept]:
        yield from axes
