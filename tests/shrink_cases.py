"""What the tests of coupling and shrinking share: damage, fresh inputs, and exact comparison."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import torch
from torch import Tensor, nn

import lissom
from lissom.groups import Groups
from lissom.running import evaluating, leaves
from lissom.shrinking import Shrinkage

Inputs = tuple[Tensor, ...]
EXACT = 1e-10  # of the largest output, in float64


class Between(nn.Module):
    """f(net, x), with layers of its own."""

    def __init__(self, f: Callable[..., Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.f = f
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self, x)


def inputs(*shape: int) -> Tensor:
    """Two examples of this shape."""
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def fresh(example_inputs: Tensor | Inputs, seed: int, grow: int = 0) -> Inputs:
    """Normal numbers, or numbers up to the largest of the example; maps larger by `grow`."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    drawn = []
    for x in inputs:
        shape = [*x.shape[:2], *(size + grow for size in x.shape[2:])]
        if x.is_floating_point() or x.is_complex():
            drawn.append(torch.randn(shape, generator=generator, dtype=wide(x)).to(x))
        else:
            drawn.append(torch.randint(int(x.max()) + 1, shape, generator=generator).to(x))
    return tuple(drawn)


def wide(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


@torch.no_grad()
def outputs(model: nn.Module, inputs: Tensor | Inputs) -> list[Tensor]:
    with evaluating(model):
        return leaves(model(*((inputs,) if isinstance(inputs, Tensor) else inputs)))


def apart(large: nn.Module, small: nn.Module, inputs: Tensor | Inputs) -> float:
    """The largest difference of outputs, relative to the largest output."""
    worst = 0.0
    for a, b in zip(outputs(large, inputs), outputs(small, inputs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.equal(a.isnan(), b.isnan())
        a, b = (y.to(wide(y)).nan_to_num(0.0) for y in (a, b))
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)))
    return worst


def assert_equal(
    large: nn.Module, small: nn.Module, example_inputs: Tensor | Inputs, within: float = EXACT
) -> None:
    """Equal on inputs that neither network has seen."""
    for seed in (11, 12):
        assert apart(large, small, fresh(example_inputs, seed)) <= within


@contextmanager
def refusals() -> Iterator[list[None]]:
    """One entry for each time that verification refused what had been decided.

    Units that are not zero themselves and were refused stand in no report.
    """
    found: list[None] = []
    case = import_module("lissom.shrinking.case").Case
    original = case.what_modules_cannot

    def counted(self: object) -> object:
        found.append(None)
        return original(self)

    case.what_modules_cannot = counted
    try:
        yield found
    finally:
        case.what_modules_cannot = original


@contextmanager
def traced_once() -> Iterator[None]:
    """Each model is exported once, where only numbers in it change meanwhile."""
    rooms = import_module("lissom.coupling.trace")
    original, kept = rooms._exported, {}

    def exported(model: nn.Module, *how: object, **more: object) -> object:
        if model not in kept:
            kept[model] = original(model, *how, **more)
        return kept[model]

    rooms._exported = exported
    try:
        yield
    finally:
        rooms._exported = original


def report(small: nn.Module) -> Shrinkage:
    found = small.shrinkage
    assert isinstance(found, Shrinkage)
    return found


def left(small: nn.Module) -> list[int]:
    """Units that are left, family by family."""
    return [after for _, _, _, after in report(small).families]


def halves(groups: Groups, seed: int = 0) -> list[Tensor]:
    """A scale for every unit: 0 for a random half of each family, at least one is left."""
    generator = torch.Generator().manual_seed(seed)
    scales = []
    for block in groups:
        scale = torch.ones(block.shape)
        scale[torch.randperm(len(scale), generator=generator)[: len(scale) // 2]] = 0
        scales.append(scale)
    return scales


def zero_half_(model: nn.Module, example_inputs: Tensor | Inputs, seed: int = 0) -> int:
    """Zero a random half of all units; how many."""
    groups = lissom.coupling.units(model, example_inputs)
    scales = halves(groups, seed)
    groups.scale_(scales)
    return sum(int((scale == 0).sum()) for scale in scales)


@torch.no_grad()
def zero_(*slices: Tensor) -> None:
    """Zero these parts of parameters: zero_(conv.weight[2:5], bn.bias[2:5])."""
    for part in slices:
        part.zero_()


@torch.no_grad()
def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """float64 in evaluation mode, every parameter and statistic away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            tensor.mul_(0.7 if tensor.ndim > 1 else 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
    return model


def total(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def counts(groups: Groups) -> Sequence[int]:
    return [len(norms) for norms in groups.norms()]
