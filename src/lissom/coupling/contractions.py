"""Coupling rules of operators that sum products, and so read units."""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from torch import fx

from lissom.coupling import ops
from lissom.coupling.coupler import Coupler, grown
from lissom.coupling.labels import PINNED, Axes, Axis, placed, varying
from lissom.coupling.ops import Call, concrete, is_tensor
from lissom.coupling.rules import rule
from lissom.coupling.sites import Contraction, MustVanish, Product
from lissom.groups import Role

# Layers of torch whose forward adds self.bias wherever there is one.
HAVE_BIAS = frozenset(
    f"torch.nn.modules.{name}"
    for name in (
        "linear.Linear",
        "linear.NonDynamicallyQuantizableLinear",
        "conv.Conv1d",
        "conv.Conv2d",
        "conv.Conv3d",
    )
)


@rule("linear")
def linear(c: Coupler, call: Call) -> Axes:
    """y = x Wᵀ + b."""
    return _layer(c, call, call["input"], call["weight"], 1, 0, call["bias"])


@rule("addmm")
def addmm(c: Coupler, call: Call) -> Axes:
    """y = b + x W."""
    plain = call["alpha"] == 1 and call["beta"] == 1 and len(c.trace.shape(call["self"])) == 1
    if not plain:
        c.pin(call["self"])
    return _layer(c, call, call["mat1"], call["mat2"], 0, 1, call["self"] if plain else None)


@rule(*ops.CONVOLUTIONS)
def convolution(c: Coupler, call: Call) -> Axes:
    """Channels are contracted with the kernel's columns, group by group."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    spatial = ops.CONVOLUTIONS[call.name]
    channel = len(c.trace.shape(x)) - spatial - 1
    c.rigid(x, *range(-spatial, 0))
    c.rigid(weight, *range(2, 2 + spatial))
    groups = int(concrete(call["groups"]))
    site = Contraction(
        call.node, x, channel, _none(), weight, (1, 0), None, groups, bias,
        pads=ops.pads(call),
        macs=_numel(call.node) * prod(c.trace.shape(weight)[1:]),
    )  # fmt: skip
    if groups == 1:
        return _contract(c, site, out_dim=channel)
    return _grouped(c, site)


@rule(*ops.TRANSPOSED)
def transposed_convolution(c: Coupler, call: Call) -> Axes:
    """As a convolution, with the weight's first two dims exchanged."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    spatial = ops.TRANSPOSED[call.name]
    channel = len(c.trace.shape(x)) - spatial - 1
    c.rigid(x, *range(-spatial, 0))
    if concrete(call["groups"]) != 1:
        for node in filter(None, (x, weight, bias)):
            c.pin(node)
        return ()
    c.rigid(weight, *range(2, 2 + spatial))
    macs = _numel(x) * prod(c.trace.shape(weight)[1:])
    site = Contraction(
        call.node, x, channel, _none(), weight, (0, 1), None, 1, bias, pads=True, macs=macs
    )
    return _contract(c, site, out_dim=channel)


@rule("matmul", "mm", "bmm")
def matmul(c: Coupler, call: Call) -> Axes:
    """A[…, m, k] · B[…, k, n], where either may be a weight."""
    a, b = call["self"], call["other"] or call["mat2"]
    shapes = [c.trace.shape(a), c.trace.shape(b)]
    if min(map(len, shapes)) < 2:
        c.pin(a)
        c.pin(b)
        return ()
    if c.trace.of_weights(b) and len(shapes[1]) == 2:
        return _layer(c, call, a, b, 0, 1, None)
    _keep_heads(c, a, -1)
    _keep_heads(c, b, -2)
    depth = c.tie(c.vector(a, -1), c.vector(b, -2))
    if depth is not None:
        source, other, dims = (b, a, (-1, -2)) if c.trace.of_weights(a) else (a, b, (-2, -1))
        rows = c.vector(other, dims[1])
        if c.trace.of_weights(other):
            c.mark(other, dims[0], Role.CUT)
            c.mark(other, dims[1], Role.NORM)
        site = Contraction(call.node, source, -1 if source is a else -2, depth, other, dims, rows)
        c.sites.append(site)
    ndim = len(call.shape)
    macs = _numel(call.node) * shapes[0][-1]
    c.products.append(Product(call.node, macs, tuple(range(-ndim, 0)), depth))
    batch = [(1,) * (ndim - len(s)) + s[:-2] + (1, 1) for s in shapes]
    sides = [
        grown(tuple(axis for axis in c.axes(node) if axis.shape[dim] == 1), ndim)
        for node, dim in ((a, -1), (b, -2))
    ]
    return c.align(batch, sides)


@rule("scaled_dot_product_attention")
def attention(c: Coupler, call: Call) -> Axes:
    """softmax(Q Kᵀ / √d) V: heads go, their width and the tokens stay."""
    q, k, v, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    for node, *dims in ((q, -1, -2), (k, -1, -2), (v, -2), (mask, -1, -2)):
        if node is not None:
            c.rigid(node, *dims)
    ndim = len(call.shape)
    shapes, sides = [], []
    for node in filter(None, (q, k, v, mask)):
        shape = (1,) * (ndim - len(c.trace.shape(node))) + c.trace.shape(node)
        axes = grown(c.axes(node), ndim)
        if call["enable_gqa"] and node in (k, v) and ndim > 2:
            times = call.shape[-3] // shape[-3]
            axes = tuple(a.repeat(times, -3) if a.shape[-3] > 1 else a for a in axes)
            shape = (*shape[:-3], shape[-3] * times, *shape[-2:])
        shapes.append((*shape[:-2], 1, 1))
        sides.append(axes)
    met = c.align(shapes, sides)
    c.heads += [axis for axis in met if ndim > 2 and axis.shape[-3] > 1]
    tokens = c.trace.shape(k)[-2]
    c.products.append(Product(call.node, tokens * prod(c.trace.shape(q)), (-3,)))  # Q Kᵀ
    c.products.append(Product(call.node, tokens * _numel(call.node), (-3, -1)))  # times V
    return met


@rule("einsum")
def einsum(c: Coupler, call: Call) -> Axes:
    """Letters that meet shrink together; a letter that is summed over is read."""
    given, parts = str(call["equation"]).replace(" ", ""), list(call["tensors"])
    left, _, right = given.partition("->")
    terms = left.split(",")
    if "..." in given or "->" not in given or len(parts) > 2 or _repeats([*terms, right]):
        for part in parts:
            c.pin(part)
        return ()
    weights = [part for part in parts if c.trace.of_weights(part)]
    result: list[Axis] = []
    for letter in dict.fromkeys("".join(terms)):
        found = [(p, t.index(letter)) for p, t in zip(parts, terms, strict=True) if letter in t]
        vectors = [c.vector(part, dim) for part, dim in found]
        tied = c.tie(*vectors)
        if letter in right:
            for part, dim in found:
                if part in weights:
                    c.mark(part, dim, Role.NORM if len(found) == 1 else Role.ZEROED)
            if tied is not None:
                result.append(placed(tied, right.index(letter), len(right)))
        elif tied is not None:
            _read_by_einsum(c, call, found, tied, weights)
    return c.labels.settled(tuple(result))


@rule(*ops.RECURRENT)
def recurrent(c: Coupler, call: Call) -> list[Axes]:
    """Unit j of a recurrent layer: its rows in all gates, and what all steps and layers read of it.

    torch gives all layers and directions one width, so unit j goes in all of them, or in none.
    """
    x, params = call["input"], list(call["params"])
    each = 4 if call["has_biases"] else 2
    width = c.trace.shape(params[1])[1]
    directions = 2 if call["bidirectional"] else 1
    stacked = ops.RECURRENT[call.name]
    outputs = 3 if call.name == "lstm" else 2
    ndim = len(c.trace.shape(x))
    if len(params) != each * directions * int(concrete(call["num_layers"])):  # with projections
        for node in (x, *params):
            c.pin(node)
        return [()] * outputs
    steps = _numel(call.node.meta["val"][0]) // (directions * width)
    macs = steps * sum(
        prod(s) for s in map(c.trace.shape, params) if len(s) == 2
    )  # for the whole layer
    unit = c.vector(params[1], 1)
    for state in call.tensors:
        if state is not x and state not in params and (own := c.vector(state, -1)) is not None:
            unit = c.tie(unit, own)
    for i in range(0, len(params), each):
        first, *others = params[i : i + each]
        for p in (first, *others):
            rows = c.vector(p, 0)
            if rows is None or unit is None:
                unit = c.tie(unit, rows)
                continue
            c.labels.union(rows.reshape(stacked, width), unit[None])
            c.mark(p, 0, Role.NORM if p in (first, others[0]) else Role.ZEROED)
        unit = c.tie(unit, c.vector(others[0], 1))
        c.mark(others[0], 1, Role.CUT)
        c.mark(first, 1, Role.CUT)
        if i < each * directions:
            read = c.tie(c.vector(x, -1), c.vector(first, 1))
            rows = c.vector(first, 0)
            site = Contraction(call.node, x, ndim - 1, _none(), first, (1, 0), rows, macs=macs)
            _record(c, site, read, rows)
            macs = 0
        else:
            below = None if unit is None else np.tile(unit, directions)
            c.tie(below, c.vector(first, 1))
    if unit is None:
        return [()] * outputs
    every = np.tile(c.labels.find(unit), directions)
    c.sites.append(MustVanish(call.node, call.node, ndim - 1, every, output=0))
    states = [(placed(unit, -1, ndim),)] * (outputs - 1)
    return [(placed(every, -1, ndim),), *states]


def _layer(
    c: Coupler,
    call: Call,
    x: fx.Node,
    weight: fx.Node,
    inner: int,
    outer: int,
    bias: fx.Node | None,
) -> Axes:
    """A dense layer on the last dim of x."""
    last = len(c.trace.shape(x)) - 1
    macs = _numel(call.node) * c.trace.shape(weight)[inner]
    site = Contraction(
        call.node, x, last, _none(), weight, (inner, outer), None, 1, bias, macs=macs
    )
    return _contract(c, site, out_dim=last)


def _contract(c: Coupler, site: Contraction, out_dim: int) -> Axes:
    """x's channel meets the weight's column; the weight's row is the output's channel."""
    x, weight, (inner, outer) = site.source, site.other, site.other_dims
    assert outer is not None
    c.mark(weight, inner, Role.CUT)
    c.mark(weight, outer, Role.NORM)
    read = c.tie(c.vector(x, site.dim), c.vector(weight, inner))
    rows = c.vector(weight, outer)
    if site.bias is not None:
        rows = c.tie(rows, c.vector(site.bias, 0))
    _record(c, site, read, rows)
    ndim = site.node.meta["val"].ndim
    through = tuple(axis for axis in c.axes(x) if axis.shape[site.dim] == 1)
    if rows is None:
        return through
    return (*through, placed(rows, out_dim, ndim))


def _grouped(c: Coupler, site: Contraction) -> Axes:
    """A grouped convolution: whole groups go, or the same offset in every group.

    Whichever is finer. A depthwise convolution is both: its channel is its input's.
    """
    x, weight, groups = site.source, site.other, site.groups
    columns = c.trace.shape(weight)[1]
    read, rows = c.vector(x, site.dim), c.vector(weight, 0)
    c.mark(weight, 0, Role.NORM)
    c.mark(weight, 1, Role.CUT)
    through = tuple(axis for axis in c.axes(x) if axis.shape[site.dim] == 1)
    if groups >= columns:
        if read is None or rows is None:
            c.tie(read, rows)
        else:
            together = [v.reshape(groups, -1) for v in (read, rows)]
            c.labels.union(np.concatenate(together, 1), together[0][:, :1])
        c.rigid(weight, 1)
    else:
        column = c.vector(weight, 1)
        if read is None or column is None:
            c.tie(read, column)
        else:
            c.labels.union(read.reshape(groups, -1), column[None])
        if rows is not None:
            c.labels.union(rows.reshape(groups, -1), rows.reshape(groups, -1)[:1])
    rows = c.vector(weight, 0)
    if site.bias is not None:
        rows = c.tie(rows, c.vector(site.bias, 0))
    _record(c, site, c.vector(x, site.dim), rows)
    return (
        through if rows is None else (*through, placed(rows, site.dim, site.node.meta["val"].ndim))
    )


def _record(c: Coupler, site: Contraction, read: Axis | None, rows: Axis | None) -> None:
    if read is None:
        read = np.full(c.trace.shape(site.source)[site.dim], PINNED)
    takes = _bias_for_constants(c, site)
    c.sites.append(replace(site, labels=read, rows=rows, takes=takes))


def _keep_heads(c: Coupler, node: fx.Node, dim: int) -> None:
    """A dim that is summed over, or one of tokens: heads × width is cut along the heads."""
    for axis in c.axes(node):
        if len(varying(axis)) > 1:
            c.labels.rigid(axis, dim % axis.ndim)
            left = c.labels.settled((axis,))
            c.heads += left


def _read_by_einsum(
    c: Coupler,
    call: Call,
    found: list[tuple[fx.Node, int]],
    labels: Axis,
    weights: list[fx.Node],
) -> None:
    if len(found) == 1:
        c.sites.append(MustVanish(call.node, *found[0], labels))
        return
    (source, dim), (other, inner) = sorted(found, key=lambda end: end[0] in weights)
    if other in weights:
        c.mark(other, inner, Role.CUT)
    sizes = prod(c.trace.shape(other)) * prod(c.trace.shape(source)) // len(labels)
    c.sites.append(Contraction(call.node, source, dim, labels, other, (inner, None), None))
    c.products.append(Product(call.node, sizes, tuple(range(-len(call.shape), 0)), labels))


def _bias_for_constants(c: Coupler, site: Contraction) -> str | None:
    """The parameter that can take a constant: the operation's own bias, or one still to be made."""
    if site.pads:
        return None
    if site.bias is not None:
        own = site.bias in c.trace.names and len(site.bias.users) == 1
        return c.trace.names[site.bias] if own else None
    path, kind = c.trace.module(site.node)
    return f"{path}.bias".lstrip(".") if kind in HAVE_BIAS else None


def _repeats(terms: list[str]) -> bool:
    return any(len(set(term)) < len(term) for term in terms)


def _none() -> Axis:
    return np.zeros(0, np.int64)


def _numel(node: Any) -> int:
    value = node.meta["val"] if is_tensor(node) else node
    return int(prod(int(size) for size in value.shape))
