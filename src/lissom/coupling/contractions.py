"""Coupling of what sums products, for the records of such operators."""

from dataclasses import replace

import numpy as np
from torch import fx

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import PINNED, Axes, Axis, placed
from lissom.coupling.ops import Call
from lissom.coupling.records import layers, macs
from lissom.coupling.sites import Contraction
from lissom.groups import Role
from lissom.parametrized import full_name

NONE: Axis = np.zeros(0, np.int64)


def contract(
    c: Coupler,
    call: Call,
    x: fx.Node,
    weight: fx.Node,
    *,
    columns: int = 1,
    rows: int = 0,
    dim: int = -1,
    bias: fx.Node | None = None,
    groups: int = 1,
    pads: bool = False,
    convolves: bool = False,
) -> Axes:
    """y_o = Σ_k w_ok·x_k + b_o: x's entries meet the weight's columns, its rows make y's entries.

    Args:
        c: the coupler.
        call: the operation.
        x: what is read.
        weight: what it is multiplied with.
        columns: the dim of the weight that x's entries meet.
        rows: the dim of the weight that makes the entries of y.
        dim: of x and of y along which the entries lie.
        bias: of y, if there is one.
        groups: x and y fall into so many groups that do not meet, as in a convolution.
        pads: whether zeros are summed in beside x, so that a constant gives no constant.
        convolves: whether the weight is moved over x.

    Returns:
        The axes of y.
    """
    dim %= len(c.trace.shape(x))
    site = Contraction(
        call.node, x, dim, NONE, weight, (columns, rows), None, groups, bias,
        pads=pads, macs=macs(call), convolves=convolves,
    )  # fmt: skip
    through = tuple(axis for axis in c.axes(x) if axis.shape[dim] == 1)
    if groups > 1:
        made = _meet_by_group(c, site)
    else:
        c.mark(weight, columns, Role.CUT)
        c.mark(weight, rows, Role.NORM)
        read = c.tie(c.vector(x, dim), c.vector(weight, columns))
        made = c.vector(weight, rows)
    if bias is not None:
        made = c.tie(made, c.vector(bias, 0))
    record(c, site, c.vector(x, dim) if groups > 1 else read, made)
    return through if made is None else (*through, placed(made, dim, len(call.shape)))


def record(c: Coupler, site: Contraction, read: Axis | None, rows: Axis | None) -> None:
    """Note a place where units are read, with the labels of what is read and of what it makes."""
    if read is None:
        read = np.full(c.trace.shape(site.source)[site.dim], PINNED)
    c.sites.append(replace(site, labels=read, rows=rows, takes=_bias_for_constants(c, site)))


def _meet_by_group(c: Coupler, site: Contraction) -> Axis | None:
    """A grouped convolution: whole groups go, or the same offset in every group.

    Whichever is finer. A depthwise convolution is both: its channel is its input's. The first dim
    of the weight has what all groups make (or read, if it is transposed), the second is of one.

    Returns:
        The labels of what is made.
    """
    weight, groups, transposed = site.other, site.groups, site.other_dims[0] == 0
    size = c.trace.shape(weight)[1]
    by_group = groups >= size
    for dim in (0, 1):
        c.mark(weight, dim, Role.NORM if by_group or dim == site.other_dims[1] else Role.CUT)
    read, own = c.vector(site.source, site.dim), c.vector(weight, 0)
    if by_group:
        c.rigid(weight, 1)
        if read is None or own is None:
            return c.tie(read, own)
        together = [v.reshape(groups, -1) for v in (read, own)]
        c.labels.union(np.concatenate(together, 1), together[0][:, :1])
        group = c.labels.find(together[0][:, 0])
        return np.repeat(group, size) if transposed else c.vector(weight, 0)
    of_one = c.vector(weight, 1)
    if transposed:
        own = c.tie(read, own)
    elif read is None or of_one is None:
        c.tie(read, of_one)
    else:
        c.labels.union(read.reshape(groups, -1), of_one[None])
    if own is not None:
        c.labels.union(own.reshape(groups, -1), own.reshape(groups, -1)[:1])
    if transposed:
        return None if of_one is None else np.tile(of_one, groups)
    return c.vector(weight, 0)


def _bias_for_constants(c: Coupler, site: Contraction) -> str | None:
    """The parameter that can take a constant: the operation's own bias, or one still to be made."""
    if site.pads:
        return None
    if site.bias is not None:
        own = site.bias in c.trace.names and len(site.bias.users) == 1
        return c.trace.names[site.bias] if own else None
    path, kind = c.trace.module(site.node)
    adds = any(kind == f"{layer.__module__}.{layer.__qualname__}" for layer in layers())
    return full_name(path, "bias") if adds else None
