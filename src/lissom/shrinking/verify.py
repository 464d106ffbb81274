"""Whether the small network computes what the large one did: both are run on fresh inputs."""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.arguments import why_odd
from lissom.running import evaluating, leaves, run

Inputs = tuple[Tensor, ...]

# Largest difference, relative to the largest output; float32 sums of 10⁴ terms in another order.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
    torch.complex128: 1e-10,
    torch.complex64: 1e-4,
}


def fresh_inputs(example_inputs: Inputs, seed: int = 0) -> Inputs:
    """Random inputs like the given ones: normal with their mean and spread, or shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(x: Any) -> Any:
        if not isinstance(x, Tensor) or why_odd(x) or not x.numel() or x.is_complex():
            return x
        flat = x.detach().flatten().cpu()
        if not x.is_floating_point():
            return flat[torch.randperm(len(flat), generator=generator)].view(x.shape).to(x.device)
        spread = flat.double().std(correction=0).nan_to_num(1.0)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return (noise * (spread or 1.0) + flat.double().mean()).to(x)

    return tuple(fresh(x) for x in example_inputs)


def other_sizes(example_inputs: Inputs, *, resolution: bool, seed: int = 0) -> list[Inputs]:
    """Random inputs of other sizes that many models take: batch and resolution, or batch alone."""

    def grown(first: int, others: int) -> Inputs:
        batch = example_inputs[0].shape[:1]
        larger = []
        for x in example_inputs:
            if why_odd(x):  # of the size it has
                larger.append(x)
                continue
            rows = first if x.ndim and x.shape[:1] == batch else 0
            rest = others if x.ndim > 2 and x.is_floating_point() else 0
            sizes = [size + (rows if d == 0 else rest * (d > 1)) for d, size in enumerate(x.shape)]
            index = [
                torch.arange(size, device=x.device) % x.shape[d] for d, size in enumerate(sizes)
            ]
            for d, picked in enumerate(index):
                x = x.index_select(d, picked)
            larger.append(x)
        return fresh_inputs(tuple(larger), seed)

    return [grown(1, 32)] * resolution + [grown(1, 0)]


def other_lengths(example_inputs: Inputs, seed: int = 0) -> list[Inputs]:
    """Random sequences that are longer, where the example inputs look like sequences."""

    def sequence(x: Tensor) -> bool:
        return x.ndim == 3 if x.is_floating_point() else x.ndim == 2

    if not any(map(sequence, example_inputs)):
        return []
    longer = tuple(torch.cat([x, x[:, :3]], 1) if sequence(x) else x for x in example_inputs)
    return [fresh_inputs(longer, seed)]


@torch.no_grad()
def difference(
    large: nn.Module, small: nn.Module, inputs: Sequence[Inputs | list[Inputs]]
) -> tuple[float, float]:
    """The largest difference of outputs relative to the largest output, and what is tolerated.

    Both are run on copies, since a model may write to its buffers and its inputs.

    Args:
        large: the reference.
        small: which must take the same inputs and give outputs of the same shapes.
        inputs: for each comparison the inputs, or a list of them: the first that the large one
            takes is used.

    Returns:
        (difference, tolerance); the difference is ∞ where the small one fails.

    Raises:
        LissomError: if the large one cannot run on the last of a list.
    """
    worst, tolerance = 0.0, TOLERANCE[torch.float64]
    large, small = copied(large), copied(small)
    with evaluating(large, small), _preserving_random_state():
        for *candidates, last in (x if isinstance(x, list) else [x] for x in inputs):
            for args in candidates:
                if (wanted := _outputs(large, args)) is not None:
                    break
            else:
                args, wanted = last, _outputs(large, last, must=True)
            assert wanted is not None
            got = _outputs(small, args)
            if got is None or [x.shape for x in got] != [x.shape for x in wanted]:
                return float("inf"), tolerance
            for a, b in zip(wanted, got, strict=True):
                tolerance = max(tolerance, TOLERANCE.get(a.dtype, 0.0))
                worst = max(worst, _relative(a, b))
    return worst, tolerance


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of modules that keep computed tensors, as torch.nn.utils.prune does."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    with warnings.catch_warnings(action="ignore"):  # of torch.fx on its own doings
        return copy.deepcopy(model, memo)


def _outputs(model: nn.Module, args: Inputs, *, must: bool = False) -> list[Tensor] | None:
    torch.manual_seed(0)  # a network that draws numbers is to draw the same ones
    given = tuple(x.clone() for x in args)
    if must:
        return leaves(run(model, given))
    with contextlib.suppress(Exception):
        return leaves(model(*given))
    return None


def _relative(a: Tensor, b: Tensor) -> float:
    if a.is_complex() and b.is_complex():
        a, b = (torch.view_as_real(x.resolve_conj()) for x in (a, b))
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
