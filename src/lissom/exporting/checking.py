"""What was written, run beside the network on fresh inputs."""

from collections.abc import Callable
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
    largest, written = 0.0, None
    for size in (1, 3) if dynamic else (None, None):
        drawn = inputs.map(partial(_random, inputs, size, generator))
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
            )
        for number, (there, here) in enumerate(zip(found, expected, strict=True)):
            absolute, relative = compare(there, here)
            limit = allowed(here.dtype) if tolerance is None else tolerance
            if not relative <= limit:
                raise LissomError(
                    f"{path.name} differs from the network, so it was not written: output "
                    f"{number} by up to {absolute:.3g}, which is {relative:.3g} of the largest "
                    f"output; {limit:.3g} is allowed (tolerance)"
                )
            largest = max(largest, relative)
    return largest


def require_near(difference: float, tolerance: float | None, path: Path) -> None:
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


def allowed(dtype: torch.dtype) -> float:
    """The largest relative difference that rounding may make: half of the digits."""
    floats = dtype.is_floating_point or dtype.is_complex
    return torch.finfo(dtype).eps ** 0.5 if floats else 0.0


def _random(inputs: Inputs, size: int | None, generator: torch.Generator, x: Tensor) -> Tensor:
    """Fresh numbers of the kind of x, one of the inputs, with another batch size."""
    shape = x.shape if size is None or not inputs.has_batch(x) else (size, *x.shape[1:])
    if x.dtype.is_floating_point or x.dtype.is_complex:
        drawn = torch.randn(shape, generator=generator)
    else:
        low, high = int(x.min()), int(x.max())
        drawn = torch.randint(low, high + 1, shape, generator=generator)
    return drawn.to(x.device, x.dtype)
