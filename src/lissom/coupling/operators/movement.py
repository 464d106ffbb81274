"""The entries of the result are those of the operands, elsewhere.

Most of these need no rule: the operation itself is run on the labels.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from lissom.coupling.constants import NAN, Constants, Known, narrowed, spread, uniform, wide
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import PINNED, Axes, Axis, varying
from lissom.coupling.ops import Call, concrete, is_tensor, shape
from lissom.coupling.records import Operator, Unsupported, operator
from lissom.coupling.resizing import Cut

VIEWS = ("view", "reshape", "view_as", "reshape_as")
LIKE = ("expand_as", "broadcast_to")


@operator(
    *"""
    adjoint flip fliplr flipud mH mT matrix_H movedim moveaxis numpy_T permute pixel_unshuffle
    ravel repeat repeat_interleave rot90 flatten squeeze swapaxes swapdims t tile transpose
    unsqueeze reshape_as view_as
    """.split()
)
class Movement(Operator):
    """Labels go where the elements go."""

    moves = written = shares = True

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        x = call.first
        results: list[Axes] = []
        for axis in c.axes(x):
            moved = _move(call, axis, c.trace.shape(x))
            results += [()] * (len(moved) - len(results))
            results = [(*axes, new) for axes, new in zip(results, moved, strict=True)]
        if isinstance(call.result, Tensor):
            return _disjoint(c, results[0]) if results else ()
        return [_disjoint(c, axes) for axes in results] or [() for _ in call.result]

    def constant(self, k: Constants, call: Call) -> Any:
        """The operation itself."""
        x = k.get(call.first)
        if x is None:
            return None if isinstance(call.result, Tensor) else [None for _ in call.result]
        if call.name in VIEWS:
            return x.reshape(call.shape)
        moved = x.expand(call.shape) if call.name in LIKE else call.on(x.expand(x.shape))
        return moved if isinstance(moved, Tensor) else list(moved)


@operator("view", "reshape")
class View(Movement):
    """The result's shape is an argument."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        if call["dtype"] is not None:
            raise Unsupported("it reads the bits as another type")
        return super().couple(c, call)

    def constant(self, k: Constants, call: Call) -> Any:
        return None if call["dtype"] is not None else super().constant(k, call)

    def rewrite(self, cut: Cut) -> None:
        """Fused kernels lay out what is narrower otherwise, so a view may have to be a copy."""
        name = "size" if cut.call["size"] is not None else "shape"
        if cut.call[name] is not None:
            cut.set(name, cut.shape_of(cut.given(name)))
        if cut.new.target is torch.ops.aten.view.default:
            cut.new.target = torch.ops.aten.reshape.default


@operator("expand", "expand_as", "broadcast_to")
class Expand(View):
    """Dims of equal copies, as of a mask for all heads: any number of them will do."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        shape, out = c.trace.shape(call.first), call.shape
        if call.name == "expand_as":  # as many copies as the other one has
            return c.meet([call.first, call["other"]])
        moved: Any = super().couple(c, call)
        before = [1] * (len(out) - len(shape)) + list(shape)
        return (*moved, *c.free(out, [dim for dim in range(len(out)) if before[dim] == 1]))


@operator("unflatten")
class Unflatten(Movement):
    """One dim becomes several."""

    def rewrite(self, cut: Cut) -> None:
        given = list(cut.call["sizes"])
        dim = int(cut.call["dim"]) % len(cut.was(cut.call["self"]))
        was, now = cut.was()[dim : dim + len(given)], cut.left()[dim : dim + len(given)]
        sizes = [g if a == b or g == -1 else b for g, a, b in zip(given, was, now, strict=True)]
        cut.set("sizes", sizes)


@operator(
    *"""
    chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unsafe_split_with_sizes
    hsplit vsplit dsplit
    """.split()
)
class Split(Movement):
    """Parts, which may lose different numbers of entries."""

    def rewrite(self, cut: Cut) -> None:
        x = cut.call["self"]
        ndim = len(cut.was(x))
        fixed = {"hsplit": min(1, ndim - 1), "vsplit": 0, "dsplit": 2}.get(cut.call.name)
        dim = int(concrete(cut.call["dim"]) or 0) % ndim if fixed is None else fixed
        if cut.left(x)[dim] != cut.was(x)[dim]:
            sizes = [cut.left(output=i)[dim] for i in range(len(cut.call.result))]
            cut.new.target = torch.ops.aten.split_with_sizes.default
            cut.new.args, cut.new.kwargs = (cut.new.args[0], sizes, dim), {}


@operator("select", "unbind", "roll", "diagonal", "diag_embed", "view_as_complex")
class Enumeration(Movement):
    """A dim that is numbered one by one keeps its size."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        """Those that are numbered."""
        match call.name:
            case "roll":
                return list(concrete(call["dims"])) or list(range(ndim))
            case "diagonal":
                return [int(call["dim1"]), int(call["dim2"])]
            case "diag_embed" | "view_as_complex":
                return [-1]
        return [int(concrete(call["dim"]))]

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        c.rigid(call.first, *self.dims(call, len(c.trace.shape(call.first))))
        if call.name == "view_as_complex":
            return tuple(axis[..., 0] for axis in c.axes(call.first))
        return super().couple(c, call)

    def constant(self, k: Constants, call: Call) -> Any:
        """Unknown numbers stay whole: a complex one with one unknown part."""
        if call.name == "view_as_complex" and (x := k.get(call.first)) is not None:
            return torch.view_as_complex(wide(x).contiguous())
        return super().constant(k, call)


@operator("view_as_real")
class AsReal(Operator):
    """Real and imaginary parts side by side, in one dim more."""

    shares = True

    def couple(self, c: Coupler, call: Call) -> Axes:
        return tuple(axis[..., None] for axis in c.axes(call.first))

    def constant(self, k: Constants, call: Call) -> Known:
        """An unknown number has two unknown parts."""
        if (x := k.get(call.first)) is None:
            return None
        parts = torch.view_as_real(wide(x).to(torch.complex128).contiguous())
        return torch.where(x.isnan()[..., None], NAN, parts)


@operator("slice", "narrow")
class Slice(Enumeration):
    """A slice of neighbours may shrink.

    What lies beyond a bound that depends on the inputs is read for others.
    """

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        neighbours = call.name == "narrow" or concrete(call["step"]) == 1
        by_input = any(isinstance(call[name], fx.Node) for name in ("start", "end", "length"))
        unknown = c.trace.of_weights(call.first) and not c.trace.dynamic
        if not neighbours or by_input or unknown:
            return super().couple(c, call)
        return Movement.couple(self, c, call)

    def rewrite(self, cut: Cut) -> None:
        x, start = cut.call["self"], concrete(cut.call["start"])
        dim = int(cut.call["dim"]) % len(cut.was(x))
        if cut.left(x)[dim] == cut.was(x)[dim]:
            return
        stays = cut.stays(x, dim)
        if cut.call.name == "narrow":
            cut.set("start", int(stays[: int(start)].sum()))
            cut.set("length", cut.left()[dim])
            return
        start, end, _ = slice(start, concrete(cut.call["end"])).indices(len(stays))
        cut.set("start", int(stays[:start].sum()))
        cut.set("end", int(stays[:end].sum()))


@operator("unfold")
class Unfold(Movement):
    """Windows along a dim, which is numbered one by one."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        c.rigid(call.first, int(call["dimension"]))
        return super().couple(c, call)


@operator("channel_shuffle", "native_channel_shuffle")
class ChannelShuffle(Movement):
    """Channels of a number of groups in turn: each group loses those at the same places."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        for axis in c.axes(call.first):
            if axis.shape[1] > 1:
                batch, _, *rest = axis.shape
                c.labels.rigid(axis.reshape(batch, int(call["groups"]), -1, *rest), 1)
        return super().couple(c, call)


@operator("pixel_shuffle")
class PixelShuffle(Movement):
    """r² input channels make one output channel, and go with it."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        moved = super().couple(c, call)
        for axis in moved:
            assert not isinstance(axis, tuple)
            for dim in (-2, -1):
                c.labels.rigid(c.labels.find(axis), axis.ndim + dim)
        return moved


@operator("broadcast_tensors")
class Broadcast(Operator):
    """Several tensors in their common shape."""

    def couple(self, c: Coupler, call: Call) -> list[Axes]:
        axes = c.meet(list(call["tensors"]))
        return [axes for _ in call.result]

    def constant(self, k: Constants, call: Call) -> Any:
        return [k.of(x).expand(shape(y)) for x, y in zip(call["tensors"], call.result, strict=True)]


@operator("sym_size", "sym_numel", "sym_stride", "sym_storage_offset")
class Size(Operator):
    """A size as a number, which stays: what is done with it is not known."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        ndim = len(c.trace.shape(call.first))
        c.rigid(call.first, *(range(ndim) if call["dim"] is None else [int(call["dim"])]))
        return ()


@operator("getitem")
class Getitem(Operator):
    """One of several outputs."""

    shares = True

    def couple(self, c: Coupler, call: Call) -> Axes:
        source, number = call.node.args
        if not isinstance(source, fx.Node) or not isinstance(number, int):
            raise Unsupported("it does not pick one output by its number")
        return c.axes(source, number)

    def constant(self, k: Constants, call: Call) -> Any:
        source, number = call.node.args
        known = k.outputs(source) if isinstance(source, fx.Node) else None
        return known[number] if known is not None and isinstance(number, int) else None


@operator("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "row_stack")
@operator("column_stack")
class Cat(Operator):
    """Labels side by side; the other dims of the parts shrink together."""

    def dim(self, call: Call) -> int:
        """Along which dim of the result."""
        match call.name:
            case "hstack" | "column_stack":
                return min(1, len(call.shape) - 1)
            case "vstack" | "row_stack":
                return 0
            case "dstack":
                return 2
        return int(concrete(call["dim"]) or 0) % len(call.shape)

    def couple(self, c: Coupler, call: Call) -> Axes:
        parts: list[fx.Node] = [part for part in call["tensors"] if is_tensor(part)]
        dim = self.dim(call)
        if "stack" in call.name[1:] and {len(c.trace.shape(p)) for p in parts} != {len(call.shape)}:
            raise Unsupported("its operands have fewer dims than the result")
        if call.name == "stack":
            shapes = [[*s[:dim], 1, *s[dim:]] for s in map(c.trace.shape, parts)]
            found = [tuple(np.expand_dims(a, dim) for a in c.axes(part)) for part in parts]
        else:
            parts = [part for part in parts if c.trace.shape(part) != (0,)]
            shapes, found = [list(c.trace.shape(part)) for part in parts], [*map(c.axes, parts)]
        along = [[a for a in axes if a.shape[dim] > 1] for axes in found]
        aside = [tuple(a for a in axes if a.shape[dim] == 1) for axes in found]
        flat = [[*shape[:dim], 1, *shape[dim + 1 :]] for shape in shapes]
        result = c.align(flat, aside)
        if any(along):
            rows = [_one(c, axes, shape, dim) for axes, shape in zip(along, shapes, strict=True)]
            common = np.broadcast_shapes(*((*r.shape[:dim], 1, *r.shape[dim + 1 :]) for r in rows))
            wide = [
                np.broadcast_to(r, (*common[:dim], r.shape[dim], *common[dim + 1 :])) for r in rows
            ]
            result = _disjoint(c, (np.concatenate(wide, dim), *result))
        return result

    def constant(self, k: Constants, call: Call) -> Known:
        """Side by side."""
        parts = [node for node in call["tensors"] if isinstance(node, fx.Node)]
        if all(k.get(part) is None for part in parts):
            return None
        dim = self.dim(call)
        tensors = [wide(k.of(part)) for part in parts if k.trace.shape(part) != (0,)]
        if call.name == "stack":
            return torch.stack(tensors, dim)
        others = [d for d in range(tensors[0].ndim) if d != dim]
        same = [d for d in others if all(t.stride(d) == 0 for t in tensors)]
        return spread(torch.cat([narrowed(t, same) for t in tensors], dim), call)


@operator("pad", "constant_pad_nd")
class Pad(Operator):
    """Zero padding of a dim with labels brings entries that stay; other modes need its size."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, sizes = call.first, concrete(call["pad"])
        last = len(c.trace.shape(x)) - 1
        widths = {last - i: ends for i in range(len(sizes) // 2) if any(ends := sizes[2 * i :][:2])}
        constant = call.name == "constant_pad_nd" or call["mode"] == "constant"
        if not constant or min(sizes, default=0) < 0:
            c.rigid(x, *widths)
        axes: list[Axis] = []
        for axis in c.axes(x):
            beside = [widths.get(d, (0, 0)) if n > 1 else (0, 0) for d, n in enumerate(axis.shape)]
            if min((n for ends in beside for n in ends), default=0) < 0:
                raise Unsupported("it cuts off entries that may go")
            axes.append(np.pad(axis, beside, constant_values=PINNED))
        return tuple(axes)

    def constant(self, k: Constants, call: Call) -> Known:
        """Zeros beside a constant that is not zero make a border: unknown."""
        x = k.get(call["self"])
        if x is None:
            return None
        sizes = concrete(call["pad"])
        padded = {x.ndim - 1 - i for i in range(len(sizes) // 2) if any(sizes[2 * i :][:2])}
        spatial = tuple(d for d in padded if d >= 2)
        if call.name == "pad" and call["mode"] != "constant":
            same = uniform(x, tuple(range(2, x.ndim)))
            return spread(same, call) if padded <= {*spatial} else None
        value = float(concrete(call["value"]) or 0)
        channels = uniform(x, spatial)
        inside = torch.where(channels == value, channels, NAN).expand(x.shape) if spatial else x
        return F.pad(inside.contiguous(), sizes, value=value)


@operator("glu")
class GLU(Operator):
    """x[:half] · σ(x[half:]): the halves shrink together."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        dim = int(concrete(call["dim"])) % len(call.shape)
        axes = []
        for axis in c.axes(call.first):
            if axis.shape[dim] > 1:
                first, second = np.split(axis, 2, dim)
                c.labels.union(first, second)
                axis = first
            axes.append(axis)
        return c.labels.settled(tuple(axes))

    def constant(self, k: Constants, call: Call) -> Known:
        x = k.get(call["self"])
        if x is None:
            return None
        value, gate = x.chunk(2, int(concrete(call["dim"])))
        return torch.where(value == 0, value, value * gate.sigmoid())


def _move(call: Call, axis: Axis, shape: tuple[int, ...]) -> list[Axis]:
    """The operation itself, on labels in place of numbers."""
    labels = spread_labels(axis, shape)
    moved: Any
    if call.name in VIEWS:
        moved = labels.reshape(call.shape)
    elif call.name in LIKE:
        moved = labels.expand(call.shape)
    else:
        moved = call.on(labels)
    return [part.numpy() for part in ([moved] if isinstance(moved, Tensor) else moved)]


def spread_labels(axis: Axis, shape: tuple[int, ...]) -> Tensor:
    """An axis as a tensor of labels in the shape of what carries it."""
    return torch.from_numpy(np.ascontiguousarray(axis)).expand(shape)


def _disjoint(c: Coupler, axes: Axes) -> Axes:
    """Two axes that came to lie on one dim cannot both be cut there: pinned.

    Where one of them is of equal copies, as of a key for all its queries, it is only that one.
    """
    now = c.labels.settled(axes)
    for i, a in enumerate(now):
        for b in now[i + 1 :]:
            if set(varying(a)) & set(varying(b)):
                copies = [axis for axis in (a, b) if not c.borne(axis)]
                for axis in copies or (a, b):
                    c.labels.pin(axis)
    return c.labels.settled(now)


def _one(c: Coupler, axes: list[Axis], shape: list[int], dim: int) -> Axis:
    """The labels along `dim` of one part of a concatenation; entries without labels are pinned."""
    for axis in axes:
        return c.labels.find(axis)
    return np.zeros([size if d == dim else 1 for d, size in enumerate(shape)], np.int64)
