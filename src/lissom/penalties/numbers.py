"""Numbers of penalties: a plain one, a schedule, or a tensor with one for each group."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lissom.errors import PenaltyError
from lissom.schedules import Schedule

Number = float | Schedule
Numbers = Number | Tensor | Sequence[Tensor]


def check_number(name: str, number: object, *, single: bool = False) -> None:
    """Refuse what is no finite number ≥ 0, no schedule and no tensors of such numbers.

    Args:
        name: what it is and has to be: "L0 needs a finite strength λ ≥ 0".
        number: as the user gave it.
        single: whether it is one for all groups.

    Raises:
        PenaltyError: quoting it.
    """
    if isinstance(number, Schedule):
        return
    if not single and (tensors := per_block(number)) is not None:
        for i, tensor in enumerate(tensors):
            if tensor.is_complex() or tensor.is_meta:
                raise PenaltyError(
                    f"{name} for each group, and tensor {i + 1} of {len(tensors)} is of "
                    f"{tensor.dtype} on {tensor.device}"
                )
            if not bool((tensor.isfinite() & (tensor >= 0)).all()):
                raise PenaltyError(
                    f"{name} for each group, and tensor {i + 1} of {len(tensors)}, of shape "
                    f"{list(tensor.shape)}, has negative, NaN or infinite ones"
                )
        return
    real = isinstance(number, Real) and not isinstance(number, bool)
    if not real or not 0 <= float(number) < math.inf:  # type: ignore[arg-type]
        raise PenaltyError(f"{name}, got {_quoted(number)}")


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


def _quoted(value: object) -> str:
    """What a user gave; of lists and arrays that are long the kinds."""
    shown = repr(value)
    if len(shown) <= 80 and "\n" not in shown:
        return shown
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in value[:4])}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {list(shape)}" if shape else "")


def widen(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, in which a step of 1e-7 is not lost; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
