"""Functions of one number that networks have between their layers, as expressions in C."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from lissom.exporting.c.layers import Curve

aten = torch.ops.aten

FORMULAS: Mapping[str, str] = {
    "abs": "fabsf(x)",
    "celu": "x > 0.0f ? x : alpha * expm1f(x / alpha)",
    "cos": "cosf(x)",
    "elu": "scale * (x > 0.0f ? x : alpha * expm1f(input_scale * x))",
    "erf": "erff(x)",
    "exp": "expf(x)",
    "expm1": "expm1f(x)",
    "gelu": "0.5f * x * (1.0f + erff(0.707106781f * x))",
    "hardshrink": "fabsf(x) > lambd ? x : 0.0f",
    "hardsigmoid": "x < -3.0f ? 0.0f : x > 3.0f ? 1.0f : x / 6.0f + 0.5f",
    "hardswish": "x < -3.0f ? 0.0f : x > 3.0f ? x : x * (x / 6.0f + 0.5f)",
    "leaky_relu": "x > 0.0f ? x : negative_slope * x",
    "log": "logf(x)",
    "log1p": "log1pf(x)",
    "log_sigmoid": "(x < 0.0f ? x : 0.0f) - log1pf(expf(-fabsf(x)))",
    "mish": "x * tanhf(log1pf(expf(x)))",
    "reciprocal": "1.0f / x",
    "rsqrt": "1.0f / sqrtf(x)",
    "selu": "1.05070099f * (x > 0.0f ? x : 1.67326324f * expm1f(x))",
    "sigmoid": "1.0f / (1.0f + expf(-x))",
    "silu": "x / (1.0f + expf(-x))",
    "sin": "sinf(x)",
    "softplus": "beta * x > threshold ? x : log1pf(expf(beta * x)) / beta",
    "softshrink": "x > lambd ? x - lambd : x < -lambd ? x + lambd : 0.0f",
    "sqrt": "sqrtf(x)",
    "square": "x * x",
    "tanh": "tanhf(x)",
    "threshold": "x > threshold ? x : value",
}
"""By the name of torch's operator: of x and the operator's other arguments."""

GELU_BY_TANH = "0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)))"


def curve(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Curve:
    """What an operator of FORMULAS makes of each number, with its arguments behind the first."""
    operator = getattr(aten, name).default
    given = {x.name: x.default_value for x in operator._schema.arguments[1:]}
    given |= {**dict(zip(given, arguments, strict=False)), **keywords}
    function, formula = partial(operator, **given), FORMULAS[name]
    if given.pop("approximate", "none") == "tanh":
        name, formula = "gelu_by_tanh", GELU_BY_TANH
    return Curve(name, function, formula, {key: float(x) for key, x in given.items()})


def operators() -> dict[Any, str]:
    """The names of all operators that have a formula, in place or not."""
    packets = {f"{name}{end}": name for name in FORMULAS for end in ("", "_")}
    return {getattr(aten, p).default: name for p, name in packets.items() if hasattr(aten, p)}
