"""Does the small network compute what the large one did? Asked of both, on fresh inputs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.running import evaluating, leaves

Inputs = tuple[Tensor, ...]

# Largest difference, relative to the largest output; float32 sums of 10⁴ terms in another order.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}


def fresh_inputs(example: Inputs, seed: int = 0) -> Inputs:
    """Random inputs like the example: normal with its mean and spread, or its numbers shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.numel() or x.is_complex():
            return x
        flat = x.detach().flatten().cpu()
        if not x.is_floating_point():
            return flat[torch.randperm(len(flat), generator=generator)].view(x.shape).to(x.device)
        spread = flat.double().std(correction=0).nan_to_num(1.0)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return (noise * (spread or 1.0) + flat.double().mean()).to(x)

    return tuple(fresh(x) for x in example)


def larger_inputs(example: Inputs, seed: int = 0) -> Inputs | None:
    """Random inputs of a larger resolution, where they look like images or signals."""

    def grown(x: Tensor) -> Tensor:
        if x.ndim < 3 or not x.is_floating_point():
            return x
        return nn.functional.pad(x, (0, 32) * (x.ndim - 2), mode="constant")

    found = tuple(map(grown, example))
    same = all(a is b for a, b in zip(found, example, strict=True))
    return None if same else fresh_inputs(found, seed)


@torch.no_grad()
def difference(
    large: nn.Module, small: nn.Module, inputs: Sequence[Inputs | list[Inputs]]
) -> tuple[float, float]:
    """The largest difference of outputs relative to the largest output, and what is tolerated.

    Args:
        large: the reference.
        small: which must take the same inputs and give outputs of the same shapes.
        inputs: for each comparison the inputs, or a list of them: the first that the large one
            takes is used.

    Returns:
        (difference, tolerance); the difference is ∞ where the small one fails.
    """
    worst, tolerance = 0.0, TOLERANCE[torch.float64]
    with evaluating(large, small), _preserving_random_state():
        for *candidates, last in (x if isinstance(x, list) else [x] for x in inputs):
            for args in candidates:
                if (wanted := _outputs(large, args, suppress=(Exception,))) is not None:
                    break
            else:
                args, wanted = last, _outputs(large, last, suppress=())
            assert wanted is not None
            got = _outputs(small, args, suppress=(Exception,))
            if got is None or [x.shape for x in got] != [x.shape for x in wanted]:
                return float("inf"), tolerance
            for a, b in zip(wanted, got, strict=True):
                tolerance = max(tolerance, TOLERANCE.get(a.dtype, 0.0))
                worst = max(worst, _relative(a, b))
    return worst, tolerance


def _outputs(model: Callable[..., Any], args: Inputs, suppress: Any) -> list[Tensor] | None:
    torch.manual_seed(0)  # a network that draws numbers is to draw the same ones
    with contextlib.suppress(*suppress):
        return leaves(model(*args))
    return None


def _relative(a: Tensor, b: Tensor) -> float:
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())  # ∞ and NaN are reproduced too
    apart = torch.where(same, 0, (a - b).abs())
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return float(apart.max().nan_to_num(float("inf"))) / max(scale, 1e-12) if apart.any() else 0.0


@contextlib.contextmanager
def _preserving_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
