"""Numbers of penalties: a plain one, a schedule, or a tensor with one for each group."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lissom.arguments import fits, is_number, shown, why_odd
from lissom.errors import PenaltyError
from lissom.schedules import Schedule

Number = float | Schedule
Numbers = Number | Tensor | Sequence[Tensor]


def check_number(name: str, number: object, *, single: bool = False) -> None:
    """Refuse what is no finite number ≥ 0, no schedule of such and no tensors of them.

    Args:
        name: what it is and has to be: "L0 needs a finite strength λ ≥ 0".
        number: as the user gave it.
        single: whether it is one for all groups.

    Raises:
        PenaltyError: quoting it.
    """
    if isinstance(number, Schedule):
        if min(number.ends) < 0:
            raise PenaltyError(f"{name} at every step, got {number}")
        return
    if not single and (tensors := per_block(number)) is not None:
        for i, tensor in enumerate(tensors):
            if tensor.is_complex() or why_odd(tensor):
                raise PenaltyError(
                    f"{name} for each group, and tensor {i + 1} of {len(tensors)} is "
                    f"{shown(tensor)} on {tensor.device}"
                )
            if not bool((tensor.isfinite() & (tensor >= 0)).all()):
                raise PenaltyError(
                    f"{name} for each group, and tensor {i + 1} of {len(tensors)}, of shape "
                    f"{list(tensor.shape)}, has negative, NaN or infinite ones"
                )
        return
    if not is_number(number) or not 0 <= float(number) < math.inf:
        raise PenaltyError(f"{name}, got {shown(number)}")


def per_block(number: object) -> Sequence[Tensor] | None:
    """The tensors that stand where a number might, one for each block; None for a number."""
    if isinstance(number, Tensor):
        return [number]
    if isinstance(number, list | tuple) and number and all(isinstance(n, Tensor) for n in number):
        return number
    return None


def number_of(penalty: object, number: Numbers, norms: Tensor) -> float | Tensor:
    """A number of a penalty as a prox can use it: a float, or a tensor that goes with the norms.

    Raises:
        PenaltyError: if it is a schedule, or has tensors for several blocks.
    """
    if isinstance(number, float | int):  # mostly, and asked at every step
        return number
    if isinstance(number, Schedule):
        raise without_schedule(penalty)
    if isinstance(number, Tensor):
        return number.detach().to(norms.device, norms.dtype)
    if isinstance(number, Real):  # of another kind, such as NumPy's
        return float(number)
    raise PenaltyError(
        f"{penalty} has a tensor for each of {len(number)} blocks: take penalty.of(i) for the "
        "block with number i and use that"
    )


def check_shape(what: str, number: Tensor, norms: Tensor) -> None:
    """Refuse numbers that are not one for each norm."""
    if number.ndim > norms.ndim or any(
        n not in (1, m) for n, m in zip(number.shape[::-1], norms.shape[::-1], strict=False)
    ):
        raise PenaltyError(f"{what} has shape {list(number.shape)}, norms {list(norms.shape)}")


def as_like(number: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor, with all the digits that the dtype has."""
    return torch.as_tensor(number, dtype=like.dtype, device=like.device)


def without_schedule(penalty: object) -> PenaltyError:
    """What is said where a schedule stands and a number is needed."""
    return PenaltyError(f"{penalty} follows a schedule: take penalty.at(step) and use that")


def added(name: str, one: Numbers, two: Numbers) -> Numbers:
    """The sum of two strengths of one kind.

    Raises:
        PenaltyError: where a schedule is added to another strength, or tensors of other shapes.
    """
    for number, other in ((one, two), (two, one)):
        if isinstance(number, float | int) and number == 0:
            return other
    if isinstance(one, Schedule) or isinstance(two, Schedule):
        raise PenaltyError(
            f"{name}({written(one)}) + {name}({written(two)}) would add a number to a schedule; "
            "write the sum as one schedule"
        )
    found = [tensors for number in (one, two) if (tensors := per_block(number)) is not None]
    if not found:
        return one + two  # type: ignore[operator]
    if [tensor.shape for tensor in found[0]] != [tensor.shape for tensor in found[-1]]:
        raise PenaltyError(
            f"{name}({written(one)}) + {name}({written(two)}) would add numbers for other groups: "
            "both need a tensor for each block, as groups.norms() does"
        )
    pair: list[Any] = [per_block(number) or [number] * len(found[0]) for number in (one, two)]
    sums = [a + b for a, b in zip(*pair, strict=True)]
    return sums if any(isinstance(number, Sequence) for number in (one, two)) else sums[0]


def none(number: Numbers) -> bool:
    """Whether it is the number 0. A tensor of zeros is no number."""
    return isinstance(number, float | int) and number == 0


def written(value: object) -> str:
    """A field of a penalty as it is printed: tensors by their shapes."""
    if (tensors := per_block(value)) is None:
        return repr(value)
    shapes = [f"tensor{list(tensor.shape)}" for tensor in tensors]
    return shapes[0] if isinstance(value, Tensor) else f"[{', '.join(shapes)}]"


def as_norms(penalty: Any, norms: Tensor) -> Tensor:
    """Norms that a user may have given, as `widen` leaves them.

    Raises:
        PenaltyError: if they are no tensor of real numbers.
    """
    if not fits(norms, Tensor) or not norms.is_floating_point():
        raise PenaltyError(f"norms are a tensor of float32 or the like, got {shown(norms)}")
    for tensors in penalty.tensors.values():
        if len(tensors) == 1:
            check_shape(f"{penalty} is for other groups: it", tensors[0], norms)
    return widen(norms)


def widen(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, in which a step of 1e-7 is not lost; others as they are."""
    return values.float() if values.itemsize < 4 else values
