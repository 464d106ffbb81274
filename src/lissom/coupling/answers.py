"""What a record answers to each question, so that a mistake is told where it was made."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lissom.coupling.ops import Call, shape


def expected(question: str, call: Call, answer: Any) -> str | None:
    """What should have been answered, or None if it was."""
    return CHECKS[question](call, answer)


def _couple(call: Call, answer: Any) -> str | None:
    result = call.result
    if isinstance(result, Tensor):
        fits = isinstance(answer, tuple) and _are_axes(answer, result)
        return None if fits else f"a tuple of axes of a tensor {list(shape(result))}: {AXES}"
    if not isinstance(result, list | tuple):
        return None
    fits = isinstance(answer, list) and len(answer) == len(result)
    fits = fits and all(
        _are_axes(axes, x) for axes, x in zip(answer, result, strict=True) if isinstance(x, Tensor)
    )
    return None if fits else f"a list of {len(result)} tuples of axes, one for each output: {AXES}"


AXES = "integer arrays with as many dims as it, of its size or 1 in each"


def _are_axes(axes: Any, x: Tensor) -> bool:
    sizes = shape(x)
    return isinstance(axes, tuple) and all(
        isinstance(axis, np.ndarray)
        and axis.dtype.kind == "i"
        and axis.ndim == len(sizes)
        and all(n in (1, size) for n, size in zip(axis.shape, sizes, strict=True))
        for axis in axes
    )


def _constant(call: Call, answer: Any) -> str | None:
    result = call.result
    if answer is None or not isinstance(result, Tensor | list | tuple):
        return None
    if isinstance(result, Tensor):
        fits = isinstance(answer, Tensor) and shape(answer) == shape(result)
        return None if fits else f"None, or a tensor {list(shape(result))}"
    fits = isinstance(answer, list) and len(answer) == len(result)
    fits = fits and all(
        known is None or (isinstance(known, Tensor) and shape(known) == shape(x))
        for known, x in zip(answer, result, strict=True)
        if isinstance(x, Tensor)
    )
    return None if fits else f"None, or a list with a tensor or None for each of {len(result)}"


def _sizes(call: Call, answer: Any) -> str | None:
    fits = isinstance(answer, dict) and all(
        isinstance(name, str) and isinstance(size, int) for name, size in answer.items()
    )
    return None if fits else "a dict of sizes by name, such as {'num_heads': 4}"


def _macs(call: Call, answer: Any) -> str | None:
    fits = isinstance(answer, list) and all(
        isinstance(product, tuple)
        and len(product) == 3
        and isinstance(product[2], int)
        and product[2] >= 0
        for product in answer
    )
    return None if fits else "products (a, b, how many), with a whole number of them"


CHECKS: Mapping[str, Callable[[Call, Any], str | None]] = {
    "couple": _couple,
    "constant": _constant,
    "sizes": _sizes,
    "macs": _macs,
    "rewrite": lambda call, answer: None,
}
