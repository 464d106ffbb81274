"""Numbers of penalties: a plain one, a schedule, or a tensor with one for each group."""

import math
from collections.abc import Sequence
from numbers import Real

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
            if not bool((tensor.isfinite() & (tensor >= 0)).all()):
                raise PenaltyError(
                    f"{name} for each group, and tensor {i + 1} of {len(tensors)}, of shape "
                    f"{list(tensor.shape)}, has negative, NaN or infinite ones"
                )
        return
    real = isinstance(number, Real) and not isinstance(number, bool)
    if not real or not 0 <= float(number) < math.inf:  # type: ignore[arg-type]
        raise PenaltyError(f"{name}, got {number!r}")


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
        return number.to(norms.device, norms.dtype)
    raise PenaltyError(
        f"{penalty} has a tensor for each of {len(number)} blocks: take penalty.of(i) for the "
        "block with number i and use that"
    )


def without_schedule(penalty: object) -> PenaltyError:
    """What is said where a schedule stands and a number is needed."""
    return PenaltyError(f"{penalty} follows a schedule: take penalty.at(step) and use that")


def added(name: str, one: Numbers, two: Numbers) -> Numbers:
    """The sum of two strengths of one kind.

    Raises:
        PenaltyError: where a schedule is added to another strength.
    """
    for number, other in ((one, two), (two, one)):
        if isinstance(number, float | int) and number == 0:
            return other
    if isinstance(one, Schedule) or isinstance(two, Schedule):
        raise PenaltyError(
            f"{name}({written(one)}) + {name}({written(two)}) would add a number to a schedule; "
            "write the sum as one schedule"
        )
    lists = [number for number in (one, two) if isinstance(number, Sequence)]
    if not lists:
        return one + two  # type: ignore[operator]
    n = len(lists[0])
    pair = [number if isinstance(number, Sequence) else [number] * n for number in (one, two)]
    return [a + b for a, b in zip(*pair, strict=True)]


def none(number: Numbers) -> bool:
    """Whether it is the number 0. A tensor of zeros is no number."""
    return isinstance(number, float | int) and number == 0


def written(value: object) -> str:
    """A field of a penalty as it is printed: tensors by their shapes."""
    if (tensors := per_block(value)) is None:
        return repr(value)
    shapes = [f"tensor{list(tensor.shape)}" for tensor in tensors]
    return shapes[0] if isinstance(value, Tensor) else f"[{', '.join(shapes)}]"


def widen(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, in which a step of 1e-7 is not lost; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def like(number: float | Tensor, values: Tensor) -> Tensor:
    """A number as a tensor that goes with values: a float in their precision, not in float32."""
    return torch.as_tensor(number, dtype=values.dtype, device=values.device)
