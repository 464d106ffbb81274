"""Calls of operators with named arguments, in a graph or as they happen."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, fx

SYMBOLIC = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}


@dataclass(frozen=True)
class Call:
    """One call of an operator, its arguments by the names of torch's schema.

    Attributes:
        node: its place in the graph; None for a call that is just happening.
        name: the operator's name without overload and without the underscore of in-place twins.
        arguments: as given, or the schema's defaults.
        result: the tensor or tensors it gives, of which only the shapes and dtypes are asked.
    """

    node: Any
    name: str
    arguments: dict[str, Any]
    result: Any = None

    def __getitem__(self, argument: str) -> Any:
        return self.arguments.get(argument)

    @property
    def first(self) -> Any:
        """The first argument."""
        return next(iter(self.arguments.values()), None)

    def on(self, first: Tensor) -> Any:
        """The operation itself on another first argument, its sizes as they are in the trace."""
        source = self.first

        def value(node: fx.Node) -> Any:
            return first if node is source else concrete(node)

        target: Any = self.node.target
        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), value)
        return target(*args, **kwargs)

    @property
    def tensors(self) -> list[fx.Node]:
        """All inputs that are tensors."""
        return [node for node in self.node.all_input_nodes if is_tensor(node)]

    @property
    def shape(self) -> list[int]:
        """Of the result, which is one tensor."""
        return [int(size) for size in self.result.shape]

    @property
    def spatial(self) -> int:
        """How many dims of space an operator has that is called conv2d or max_pool1d."""
        return next(
            int(a)
            for a, b in zip(self.name, self.name[1:], strict=False)
            if b == "d" and a.isdigit()
        )

    @property
    def in_place(self) -> bool:
        """Whether it writes its result over its first argument."""
        target = self.node.target
        return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def call(node: fx.Node) -> Call:
    """A `call_function` node with named arguments; operators outside aten keep their prefix."""
    target, result = node.target, node.meta.get("val")
    if isinstance(target, torch._ops.OpOverload):
        return named(target, node.args, node.kwargs, result, node)
    name = getattr(target, "__name__", str(target))  # arithmetic of sizes, control flow
    name = f"python.{name}" if isinstance(target, BuiltinFunctionType) else name
    name = "getitem" if target is operator.getitem else name
    return Call(node, name, {str(i): given for i, given in enumerate(node.args)}, result)


def named(
    target: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any, node: Any = None
) -> Call:
    """A call of a torch operator with these arguments."""
    namespace, _, name = target._schema.name.partition("::")
    if not name.startswith("__"):
        name = name.removesuffix("_")
    arguments = {}
    for i, argument in enumerate(target._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        missing = i >= len(args) and argument.name not in kwargs
        if missing and argument.has_default_value():
            given = argument.default_value
        arguments[argument.name] = given
    return Call(node, name if namespace == "aten" else f"{namespace}::{name}", arguments, result)


def operator_name(node: fx.Node) -> str:
    """As a person looks it up: "aten.linear", "mylib.twice", "output"."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).replace("::", ".")


def is_tensor(node: object) -> bool:
    """Whether a node of the graph stands for one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def fixed_size(size: int | torch.SymInt) -> int | None:
    """A size that the trace has fixed, perhaps after it was a symbol; None for an open one."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def shape(x: Any) -> tuple[int, ...]:
    """The shape of a tensor, or of the tensor that a node stands for."""
    return tuple(int(size) for size in (x.meta["val"] if isinstance(x, fx.Node) else x).shape)


def sized(op: Call) -> bool:
    """Whether the sizes of a call's tensors follow from those of the inputs, not from values."""
    values = torch.utils._pytree.tree_leaves(
        [op.result, *(node.meta.get("val") for node in op.node.all_input_nodes)]
    )
    return all(has_sizes(x) for x in values if isinstance(x, Tensor))


def has_sizes(x: Tensor) -> bool:
    """Whether a tensor has a known size in every dim, which does not depend on values."""
    symbols = [size for size in x.shape if isinstance(size, torch.SymInt)]
    if not symbols:
        return True
    # It takes half as long to import as torch itself, and few networks need it.
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return not any(map(free_unbacked_symbols, symbols))


def size_symbols(sizes: Iterable[Any]) -> set[Any]:
    """The symbols in sizes that a trace leaves open."""
    return {
        symbol
        for size in sizes
        if isinstance(size, torch.SymInt)
        for symbol in size.node.expr.free_symbols
    }


def concrete(argument: Any) -> Any:
    """An argument with numbers in place of nodes that stand for sizes, as they are in the trace."""

    def value(node: fx.Node) -> Any:
        known = node.meta.get("val")
        for symbolic, plain in SYMBOLIC.items():
            if isinstance(known, symbolic):
                return plain(known)
        return known

    return fx.node.map_arg(argument, value)
