"""What `lissom.path` is given, checked before anything is trained."""

import math
from collections.abc import Iterable
from itertools import pairwise
from numbers import Real

from torch import nn

from lissom.errors import PathError

WAYS = (
    "prices are (first, last), an interval to be filled; (guess,), one price λ > 0 to search from; "
    "or a list from dense to empty"
)


def check_functions(**functions: object) -> None:
    """Refuse what cannot be called."""
    for name, function in functions.items():
        if not callable(function):
            raise PathError(f"{name} is a function, got {function!r}")
        if name == "network" and isinstance(function, nn.Module):
            raise PathError(
                "network(seed) makes an untrained network, such as `def network(seed): return "
                f"MyNet()`; got the network {function}"
            )


def check_counts(**counts: object) -> None:
    """Refuse what is no whole number ≥ 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise PathError(f"{name} is a whole number ≥ 1, got {count!r}")


def check_prices(prices: object, points: int) -> tuple[float, ...]:
    """The prices as floats, from dense to empty.

    Raises:
        PathError: if there is none, or they are in no order, or too many for the points.
    """
    given = _numbers("prices", prices)
    if not given:
        raise PathError(f"{WAYS}; got {prices!r}")
    if len(given) <= 2 and min(given) <= 0:
        raise PathError(f"{WAYS}; only a list may hold 0 or less, got {prices!r}")
    steps = [b - a for a, b in pairwise(given)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise PathError(
            "prices go from dense to empty, all of them growing (λ) or all falling (a fraction), "
            f"each once; got {prices!r}"
        )
    if len(given) <= 2 and points <= len(given):
        raise PathError(
            f"points={points} with the dense one leaves too few for prices={prices!r}: give at "
            f"least points={len(given) + 1}"
        )
    return given


def check_cold(cold: object) -> tuple[float, ...]:
    """The prices of cold points.

    Raises:
        PathError: if they are no list of numbers, or one comes twice.
    """
    given = _numbers("cold", cold)
    if len(set(given)) < len(given):
        raise PathError(f"cold holds each price once, got {cold!r}")
    return given


def _numbers(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise PathError(
            f"{WAYS if name == 'prices' else 'cold is a list of prices, such as (1e-4,)'}; "
            f"got {values!r}"
        )
    listed = list(values)
    for value in listed:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise PathError(f"{name} are finite numbers, got {value!r} in {values!r}")
    return tuple(float(value) for value in listed)
