"""One record for each operator: how it couples dims, its constants, its sizes and its MACs.

    @operator("mylib::scaled_linear")
    class ScaledLinear(Operator):
        ...

An operator without a record keeps all that it reads, and the report of `shrink` names it.
"""

import inspect
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import fx, nn

from lissom.coupling.answers import expected
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, call, sized
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
DECLINING = ("couple", "constant", "macs")  # the questions to which `Unsupported` is an answer
NAME = re.compile(r"(?:(\w+)::)?(\w+)")
_NOTHING = Operator()


def operator(*names: str) -> Callable[[AnyOperator], AnyOperator]:
    """Make a class the record of these operators; a later one takes the place of an earlier one.

    Args:
        names: "linear" for `aten::linear` in all overloads and its in-place twin; operators that
            are not torch's own with their namespace, as in "mylib::scaled_linear".

    Raises:
        OperatorError: for a name that no operator can have, or a record that is no `Operator`.
    """
    if not names:
        raise OperatorError('operator needs a name, as in @operator("mylib::scaled_linear")')
    for name in names:
        _check_name(name)

    def enter(kind: AnyOperator) -> AnyOperator:
        if not (isinstance(kind, type) and issubclass(kind, Operator)):
            raise OperatorError(
                f"a record is a subclass of lissom.operators.Operator, got {kind!r}"
            )
        RECORDS.update(dict.fromkeys(names, kind()))
        return kind

    return enter


def _check_name(name: object) -> None:
    """A record under a name that no call has would never be asked."""
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise OperatorError(
            f"an operator is named without its overload, torch's own as in 'linear' and others as "
            f"in 'mylib::scaled_linear', got {name!r}"
        )
    namespace, plain = match.groups()
    if namespace == "aten" or (plain.endswith("_") and not plain.startswith("__")):
        right = ("" if namespace in (None, "aten") else f"{namespace}::") + plain.rstrip("_")
        raise OperatorError(
            "an operator is named without aten:: and without the underscore of its in-place twin: "
            f"{right!r}, got {name!r}"
        )


def record_of(op: Call) -> Operator:
    """The record of a call's operator, or one that knows nothing."""
    return RECORDS.get(op.name, _NOTHING)


def asked(question: str, op: Call, *arguments: Any) -> Any:
    """What a record answers; a mistake in it is an error that says where.

    Raises:
        OperatorError: with what was raised, unless that is a LissomError or declines the operator;
            or with what was answered, if that is no answer.
    """
    if op.node is not None and not sized(op):
        if question in DECLINING:
            raise Unsupported("its sizes depend on values")
        return {}  # of what was declined nothing changes
    record = record_of(op)
    place = f"the operator {op.name!r}" + (f" at {op.node}" if op.node is not None else "")
    said = f"{question} in the record {type(record).__module__}.{type(record).__qualname__}"
    try:
        answer = getattr(record, question)(*arguments)
        if inspect.isgenerator(answer):
            answer = list(answer)
    except LissomError:
        raise
    except Exception as error:
        if isinstance(error, Unsupported) and question in DECLINING:
            raise
        raise OperatorError(
            f"{said} failed on {place}: {type(error).__name__}: {error}. A form that a record "
            f"does not handle is declined by raising lissom.operators.Unsupported in "
            f"{', '.join(DECLINING)}"
        ) from error
    if (right := expected(question, op, answer)) is not None:
        raise OperatorError(f"{said} gave {reprlib.repr(answer)} for {place}, and not {right}")
    return answer


def products(op: Call) -> list[tuple[Any, Any, int]]:
    """(a, b, multiply–accumulates of a with b) for a call.

    Raises:
        Unsupported: where the operations that it is made of tell.
    """
    found: list[tuple[Any, Any, int]] = asked("macs", op, op)
    return found


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
