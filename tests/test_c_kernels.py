"""Ways to store weights in C: each computes what the integers say, and the cheapest is taken."""

import shutil
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import microcontrollers
import numpy as np
import pytest
import torch
from products import exhaustive, few, rest
from torch import Tensor, nn

from lissom.exporting import c
from lissom.exporting.c import kernels
from lissom.exporting.c.integers import one_codebook
from lissom.exporting.c.kernels.codebooks import packed
from lissom.exporting.c.kernels.sparse import entries
from lissom.exporting.c.layers import Product, Value
from lissom.exporting.c.writing import Program, header, programmed, source

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
M4 = microcontrollers.BOARDS["Cortex-M4"]
needs_m4 = pytest.mark.skipif(
    bool(microcontrollers.missing(M4)), reason=microcontrollers.missing(M4)
)

Change = Callable[[Tensor], Tensor]


def random(density: float) -> Change:
    """A part of the weights, at random."""
    return lambda w: w * (torch.rand(w.shape) < density)


def blocks(n: int, m: int) -> Change:
    """n of m neighbours in each row, channels last."""

    def change(w: Tensor) -> Tensor:
        columns = w[0].numel()
        order = torch.rand(len(w), -(-columns // m), m).argsort(2).argsort(2)
        return w * (order < n).flatten(1)[:, :columns].reshape(w.shape)

    return change


def codes(values: int, density: float = 1.0) -> Change:
    """Each weight one of so many values, or 0."""

    def change(w: Tensor) -> Tensor:
        book = torch.linspace(-1, 0.9, values)
        chosen = book[torch.randint(values, w.shape)]
        return chosen * (torch.rand(w.shape) < density)

    return change


PATTERNS: dict[str, tuple[str, Change]] = {
    "sparse": ("sparse int8", random(0.1)),
    "almost empty": ("sparse int8", random(0.004)),
    "full, sparse": ("sparse int8", random(1.0)),
    "dense": ("dense", random(1.0)),
    **{f"{n}:{m}": (f"{n}:{m} blocks int8", blocks(n, m)) for n in (1, 2) for m in (4, 8, 16)},
    "15 values": ("sparse 4-bit codes", codes(15, 0.1)),
    "15 values, near": ("sparse 4-bit codes in bytes", codes(15, 0.2)),
    "3 values": ("sparse 2-bit codes in bytes", codes(3, 0.05)),
    "16 values, full": ("dense 4-bit codes", codes(16)),
    "4 values, full": ("dense 2-bit codes", codes(4)),
}
MEASURED = ["sparse", "dense", "1:4", "2:8", "15 values", "15 values, near", "3 values"]
MEASURED += ["16 values, full", "4 values, full"]
WINDOWS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "pool": ((1, 12, 12), lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2))),
    "deep pool": ((3, 9, 8), lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.MaxPool2d(2))),
    "strides": ((3, 11, 9), lambda: nn.Conv2d(3, 4, 3, stride=(2, 1), dilation=(1, 2), padding=1)),
    "groups": ((6, 8, 8), lambda: nn.Conv2d(6, 9, (3, 2), groups=3)),
    "depthwise": ((6, 8, 8), lambda: nn.Conv2d(6, 6, 3, groups=6)),
    "wide": ((2, 4, 150), lambda: nn.Conv2d(2, 3, 3)),  # gaps of more than 255
    "pointwise": ((16, 5, 5), lambda: nn.Conv2d(16, 6, 1)),
}


def changed(net: nn.Module, change: Change) -> nn.Module:
    """A network whose weights are changed, each as rows with channels last."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(change(module.weight))
            elif isinstance(module, nn.Conv2d):
                rows = module.weight.permute(0, 2, 3, 1)
                module.weight.copy_(change(rows).permute(0, 3, 1, 2))
    return net.eval()


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers[:-1], layers[-1][0])


def preferring(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Run layers in the ways of these names, one after another, wherever they fit."""
    turns = cycle(names)

    def kernel(layer: Product) -> kernels.Run:
        name = next(turns)
        fitting = [run for one in ALL if (run := one(layer)) is not None]
        return next((run for run in fitting if run.kernel.startswith(name)), fitting[0])

    monkeypatch.setattr(kernels, "KERNELS", (kernel,))


ALL = kernels.KERNELS


def written(net: nn.Module, x: Tensor, folder: Path, name: str = "net") -> tuple[Program, Tensor]:
    """NAME.c and NAME.h, and what they must compute."""
    reference = c.reference(net, x[:1], x)
    program = programmed(reference.network)
    (folder / f"{name}.c").write_text(source(program, name))
    (folder / f"{name}.h").write_text(header(program, name))
    return program, reference(x).flatten(1)


def runs(folder: Path, x: Tensor, outputs: int) -> np.ndarray:
    """What net.c computes here, under sanitizers."""
    network = microcontrollers.Network("net", [folder / "net.c"], x.flatten(1).numpy(), outputs)
    (found,) = microcontrollers.on_host([network], folder / "host")
    return found


@needs_gcc
@pytest.mark.parametrize("width", few([48, 49, 7], [48]))
def test_all_matrices_in_one_file(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer for each way; rows of 49 and 7 do not end with a whole block or byte of codes."""
    net, x = mlp(304, *([width] * (len(PATTERNS) - 1)), 10), torch.rand(20, 304)
    names = [name for name, _ in PATTERNS.values()]
    for layer, (_, change) in zip(net, PATTERNS.values(), strict=True):
        changed(layer, change)
    preferring(monkeypatch, *names)
    program, expected = written(net, x, tmp_path)
    kinds = [run.kernel for runs in program.runs for run in runs]
    same = [kind.startswith(name) for kind, name in zip(kinds, names, strict=True)]
    assert all(same) or width == 7, kinds
    assert np.array_equal(runs(tmp_path, x, 10), expected.numpy())


@needs_gcc
@pytest.mark.parametrize(
    ("window", "pattern"),
    [
        *((w, "sparse") if w in ("pool", "wide") else rest(w, "sparse") for w in WINDOWS),
        *(rest(window, "15 values") for window in ("strides", "wide", "pointwise")),
        *(rest(window, "dense") for window in ("deep pool", "strides", "groups")),
        rest("pointwise", "1:8"),
    ],
)
def test_windows(
    window: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, change = PATTERNS[pattern]
    shape, make = WINDOWS[window]
    torch.manual_seed(1)
    x, made = torch.rand(10, *shape) - 0.3, make()
    net = nn.Sequential(made, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    with torch.no_grad():
        net(x)
    changed(made, change)
    preferring(monkeypatch, name)
    program, expected = written(net, x, tmp_path)
    found = next(run.kernel for runs in program.runs for run in runs if run.kernel != "pad")
    assert pattern == "dense" or found.startswith(name)
    assert np.array_equal(runs(tmp_path, x, 3), expected.numpy())


@pytest.mark.parametrize("longest", [1, 3, 15, 255])
@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_entries_spell_out_the_weights(density: float, multiple: int, longest: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (6, 1, 1, 400), generator=generator, dtype=torch.int8)
    weight *= torch.rand(weight.shape, generator=generator) < density
    columns = torch.randperm(600, generator=generator)[:400]
    layer = Product(
        "fc", (Value((1, 1, 600)),), Value((1, 1, 6)), weight, torch.zeros(6), columns=columns
    )
    found = entries(layer, longest, multiple)
    assert bool((found.counts % multiple == 0).all()) and int(found.counts.min()) > 0
    assert int(found.gaps.max()) <= longest and int(found.gaps.min()) >= 0
    rows = torch.zeros(6, 600, dtype=torch.int64)
    begin = 0
    for row, count in zip(rows, found.counts.tolist(), strict=True):
        at = found.gaps[begin : begin + count].cumsum(0)
        row.index_add_(0, at, found.values[begin : begin + count])
        begin += count
    expected = torch.zeros(6, 600, dtype=torch.int64)
    expected[:, columns] = weight.flatten(1).long()
    assert torch.equal(rows, expected)


def test_codes_lie_in_bytes_from_the_lowest_bits() -> None:
    assert packed(torch.tensor([[1, 2, 3, 0, 2], [0, 0, 0, 3, 1]]), 2).tolist() == [
        [0b00111001, 2],
        [0b11000000, 1],
    ]


def test_one_step_for_a_codebook() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 30)
    assert not one_codebook(weight) and not one_codebook(weight[:1, :4])
    few_values = codes(15, 0.3)(weight)
    assert one_codebook(few_values) and not one_codebook(few_values * torch.rand(20, 1))


def taken(net: nn.Module, x: Tensor) -> list[str]:
    program = programmed(c.reference(net, x[:1], x).network)
    return [run.kernel for runs in program.runs for run in runs]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("dense", "dense int8"),
        ("sparse", "sparse int8"),
        ("1:4", "1:4 blocks int8"),
        ("15 values", "sparse 4-bit codes in bytes"),
        ("3 values", "sparse 2-bit codes in bytes"),
        ("16 values, full", "dense 4-bit codes"),
        ("4 values, full", "dense 2-bit codes"),
    ],
)
def test_the_cheapest_is_taken(pattern: str, name: str) -> None:
    net = changed(mlp(400, 60), PATTERNS[pattern][1])
    assert taken(net, torch.rand(5, 400)) == [name]


def test_a_function_that_is_there_is_taken_again() -> None:
    """A few weights are not worth code of their own."""
    net = mlp(400, 60, 4)
    changed(net[0], PATTERNS["sparse"][1])
    changed(net[1], blocks(1, 4))
    assert taken(net, torch.rand(5, 400)) == ["sparse int8", "sparse int8"]
    assert taken(net[1], torch.rand(5, 60)) != ["sparse int8"]


@needs_m4
@exhaustive
@pytest.mark.parametrize("pattern", MEASURED)
def test_costs_are_those_of_a_cortex_m4(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instructions within 15 %; and the same bits from SMLAD."""
    name, change = PATTERNS[pattern]
    preferring(monkeypatch, name)
    net = changed(mlp(400, 64, 32), change)
    x = (torch.rand(9, 400) * 255).round() / 255
    program, expected = written(net, x, tmp_path)
    pixels = (x * 255).round().numpy().astype(np.uint8)
    network = microcontrollers.Network("net", [tmp_path / "net.c"], pixels, 32)
    found = microcontrollers.run(M4, network, tmp_path / "m4")
    assert np.array_equal(found.outputs, expected.numpy())
    predicted = sum(run.cycles for runs in program.runs for run in runs)
    assert 0.85 < predicted / found.instructions < 1.15, (predicted, found.instructions)


@needs_m4
@exhaustive
def test_a_small_lenet_on_a_cortex_m4(tmp_path: Path) -> None:
    """Convolution, ReLU and pooling in one, by SMLAD."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 7, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(7, 8, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    ).eval()
    x = (torch.rand(9, 1, 28, 28) * 255).round() / 255
    program, expected = written(net, x, tmp_path)
    network = microcontrollers.Network("net", [tmp_path / "net.c"], x.flatten(1).numpy(), 10)
    found = microcontrollers.run(M4, network, tmp_path / "m4")
    assert np.array_equal(found.outputs, expected.numpy())
    predicted = sum(run.cycles for runs in program.runs for run in runs)
    assert 0.75 < predicted / found.instructions < 1.25 and found.instructions < 480_000


@needs_m4
@exhaustive
def test_what_has_no_weights_on_a_cortex_m4(tmp_path: Path) -> None:
    """Tables and products: what one more of each takes."""

    class Gated(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = x.sigmoid() * x
            return x

    x = (torch.rand(5, 1, 24, 24) * 255).round() / 255
    taken, predicted = [], []
    for times in (1, 2):
        folder = tmp_path / str(times)
        folder.mkdir()
        program, expected = written(Gated(times), x, folder)
        network = microcontrollers.Network("net", [folder / "net.c"], x.flatten(1).numpy(), 576)
        found = microcontrollers.run(M4, network, folder / "m4")
        assert np.array_equal(found.outputs, expected.flatten(1).numpy())
        taken.append(found.instructions)
        predicted.append(sum(run.cycles for runs in program.runs for run in runs))
    assert 0.85 < (predicted[1] - predicted[0]) / (taken[1] - taken[0]) < 1.15
