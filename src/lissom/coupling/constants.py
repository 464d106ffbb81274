"""What every tensor of a network is whatever the input: numbers, and NaN where it depends on it.

One pass over the graph by rules, not by looking at samples. A known entry is the same at every
spatial position *for every input size*: a non-zero constant that meets zero padding counts as
unknown, because its border differs.
"""

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from lissom.coupling.ops import Call, call, concrete, is_tensor
from lissom.coupling.records import Unsupported, asked, memory_of, record_of, shares
from lissom.coupling.trace import Trace

Product = Callable[[Tensor, Tensor], Tensor]
Known = Tensor | None  # float64, complex128 or whole numbers; None for a tensor of NaN throughout

NAN = float("nan")


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

    def outputs(self, node: fx.Node) -> list[Known] | None:
        """The known values of all outputs of an operation with several."""
        known = self._known.get(node)
        return known if isinstance(known, list) else None

    def nonzero(self, node: fx.Node) -> Tensor:
        """Where a tensor is not known to be zero."""
        if node not in self._nonzero:
            self._nonzero[node] = self.of(node) != 0  # NaN is not zero
        return self._nonzero[node]

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value = self.trace.tensors.get(node)
            if value is None or node in self.trace.written:
                return None
            return _own(value)
        if node.op != "call_function":
            return None
        op = call(node)
        value = self._value(op)
        if op.in_place and isinstance(op.first, fx.Node):
            self._overwrite(op.first, value)
        return value

    def _value(self, op: Call) -> Any:
        try:
            value = asked("constant", op, self, op)
        except Unsupported:
            value = None
        if self.fixed(op.node) and (value is None or (isinstance(value, Tensor) and _some(value))):
            with suppress(Unsupported):
                value = value if (known := self.all_known(op)) is None else known
        if isinstance(value, Tensor) and continuous(value):
            if _nothing(value):
                return None
            if op.result.is_complex():
                return value.to(torch.complex128)
        return value

    def all_known(self, op: Call) -> Any:
        """The operation itself, if all that it reads are parameters and known.

        What is known of an activation may still be 1/T for T positions, and so no constant.
        """
        tags = getattr(op.node.target, "tags", [])
        if op.in_place or torch.Tag.nondeterministic_seeded in tags or not self.fixed(op.node):
            return None
        for node in op.node.all_input_nodes:
            if is_tensor(node) and (self.get(node) is None or bool(self.of(node).isnan().any())):
                return None
            if not is_tensor(node) and not isinstance(node.meta.get("val"), int | torch.SymInt):
                return None
        value = self.run(op)
        if isinstance(value, Tensor):
            return wide(value)
        parts = value if isinstance(value, tuple | list) else []
        return [wide(part) if isinstance(part, Tensor) else None for part in parts]

    def run(self, op: Call, operands: dict[fx.Node, Tensor] | None = None) -> Any:
        """The operation itself on known values, or on others in their place.

        Raises:
            Unsupported: if it does not run on them.
        """
        given = operands or {}

        def value(node: fx.Node) -> Any:
            if node in given:
                return given[node]
            return wide(self.of(node)) if is_tensor(node) else concrete(node)

        target: Any = op.node.target
        if op.in_place:
            target = getattr(torch.ops.aten, op.name)
        args, kwargs = fx.node.map_arg((op.node.args, dict(op.node.kwargs)), value)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        try:
            return target(*args, **kwargs)
        except Exception as error:  # torch raises a different type for each reason
            raise Unsupported(f"it does not run on known values: {error}") from error

    def layer(
        self, op: Call, x: fx.Node, weight: fx.Node, bias: fx.Node | None, f: Product
    ) -> Known:
        """y = f(x, w) + b, where f sums products: zero times unknown is zero."""
        if self.get(x) is None and self.get(weight) is None:
            return None
        rows = self.of(x)
        repeated = [d for d in range(rows.ndim - 1) if rows.stride(d) == 0 and rows.shape[d] > 1]
        result = product(narrowed(rows, repeated), self.of(weight), f)
        return spread(result if bias is None else result + self.of(bias), op)

    def zeros_alone(self, factors: list[fx.Node], known: Known) -> Known:
        """Of a product of activations its zeros, since the sum may be over positions."""
        if known is None or any(map(self.fixed, factors)):
            return known
        return zeros_where(known == 0)

    def _overwrite(self, node: fx.Node, value: Known) -> None:
        """An in-place operation: the tensor itself, and whatever shares its memory."""
        shared, base = self._sharing(node), memory_of(node)
        views = any(o.op == "call_function" and record_of(call(o)).shares for o in shared)
        places = {other: self._places(other, base) for other in shared} if views else {}
        whole = self._overwritten(base, places[node], value) if views else None
        for other in shared:
            for user in other.users:
                if user in self._known:
                    self._before.setdefault((user, other), self._known[other])
            if not views:
                self._known[other] = value
            else:
                at = places[other]
                self._known[other] = None if whole is None or at is None else whole.flatten()[at]

    def _overwritten(self, base: fx.Node, places: Tensor | None, value: Known) -> Known:
        """What is known of a tensor after some places in it were overwritten.

        Which places of a dim these are may differ with the size of the input, so that what is known
        has to be what was there before, and the same all along the dim.
        """
        before = self.get(base)
        if value is None or before is None or places is None:
            return None
        written = torch.full((before.numel(),), NAN).to(value)
        covered = torch.zeros(before.numel(), dtype=torch.bool)
        covered[places], written[places] = True, value
        covered, written = covered.view(before.shape), written.view(before.shape)
        parts = tuple(
            d for d in range(before.ndim) if not bool((covered == covered.narrow(d, 0, 1)).all())
        )
        same = uniform(before, parts)
        kept = ((written == same) | ~covered).all(parts, keepdim=True) if parts else None
        return written if kept is None else torch.where(kept, same, NAN).expand(before.shape)

    def _places(self, node: fx.Node, base: fx.Node) -> Tensor | None:
        """Where each entry of a view lies in the tensor whose memory it shares."""
        if node is base:
            shape = self.trace.shape(base)
            return torch.arange(prod(shape)).view(shape)
        op = call(node)
        within = self._places(op.first, base) if isinstance(op.first, fx.Node) else None
        if within is None or op.in_place or not isinstance(op.result, Tensor):
            return within if op.in_place else None
        try:
            places = op.on(within)
        except Exception:  # a view of another kind, such as of one part of complex numbers
            return None
        fits = isinstance(places, Tensor) and places.shape == self.of(node).shape
        return places if fits else None

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
                if op.first is here and shares(op):
                    found.add(user)
                    todo.append(user)
        return found


def number(value: complex) -> Tensor:
    """A known number."""
    return wide(torch.tensor(value, dtype=None if isinstance(value, complex) else torch.float64))


def _own(x: Tensor) -> Tensor:
    """A parameter on the CPU; copied only if it is elsewhere or of half precision."""
    return x.detach().cpu() if x.itemsize >= 4 or not continuous(x) else wide(x)


def continuous(x: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers, among which NaN stands for unknown."""
    return x.is_floating_point() or x.is_complex()


def wide(x: Tensor) -> Tensor:
    """On the CPU, in float64 or complex128 if it holds no whole numbers."""
    x = x.detach().cpu()
    if x.is_complex():
        return x.to(torch.complex128)
    return x.double() if x.is_floating_point() else x


def _some(x: Tensor) -> bool:
    """Whether anything is unknown."""
    return bool(compact(x).isnan().any())


def _nothing(x: Tensor) -> bool:
    return bool(compact(x).isnan().all())


def without_nan(x: Tensor) -> Tensor:
    """Zero where nothing is known."""
    return torch.where(unknown, 0, x) if (unknown := x.isnan()).any() else x


def compact(x: Tensor, *, but: int | None = None) -> Tensor:
    """Size 1 along the dims that are an expansion, `but` one that is to keep its size."""
    kept = None if but is None else but % x.ndim
    return narrowed(x, [d for d in range(x.ndim) if x.stride(d) == 0 and d != kept])


def narrowed(x: Tensor, dims: list[int]) -> Tensor:
    """Size 1 along these dims."""
    for dim in dims:
        x = x.narrow(dim, 0, min(1, x.shape[dim]))
    return x


def zeros_where(zero: Tensor) -> Tensor:
    """Zero there, and elsewhere unknown."""
    return torch.where(zero, 0.0, NAN).double()


def spread(x: Tensor, op: Call) -> Tensor:
    """Expanded to the shape of the result."""
    return x.expand(op.shape)


def product(a: Tensor, b: Tensor, f: Product) -> Tensor:
    """f(a, b) = Σ_k a_k·b_k, unknown where one factor is unknown and the other not zero."""
    unknown = [x.isnan() for x in (a, b)]
    bad = f(unknown[0].float(), (b != 0).float())  # NaN is not zero
    if unknown[1].any():
        bad += f((a != 0).float(), unknown[1].float())
    if bool((bad != 0).all()):
        return torch.full((), NAN, dtype=torch.float64).expand(bad.shape)
    if bool(unknown[0].all()):
        return torch.where(bad != 0, NAN, 0.0).double()
    both = [wide(without_nan(x)) for x in (a, b)]
    kind = torch.promote_types(both[0].dtype, both[1].dtype)
    return torch.where(bad != 0, NAN, f(both[0].to(kind), both[1].to(kind)))


def uniform(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """One number for each channel where all along `dims` are the same, else NaN; size 1 there."""
    first = narrowed(x, [d % x.ndim for d in dims])
    if not dims or all(x.stride(d) == 0 or x.shape[d] == 1 for d in dims):
        return first
    return torch.where((x == first).all(dims, keepdim=True), first, NAN)
