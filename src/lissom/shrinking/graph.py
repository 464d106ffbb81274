"""Cutting the traced program, for what a module's own code cannot express.

The result is a graph of the operations that evaluation mode runs, with the cut tensors as its
parameters and every literal size rewritten. It can be trained further, in that mode.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from lissom.coupling import ops
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axis
from lissom.coupling.ops import Call, call, concrete
from lissom.errors import GroupError, LissomError
from lissom.shrinking.constants import Constants
from lissom.shrinking.decision import Decision, Mask
from lissom.shrinking.sizes import groups_left, left, norm_groups_left
from lissom.shrinking.surgery import Surgery, folded


def cut_graph(
    coupler: Coupler, decision: Decision, constants: Constants, surgery: Surgery
) -> fx.GraphModule:
    """A new module that runs the traced graph on what is left.

    Raises:
        GroupError: where a size that depends on the input would have to be rewritten.
    """
    trace = coupler.trace
    graph = copy.deepcopy(trace.program.graph)
    twins = dict(zip(trace.program.graph.nodes, graph.nodes, strict=True))
    small = fx.GraphModule(trace.program, graph, class_name="Shrunk")
    _cut_tensors(small, coupler, surgery)
    for node in list(trace.nodes):
        if node.op == "call_function" and (rewrite := REWRITES.get(call(node).name)):
            rewrite(_Cut(small, coupler, decision, node, twins))
    for i, (site, values) in enumerate(decision.folds.items()):
        added = folded(coupler, decision, constants, site, values)
        _add_to_bias(small, twins[site.node], site.bias and twins[site.bias], added, i)
    graph.lint()
    small.recompile()
    small.register_forward_pre_hook(OpenSizes(trace.open_sizes))
    return small


class OpenSizes:
    """Refuses inputs of sizes that the graph was not traced for: they might run, and be wrong."""

    def __init__(self, shapes: list[tuple[int | None, ...]]) -> None:
        self.shapes = shapes

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for x, shape in zip(inputs, self.shapes, strict=False):
            fits = x.ndim == len(shape) and all(
                size is None or n == size for n, size in zip(x.shape, shape, strict=True)
            )
            if not fits:
                wanted = "×".join("any" if size is None else str(size) for size in shape)
                raise LissomError(
                    f"this traced graph takes an input of {wanted}, got "
                    f"{'×'.join(map(str, x.shape))}"
                )


class _Cut:
    """One node, its twin in the new graph, and the sizes that are left."""

    def __init__(
        self,
        small: fx.GraphModule,
        coupler: Coupler,
        decision: Decision,
        node: fx.Node,
        twins: dict[fx.Node, fx.Node],
    ) -> None:
        self.small, self.coupler, self.decision = small, coupler, decision
        self.old, self.new = node, twins[node]
        self.twins = twins
        self.call: Call = call(node)

    def left(self, node: fx.Node | None = None, output: int | None = None) -> list[int]:
        """The shape that is left of a tensor; of the result without `node`."""
        return left(self.coupler, self.decision, node or self.old, output)

    def was(self, node: fx.Node | None = None) -> list[int]:
        """The shape in the trace."""
        return list(self.coupler.trace.shape(node or self.old))

    def set(self, name: str, value: Any) -> None:
        """Give the new node another value for one argument."""
        target: Any = self.new.target
        position = [argument.name for argument in target._schema.arguments].index(name)
        if name in self.new.kwargs:
            self.new.kwargs = {**self.new.kwargs, name: value}
        else:
            filled = [
                self.new.args[i] if i < len(self.new.args) else argument.default_value
                for i, argument in enumerate(target._schema.arguments[: position + 1])
            ]
            filled[position] = value
            self.new.args = (*filled, *self.new.args[position + 1 :])

    def sizes(self, given: Sequence[Any]) -> list[Any]:
        """A shape argument with the literals that change replaced."""
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
                raise GroupError(f"{self.old} has two sizes that depend on the input")
        return out


def _view(cut: _Cut) -> None:
    for name in ("size", "shape"):
        if cut.call[name] is not None:
            given = cut.new.args[1] if len(cut.new.args) > 1 else cut.new.kwargs[name]
            cut.set(name, cut.sizes(list(given)))  # type: ignore[arg-type]


def _unflatten(cut: _Cut) -> None:
    given = list(cut.call["sizes"])
    dim = int(cut.call["dim"]) % len(cut.was(cut.call["self"]))
    was, now = cut.was()[dim : dim + len(given)], cut.left()[dim : dim + len(given)]
    cut.set(
        "sizes", [g if a == b or g == -1 else b for g, a, b in zip(given, was, now, strict=True)]
    )


def _split(cut: _Cut) -> None:
    x = cut.call["self"]
    dim = int(concrete(cut.call["dim"]) or 0) % len(cut.was(x))
    if cut.left(x)[dim] == cut.was(x)[dim]:
        return
    sizes = [cut.left(output=i)[dim] for i in range(len(cut.old.meta["val"]))]
    cut.new.target = torch.ops.aten.split_with_sizes.default
    cut.new.args, cut.new.kwargs = (cut.new.args[0], sizes, dim), {}


def _slice(cut: _Cut) -> None:
    x = cut.call["self"]
    dim = int(cut.call["dim"]) % len(cut.was(x))
    if cut.left(x)[dim] == cut.was(x)[dim]:
        return
    start, end, _ = slice(concrete(cut.call["start"]), concrete(cut.call["end"])).indices(
        cut.was(x)[dim]
    )
    stays = _stays(cut, x, dim)
    cut.set("start", int(stays[:start].sum()))
    cut.set("end", int(stays[:end].sum()))


def _narrow(cut: _Cut) -> None:
    x = cut.call["self"]
    dim = int(cut.call["dim"]) % len(cut.was(x))
    if cut.left(x)[dim] != cut.was(x)[dim]:
        stays = _stays(cut, x, dim)
        start = int(concrete(cut.call["start"]))
        cut.set("start", int(stays[:start].sum()))
        cut.set("length", cut.left()[dim])


def _stays(cut: _Cut, node: fx.Node, dim: int) -> Mask:
    axes: list[Axis] = [axis for axis in cut.coupler.axes(node) if axis.shape[dim] > 1]
    [axis] = axes
    stays: Mask = ~cut.decision.gone[np.moveaxis(axis, dim, 0)]
    rows: Mask = np.any(stays.reshape(len(stays), -1), axis=1)
    return rows


def _convolution(cut: _Cut) -> None:
    groups = groups_left(cut.call, cut.left)
    if groups != cut.call["groups"]:
        cut.set("groups", groups)


def _group_norm(cut: _Cut) -> None:
    groups = norm_groups_left(cut.coupler, cut.call, cut.left)
    if groups != cut.call["num_groups"]:
        cut.set("num_groups", groups)


def _recurrent(cut: _Cut) -> None:
    """Initial states that are given at their full width lose what the units lose."""
    weight = cut.call["params"][1]
    width, several = cut.left(weight)[1], isinstance(cut.call["hx"], list | tuple)
    states = list(cut.call["hx"]) if several else [cut.call["hx"]]
    if width == cut.was(weight)[1]:
        return
    name = f"indices_{cut.new.name}"
    stays = torch.from_numpy(np.flatnonzero(_stays(cut, weight, 1)))
    cut.small.register_buffer(name, stays.to(cut.coupler.trace.tensors[weight].device))
    with cut.new.graph.inserting_before(cut.new):
        indices = cut.new.graph.get_attr(name)
        for i, state in enumerate(states):
            twin = cut.twins[state]
            if cut.left(state)[-1] == width:
                states[i] = twin
            else:
                select = torch.ops.aten.index_select.default
                states[i] = cut.new.graph.call_function(select, (twin, -1, indices))
    cut.set("hx", states if several else states[0])


REWRITES: dict[str, Callable[[_Cut], None]] = {
    **dict.fromkeys(["view", "reshape", "expand"], _view),
    **dict.fromkeys(
        ["chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"],
        _split,
    ),
    **dict.fromkeys(ops.CONVOLUTIONS, _convolution),
    **dict.fromkeys(ops.RECURRENT, _recurrent),
    "unflatten": _unflatten,
    "slice": _slice,
    "narrow": _narrow,
    "group_norm": _group_norm,
}


def _cut_tensors(small: fx.GraphModule, coupler: Coupler, surgery: Surgery) -> None:
    """Tensors of its own for the new module: cut, or copied."""
    tensors: dict[str, Tensor] = {}
    for node, old in coupler.trace.tensors.items():
        name = coupler.trace.names.get(node, f"constant {node.target}")
        if name not in tensors:
            new = surgery.cut(name, old)
            parameter = isinstance(old, nn.Parameter)
            tensors[name] = nn.Parameter(new, old.requires_grad) if parameter else new
        path, _, last = str(node.target).rpartition(".")
        owner = small.get_submodule(path)
        if isinstance(tensors[name], nn.Parameter):
            setattr(owner, last, tensors[name])
        else:
            owner._parameters.pop(last, None)
            owner.__dict__.pop(last, None)
            owner.register_buffer(last, tensors[name])


def _add_to_bias(
    small: fx.GraphModule, node: fx.Node, bias: fx.Node | None, added: Tensor, number: int
) -> None:
    if bias is not None:
        parameter = small.get_parameter(str(bias.target))
        with torch.no_grad():
            parameter.add_(added.to(parameter))
        return
    name = f"folded_{number}"
    like = next(small.parameters())
    small.register_parameter(name, nn.Parameter(added.to(like)))
    with node.graph.inserting_before(node):
        new_bias = node.graph.get_attr(name)
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    args = list(node.args)
    position = names.index("bias")
    args += [None] * (position + 1 - len(args))
    args[position] = new_bias
    node.args = tuple(args)
