"""Sizes when units have gone or come, and the twin of a call in the other graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axis, varying
from lissom.coupling.ops import Call, call, shape
from lissom.errors import GroupError

Counts = NDArray[np.int64]
NEW = -1  # the place that an entry of zeros comes from


def left(
    coupler: Coupler, times: Counts, node: fx.Node, output: int | None = None
) -> tuple[int, ...]:
    """The shape of a tensor of the trace afterwards.

    Args:
        coupler: the labels.
        times: for each label, how often its unit is there afterwards: 0 where it goes.
        node: whose shape.
        output: which of several outputs.
    """
    sizes = list(shape(node if output is None else node.meta["val"][output]))
    for axis in coupler.axes(node, output):
        for dim in varying(axis):
            sizes[dim] = int(_along(axis, dim, times).sum())
    return tuple(sizes)


def entries(axis: Axis, dim: int, times: Counts, *, blank: bool = False) -> Counts:
    """Where the entries along one dim of a tensor come from afterwards, in their order.

    Copies stand behind what they are copies of: behind all positions of a channel, where channels
    and positions lie along one dim.

    Args:
        axis: the labels.
        dim: of it.
        times: for each label, how often its unit is there afterwards.
        blank: whether copies are `NEW`, that is zeros, instead.
    """
    counts = _along(axis, dim, times)
    if counts.max() <= 1:
        return np.flatnonzero(counts)
    labels = axis.ravel()
    found: list[Counts] = []
    for run in np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels)) + 1):
        copy = np.full_like(run, NEW) if blank else run
        found += [run, *[copy] * (counts[run[0]] - 1)] if counts[run[0]] else []
    return np.concatenate(found)


def rest(coupler: Coupler, times: Counts, node: fx.Node, x: torch.Tensor) -> torch.Tensor:
    """The entries of a tensor that are there afterwards."""
    for axis in coupler.axes(node):
        for dim in varying(axis):
            if (_along(axis, dim, times) != 1).any():
                x = x.index_select(dim, torch.from_numpy(entries(axis, dim, times)).to(x.device))
    return x


def _along(axis: Axis, dim: int, times: Counts) -> Counts:
    """How often each entry along one dim is there afterwards."""
    others = tuple(d for d in range(axis.ndim) if d != dim)
    counts: Counts = times[axis].max(axis=others)
    return counts


class Cut:
    """One call of the trace and its twin in the smaller graph, which a record gives new sizes.

    Attributes:
        call: in the trace.
        new: the twin.
    """

    def __init__(
        self,
        small: fx.GraphModule,
        coupler: Coupler,
        times: Counts,
        node: fx.Node,
        twins: dict[fx.Node, fx.Node],
    ) -> None:
        self.call: Call = call(node)
        self.new = twins[node]
        self._small, self._coupler, self._times, self._twins = small, coupler, times, twins

    def left(self, node: fx.Node | None = None, output: int | None = None) -> tuple[int, ...]:
        """The shape that is left of a tensor; of the result without `node`."""
        return left(self._coupler, self._times, node or self.call.node, output)

    def was(self, node: fx.Node | None = None) -> tuple[int, ...]:
        """The shape in the trace."""
        return shape(node or self.call.node)

    def stays(self, node: fx.Node, dim: int) -> Counts:
        """How often each entry of a dim that has labels is there afterwards: 0 where it goes."""
        [axis] = (axis for axis in self._coupler.axes(node) if axis.shape[dim] > 1)
        return _along(axis, dim, self._times)

    def given(self, name: str) -> list[Any]:
        """An argument of the twin that is a list of sizes."""
        position = self._position(name)
        args = self.new.args
        return list(args[position] if position < len(args) else self.new.kwargs[name])  # type: ignore[arg-type]

    def set(self, name: str, value: Any) -> None:
        """Give the twin another value for one argument."""
        position = self._position(name)
        if name in self.new.kwargs:
            self.new.kwargs = {**self.new.kwargs, name: value}
        else:
            target: Any = self.new.target
            filled = [
                self.new.args[i] if i < len(self.new.args) else argument.default_value
                for i, argument in enumerate(target._schema.arguments[: position + 1])
            ]
            filled[position] = value
            self.new.args = (*filled, *self.new.args[position + 1 :])

    def shape_of(self, given: Sequence[Any]) -> list[Any]:
        """A shape argument with the literals that change replaced.

        Raises:
            GroupError: where two of its sizes depend on the input and change.
        """
        was, now = self.was(), self.left()
        offset = len(was) - len(given)
        out, open_dims = [], sum(size == -1 for size in given)
        for dim, size in enumerate(given):
            old, new = was[offset + dim], now[offset + dim]
            if old == new or size == -1:
                out.append(size)
            elif isinstance(size, int):
                out.append(new)
            elif open_dims == 0:  # a number computed from the batch
                out.append(-1)
                open_dims = 1
            else:
                raise GroupError(f"{self.call.node} has two sizes that depend on the input")
        return out

    def selected(self, node: fx.Node, stays: Counts, like: fx.Node) -> fx.Node:
        """In the smaller graph: the entries of a tensor's last dim that stay."""
        name = f"indices_{self.new.name}"
        if not hasattr(self._small, name):
            device = self._coupler.trace.tensors[like].device
            self._small.register_buffer(name, torch.from_numpy(np.flatnonzero(stays)).to(device))
        with self.new.graph.inserting_before(self.new):
            indices = self.new.graph.get_attr(name)
            select: Any = torch.ops.aten.index_select.default
            return self.new.graph.call_function(select, (self.twin(node), -1, indices))

    def keep(self, value: torch.Tensor) -> None:
        """In the smaller graph: what is left of this tensor in place of the call that makes it."""
        value = rest(self._coupler, self._times, self.call.node, value)
        name = f"kept_{self.new.name}"
        self._small.register_buffer(name, value)
        with self.new.graph.inserting_before(self.new):
            kept = self.new.graph.get_attr(name)
        self.new.replace_all_uses_with(kept)
        self.new.graph.erase_node(self.new)
        self._twins[self.call.node] = self.new = kept

    def twin(self, node: fx.Node) -> fx.Node:
        """The same tensor in the smaller graph."""
        return self._twins[node]

    def _position(self, name: str) -> int:
        target: Any = self.new.target
        return [argument.name for argument in target._schema.arguments].index(name)
