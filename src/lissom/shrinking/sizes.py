"""Sizes after surgery: of the tensors in a trace, and of the attributes that hold them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx, nn

from lissom.coupling import ops
from lissom.coupling.coupler import Coupler
from lissom.coupling.ops import Call, call, concrete
from lissom.shrinking.decision import Decision

Sizes = dict[str, int]
Shape = Callable[[fx.Node], list[int]]  # after surgery


def left(
    coupler: Coupler, decision: Decision, node: fx.Node, output: int | None = None
) -> list[int]:
    """The shape of a tensor of the trace when the units are gone."""
    value: Any = coupler.trace.tensors.get(node, node.meta.get("val"))
    shape = [int(size) for size in (value if output is None else value[output]).shape]
    for axis in coupler.axes(node, output):
        stays = ~decision.gone[axis]
        for dim, size in enumerate(axis.shape):
            if size > 1:
                others = tuple(d for d in range(axis.ndim) if d != dim)
                shape[dim] = int(stays.any(axis=others).sum())
    return shape


def new_sizes(
    model: nn.Module, coupler: Coupler, decision: Decision, *, counts_only: bool
) -> dict[str, Sizes]:
    """{path of a module: {attribute: new value}} for every attribute that holds an old size.

    torch's own layers are known by the operation they call. In any other module, an integer that
    equals an old size in a view or a split there is taken to be that size; verification tells
    whether that was right. Two different new values for one attribute leave it as it is.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, dict[str, set[int]]] = {}
    for node in coupler.trace.nodes:
        if node.op != "call_function":
            continue
        path, _ = coupler.trace.module(node)
        module = modules.get(path)
        if module is None:
            continue
        for name, size in _of_node(coupler, decision, call(node), module, counts_only):
            found.setdefault(path, {}).setdefault(name, set()).add(size)
    clear = {
        path: {name: new.pop() for name, new in sizes.items() if len(new) == 1}
        for path, sizes in found.items()
    }
    return {
        path: changed
        for path, sizes in clear.items()
        if (changed := {n: v for n, v in sizes.items() if getattr(modules[path], n) != v})
    }


def _of_node(
    coupler: Coupler, decision: Decision, op: Call, module: nn.Module, counts_only: bool
) -> Iterator[tuple[str, int]]:
    def shape(node: fx.Node) -> list[int]:
        return left(coupler, decision, node)

    if op.name in LAYERS:
        was = LAYERS[op.name](coupler, op, lambda node: list(coupler.trace.shape(node)))
        for name, size in LAYERS[op.name](coupler, op, shape).items():
            if getattr(module, name, None) == was[name]:
                yield name, size
    elif op.name in ops.MOVEMENT:
        for old, new in _changes(coupler, decision, op.node):
            for name, value in vars(module).items():
                counts = name.startswith(("n", "heads"))
                if type(value) is int and value == old and (counts or not counts_only):
                    yield name, new


def _changes(coupler: Coupler, decision: Decision, node: fx.Node) -> Iterator[tuple[int, int]]:
    value: Any = node.meta["val"]
    outputs = [None] if isinstance(value, Tensor) else range(len(value))
    for output in outputs:
        old = (value if output is None else value[output]).shape
        for before, after in zip(old, left(coupler, decision, node, output), strict=True):
            if int(before) != after:
                yield int(before), after


def _convolution(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    spatial = {**ops.CONVOLUTIONS, **ops.TRANSPOSED}[op.name]
    channel = -spatial - 1
    sizes = {
        "in_channels": shape(op["input"])[channel],
        "out_channels": shape(op.node)[channel],
    }
    return sizes if op.name in ops.TRANSPOSED else {**sizes, "groups": groups_left(op, shape)}


def groups_left(op: Call, shape: Shape) -> int:
    """How many groups a convolution has left."""
    channels = shape(op["input"])[-ops.CONVOLUTIONS[op.name] - 1]
    return channels // shape(op["weight"])[1]


def norm_groups_left(coupler: Coupler, op: Call, shape: Shape) -> int:
    """How many groups a GroupNorm has left."""
    x = op["input"]
    return int(concrete(op["num_groups"])) * shape(x)[1] // coupler.trace.shape(x)[1]


def _group_norm(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    groups = norm_groups_left(coupler, op, shape)
    return {"num_channels": shape(op["input"])[1], "num_groups": groups}


def _linear(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    return {"in_features": shape(op["input"])[-1], "out_features": shape(op.node)[-1]}


def _addmm(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    return {"nx": shape(op["mat1"])[-1], "nf": shape(op.node)[-1]}


def _batch_norm(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    return {"num_features": shape(op["input"])[1]}


def _embedding(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    return {"embedding_dim": shape(op["weight"])[1]}


def _prelu(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    return {"num_parameters": (shape(op["weight"]) or [1])[0]}


def _recurrent(coupler: Coupler, op: Call, shape: Shape) -> Sizes:
    inner, recurrent = shape(op["params"][0]), shape(op["params"][1])
    return {"input_size": inner[1], "hidden_size": recurrent[1]}


LAYERS: dict[str, Callable[[Coupler, Call, Shape], Sizes]] = {
    **dict.fromkeys([*ops.CONVOLUTIONS, *ops.TRANSPOSED], _convolution),
    **dict.fromkeys(ops.RECURRENT, _recurrent),
    "linear": _linear,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "prelu": _prelu,
}
