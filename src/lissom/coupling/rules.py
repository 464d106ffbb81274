"""What each operator does to the labels of its tensors, as a table.

An operator that is not here pins what it reads. A rule returns the axes of the result, or a list of
them where the operator has several outputs.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx

from lissom.coupling import ops
from lissom.coupling.coupler import Coupler, Rule, grown
from lissom.coupling.labels import PINNED, Axes, Axis, placed, varying
from lissom.coupling.ops import Call, concrete, is_tensor
from lissom.coupling.sites import MustVanish
from lissom.groups import Role

RULES: dict[str, Rule] = {}
AnyRule = TypeVar("AnyRule", bound=Rule)


def rule(*names: str) -> Callable[[AnyRule], AnyRule]:
    """Put a function into the table under these operators."""

    def enter(function: AnyRule) -> AnyRule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


@rule(*ops.ELEMENTWISE)
def elementwise(c: Coupler, call: Call) -> Axes:
    """Dims that meet shrink together."""
    return _meet(c, call.tensors[:1] if call.name in ops.OF_THE_FIRST else call.tensors)


@rule(*ops.MOVEMENT - {"roll", "select", "unbind", "slice", "narrow", "pixel_shuffle"})
def movement(c: Coupler, call: Call) -> Axes | list[Axes]:
    """Labels go where the elements go."""
    x = call.first
    shape = c.trace.shape(x)
    results: list[Axes] = []
    axes = c.axes(x)
    if call.name in ("expand", "expand_as") and not axes and _is_number(call.node):
        return _copies(c, shape, call.shape)
    for axis in axes:
        moved = _move(call, axis, shape)
        results += [()] * (len(moved) - len(results))
        results = [(*axes, new) for axes, new in zip(results, moved, strict=True)]
    value = call.node.meta["val"]
    if isinstance(value, Tensor):
        return _disjoint(c, results[0]) if results else ()
    return [_disjoint(c, axes) for axes in results] or [() for _ in value]


@rule("select", "unbind", "slice", "narrow", "roll")
def enumeration(c: Coupler, call: Call) -> Axes | list[Axes]:
    """A dim that is numbered one by one keeps its size; a slice of neighbours may shrink.

    What lies beyond a bound that depends on the inputs is read for others.
    """
    x, dims = call.first, call["dims"] if call.name == "roll" else [call["dim"]]
    neighbours = call.name == "narrow" or (call.name == "slice" and concrete(call["step"]) == 1)
    by_input = any(isinstance(call[name], fx.Node) for name in ("start", "end", "length"))
    unknown = c.trace.of_weights(x) and not c.trace.dynamic
    if not neighbours or by_input or unknown:
        c.rigid(x, *(concrete(dims) or range(len(c.trace.shape(x)))))
    return movement(c, call)


@rule("getitem")
def getitem(c: Coupler, call: Call) -> Axes:
    """One of several outputs."""
    source, number = call.node.args
    assert isinstance(source, fx.Node) and isinstance(number, int)
    return c.axes(source, number)


@rule("_assert_tensor_metadata")
def check(c: Coupler, call: Call) -> Axes:
    """A check of dtype and device changes nothing."""
    return ()


@rule("pixel_shuffle")
def pixel_shuffle(c: Coupler, call: Call) -> Axes | list[Axes]:
    """r² input channels make one output channel, and go with it."""
    moved = movement(c, call)
    for axis in moved:
        assert not isinstance(axis, tuple)
        for dim in (-2, -1):
            c.labels.rigid(c.labels.find(axis), axis.ndim + dim)
    return moved


@rule("cat", "concat", "concatenate", "stack")
def cat(c: Coupler, call: Call) -> Axes:
    """Labels side by side; the other dims of the parts shrink together."""
    parts: list[fx.Node] = [part for part in call["tensors"] if is_tensor(part)]
    out = call.shape
    dim = int(call["dim"] or 0) % len(out)
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
        wide = [np.broadcast_to(r, (*common[:dim], r.shape[dim], *common[dim + 1 :])) for r in rows]
        result = _disjoint(c, (np.concatenate(wide, dim), *result))
    return result


@rule("pad", "constant_pad_nd")
def pad(c: Coupler, call: Call) -> Axes:
    """Zero padding of a dim with labels brings entries that stay; other modes need its size."""
    x, sizes = call.first, concrete(call["pad"])
    last = len(c.trace.shape(x)) - 1
    widths = {last - i: ends for i in range(len(sizes) // 2) if any(ends := sizes[2 * i :][:2])}
    constant = call.name == "constant_pad_nd" or call["mode"] == "constant"
    if not constant or min(sizes, default=0) < 0:
        c.rigid(x, *widths)
    axes: list[Axis] = []
    for axis in c.axes(x):
        beside = [widths.get(d, (0, 0)) if n > 1 else (0, 0) for d, n in enumerate(axis.shape)]
        axes.append(np.pad(axis, beside, constant_values=PINNED))
    return tuple(axes)


@rule("glu")
def glu(c: Coupler, call: Call) -> Axes:
    """x[:half] · σ(x[half:]): the halves shrink together."""
    x, out = call.first, call.shape
    dim = int(concrete(call["dim"])) % len(out)
    axes = []
    for axis in c.axes(x):
        if axis.shape[dim] > 1:
            first, second = np.split(axis, 2, dim)
            c.labels.union(first, second)
            axis = first
        axes.append(axis)
    return c.labels.settled(tuple(axes))


@rule("prelu")
def prelu(c: Coupler, call: Call) -> Axes:
    """One slope for all, or one for each channel."""
    x, slope = call.first, call["weight"]
    if c.trace.shape(slope) not in ((), (1,)):
        c.tie(c.vector(x, 1), c.vector(slope, 0))
    return c.axes(x)


@rule(*ops.MIXING)
def mixing(c: Coupler, call: Call) -> Axes:
    """What is mixed along a dim needs all of it."""
    if c.alive(call.node):
        c.rigid(call.first, int(concrete(call["dim"])))
    return c.axes(call.first)


@rule(*ops.REDUCTIONS)
def reduction(c: Coupler, call: Call) -> Axes:
    """A sum and a norm lose nothing with a zero; every other statistic needs all of the dim."""
    x = call.first
    ndim = len(c.trace.shape(x))
    given = concrete(call["dim"])
    dims = given if isinstance(given, list | tuple) and given else [given]
    dims = list(range(ndim)) if dims == [None] or dims == [[]] else [int(d) % ndim for d in dims]
    sums = call.name in ops.SUMS and call["ord"] in (None, 1, 2)
    for dim in dims:
        one = [axis for axis in c.axes(x) if varying(axis) == [dim]]
        if sums and one:
            c.sites.append(MustVanish(call.node, x, dim, one[0].ravel()))
        elif c.alive(call.node):
            c.rigid(x, dim)
    left = [axis for axis in c.axes(x) if not set(varying(axis)) & set(dims)]
    if not call["keepdim"]:
        left = [np.squeeze(axis, tuple(dims)) for axis in left]
    return tuple(left)


@rule(*ops.POOLING, *ops.UPSAMPLING)
def pooling(c: Coupler, call: Call) -> Axes | list[Axes]:
    """Channels go through one by one; the spatial dims stay."""
    spatial = {**ops.POOLING, **ops.UPSAMPLING}[call.name]
    c.rigid(call.first, *range(-spatial, 0))
    axes = c.axes(call.first)
    return axes if isinstance(call.node.meta["val"], Tensor) else [axes, axes]


@rule("batch_norm", "instance_norm")
def batch_norm(c: Coupler, call: Call) -> Axes:
    """Every channel with its own scale, shift and statistics."""
    x = call["input"]
    own = [call[name] for name in ("weight", "bias", "running_mean", "running_var")]
    if call.name == "instance_norm" or call["training"] or call["running_mean"] is None:
        c.rigid(x, *range(2, len(c.trace.shape(x))))  # statistics are taken over them
    c.tie(c.vector(x, 1), *(c.vector(p, 0) for p in own if p is not None))
    return c.axes(x)


@rule("layer_norm", "rms_norm")
def layer_norm(c: Coupler, call: Call) -> Axes:
    """Mean and variance are taken over the whole width, which stays."""
    normalized = len(concrete(call["normalized_shape"]))
    for node in (call["input"], call["weight"], call["bias"]):
        if node is not None:
            c.rigid(node, *range(-normalized, 0))
    return c.axes(call["input"])


@rule("group_norm")
def group_norm(c: Coupler, call: Call) -> Axes:
    """Channels that share mean and variance go together: whole groups."""
    x = call["input"]
    c.rigid(x, *range(2, len(c.trace.shape(x))))
    labels = c.vector(x, 1)
    if labels is not None:
        rows = labels.reshape(concrete(call["num_groups"]), -1)
        c.labels.union(rows, rows[:, :1])
    c.tie(c.vector(x, 1), *(c.vector(p, 0) for p in (call["weight"], call["bias"]) if p))
    return c.axes(x)


@rule("embedding")
def embedding(c: Coupler, call: Call) -> Axes:
    """One row for each word; the columns are units."""
    table = call["weight"]
    c.rigid(table, 0)
    c.mark(table, 1, Role.NORM)
    columns = c.vector(table, 1)
    return () if columns is None else (placed(columns, -1, len(call.shape)),)


@rule("index", "index_select")
def index(c: Coupler, call: Call) -> Axes:
    """Rows picked by number: the dims that are numbered stay."""
    x = call.first
    if call.name == "index_select":
        picked = {int(concrete(call["dim"])) % len(c.trace.shape(x)): call["index"]}
    else:
        picked = {d: i for d, i in enumerate(call["indices"]) if i is not None}
    if any(i.meta["val"].dtype == torch.bool for i in picked.values() if is_tensor(i) and i.meta):
        c.pin(x)
        return ()
    c.rigid(x, *picked)
    anywhere = {d: torch.zeros(c.trace.shape(i), dtype=torch.long) for d, i in picked.items()}
    moved = []
    for axis in c.axes(x):
        labels = _spread(axis, c.trace.shape(x))
        if call.name == "index_select":
            [(dim, number)] = anywhere.items()
            moved.append(labels.index_select(dim, number))
        else:
            moved.append(labels[tuple(anywhere.get(d, slice(None)) for d in range(axis.ndim))])
    return tuple(np.asarray(axis) for axis in moved)


def _meet(c: Coupler, nodes: Iterable[fx.Node]) -> Axes:
    """Elementwise: operands padded with leading dims to the same number of them."""
    nodes = list(nodes)
    shapes = [c.trace.shape(node) for node in nodes]
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    return c.align(padded, [grown(c.axes(node), ndim) for node in nodes]) if nodes else ()


def _move(call: Call, axis: Axis, shape: tuple[int, ...]) -> list[Axis]:
    """The operation itself, on labels in place of numbers."""
    labels = _spread(axis, shape)
    moved: Any
    if call.name in ("view", "reshape", "view_as", "reshape_as"):
        moved = labels.reshape(call.shape)
    elif call.name == "expand_as":
        moved = labels.expand(call.shape)
    else:
        moved = call.on(labels)
    return [part.numpy() for part in ([moved] if isinstance(moved, Tensor) else moved)]


def _is_number(node: fx.Node) -> bool:
    dtype = node.meta["val"].dtype
    return bool(dtype.is_floating_point or dtype == torch.bool)


def _copies(c: Coupler, shape: tuple[int, ...], out: list[int]) -> Axes:
    """Dims of equal copies, as of a mask for all heads: any number of them will do."""
    before = [1] * (len(out) - len(shape)) + list(shape)
    new = [dim for dim, size in enumerate(out) if before[dim] == 1 and size > 1]
    return tuple(placed(c.labels.fresh([out[dim]]), dim, len(out)) for dim in new)


def _spread(axis: Axis, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(axis)).expand(shape)


def _disjoint(c: Coupler, axes: Axes) -> Axes:
    """Two axes that came to lie on one dim cannot both be cut there: pinned."""
    now = c.labels.settled(axes)
    for i, a in enumerate(now):
        for b in now[i + 1 :]:
            if set(varying(a)) & set(varying(b)):
                c.labels.pin(a)
                c.labels.pin(b)
    return c.labels.settled(now)


def _one(c: Coupler, axes: list[Axis], shape: list[int], dim: int) -> Axis:
    """The labels along `dim` of one part of a concatenation; entries without labels are pinned."""
    for axis in axes:
        return c.labels.find(axis)
    return np.zeros([size if d == dim else 1 for d, size in enumerate(shape)], np.int64)
