"""Entries picked or written by their numbers in one dim or several, which stay."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lissom.coupling.constants import Constants, Known, uniform, zeros_where
from lissom.coupling.coupler import Coupler, grown
from lissom.coupling.labels import Axes, Axis
from lissom.coupling.operators.movement import spread_labels
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, Unsupported, operator


@operator("index", "index_select", "_unsafe_index")
class Index(Operator):
    """Rows picked by number: the dims that are numbered stay."""

    def picked(self, call: Call) -> dict[int, fx.Node]:
        """The numbers, by the dim that they count."""
        if call.name == "index_select":
            return {int(concrete(call["dim"])) % len(shape(call.first)): call["index"]}
        return {d: i for d, i in enumerate(call["indices"]) if i is not None}

    def couple(self, c: Coupler, call: Call) -> Axes:
        picked = self.picked(call)
        if any(map(_is_mask, picked.values())):
            raise Unsupported("it picks by a mask, so that the size depends on the values")
        return self.rows(c, call, picked)

    def rows(self, c: Coupler, call: Call, picked: dict[int, fx.Node]) -> Axes:
        """The axes of what is picked."""
        x = call.first
        c.rigid(x, *picked)
        for number in picked.values():
            c.pin(number)
        axes = (spread_labels(axis, shape(x)) for axis in c.axes(x))
        moved: list[Axis] = [np.asarray(self.first(call, labels, picked)) for labels in axes]
        return tuple(moved)

    def first(self, call: Call, x: Tensor, picked: dict[int, fx.Node]) -> Tensor:
        """The call on x, if all numbers were 0."""
        first = {d: torch.zeros(shape(i), dtype=torch.long) for d, i in picked.items()}
        if call.name == "index_select":
            [(dim, at)] = first.items()
            return x.index_select(dim, at)
        return x[tuple(first.get(d, slice(None)) for d in range(x.ndim))]

    def constant(self, k: Constants, call: Call) -> Known:
        """Known numbers pick known entries; others what all of their dims have in common."""
        x, picked = k.get(call.first), self.picked(call)
        if x is None:
            return None
        if any(k.get(i) is None for i in picked.values()):
            if any(map(_is_mask, picked.values())):
                return None
            return self.first(call, uniform(x, tuple(picked)).cpu(), picked).to(x.device)
        result: Tensor = k.run(call)
        return result


@operator("index_put", "_unsafe_index_put")
class IndexPut(Index):
    """Rows written by number, or one number wherever a mask says."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, picked, values = call.first, self.picked(call), call["values"]
        [*masks] = filter(_is_mask, picked.values())
        if not masks:
            rows = self.rows(c, call, picked)
            sizes = np.broadcast_shapes(*map(shape, picked.values()))
            ndim = len(shape(x)) - len(picked) + len(sizes)
            wide = (1,) * (ndim - len(shape(values))) + shape(values)
            if len(wide) != ndim:
                raise Unsupported("what it writes has more dims than its place")
            full = [n for axis in rows for n in [axis.shape]][:1] or [wide]
            c.align([full[0], wide], [rows, grown(c.axes(values), ndim)])
            return c.axes(x)
        if len(picked) > 1 or len(shape(values)) > 0:
            raise Unsupported("it writes as many entries as a mask has places")
        if len(shape(masks[0])) == len(shape(x)):
            return c.meet([x, masks[0]])
        c.rigid(x, *self.covered(call))
        c.pin(masks[0])
        return c.axes(x)

    def covered(self, call: Call) -> tuple[int, ...]:
        """The dims in which places are numbered."""
        found: list[int] = []
        for dim, number in self.picked(call).items():
            found += range(dim, dim + (len(shape(number)) if _is_mask(number) else 1))
        return tuple(found)

    def constant(self, k: Constants, call: Call) -> Known:
        """Zeros, where zeros are written."""
        dims, nothing = self.covered(call), k.of(call["values"]) == 0
        if nothing.ndim:
            first, last = min(dims), max(dims) + 1
            if last - first > len(dims):
                raise Unsupported("its places are numbered in dims apart")
            # [before, numbers, behind] → [before, 1, …, 1, behind], one 1 for each numbered dim
            behind = len(call.shape) - last
            numbers = max(len(shape(i)) for i in self.picked(call).values())
            missing = first + numbers + behind - nothing.ndim
            nothing = nothing.reshape([1] * missing + list(nothing.shape))
            nothing = nothing.flatten(first, first + numbers - 1).all(first, keepdim=True)
            nothing = nothing.unflatten(first, [1] * len(dims))
        alike = () if len(dims) == len(call.shape) else dims  # else a mask, place by place
        zero = nothing & (uniform(k.of(call.first), alike) == 0)
        return zeros_where(zero).expand(call.shape)


def _is_mask(index: Any) -> bool:
    return index.meta["val"].dtype in (torch.bool, torch.uint8)
