"""Each entry of the result is made of the entries at its own place, after broadcasting."""

from typing import Any

import torch
from torch import Tensor, fx

from lissom.coupling.constants import (
    NAN,
    Constants,
    Known,
    compact,
    continuous,
    number,
    spread,
    wide,
    without_nan,
    zeros_where,
)
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, concrete, is_tensor
from lissom.coupling.records import Operator, Unsupported, operator


@operator(
    *"""
    __and__ __lshift__ __or__ __rshift__ __xor__ abs absolute acos acosh add addcdiv addcmul angle
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
    clamp_max clamp_min clip clone complex conj_physical copysign cos cosh deg2rad digamma div
    divide elu eq erf erfc erfinv exp exp2 expm1 fix float_power
    floor floor_divide fmax fmin fmod frac gcd ge gelu greater greater_equal gt hardshrink
    hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac isclose isfinite isinf isnan
    isneginf isposinf isreal lcm ldexp le leaky_relu lerp less less_equal lgamma lift lift_fresh
    lift_fresh_copy log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not
    logical_or logical_xor logit lt masked_fill maximum minimum mish mvlgamma nan_to_num ne neg
    negative nextafter not_equal polar polygamma positive pow rad2deg reciprocal relu relu6
    remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus
    softshrink sqrt square sub subtract tan tanh threshold true_divide trunc xlogy special_airy_ai
    special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma
    special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
    special_expm1 special_gammainc special_gammaincc special_gammaln special_i0 special_i0e
    special_i1 special_i1e special_log1p special_log_ndtr special_logit special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
    special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round
    special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_sinc
    special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta
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
        unknown = [x.isnan() for x in operands.values() if continuous(x)]
        result = self.value(k, call, {n: without_nan(x) for n, x in operands.items()})
        for mask in unknown:
            if not continuous(result):
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
        first = wide(operands[call.first])
        return (
            first
            if result.dtype.is_complex == first.is_complex() and continuous(result)
            else result
        )


@operator("_conj", "conj", "imag", "real", "resolve_conj", "resolve_neg")
class Part(Elementwise):
    """A view of complex numbers, perhaps of one of their parts."""

    shares = True


@operator("fake_quantize_per_tensor_affine")
class Quantized(Elementwise):
    """To the nearest point of a grid; torch wants its scale in float32."""

    def value(self, k: Constants, call: Call, operands: dict[fx.Node, Tensor]) -> Any:
        return k.run(call, {node: x.to(node.meta["val"].dtype) for node, x in operands.items()})


@operator("fake_quantize_per_channel_affine")
class QuantizedByChannel(Quantized):
    """With a scale and a zero point for each entry of one dim."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, dim = call["self"], int(call["axis"])
        c.tie(c.vector(x, dim), *(c.vector(call[own], 0) for own in ("scale", "zero_point")))
        return c.axes(x)

    def constant(self, k: Constants, call: Call) -> Known:
        """Zero is a point of every such grid."""
        operands = {node: k.of(node) for node in self.operands(call)}
        if not any(bool(x.isnan().any()) for x in operands.values()):
            return wide(self.value(k, call, operands))
        return zeros_where(k.of(call["self"]) == 0)


@operator("bucketize", "isin")
class Bucketize(Elementwise):
    """Each entry is compared with a list of others."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        entries, listed = list(call.arguments.values())[:2]
        if not (is_tensor(entries) and is_tensor(listed)):
            raise Unsupported("it compares with a single number")
        c.pin(listed)
        return c.axes(entries)

    def constant(self, k: Constants, call: Call) -> Any:
        return k.all_known(call)


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


@operator("fill", "zero")
class Fill(Elementwise):
    """One number over what there was."""

    def constant(self, k: Constants, call: Call) -> Known:
        value: Any = 0 if call.name == "zero" else call["value"]
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
        if not continuous(call.result):
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
        if not continuous(call.result):
            return k.all_known(call)  # type: ignore[no-any-return]
        if condition is None:
            result = torch.where(sides[0] == sides[1], sides[0], NAN)
        else:
            result = torch.where(compact(condition), sides[0], sides[1])
        return spread(wide(result), call)


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


@operator("_assert_tensor_metadata")
class Check(Operator):
    """A check of dtype and device changes nothing."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        return ()
