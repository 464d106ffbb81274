"""One record for each operator: how it couples dims, its constants, its sizes and its MACs.

    @operator("mylib::scaled_linear")
    class ScaledLinear(Operator):
        ...

An operator without a record keeps all that it reads, and the report of `shrink` names it.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import fx, nn

from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, call
from lissom.errors import LissomError, OperatorError

if TYPE_CHECKING:
    from lissom.coupling.constants import Constants
    from lissom.coupling.coupler import Coupler
    from lissom.coupling.resizing import Cut

Layers = Mapping[type[nn.Module], tuple[str, int] | None]
Shape = Callable[[Any], tuple[int, ...]]
AnyOperator = TypeVar("AnyOperator", bound="type[Operator]")


class Unsupported(Exception):  # noqa: N818 - not an error
    """A record says it where it does not handle a form of its operator, with the reason.

    What the operator reads then stays, and nothing is known of its result.
    """


class Operator:
    """What lissom knows of an operator; a record overrides what is not as it is here.

    Attributes:
        elementwise: each entry of the result is made of the entries at its own place.
        moves: the entries of the result are those of the first argument, elsewhere.
        written: sizes of the result may stand in the code that calls it, so an attribute of the
            calling module that equals one is taken to be that size.
        shares: the result may lie in the memory of the first argument.
        layers: of torch, those that call it and add `self.bias` where there is one: the attribute
            with the number of inputs they read, and the dim of the input these lie along; None for
            a layer whose forward nobody calls.
    """

    elementwise: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    written: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    layers: ClassVar[Layers] = {}

    def couple(self, c: "Coupler", call: Call) -> Axes | list[Axes]:
        """The axes of the result, or a list of them where the operator has several outputs.

        Raises:
            Unsupported: where the operands have to stay as they are.
        """
        raise Unsupported("it has no rule")

    def constant(self, k: "Constants", call: Call) -> Any:
        """What the result is whatever the input, NaN where that is unknown; None for all unknown.

        Without a rule: the operation itself, if all that it reads are parameters.
        """
        return k.all_known(call)

    def sizes(self, call: Call, shape: Shape) -> dict[str, int]:
        """Arguments of the operator and attributes of its layer that hold sizes.

        Args:
            call: the call in the trace.
            shape: of any of its tensors, before or after units were removed.
        """
        return {}

    def rewrite(self, cut: "Cut") -> None:
        """Give the twin of a call in a smaller graph its new sizes."""
        for name, size in self.sizes(cut.call, cut.left).items():
            if name in cut.call.arguments and size != self.sizes(cut.call, cut.was)[name]:
                cut.set(name, size)

    def macs(self, call: Call) -> Iterable[tuple[Any, Any, int]]:
        """Its products: (a, b, how many multiply–accumulates of a with b), None for no argument.

        Raises:
            Unsupported: where the operations that it is made of tell.
        """
        return []


RECORDS: dict[str, Operator] = {}
_NOTHING = Operator()


def operator(*names: str) -> Callable[[AnyOperator], AnyOperator]:
    """Make a class the record of these operators; a later one takes the place of an earlier one.

    Args:
        names: "linear" for `aten::linear` in all overloads and its in-place twin; operators that
            are not torch's own with their namespace, as in "mylib::scaled_linear".
    """

    def enter(kind: AnyOperator) -> AnyOperator:
        RECORDS.update(dict.fromkeys(names, kind()))
        return kind

    return enter


def record_of(op: Call) -> Operator:
    """The record of a call's operator, or one that knows nothing."""
    return RECORDS.get(op.name, _NOTHING)


def asked(question: str, op: Call, *arguments: Any) -> Any:
    """What a record answers; a mistake in it is an error that says where.

    Raises:
        OperatorError: with what was raised, unless that is `Unsupported` or a LissomError.
    """
    record = record_of(op)
    try:
        answer = getattr(record, question)(*arguments)
        return list(answer) if inspect.isgenerator(answer) else answer
    except (Unsupported, LissomError):
        raise
    except Exception as error:
        kind = type(record)
        place = f" at {op.node}" if op.node is not None else ""
        raise OperatorError(
            f"{question} in the record {kind.__module__}.{kind.__qualname__} failed on the "
            f"operator {op.name!r}{place}: {type(error).__name__}: {error}. A form that a record "
            "does not handle is declined by raising lissom.operators.Unsupported"
        ) from error


def products(op: Call) -> list[tuple[Any, Any, int]]:
    """(a, b, multiply–accumulates of a with b) for a call.

    Raises:
        Unsupported: where the operations that it is made of tell.
    """
    return list(asked("macs", op, op))


def counts(op: Call) -> bool:
    """Whether a record says something about products, rather than the operations it is made of."""
    return type(record_of(op)).macs is not Operator.macs


def macs(op: Call) -> int:
    """All multiply–accumulates of a call."""
    return sum(count for _, _, count in products(op))


def shares(op: Call) -> bool:
    """Whether the result of a call may lie in the memory of its first argument."""
    if op.in_place or record_of(op).shares:
        return True
    target = op.node.target
    overload = isinstance(target, torch._ops.OpOverload)
    return overload and any(r.alias_info for r in target._schema.returns)


def memory_of(node: fx.Node) -> fx.Node:
    """The tensor whose memory a view, or an operation in place, works on."""
    while node.op == "call_function" and shares(op := call(node)):
        if not isinstance(op.first, fx.Node):
            break
        node = op.first
    return node


def layers() -> Layers:
    """The layers of all records."""
    return {kind: reads for record in RECORDS.values() for kind, reads in record.layers.items()}
