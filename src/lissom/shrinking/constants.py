"""What every tensor of a network is whatever the input: numbers, and NaN where it depends on it.

One pass over the graph by rules, not by looking at samples. A known entry is the same at every
spatial position *for every input size*: a non-zero constant that meets zero padding counts as
unknown, because its border differs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from lissom.coupling import ops
from lissom.coupling.ops import Call, call, concrete, is_tensor
from lissom.coupling.trace import Trace, memory_of

Known = Tensor | None  # float64, or whole numbers; None stands for a tensor that is NaN throughout
Rule = Callable[["Constants", Call], Known]

NAN = float("nan")
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Put a function into the table under these operators."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


class Constants:
    """The known value of every node of a trace."""

    @torch.no_grad()
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._known: dict[fx.Node, Any] = {}
        self._before: dict[tuple[fx.Node, fx.Node], Any] = {}
        self._nonzero: dict[fx.Node, Tensor] = {}
        for node in trace.nodes:
            self._known[node] = self._visit(node)

    def of(
        self, node: fx.Node, output: int | None = None, *, reader: fx.Node | None = None
    ) -> Tensor:
        """The known value, full of NaN where nothing is known.

        Args:
            node: whose value.
            output: which of several outputs.
            reader: who asks, since the tensor may have been overwritten afterwards.
        """
        known = self._known.get(node)
        if reader is not None:
            known = self._before.get((reader, node), known)
        if isinstance(known, list):
            known = known[output or 0]
        if known is not None:
            return known  # type: ignore[no-any-return]
        value = node.meta["val"]
        shape = (value if isinstance(value, Tensor) else value[output or 0]).shape
        return torch.full((), NAN, dtype=torch.float64).expand([int(size) for size in shape])

    def fixed(self, node: fx.Node) -> bool:
        """Whether a tensor is made of parameters alone, so that no input changes its size."""
        return self.trace.of_weights(node)

    def get(self, node: fx.Node | None) -> Known:
        """The known value, or None where nothing is known."""
        known = self._known.get(node) if node is not None else None
        return known if isinstance(known, Tensor) else None

    def nonzero(self, node: fx.Node) -> Tensor:
        """Where a tensor is not known to be zero."""
        if node not in self._nonzero:
            self._nonzero[node] = self.of(node) != 0  # NaN is not zero
        return self._nonzero[node]

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            own = node in self.trace.tensors and node not in self.trace.written
            return _own(self.trace.tensors[node]) if own else None
        if node.op != "call_function":
            return None
        op = call(node)
        if op.name == "getitem":
            source, index = node.args
            known = self._known.get(source) if isinstance(source, fx.Node) else None
            return known[index] if isinstance(known, list) and isinstance(index, int) else None
        value = self._value(op)
        if op.in_place and isinstance(op.first, fx.Node):
            self._overwrite(op.first, value)
        return value

    def _value(self, op: Call) -> Any:
        found = RULES.get(op.name)
        if found is not None:
            try:
                value = found(self, op)
            except (
                AssertionError,
                AttributeError,
                IndexError,
                RuntimeError,
                TypeError,
                ValueError,
            ):
                value = None  # an unforeseen form of a known operator
        elif op.in_place or torch.Tag.nondeterministic_seeded in _tags(op):
            value = None
        else:
            value = self.all_known(op)
        if isinstance(value, Tensor) and value.is_floating_point() and _nothing(value):
            return None
        return value

    def all_known(self, op: Call) -> Any:
        """An operation without a rule, if all that it reads are parameters and known.

        What is known of an activation may still be 1/T for T positions, and so no constant.
        """
        if not self.fixed(op.node):
            return None
        inputs = op.node.all_input_nodes
        for node in inputs:
            if is_tensor(node) and (self.get(node) is None or bool(self.of(node).isnan().any())):
                return None
            if not is_tensor(node) and not isinstance(node.meta.get("val"), int | torch.SymInt):
                return None
        try:
            value = self.run(op)
        except (RuntimeError, TypeError, ValueError):
            return None
        if isinstance(value, Tensor):
            return _wide(value)
        parts = value if isinstance(value, tuple | list) else []
        return [_wide(part) if isinstance(part, Tensor) else None for part in parts]

    def run(self, op: Call, first: Tensor | None = None) -> Any:
        """The operation itself on known values, or on another first argument."""

        def value(node: fx.Node) -> Any:
            if first is not None and node is op.first:
                return first
            return _wide(self.of(node)) if is_tensor(node) else concrete(node)

        target: Any = op.node.target
        return target(*fx.node.map_arg(op.node.args, value), **_kwargs(op, value))

    def _overwrite(self, node: fx.Node, value: Known) -> None:
        """An in-place operation: the tensor itself, and whatever shares its memory."""
        shared = self._sharing(node)
        views = any(o.op == "call_function" and call(o).name in ops.SHARING for o in shared)
        for other in shared:
            for user in other.users:
                if user in self._known:
                    self._before.setdefault((user, other), self._known[other])
            self._known[other] = None if views else value

    def _sharing(self, node: fx.Node) -> set[fx.Node]:
        """The tensors so far that may lie in the same memory."""
        base = memory_of(node)
        found, todo = {base}, [base]
        while todo:
            here = todo.pop()
            for user in here.users:
                if user in found or user not in self._known or user.op != "call_function":
                    continue
                op = call(user)
                if op.first is here and op.shares:
                    found.add(user)
                    todo.append(user)
        return found


FILLED = {
    f"{prefix}{name}{suffix}": value
    for name, value in (("zeros", 0), ("ones", 1), ("full", None))
    for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
}


@rule(*FILLED)
def filled(k: Constants, op: Call) -> Known:
    """One number throughout, whatever the size."""
    value = FILLED[op.name]
    number = _number(concrete(op["fill_value"]) if value is None else value)
    return spread(number if _floats(op) else number.to(op.node.meta["val"].dtype), op)


@rule(*ops.ELEMENTWISE - FILLED.keys() - {"mul", "multiply", "where", "copy", "dropout"})
def elementwise(k: Constants, op: Call) -> Known:
    """Known where all operands are."""
    nodes = op.tensors[:1] if op.name in ops.OF_THE_FIRST else op.tensors
    operands = {node: compact(k.of(node)) for node in nodes}
    sizes = [n for n in op.node.all_input_nodes if not is_tensor(n) and not k.fixed(n)]
    if sizes or any(k.get(node) is None for node in nodes):
        return None  # a number made of a size of the inputs is no constant
    unknown = [x.isnan() for x in operands.values() if x.is_floating_point()]
    result = _call(op, {n: without_nan(x) for n, x in operands.items()})
    if op.name in ("to", "_to_copy", "type_as") and result.is_floating_point():
        result = without_nan(operands[nodes[0]]).double()
    for mask in unknown:
        if not result.is_floating_point():
            if mask.any():
                return None
            continue
        result = torch.where(mask, NAN, _wide(result))
    return spread(_wide(result), op)


@rule("dropout")
def dropout(k: Constants, op: Call) -> Known:
    """Nothing happens in evaluation mode."""
    return None if op["train"] else k.get(op.first)


@rule("copy")
def copy(k: Constants, op: Call) -> Known:
    """What is written."""
    return spread(k.of(op["src"]), op) if k.get(op["src"]) is not None else None


@rule("mul", "multiply")
def mul(k: Constants, op: Call) -> Known:
    """Zero times anything is zero."""
    operands = [compact(_wide(k.of(node))) for node in op.tensors]
    number = [x for x in (op["self"], op["other"]) if not is_tensor(x)]
    if len(op.tensors) == 1 and not number:
        operands *= 2
    varies = any(isinstance(x, fx.Node) and not k.fixed(x) for x in number)
    result = _number(NAN if varies else concrete(number[0]) if number else 1)
    for x in operands:
        zero = (x == 0) | (result == 0)
        result = torch.where(zero, 0, x * result)
    if not op.node.meta["val"].is_floating_point():
        return k.all_known(op)  # type: ignore[no-any-return]
    return spread(result, op)


@rule("prelu")
def prelu(k: Constants, op: Call) -> Known:
    """max(x, 0) + slope·min(x, 0)."""
    x, slope = k.get(op["self"]), k.get(op["weight"])
    if x is None or slope is None:
        return None
    layout = [1, -1, *[1] * (x.ndim - 2)] if x.ndim > 1 else [-1]
    return torch.where(x >= 0, x, x * slope.view(layout))


@rule("glu")
def glu(k: Constants, op: Call) -> Known:
    """x[:half] · σ(x[half:])."""
    x = k.get(op["self"])
    if x is None:
        return None
    value, gate = x.chunk(2, int(concrete(op["dim"])))
    return torch.where(value == 0, value, value * gate.sigmoid())


@rule("where")
def where(k: Constants, op: Call) -> Known:
    """Known where the chosen side is, or where both sides agree."""
    sides = [
        compact(_wide(k.of(s))) if is_tensor(s) else _number(concrete(s))
        for s in (op["self"], op["other"])
    ]
    condition = k.get(op["condition"])
    if not op.node.meta["val"].is_floating_point():
        return k.all_known(op)  # type: ignore[no-any-return]
    if condition is None:
        result = torch.where(sides[0] == sides[1], sides[0], NAN)
    else:
        result = torch.where(compact(condition), sides[0], sides[1])
    return spread(result.double(), op)


@rule(*ops.MOVEMENT)
def movement(k: Constants, op: Call) -> Any:
    """The operation itself."""
    x = k.get(op.first)
    value = op.node.meta["val"]
    if x is None:
        return None if isinstance(value, Tensor) else [None for _ in value]
    if op.name in ("view", "reshape", "view_as", "reshape_as"):
        return x.reshape(_shape(value))
    moved = x.expand(_shape(value)) if op.name == "expand_as" else op.on(x.expand(x.shape))
    return moved if isinstance(moved, Tensor) else list(moved)


@rule("cat", "concat", "concatenate", "stack")
def cat(k: Constants, op: Call) -> Known:
    """Side by side."""
    parts = [node for node in op["tensors"] if isinstance(node, fx.Node)]
    if all(k.get(part) is None for part in parts):
        return None
    dim = int(concrete(op["dim"]) or 0)
    tensors = [_wide(k.of(part)) for part in parts if k.trace.shape(part) != (0,)]
    ndim = tensors[0].ndim
    if op.name == "cat":
        same = [
            d for d in range(ndim) if d != dim % ndim and all(t.stride(d) == 0 for t in tensors)
        ]
        tensors = [_narrowed(t, same) for t in tensors]
        return spread(torch.cat(tensors, dim), op)
    return torch.stack(tensors, dim)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _own(x: Tensor) -> Tensor:
    """A parameter on the CPU; copied only if it is elsewhere or of half precision."""
    return x.detach().cpu() if x.itemsize >= 4 or not x.is_floating_point() else _wide(x)


def _wide(x: Tensor) -> Tensor:
    return x.detach().cpu().double() if x.is_floating_point() else x.detach().cpu()


def _nothing(x: Tensor) -> bool:
    return bool(compact(x).isnan().all())


def without_nan(x: Tensor) -> Tensor:
    """Zero where nothing is known."""
    return torch.where(unknown, 0, x) if (unknown := x.isnan()).any() else x


def compact(x: Tensor, *, but: int | None = None) -> Tensor:
    """Size 1 along the dims that are an expansion, `but` one that is to keep its size."""
    kept = None if but is None else but % x.ndim
    return _narrowed(x, [d for d in range(x.ndim) if x.stride(d) == 0 and d != kept])


def _narrowed(x: Tensor, dims: list[int]) -> Tensor:
    for dim in dims:
        x = x.narrow(dim, 0, min(1, x.shape[dim]))
    return x


def spread(x: Tensor, op: Call) -> Tensor:
    """Expanded to the shape of the result."""
    return x.expand(op.shape)


def uniform(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """One number for each channel where all along `dims` are the same, else NaN; size 1 there."""
    first = _narrowed(x, [d % x.ndim for d in dims])
    if not dims or all(x.stride(d) == 0 or x.shape[d] == 1 for d in dims):
        return first
    return torch.where((x == first).all(dims, keepdim=True), first, NAN)


def _call(op: Call, tensors: dict[fx.Node, Tensor]) -> Tensor:
    def value(node: fx.Node) -> Any:
        return tensors[node] if node in tensors else concrete(node)

    target: Any = op.node.target
    if op.in_place:
        target = getattr(torch.ops.aten, op.name)
    result: Tensor = target(*fx.node.map_arg(op.node.args, value), **_kwargs(op, value))
    return result


def _kwargs(op: Call, value: Callable[[fx.Node], Any]) -> dict[str, Any]:
    kwargs = dict(fx.node.map_arg(op.node.kwargs, value))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    return kwargs


def _floats(op: Call) -> bool:
    value = op.node.meta["val"]
    return not isinstance(value, Tensor) or value.is_floating_point()


def _tags(op: Call) -> list[Any]:
    return list(getattr(op.node.target, "tags", []))


def _shape(value: Tensor) -> list[int]:
    return [int(size) for size in value.shape]
