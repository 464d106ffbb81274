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
    "elu": "scale * (x > 0.0f ? x : alpha * expm1f(input_scale * x))",
    "exp": "expf(x)",
    "gelu_none": "0.5f * x * (1.0f + erff(0.707106781f * x))",
    "gelu_tanh": "0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)))",
    "hardsigmoid": "x < -3.0f ? 0.0f : x > 3.0f ? 1.0f : x / 6.0f + 0.5f",
    "hardswish": "x < -3.0f ? 0.0f : x > 3.0f ? x : x * (x / 6.0f + 0.5f)",
    "leaky_relu": "x > 0.0f ? x : negative_slope * x",
    "log": "logf(x)",
    "mish": "x * tanhf(log1pf(expf(x)))",
    "selu": "1.05070099f * (x > 0.0f ? x : 1.67326324f * expm1f(x))",
    "sigmoid": "1.0f / (1.0f + expf(-x))",
    "silu": "x / (1.0f + expf(-x))",
    "softplus": "beta * x > threshold ? x : log1pf(expf(beta * x)) / beta",
    "sqrt": "sqrtf(x)",
    "square": "x * x",
    "tanh": "tanhf(x)",
}
"""By the name of torch's operator and, behind it, its argument that is a word."""


def curve(operator: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Curve:
    """What an operator makes of each number, with its arguments behind the first."""
    given = {x.name: x.default_value for x in operator._schema.arguments[1:]}
    given |= {**dict(zip(given, arguments, strict=False)), **keywords}
    words = [x for x in given.values() if isinstance(x, str)]
    name = "_".join([operator._opname, *words])
    numbers = {key: float(x) for key, x in given.items() if not isinstance(x, str)}
    return Curve(name, partial(operator, **given), FORMULAS[name], numbers)


def operators() -> dict[Any, Any]:
    """All operators that have a formula, in place or not: by each, the one that is not."""
    found = {}
    for name in {formula.removesuffix("_none").removesuffix("_tanh") for formula in FORMULAS}:
        operator = getattr(aten, name).default
        found[operator] = operator
        if hasattr(aten, f"{name}_"):
            found[getattr(aten, f"{name}_").default] = operator
    return found
