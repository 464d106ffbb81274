"""What `lissom.path` is given, checked before anything is trained."""

import inspect
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from numbers import Real
from pathlib import Path
from statistics import fmean

from torch import Tensor, nn

from lissom.arguments import shown, whole
from lissom.curves.point import FRACTION, Point, strength_text
from lissom.errors import LissomError, PathError, nearest, warn
from lissom.measuring.runtimes import RUNTIMES, runtime_named

WAYS = (
    "strengths are (first, last), an interval to be filled; (guess,), one λ > 0 to search from; or "
    "a list from dense to empty"
)


class ContractError(PathError):
    """A function gives or leaves what it must not: told at once, and no failure of a point."""


GIVEN = {"fit": ("net", "strength", "start"), "make_model": ("seed",)}
"""What the functions of a path are called with; all others with the network."""


def check_functions(**functions: object) -> None:
    """Refuse what cannot be called as it will be."""
    for name, function in functions.items():
        if not callable(function):
            raise PathError(f"{name} is a function, got {function!r}")
        if name == "make_model" and isinstance(function, nn.Module):
            raise PathError(
                "make_model(seed) makes an untrained network, such as `def make_model(seed): "
                f"return MyNet()`; got the network {function}"
            )
        given = GIVEN.get(name, ("net",))
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of code that is not Python
            continue
        try:
            signature.bind(*given)
        except TypeError as error:
            raise PathError(
                f"{name} is called as {name}({', '.join(given)}), and it takes {signature}: {error}"
            ) from error


def check_counts(**counts: object) -> None:
    """Refuse what is no whole number ≥ 1."""
    for name, count in counts.items():
        if not whole(count, least=1):
            raise PathError(f"{name} is a whole number ≥ 1, got {count!r}")


def check_executor(executor: object, jobs: int, out: object) -> None:
    """Refuse what makes no points, or two that would."""
    if executor is None:
        return
    if not isinstance(executor, Executor) and not callable(executor):
        raise PathError(
            "executor is a concurrent.futures.Executor, or a function that makes one, got "
            f"{shown(executor)}"
        )
    if jobs != 1:
        raise PathError(
            f"jobs={jobs} are processes of this machine, and an executor has its own: give one of "
            "the two"
        )
    if out is None:
        raise PathError(
            "with an executor, out is a folder that its machines see at the same place, got None"
        )


def check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise PathError(f"{name} is True or False, got {flag!r}")


def check_latency(latency: object) -> str | None:
    """The runtime that times networks; None for none.

    Raises:
        PathError: if it is unknown, or not installed.
    """
    if isinstance(latency, bool):
        return "torch" if latency else None
    if latency not in RUNTIMES:
        known = ", ".join(map(repr, RUNTIMES))
        hint = nearest(latency, RUNTIMES) if isinstance(latency, str) else ""
        raise PathError(f"latency is True, False or one of {known}, got {shown(latency)}.{hint}")
    try:
        runtime_named(latency)
    except LissomError as error:
        raise PathError(str(error)) from error
    return str(latency)


def check_out(out: object) -> Path:
    """The folder of a path.

    Raises:
        PathError: if it is no path, or a file.
    """
    if not isinstance(out, str | os.PathLike):
        raise PathError(f"out is a folder for all points, or a URL of one, got {out!r}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise PathError(f"out is a folder for all points, and {folder} is a file")
    return folder


def check_strengths(strengths: object, points: int) -> tuple[float, ...]:
    """The strengths as floats, from dense to empty.

    Raises:
        PathError: if there is none, or they are in no order, or too many for the points.
    """
    given = _numbers("strengths", strengths)
    if not given:
        raise PathError(f"{WAYS}; got {strengths!r}")
    if len(given) <= 2 and min(given) <= 0:
        raise PathError(f"{WAYS}; only a list may hold 0 or less, got {strengths!r}")
    steps = [b - a for a, b in pairwise(given)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise PathError(
            "strengths go from dense to empty, all of them growing (λ) or all falling (a fraction "
            f"kept), each once; got {strengths!r}"
        )
    if len(given) <= 2 and points <= len(given):
        raise PathError(
            f"points={points} with the dense one leaves too few for strengths={strengths!r}: give "
            f"at least points={len(given) + 1}"
        )
    return given


def check_from_scratch(from_scratch: object) -> tuple[float, ...]:
    """The strengths of points that are trained from scratch.

    Raises:
        PathError: if they are no list of numbers, or one comes twice.
    """
    given = _numbers("from_scratch", from_scratch)
    if len(set(given)) < len(given):
        raise PathError(f"from_scratch holds each strength once, got {from_scratch!r}")
    return given


def check_names(**names: object) -> None:
    """Refuse what is no text for the head of a column."""
    such_as = {"strength_name": "'λ' or 'fraction kept'", "error_name": "'error' or 'RMSE'"}
    for argument, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise PathError(f"{argument} is text such as {such_as[argument]}, got {name!r}")


def check_unit(unit: object, error_name: str) -> str:
    """The unit of errors; where it is not given, an "error" is a fraction, and others have none."""
    if unit is None:
        return FRACTION if error_name == "error" else ""
    if not isinstance(unit, str):
        raise PathError(
            f"error_unit is 'fraction', which is shown in percent, a text such as '°C', or '' for "
            f"none; got {unit!r}"
        )
    return unit


def check_progress(progress: object) -> None:
    """Refuse what nothing can be told to."""
    if progress is not None and progress is not False and not callable(progress):
        raise PathError(
            "progress is None, for a bar or lines; False for none; or a function that is called "
            f"with each lissom.curves.Event; got {progress!r}"
        )


def notice_upside_down(points: Sequence[Point]) -> None:
    """Warn if the dense network has the largest error of all strengths, as an accuracy would have.

    Args:
        points: of all seeds, none of them from scratch.
    """
    errors: dict[float | None, list[float]] = {}
    for point in points:
        if not point.failed:
            errors.setdefault(point.strength, []).append(point.error)
    means = {strength: fmean(of_seeds) for strength, of_seeds in errors.items()}
    dense = means.pop(None, None)
    if dense is None or len(means) < 2 or dense <= max(means.values()):
        return
    least = min(means, key=lambda strength: means[strength])
    warn(
        f"the dense network has the largest error of all {1 + len(means)} strengths, {dense:.4g}, "
        f"and {strength_text(least)} the smallest, {means[least]:.4g}. error(net) is smaller for "
        "better networks, such as the fraction of wrong answers or a loss: for an accuracy give "
        "1 − accuracy"
    )


def _numbers(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        what = WAYS if name == "strengths" else f"{name} is a list of strengths, such as (1e-4,)"
        raise PathError(f"{what}; got {values!r}")
    listed = list(values)
    for value in listed:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            remedy = ": take its tolist()" if isinstance(value, Tensor) else ""
            what = f"got {shown(value)} in {shown(values)}{remedy}"
            raise PathError(f"{name} are finite numbers, {what}")
    return tuple(float(value) for value in listed)
