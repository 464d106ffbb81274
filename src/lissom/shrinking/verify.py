"""Whether the small network computes what the large one did: both are run on fresh inputs."""

import contextlib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lissom.arguments import why_odd
from lissom.errors import LissomError
from lissom.running import (
    Inputs,
    copied,
    evaluating,
    full_float32,
    gpus,
    numbers,
    real_parts,
    resized,
    run,
)

GROWTH, ENOUGH = 4, 2**16  # of all numbers in the inputs of a comparison; what is never too many

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

    def fresh(x: Tensor) -> Tensor:
        if why_odd(x) or not x.numel():
            return x
        if x.is_complex():
            return torch.view_as_complex(fresh(real_parts(x)))
        flat = x.detach().flatten().cpu()
        if not x.is_floating_point():
            return flat[torch.randperm(len(flat), generator=generator)].view(x.shape).to(x.device)
        spread = flat.double().std(correction=0).nan_to_num(1.0)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return (noise * (spread or 1.0) + flat.double().mean()).to(x)

    return example_inputs.map(fresh)


def other_sizes(example_inputs: Inputs, *, resolution: bool) -> list[Inputs]:
    """Random inputs of other sizes that many models take: batch and resolution, or batch alone."""

    def grown(first: int, others: int) -> Inputs:
        def larger(x: Tensor) -> Tensor:
            if why_odd(x):  # of the size it has
                return x
            rows = first if example_inputs.has_batch(x) else 0
            rest = others if x.ndim > 2 and x.is_floating_point() else 0
            return resized(
                x, [size + (rows if d == 0 else rest * (d > 1)) for d, size in enumerate(x.shape)]
            )

        return fresh_inputs(example_inputs.map(larger))

    return [grown(1, 32)] * resolution + [grown(1, 0)]


def other_lengths(example_inputs: Inputs) -> list[Inputs]:
    """Random sequences that are longer, where the example inputs look like sequences."""
    if not any(map(_is_sequence, example_inputs.tensors)):
        return []

    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, x[:, :3]], 1) if _is_sequence(x) else x

    return [fresh_inputs(example_inputs.map(longer))]


def around(example_inputs: Inputs, sizes: Iterable[int]) -> list[Inputs]:
    """Random inputs that are longer and shorter than some numbers, along time or in space."""
    found = []
    before = sum(x.numel() for x in example_inputs.tensors)
    for size in sorted({m for n in sizes for m in (n // 2, n + 1, 2 * n + 1)} - {0}):
        for first in (1, 2):  # [batch, time, …] or [batch, channels, time or space, …]

            def changed(x: Tensor, first: int = first, size: int = size) -> Tensor:
                along = range(first, min(x.ndim, 2) if first == 1 else x.ndim)
                numbers = first == 1 and not _is_sequence(x)
                if numbers or (first == 2 and not (x.is_floating_point() or x.is_complex())):
                    return x
                return resized(x, [size if d in along else n for d, n in enumerate(x.shape)])

            inputs = example_inputs.map(changed)
            shapes = [x.shape for x in inputs.tensors]
            small = sum(map(torch.Size.numel, shapes)) <= GROWTH * before + ENOUGH
            if small and shapes != [x.shape for x in example_inputs.tensors]:
                found.append(fresh_inputs(inputs))
    return found


def _is_sequence(x: Tensor) -> bool:
    return x.ndim == 3 if x.is_floating_point() else x.ndim == 2


@dataclass(frozen=True)
class Outcome:
    """How far a small network came with what the large one does.

    Attributes:
        difference: the largest of its outputs, relative to the largest output; ∞ where it failed.
        tolerance: what is allowed.
        reached: what it got right: the comparisons, and the operations of the next one.
        stack: the paths of the modules in which it failed; None if it ran.
    """

    difference: float
    tolerance: float
    reached: tuple[float, float] = (float("inf"), 0)
    stack: frozenset[str] | None = None

    @property
    def same(self) -> bool:
        """Whether it computes what the large one does."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        candidates: inputs, of which the first that the large network takes are used.
        must: whether it must take the last of them.
        training: whether to run in training mode, where only shapes are compared: draws differ.
    """

    candidates: Sequence[Inputs]
    must: bool = True
    training: bool = False


class Reference:
    """What the large network computes, found once for each list of comparisons.

    Networks are run on copies, since a model may write to its buffers and its inputs.
    """

    def __init__(self, large: nn.Module) -> None:
        self.large = large
        self._wanted: dict[tuple[int, ...], list[tuple[Check, Inputs, list[Tensor]]]] = {}

    @torch.no_grad()
    def compare(self, small: nn.Module, checks: Sequence[Check]) -> Outcome:
        """How far the small one computes the same.

        Raises:
            LissomError: if the large one cannot run where it must, or gives no numbers.
        """
        key = tuple(map(id, checks))
        with torch.random.fork_rng(gpus()):
            if key not in self._wanted:
                self._wanted[key] = list(self._outputs(checks))
            return _outcome(copied(small), self._wanted[key])

    def _outputs(self, checks: Sequence[Check]) -> Iterator[tuple[Check, Inputs, list[Tensor]]]:
        large = copied(self.large)
        for check in checks:
            for inputs in check.candidates:
                must = check.must and inputs is check.candidates[-1]
                with _in_mode(large, check.training):
                    outputs = _outputs(large, inputs, must=must)
                if outputs is not None:
                    yield check, inputs, outputs
                    break


def difference(large: nn.Module, small: nn.Module, inputs: Sequence[Inputs]) -> tuple[float, float]:
    """The largest difference of outputs relative to the largest output, and what is tolerated."""
    outcome = Reference(large).compare(small, [Check([x]) for x in inputs])
    return outcome.difference, outcome.tolerance


def _outcome(small: nn.Module, wanted: Sequence[tuple[Check, Inputs, list[Tensor]]]) -> Outcome:
    worst, tolerance = 0.0, TOLERANCE[torch.float64]
    for number, (check, inputs, expected) in enumerate(wanted):
        with _in_mode(small, check.training), _Counting() as counting:
            try:
                got = _outputs(small, inputs, must=True)
            except LissomError as error:
                stack = _stack(small, error.__cause__)
                return Outcome(float("inf"), tolerance, (number, counting.calls), stack)
        assert got is not None
        if [x.shape for x in got] != [x.shape for x in expected]:
            return Outcome(float("inf"), tolerance, (number, counting.calls))
        for a, b in zip(expected, got, strict=True) if not check.training else ():
            tolerance = max(tolerance, TOLERANCE.get(a.dtype, 0.0))
            worst = max(worst, _relative(a, b))
        if not worst <= tolerance:
            return Outcome(worst, tolerance, (number, float("inf")))
    return Outcome(worst, tolerance)


def _stack(model: nn.Module, error: BaseException | None) -> frozenset[str]:
    """The paths of the modules whose code was running when it failed."""
    paths = {id(module): path for path, module in model.named_modules()}
    frames = traceback.walk_tb(error.__traceback__ if error else None)
    return frozenset(
        path
        for frame, _ in frames
        if (path := paths.get(id(frame.f_locals.get("self")))) is not None
    )


class _Counting(TorchDispatchMode):
    """Counts the operations that ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        return result


def _outputs(model: nn.Module, inputs: Inputs, *, must: bool = False) -> list[Tensor] | None:
    torch.manual_seed(0)  # a network that draws numbers is to draw the same ones
    if must:
        found = numbers(run(model, inputs))
        if not found:
            raise LissomError(
                f"{type(model).__name__} returns no tensors that could be compared: have it return "
                "tensors, or tuples, lists, dicts or dataclasses of them"
            )
        return found
    given = inputs.map(torch.clone)
    with contextlib.suppress(Exception):
        return numbers(model(*given.args, **given.kwargs))
    return None


@contextlib.contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    with evaluating(model), full_float32():
        if training:
            model.train()
        yield


def _relative(a: Tensor, b: Tensor) -> float:
    if a.is_complex() and b.is_complex():
        a, b = real_parts(a), real_parts(b)
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
