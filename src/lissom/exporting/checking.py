"""What was written, run beside the network on fresh inputs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.exporters import first_line
from lissom.running import Inputs, answers, real_parts

if TYPE_CHECKING:
    from lissom.exporting.c import Cost

Runner = Callable[[Inputs], list[Tensor]]

FAR = 0.5  # of the largest output: what is further off in int8 is not the network any more
SHOWN = 3  # tensors in a message
ASKED = 8  # times again: two calls may well drop the same units of a small layer

RANDOM = "it gives another answer to the same input each time"
STEADY = (
    "In eval mode, in which networks are exported, nn.Dropout and F.dropout(x, p, self.training) "
    "are off, but F.dropout(x, p) is on"
)


@dataclass(frozen=True)
class Written:
    """What a target says of the file that it wrote.

    Attributes:
        load: gives the file as a function of the inputs.
        dynamic: whether it runs at any batch size.
        opset: of ONNX.
        notes: what the user should know of it, in sentences.
        difference: to the network, where the target has seen to that itself.
        cost: of C.
    """

    load: Callable[[], Runner]
    dynamic: bool
    opset: int | None = None
    notes: tuple[str, ...] = ()
    difference: float | None = None
    cost: "Cost | None" = None


def difference_of(
    model: nn.Module,
    load: Callable[[], Runner],
    inputs: Inputs,
    dynamic: bool,
    tolerance: float | None,
    path: Path,
) -> float:
    """The largest relative difference between the network and the file."""
    generator = torch.Generator().manual_seed(0)
    sizes = (1, 3) if dynamic else (None, None)
    random = [inputs.map(partial(_random, inputs, size, generator)) for size in sizes]
    largest, written = 0.0, None
    for drawn in (*random, inputs):  # a network may give nothing but NaN for random numbers
        expected = answers(model, drawn)
        try:
            written = written or load()
            found = written(drawn)
        except LissomError:
            raise
        except Exception as error:
            raise LissomError(
                f"{path.name} cannot be run on inputs of shape "
                f"{[list(x.shape) for x in drawn.tensors]}, so it was not written: "
                f"{first_line(error)}. check=False writes it all the same"
            ) from error
        if [x.shape for x in found] != [x.shape for x in expected]:
            raise LissomError(
                f"{path.name} gives outputs of shape {[list(x.shape) for x in found]} and "
                f"the network {[list(x.shape) for x in expected]}, so it was not written"
                + randomness(model, drawn)
            )
        for number, (there, here) in enumerate(zip(found, expected, strict=True)):
            absolute, relative = compare(there, here)
            limit = allowed(here.dtype, there.dtype) if tolerance is None else tolerance
            if not relative <= limit:
                raise LissomError(
                    f"{path.name} differs from the network, so it was not written: output "
                    f"{number} by up to {absolute:.3g}, which is {relative:.3g} of the largest "
                    f"output; {limit:.3g} is allowed (tolerance)" + randomness(model, drawn)
                )
            largest = max(largest, relative)
    return largest


def require_near(
    model: nn.Module, inputs: Inputs, difference: float, tolerance: float | None, path: Path
) -> None:
    """Refuse a file of integers that computes something else than the network.

    Raises:
        LissomError: the difference is NaN, or beyond the tolerance.
    """
    limit = FAR if tolerance is None else tolerance
    if not difference <= limit:
        raise LissomError(
            f"{path.name} differs from the network in int8, so it was not written: by up to "
            f"{difference:.3g} of the largest output; {limit:.3g} is allowed (tolerance). More "
            "inputs to calibrate on may help, if they are like those to come; or write float32"
            + randomness(model, inputs)
        )


def require_finite(tensors: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Refuse numbers that float32 does not hold.

    Raises:
        LissomError: naming the tensors that hold them.
    """
    floats = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    wrong = [name for name, tensor in floats if not bool(tensor.float().isfinite().all())]
    if wrong:
        names = ", ".join(wrong[:SHOWN]) + (" and others" if len(wrong) > SHOWN else "")
        raise LissomError(
            f"{what} is for finite weights, and some of {names} are NaN, infinite or beyond "
            "float32: has training diverged?"
        )


def randomness(model: nn.Module, inputs: Inputs) -> str:
    """The end of an error message where no file can be equal to the network."""
    first = answers(model, inputs)
    if all(_alike(first, answers(model, inputs)) for _ in range(ASKED)):
        return ""
    return f". The network is at fault: {RANDOM}. {STEADY}"


def _alike(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two answers differ by rounding at most."""
    return [x.shape for x in first] == [x.shape for x in second] and all(
        compare(a, b)[1] <= allowed(a.dtype) for a, b in zip(first, second, strict=True)
    )


def compare(there: Tensor, here: Tensor) -> tuple[float, float]:
    """The largest difference, and the same over the largest |output|; equal NaN and ∞ are none."""
    if here.numel() == 0:
        return 0.0, 0.0
    if here.is_complex() and there.is_complex():
        there, here = real_parts(there), real_parts(here)
    a, b = there.cpu().to(torch.float64), here.cpu().to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    absolute = float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf).max())
    size = float(torch.where(b.isfinite(), b, 0.0).abs().max())
    return absolute, absolute / (size or 1.0)


def allowed(*dtypes: torch.dtype) -> float:
    """The largest relative difference that rounding to them may make: half of the digits."""
    floats = all(dtype.is_floating_point or dtype.is_complex for dtype in dtypes)
    return max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5 if floats else 0.0


def _random(inputs: Inputs, size: int | None, generator: torch.Generator, x: Tensor) -> Tensor:
    """Fresh numbers of the kind of x, one of the inputs, with another batch size."""
    shape = x.shape if size is None or not inputs.has_batch(x) else (size, *x.shape[1:])
    if x.dtype.is_floating_point or x.dtype.is_complex:
        drawn = torch.randn(shape, generator=generator)
    else:
        low, high = int(x.min()), int(x.max())
        drawn = torch.randint(low, high + 1, shape, generator=generator)
    return drawn.to(x.device, x.dtype)
