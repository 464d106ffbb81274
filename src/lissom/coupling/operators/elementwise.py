"""Each entry of the result is made of the entries at its own place, after broadcasting."""

from typing import Any

import torch
from torch import Tensor, fx

from lissom.coupling.constants import (
    NAN,
    Constants,
    Known,
    compact,
    number,
    spread,
    wide,
    without_nan,
)
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, concrete, is_tensor
from lissom.coupling.records import Operator, operator
from lissom.coupling.resizing import Cut


@operator(
    *"""
    abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not
    bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip clone cos cosh div divide elu eq
    erf erfc exp exp2 expm1 fake_quantize_per_tensor_affine float_power floor floor_divide fmax fmin
    fmod ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh hypot isinf
    isnan le leaky_relu lerp less less_equal lift_fresh lift_fresh_copy log log10 log1p log2
    log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor lt masked_fill
    maximum minimum mish nan_to_num ne neg negative not_equal positive pow reciprocal relu relu6
    remainder round rrelu rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softshrink
    sqrt square sub subtract tan tanh threshold trunc true_divide xlogy __and__ __or__
    """.split()
)
class Elementwise(Operator):
    """y = f(a, b, …) at every place."""

    elementwise = True

    def operands(self, call: Call) -> list[fx.Node]:
        """The tensors that are read."""
        return call.tensors

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        """Dims that meet shrink together."""
        return c.meet(self.operands(call))

    def constant(self, k: Constants, call: Call) -> Known:
        """Known where all operands are."""
        operands = {node: compact(k.of(node)) for node in self.operands(call)}
        sizes = [n for n in call.node.all_input_nodes if not is_tensor(n) and not k.fixed(n)]
        if sizes or any(k.get(node) is None for node in operands):
            return None  # a number made of a size of the inputs is no constant
        unknown = [x.isnan() for x in operands.values() if x.is_floating_point()]
        result = self.value(k, call, {n: without_nan(x) for n, x in operands.items()})
        for mask in unknown:
            if not result.is_floating_point():
                if mask.any():
                    return None
                continue
            result = torch.where(mask, NAN, wide(result))
        return spread(wide(result), call)

    def value(self, k: Constants, call: Call, operands: dict[fx.Node, Tensor]) -> Any:
        """The result for known operands."""
        return k.run(call, operands)


@operator(*"alias contiguous detach alpha_dropout feature_dropout feature_alpha_dropout".split())
class Same(Elementwise):
    """Perhaps the same tensor."""

    shares = True


@operator("to", "type_as", "_to_copy")
class Cast(Elementwise):
    """Another type or place, at most; what is known stays in float64."""

    shares = True

    def operands(self, call: Call) -> list[fx.Node]:
        return call.tensors[:1]

    def value(self, k: Constants, call: Call, operands: dict[fx.Node, Tensor]) -> Any:
        result = k.run(call, operands)
        return operands[call.first].double() if result.is_floating_point() else result


@operator("dropout")
class Dropout(Same):
    """Nothing happens in evaluation mode."""

    def constant(self, k: Constants, call: Call) -> Known:
        return None if call["train"] else k.get(call.first)


@operator("copy")
class Copy(Elementwise):
    """What is written."""

    def constant(self, k: Constants, call: Call) -> Known:
        source = call["src"]
        return spread(k.of(source), call) if k.get(source) is not None else None


@operator("fill")
class Fill(Elementwise):
    """One number over what there was."""

    def constant(self, k: Constants, call: Call) -> Known:
        value = call["value"]
        if not is_tensor(value):
            return spread(number(concrete(value)), call)
        return spread(wide(k.of(value)), call) if k.get(value) is not None else None


@operator("mul", "multiply")
class Mul(Elementwise):
    """Zero times anything is zero."""

    def constant(self, k: Constants, call: Call) -> Known:
        operands = [compact(wide(k.of(node))) for node in call.tensors]
        numbers = [x for x in (call["self"], call["other"]) if not is_tensor(x)]
        if len(call.tensors) == 1 and not numbers:
            operands *= 2
        varies = any(isinstance(x, fx.Node) and not k.fixed(x) for x in numbers)
        result = number(NAN if varies else concrete(numbers[0]) if numbers else 1)
        for x in operands:
            zero = (x == 0) | (result == 0)
            result = torch.where(zero, 0, x * result)
        if not call.result.is_floating_point():
            return k.all_known(call)  # type: ignore[no-any-return]
        return spread(result, call)


@operator("where")
class Where(Elementwise):
    """Known where the chosen side is, or where both sides agree."""

    def constant(self, k: Constants, call: Call) -> Known:
        sides = [
            compact(wide(k.of(s))) if is_tensor(s) else number(concrete(s))
            for s in (call["self"], call["other"])
        ]
        condition = k.get(call["condition"])
        if not call.result.is_floating_point():
            return k.all_known(call)  # type: ignore[no-any-return]
        if condition is None:
            result = torch.where(sides[0] == sides[1], sides[0], NAN)
        else:
            result = torch.where(compact(condition), sides[0], sides[1])
        return spread(result.double(), call)


@operator("prelu")
class PReLU(Operator):
    """max(x, 0) + slope·min(x, 0), with one slope for all, or one for each channel."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, slope = call.first, call["weight"]
        if c.trace.shape(slope) not in ((), (1,)):
            c.tie(c.vector(x, 1), c.vector(slope, 0))
        return c.axes(x)

    def constant(self, k: Constants, call: Call) -> Known:
        x, slope = k.get(call["self"]), k.get(call["weight"])
        if x is None or slope is None:
            return None
        layout = [1, -1, *[1] * (x.ndim - 2)] if x.ndim > 1 else [-1]
        return torch.where(x >= 0, x, x * slope.view(layout))

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        return {"num_parameters": (*shape(call["weight"]), 1)[0]}


FILLED = {"zeros": 0, "ones": 1, "full": None}


def filled(call: Call) -> Known:
    """One number throughout, whatever the size."""
    value = FILLED[call.name.removeprefix("new_").removesuffix("_like")]
    x = number(concrete(call["fill_value"]) if value is None else value)
    return spread(x if call.result.is_floating_point() else x.to(call.result.dtype), call)


@operator("zeros_like", "ones_like", "full_like")
class FilledLike(Elementwise):
    """One number in the shape of another tensor."""

    def constant(self, k: Constants, call: Call) -> Known:
        return filled(call)


@operator("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")
class Filled(Operator):
    """One number throughout: any size will do that is no size of the inputs."""

    written = True

    def couple(self, c: Coupler, call: Call) -> Axes:
        return c.free(call.shape, [d for d, n in enumerate(call["size"]) if isinstance(n, int)])

    def constant(self, k: Constants, call: Call) -> Known:
        return filled(call)

    def rewrite(self, cut: Cut) -> None:
        if cut.left() != cut.was():
            cut.set("size", cut.shape_of(cut.given("size")))


@operator("_assert_tensor_metadata")
class Check(Operator):
    """A check of dtype and device changes nothing."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        return ()
