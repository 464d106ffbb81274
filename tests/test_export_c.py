"""C for a microcontroller: it computes what the network computes, or it is not written."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from products import exhaustive, few, pairwise, rest, sampled
from torch import Tensor, nn
from typer.testing import CliRunner

import lissom
from lissom import LissomError
from lissom.cli import app
from lissom.exporting import c
from lissom.exporting.c import operators
from lissom.exporting.c.activations import FORMULAS
from lissom.exporting.c.writing import programmed, source
from lissom.models.normalize import Normalize

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
STRICT = "-std=c99 -O1 -Wall -Wextra -pedantic -Werror -Wconversion -Wno-sign-conversion".split()
SAFE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "net.h"

typedef float input;

int main(void)
{
    void *arena = malloc(NET_ARENA_BYTES);
    input *x = malloc(sizeof(input) * NET_INPUTS);
    float *y = malloc(sizeof(float) * NET_OUTPUTS);
    FILE *in = fopen("x.bin", "rb"), *out = fopen("y.bin", "wb");
    while (fread(x, sizeof(input), NET_INPUTS, in) == NET_INPUTS) {
        net_infer(x, y, arena);
        fwrite(y, sizeof(float), NET_OUTPUTS, out);
    }
    free(x), free(y), free(arena), fclose(in), fclose(out);
    return 0;
}
"""
OF_BYTES = MAIN.replace("float input", "uint8_t input").replace("net_infer(", "net_infer_u8(")


def computes(folder: Path, x: Tensor, main: str = MAIN) -> Tensor:
    """The outputs of net.c, compiled with all warnings and sanitizers, in a process of its own."""
    (folder / "main.c").write_text(main)
    command = ["gcc", *STRICT, *SAFE, "net.c", "main.c", "-o", "net", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    x.contiguous().numpy().tofile(folder / "x.bin")
    subprocess.run(["./net"], cwd=folder, check=True)
    return torch.from_numpy(np.fromfile(folder / "y.bin", np.float32)).reshape(len(x), -1)


class Residual(nn.Module):
    """Sums, concatenations and several readers of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(8, 3)
        shaken(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = F.relu(a + 0.3 * self.second(F.relu6(a)))
        both = torch.cat([a, b], dim=1)
        return self.last(F.relu(self.norm(both)).mean((2, 3)))


class Shuffled(nn.Module):
    """Movement of channels and pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 6, 1, groups=2), nn.Linear(3 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.conv(x).unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        left, right = mixed.chunk(2, dim=1)
        return self.fc((left + right.flip(2)).permute(0, 2, 3, 1).flatten(1))


class Joined(nn.Module):
    """Columns beside columns, rows below rows, and two of those rows again."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.cat([x, 2 * x.flip(3)[..., :2]], dim=3)
        first, *_, last = torch.cat([wide, wide[:, :, :1]], dim=2).unbind(2)
        return torch.stack([first, last], dim=2)


class Selects(nn.Module):
    """Entries of the input, some of them twice."""

    def __init__(self, dim: int, indices: list[int], net: nn.Module) -> None:
        super().__init__()
        self.dim, self.net = dim, net
        self.register_buffer("indices", torch.tensor(indices))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1)[:, self.indices] if self.dim == 0 else x[:, self.indices])


class Twice(nn.Module):
    """Two readers of the input, and an output in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.transpose(2, 3)).clamp(max=1.2)


class Function(nn.Module):
    """A layer, and what a function makes of its output."""

    def __init__(self, f: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.f, self.layer = f, layer or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.layer(x))


def detected(x: Tensor) -> Tensor:
    """Of a box, of which each part has a function of its own."""
    return torch.cat([x[:, :2].sigmoid(), (0.2 * x[:, 2:4]).exp(), x[:, 4:].tanh()], dim=1)


Case = tuple[nn.Module, tuple[int, ...]]
KERNEL = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)


def in_place(x: Tensor) -> Tensor:
    """Into some channels, while the others are read as they were."""
    first, second = x[:, :2], x[:, 2:]
    return torch.cat([F.relu(first, inplace=True).mul_(2), second], dim=1)


def over_a_view(x: Tensor) -> Tensor:
    entries = x.flatten(1)
    F.relu(x, inplace=True)
    return entries


def shaken(net: nn.Module) -> nn.Module:
    """With running statistics and scales that are not those of a new network."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.5)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.2, 2)
    return net


def sequence(*layers: nn.Module) -> nn.Module:
    return shaken(nn.Sequential(*layers))


def dead(net: nn.Module) -> nn.Module:
    """All weights of its first layer are 0."""
    first = next(module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    nn.init.zeros_(first.weight)
    return net


def filled(net: nn.Linear, number: float) -> nn.Module:
    nn.init.constant_(net.weight, number)
    return net


def huge_bias(net: nn.Linear) -> nn.Module:
    """A unit of weights far below its bias."""
    with torch.no_grad():
        net.weight[0] *= 1e-12
        net.bias[0] = 5.0
    return nn.Sequential(net, nn.Linear(net.out_features, 2))


class Slopes(nn.PReLU):
    """Of both signs."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)


class Squeezed(nn.Module):
    """Squeeze and excitation, a gate for each entry, and the difference of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.last = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.hardswish(self.first(x)), self.second(x)
        excited = F.hardsigmoid(self.up(F.relu(self.down(a.mean((2, 3), keepdim=True)))))
        return self.last((excited * a - 0.5 * (b * b.sigmoid())).flatten(1))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Linear(7, 3), (7,)),
    "no bias": (lambda: nn.Linear(7, 3, bias=False), (7,)),
    "mlp": (lambda: sequence(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1)), (9,)),
    "mlp of images": (
        lambda: sequence(
            nn.Flatten(), nn.Linear(24, 6), nn.BatchNorm1d(6), nn.ReLU6(), nn.Linear(6, 4)
        ),
        (2, 3, 4),
    ),
    "lenet": (
        lambda: sequence(
            *(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 7), nn.ReLU(), nn.Linear(7, 5)),
        ),
        (1, 20, 20),
    ),
    "conv 1-d": (
        lambda: sequence(
            *(nn.Conv1d(2, 5, 3, stride=2, padding=1), nn.BatchNorm1d(5), nn.ReLU()),
            *(nn.MaxPool1d(2), nn.Conv1d(5, 3, 2, dilation=2), nn.Flatten(), nn.Linear(9, 4)),
        ),
        (2, 20),
    ),
    "windows": (
        lambda: sequence(
            nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
            nn.Conv2d(4, 5, 3, dilation=2),
            nn.Conv2d(5, 2, (2, 3), padding="same"),
            nn.Conv2d(2, 2, (1, 2), stride=2, padding="valid"),
        ),
        (3, 9, 11),
    ),
    "groups": (
        lambda: sequence(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 12, 2, groups=6)),
        (4, 7, 7),
    ),
    "depthwise": (
        lambda: sequence(
            *(nn.Conv2d(5, 5, 3, groups=5, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
            *(nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        ),
        (5, 6, 6),
    ),
    "one channel": (
        lambda: sequence(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 2)),
        (1, 5, 5),
    ),
    "norm before": (
        lambda: sequence(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 2, 3),
        ),
        (3, 6, 6),
    ),
    "norm before padding": (
        lambda: sequence(
            *(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
            *(nn.Conv2d(4, 2, 3, padding=1), nn.MaxPool2d(2, 2, 1)),
        ),
        (3, 6, 6),
    ),
    "normalized": (
        lambda: sequence(
            Normalize([0.2, 0.5, 0.4], [0.3, 0.1, 0.6]), nn.Conv2d(3, 4, 3, padding=1)
        ),
        (3, 5, 5),
    ),
    "norm alone": (lambda: sequence(nn.BatchNorm2d(3), nn.Hardtanh(-0.3, 0.4)), (3, 4, 4)),
    "residual": (Residual, (3, 6, 6)),
    "squeezed": (Squeezed, (3, 3, 3)),
    "differences": (
        lambda: Function(lambda x: torch.sub(x.flip(2), x * x[:, :, :1, :1], alpha=0.3)),
        (2, 3, 4),
    ),
    "prelu": (
        lambda: sequence(nn.Conv2d(2, 3, 1), Slopes(3), nn.Flatten(), nn.Linear(27, 4), Slopes(1)),
        (2, 3, 3),
    ),
    "joined": (Joined, (2, 3, 4)),
    "broadcast": (
        lambda: Function(
            lambda x: (x - x.mean((2, 3), keepdim=True)) * x[:, :1] + x[:, :, :1] * x[..., :1],
            nn.Conv2d(2, 3, 1),
        ),
        (2, 3, 4),
    ),
    "heads": (lambda: Function(detected, nn.Conv2d(3, 5, 1)), (3, 4, 4)),
    "product within bounds": (
        lambda: Function(lambda x: (x * x.flip(1)).clamp(-2, 3), nn.Linear(3, 4)),
        (3,),
    ),
    "features as pixels": (
        lambda: sequence(
            *(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.BatchNorm1d(18), Slopes(18)),
            *(nn.Unflatten(1, (3, 6)), Function(lambda x: x.mT), Slopes(6)),
        ),
        (2, 3, 4),
    ),
    "borders below 0": (
        lambda: Function(
            lambda x: torch.cat([F.pad(x, (1, 1, 1, 1), value=-1.0), F.pad(x.sqrt(), (1,) * 4)], 1),
            nn.ReLU(),
        ),
        (1, 3, 3),
    ),
    "dead gates": (
        lambda: Function(lambda x: F.hardswish(x - 20) * F.hardsigmoid(x - 20) + x),
        (2, 3, 3),
    ),
    "shuffled": (Shuffled, (4, 4, 4)),
    "columns": (lambda: Selects(0, [3, 1, 11, 7, 7], nn.Linear(5, 3)), (2, 2, 3)),
    "many columns": (lambda: Selects(0, list(range(0, 300, 7)), nn.Linear(43, 2)), (300,)),
    "more columns": (lambda: Selects(0, list(range(0, 70_000, 700)), nn.Linear(100, 2)), (70_000,)),
    "channels": (lambda: Selects(1, [2, 0], nn.Conv2d(2, 3, 2)), (3, 4, 4)),
    "max pool": (
        lambda: sequence(
            *(nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
            *(nn.MaxPool2d((2, 1), 1), nn.Flatten(), nn.Linear(3 * 12, 2)),
        ),
        (2, 9, 9),
    ),
    "last windows": (
        lambda: sequence(
            *(nn.Conv2d(2, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
            *(nn.MaxPool2d(2, 3, 1, ceil_mode=True), Function(lambda x: x.sum((2, 3)))),
        ),
        (2, 9, 8),
    ),
    "mean pool": (
        lambda: sequence(
            nn.AvgPool2d(2), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.AdaptiveMaxPool2d((2, 1))
        ),
        (2, 8, 8),
    ),
    "map": (lambda: sequence(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)), (1, 6, 5)),
    "twice": (Twice, (3, 4, 4)),
    "nothing": (nn.Identity, (2, 3, 4)),
    "only moves": (lambda: sequence(nn.Flatten(), nn.Unflatten(1, (3, 2))), (2, 3)),
    "dead": (lambda: dead(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))), (4,)),
    "constant": (lambda: dead(nn.Sequential(nn.Linear(4, 3))), (4,)),
    "huge bias": (lambda: huge_bias(nn.Linear(4, 3)), (4,)),
    "single": (lambda: nn.Linear(1, 1), (1,)),
    "a number": (lambda: Function(lambda x: 2 * x.squeeze(1), nn.Linear(3, 1)), (3,)),
    "from a number": (lambda: Function(lambda x: 3 - x), ()),
    "clipped": (lambda: Function(lambda x: x.clip(-1, 1).clip_(max=0.5), nn.Linear(3, 4)), (3,)),
    "view": (lambda: Function(lambda x: F.relu(x.flip(2)).view(len(x), -1)), (2, 3, 4)),
    "in place": (lambda: Function(in_place, nn.Conv2d(3, 4, 1)), (3, 4, 4)),
}


def inputs_of(kind: str, count: int, spread: bool) -> Tensor:
    """Pixels in [0, 1], or numbers of both signs."""
    generator = torch.Generator().manual_seed(1)
    shape = (count, *KINDS[kind][1])
    if spread:
        return 2 * torch.randn(shape, generator=generator)
    return torch.randint(256, shape, generator=generator) / 255


FEW = ("lenet", "depthwise", "residual", "columns")
CASES = [("pixels", True, kind) for kind in FEW[:2]]
CASES += [("spread", int8, kind) for kind in KINDS for int8 in (True, False)]


@sampled(2)
@needs_gcc
@pytest.mark.parametrize(
    ("inputs", "int8", "kind"), [case if case[2] in FEW else rest(*case) for case in CASES]
)
def test_what_was_written_computes_the_same(
    inputs: str, int8: bool, kind: str, tmp_path: Path
) -> None:
    spread = inputs == "spread"
    torch.manual_seed(0)
    net = KINDS[kind][0]().eval()
    seen, x = inputs_of(kind, 64, spread), 1.3 * inputs_of(kind, 20, spread)
    written = lissom.export(net, seen[:1], tmp_path / "net.c", int8=seen if int8 else None)
    expected = net(torch.cat([seen, x])).detach().reshape(len(seen) + len(x), -1)
    found = computes(tmp_path, torch.cat([seen, x]))
    if int8:
        module = c.reference(net, seen[:1], seen)
        assert torch.equal(found, module(torch.cat([seen, x])).reshape(expected.shape))
        span = float(expected.max() - expected.min()) or 1.0
        assert float((found - expected)[:64].abs().max()) < 0.06 * span
        assert written.difference is not None
    else:
        assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))
        assert written.difference is not None and written.difference < 1e-5


CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "celu": lambda x: F.celu(x, 0.7),
    "cos": torch.cos,
    "elu": lambda x: F.elu_(x.clone(), 0.8),
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "glu": lambda x: F.glu(x.unflatten(1, (2, 20)), 1).flatten(1),
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "log": lambda x: (x.abs() + 0.1).log(),
    "log1p": lambda x: x.abs().log1p(),
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
    "pow": lambda x: F.relu(x) ** 2,
    "reciprocal": lambda x: 1 / (1 + x.float().abs()),
    "rsqrt": lambda x: (1 + x**2).rsqrt(),
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "softplus": lambda x: F.softplus(x, beta=2, threshold=3),
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "sqrt": lambda x: x.abs().sqrt(),
    "square": torch.square,
    "tanh": lambda x: x.clone().tanh_(),
    "threshold": lambda x: F.threshold(x, 0.3, -0.2),
}


def test_all_formulas_are_compared() -> None:
    assert set(CURVES) >= set(FORMULAS)


@sampled(2)
@needs_gcc
@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("kind", CURVES)
def test_activations_are_those_of_torch(kind: str, int8: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, seen = Function(CURVES[kind], nn.Linear(5, 40)), 3 * torch.randn(64, 5)
    lissom.export(net, seen[:1], tmp_path / "net.c", int8=seen if int8 else None)
    expected, found = net(seen).detach(), computes(tmp_path, seen)
    if int8:
        assert torch.equal(found, c.reference(net, seen[:1], seen)(seen))
    steps = 0.02 if int8 else 1e-6  # of the range; a curve may be steep, as a root is at 0
    error = (found - expected).abs()
    assert float(error.mean()) <= steps * float(expected.max() - expected.min())


def test_logarithms_of_positive_numbers(tmp_path: Path) -> None:
    """Answers to random numbers are not finite, those to the given ones are."""
    torch.manual_seed(0)
    x = torch.rand(16, 2, 6, 6) + 0.1
    for later in (nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2)):
        net = Function(lambda x, later=later: later(x.log()))
        assert lissom.export(net, x, tmp_path / "net.c").difference < 1e-5  # type: ignore[operator]
        lissom.export(net, x, tmp_path / "net.c", int8=x, tolerance=0.03)


@needs_gcc
def test_the_header_says_what_is_linked(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.ELU()), torch.rand(5, 3)
    lissom.export(net, x, tmp_path / "net.c")
    assert "Link with -lm: it calls expm1f, tanhf." in (tmp_path / "net.h").read_text()
    lissom.export(net, x, tmp_path / "net.c", int8=x)
    assert "-lm" not in (tmp_path / "net.h").read_text()


@needs_gcc
@pytest.mark.parametrize("kind", few(["lenet", "normalized"], ["normalized"]))
def test_images_may_be_given_as_bytes(kind: str, tmp_path: Path) -> None:
    """The bytes of an image are the integers of a network that was calibrated on k/255."""
    make, shape = KINDS[kind]
    net, x = make().eval(), torch.randint(256, (6, *shape))
    lissom.export(net, torch.rand(1, *shape), tmp_path / "net.c", int8=x / 255)
    assert "the bytes of an image" in (tmp_path / "net.h").read_text()
    found = computes(tmp_path, x.to(torch.uint8), OF_BYTES)
    assert torch.equal(found, c.reference(net, x / 255, x / 255)(x / 255).flatten(1))


@needs_gcc
@pytest.mark.parametrize(("int8", "entry"), [(True, "float"), (True, "bytes"), (False, "float")])
def test_the_margins_of_the_input_are_left_alone(int8: bool, entry: str, tmp_path: Path) -> None:
    """What no weight reads before the first and after the last input takes neither time nor RAM."""
    net = sequence(nn.Flatten(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        net[1].weight[:, :18] = net[1].weight[:, 31:] = net[1].weight[:, 20] = 0
    x = torch.randint(256, (9, 1, 4, 10))
    seen = x / 255 if int8 else None
    lissom.export(net, x[:1] / 255, tmp_path / "net.c", int8=seen)
    module = c.reference(net, x[:1] / 255, seen)
    assert (module.network.first, module.network.input.entries) == (16, 15)
    assert int8 == ("in += 16;" in (tmp_path / "net.c").read_text())
    if entry == "float":
        torn = x / 255
        torn.flatten(1)[:, [*range(16), *range(31, 40)]] = math.nan
        found = computes(tmp_path, torn)
    else:
        found = computes(tmp_path, x.to(torch.uint8), OF_BYTES)
    assert torch.allclose(found, module(x / 255), rtol=0, atol=0 if int8 else 1e-6)


@needs_gcc
def test_inputs_beyond_what_was_seen_are_the_nearest(tmp_path: Path) -> None:
    net, seen = nn.Linear(5, 3).eval(), torch.randn(50, 5)
    lissom.export(net, seen[:1], tmp_path / "net.c", int8=seen)
    odd = torch.tensor([math.inf, -math.inf, math.nan, 1e30, -1e30, -0.0, 1e-40, 300.0])
    x = odd[torch.randint(8, (40, 5))]
    assert torch.equal(computes(tmp_path, x), c.reference(net, seen, seen)(x))


@exhaustive
def test_integers_lose_little_on_real_digits(tmp_path: Path) -> None:
    from lissom.data import load_digits

    data = load_digits()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(60):
        opt.zero_grad()
        F.cross_entropy(net(data.train_x), data.train_y).backward()
        opt.step()
    module = c.reference(net, data.train_x[:1], data.train_x[:500])
    right = [float((f(data.test_x).argmax(1) == data.test_y).float().mean()) for f in (net, module)]
    assert right[0] > 0.9 and abs(right[0] - right[1]) < 0.01


def test_memory_is_used_again() -> None:
    """Only what a layer reads and writes is held at a time, and a border grows in its place."""
    layers = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(6)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 2))
    x = torch.rand(2, 4, 8, 8)
    assert programmed(c.reference(net, x, x).network).arena.bytes == 2 * 4 * 8 * 8
    padded = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 2)),
    )
    bytes_of = programmed(c.reference(padded, x, x).network).arena.bytes
    assert bytes_of == 4 * 10 * 10 + 4 * 10 * 10  # of both convolutions' inputs with borders


def test_no_layer_is_left_that_another_can_be() -> None:
    """BatchNorm, ReLU, pooling and standardised pixels are parts of the layers beside them."""
    net = sequence(
        *(Normalize([0.3], [0.2]), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)),
        *(nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.ReLU6()),
    ).eval()
    network = c.reference(net, torch.rand(1, 1, 8, 8)).network
    assert [layer.name for layer in network.layers] == ["1", "7"]


def test_what_it_takes_is_told(tmp_path: Path) -> None:
    x = torch.rand(20, 1, 20, 20)
    written = lissom.export(KINDS["lenet"][0](), x[:1], tmp_path / "net.c", int8=x)
    cost = written.cost
    assert cost is not None and written.opset is None and not written.dynamic
    assert written.bytes == sum((tmp_path / f"net.{end}").stat().st_size for end in "ch")
    assert [layer.macs for layer in cost.layers] == [256 * 75, 36 * 4 * 27, 36 * 7, 7 * 5]
    constants = [75 + 3 * 6, 108 + 4 * 6, 36 * 7 + 7 * 6, 7 * 5 + 5 * 8]  # and bias and scale
    assert [layer.flash for layer in cost.layers] == constants
    assert cost.flash > sum(constants) and cost.ram == cost.arena + cost.stack
    assert f"NET_ARENA_BYTES {cost.arena}\n" in (tmp_path / "net.h").read_text()
    told = str(cost)
    assert "convolution" in told and "23,375" in told and "Cortex-M4" in told
    assert cost.to_dict()["macs"] == cost.macs and "one example a call" in str(written)
    if shutil.which("arm-none-eabi-gcc"):
        estimate = replace(cost, compiled=None).flash
        assert cost.compiled is not None and abs(estimate - cost.compiled) < 1000


@needs_gcc
@pytest.mark.parametrize("int8", [False, True])
def test_the_order_of_outputs_is_counted(int8: bool, tmp_path: Path) -> None:
    """A table says where each output of a map stands, which lies channels last."""
    x = torch.rand(9, 2, 12, 12)
    net = nn.Conv2d(2, 3, 1)
    cost = lissom.export(net, x, tmp_path / "net.c", int8=x if int8 else None).cost
    assert cost is not None
    stored = (tmp_path / "net.c").read_text()
    sizes = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "float": 4}
    arrays = re.findall(r"static const (\w+) \w+\[(\d+)\]", stored)
    constants = sum(sizes[kind] * int(count) for kind, count in arrays)
    assert constants == sum(layer.flash for layer in cost.layers) > 2 * 3 * 12 * 12
    assert f"Flash: {constants:,} bytes of constants" in (tmp_path / "net.h").read_text()


class Constant(nn.Module):
    """A dense layer or convolution, and a constant behind it."""

    def __init__(self, by: Callable[[Tensor, Tensor], Tensor], *shape: int, image: bool) -> None:
        super().__init__()
        self.by, self.layer = by, nn.Conv2d(3, 4, 2) if image else nn.Linear(3, 4)
        self.register_buffer("constant", torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.by(self.layer(x), self.constant)


BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x + c": lambda x, c: x + c,
    "c - x": lambda x, c: c - x,
    "x * c": lambda x, c: x * c,
    "x / c": lambda x, c: x / c,
}
BROADCAST = [(True, shape) for shape in ((1, 4, 1, 1), (4, 1, 1), (1, 1, 1, 1), (1,), ())]
BROADCAST += [(False, shape) for shape in ((1, 4), (4,), (1, 1), ())]


@pairwise
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(("image", "shape"), BROADCAST)
def test_constants_broadcast_as_they_do_in_the_network(
    image: bool, shape: tuple[int, ...], by: str, int8: bool
) -> None:
    torch.manual_seed(0)
    net = Constant(BY[by], *shape, image=image).eval()
    x = torch.rand(50, *((3, 4, 4) if image else (3,)))
    found, expected = c.reference(net, x, x if int8 else None)(x), net(x).detach()
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=0.05 if int8 else 1e-5)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


def image(f: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> Case:
    return Function(f, layer), (3, 5, 6)


PADDED = {
    "below and on the right": image(lambda x: F.pad(x, (0, 1, 0, 1)), nn.Conv2d(3, 2, 3)),
    "beyond the range": image(lambda x: F.conv2d(F.pad(x, (0, 1, 2, 1), value=-5), KERNEL)),
    "for the largest": image(lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-math.inf), 3, 2)),
    "less than nothing": image(lambda x: F.pad(x, (-1, 1, 0, -2)), nn.Conv2d(3, 2, 1)),
    "channels": image(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 1)) + 1),
    "all": image(lambda x: F.pad(x, (1, 2, 0, 3, 2, 1), value=0.5)),
    "reflected": image(lambda x: x, nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect")),
    "circular": image(lambda x: x, nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
    "repeated": image(lambda x: x, nn.ReplicationPad2d((0, 1, 2, 0))),
    "vector": (Function(lambda x: F.pad(x, (1, 3), value=2)), (4,)),
    "causal": (
        nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 4, 3, dilation=2)),
        (3, 9),
    ),
}


@pairwise
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("inputs", ["pixels", "spread"])
@pytest.mark.parametrize("kind", PADDED)
def test_padding_is_that_of_the_network(kind: str, inputs: str, int8: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, shape = PADDED[kind]
    x = torch.randn(50, *shape) if inputs == "spread" else torch.randint(256, (50, *shape)) / 255
    written = lissom.export(net, x[:1], tmp_path / "net.c", int8=x if int8 else None)
    assert written.difference is not None and written.difference < (0.02 if int8 else 1e-5)


WITHOUT_C: dict[str, tuple[nn.Module, Tensor, str]] = {
    "operator": (
        nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)),
        torch.rand(1, 3),
        r"1 \(aten.softmax",
    ),
    "product": (
        Function(lambda x: x * x.flatten(1)[:, :1]),
        torch.rand(1, 3, 4, 4),
        r"as many dims as each other, and these are \[3, 4, 4\] and \[1\]",
    ),
    "examples in the product": (
        Function(lambda x: x[:, 0] * x[:, :1]),
        torch.rand(1, 3),
        r"as many dims as each other, and these are \[\] and \[1\]",
    ),
    "power": (Function(lambda x: x**3), torch.rand(1, 3), "powers are of 2, .* this is of 3"),
    "whole numbers": (
        Function(lambda x: x.long() + 0.5),
        torch.rand(1, 3),
        "activations are floats",
    ),
    "layer": (nn.LSTM(3, 2, batch_first=True), torch.rand(1, 4, 3), "has no form in C"),
    "outputs": (Two(), torch.rand(1, 3), "one input and one output; this one has 1 and 2"),
    "tokens": (nn.Linear(3, 2), torch.rand(1, 4, 3), r"reads \[4, 3\] of each example"),
    "volume": (nn.Conv3d(1, 2, 2), torch.rand(1, 1, 4, 4, 4), "channels, height and width"),
    "ceil": (nn.AvgPool2d(2, ceil_mode=True), torch.rand(1, 1, 5, 5), "where whole windows give"),
    "padding": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), torch.rand(1, 1, 5, 5), "padding"),
    "nothing": (nn.Linear(3, 0), torch.rand(1, 3), "no outputs"),
    "adaptive": (nn.AdaptiveAvgPool2d(2), torch.rand(1, 1, 5, 5), "windows of many sizes"),
    "batch": (nn.BatchNorm2d(3, track_running_stats=False), torch.rand(2, 3, 2, 2), "statistics"),
    "constant": (
        nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
        torch.rand(1, 3),
        r"1 \(aten.layer_norm",
    ),
    "larger": (
        Constant(lambda x, c: x[:, None] * c, 4, 1, image=False),
        torch.rand(2, 3),
        r"a constant of shape \[4, 1\] makes activations of \[1, 1, 4\] larger",
    ),
    "examples": (
        Constant(lambda x, c: x + c, 2, 4, image=False),
        torch.rand(2, 3),
        r"a constant of shape \[2, 4\] makes activations of \[1, 4\] larger",
    ),
    "random": (
        Constant(lambda x, c: F.dropout(x, 0.1), image=False),
        torch.rand(2, 3),
        r"dropout.default\) has no form in C: it gives another answer to the same input each time",
    ),
    "in place": (
        Function(over_a_view, nn.Conv2d(3, 4, 1)),
        torch.rand(2, 3, 4, 4),
        r"relu_.default\) has no form in C: it works in place on entries of flatten, which is read",
    ),
    "in place of a part": (
        Function(lambda x: x[:, :1].add_(1).sum() * 0 + x, nn.Conv2d(3, 4, 1)),
        torch.rand(2, 3, 4, 4),
        r"add_.Tensor\) has no form in C: it works in place on entries of conv2d, which is read",
    ),
    "no batch": (nn.Conv2d(1, 2, 3), torch.rand(1, 6, 7), "one example without a batch"),
    "pooling without a batch": (
        nn.AdaptiveAvgPool2d(2),
        torch.rand(2, 4, 6),
        "one example without a batch",
    ),
    "number": (Function(lambda x: 2 * x), torch.tensor(3.0), "this network reads a number"),
    "border": (nn.ConstantPad2d(1, math.inf), torch.rand(2, 3, 4, 4), "it pads with inf"),
    "more examples": (
        Function(lambda x: F.pad(x, (0, 0, 1, 1))),
        torch.rand(2, 3),
        "it pads the batch",
    ),
    "divided by 0": (
        Constant(lambda x, c: x / (c - c), image=False),
        torch.rand(2, 3),
        "some of layer, with what is folded into it, are NaN, infinite",
    ),
    "beyond float32": (
        filled(nn.Linear(3, 2).double(), 1e300),
        torch.rand(2, 3).double(),
        "some of weight are NaN, infinite or beyond float32: has training diverged",
    ),
}


@pytest.mark.parametrize("kind", WITHOUT_C)
def test_what_has_no_form_in_c_is_named(kind: str, tmp_path: Path) -> None:
    net, x, message = WITHOUT_C[kind]
    with pytest.raises(LissomError, match=message):
        lissom.export(net, x, tmp_path / "net.c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["0.weight", "1.bias", "1.running_var"])
@pytest.mark.parametrize("int8", [False, True])
def test_what_is_not_finite_is_named(name: str, number: float, int8: bool, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.rand(9, 3)
    net.state_dict()[name].flatten()[1] = number
    with pytest.raises(LissomError, match=f"^C is for finite weights, and some of {name} are NaN"):
        lissom.export(net, x, tmp_path / "net.c", int8=x if int8 else None)
    assert not list(tmp_path.iterdir())


@sampled(3)
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_network_may_be_of_other_floats(dtype: torch.dtype, int8: bool, tmp_path: Path) -> None:
    """The C is of float32, so that float64 cannot be met closer than that."""
    net, x = KINDS["depthwise"][0]().to(dtype), inputs_of("depthwise", 20, True).to(dtype)
    written = lissom.export(net, x[:2], tmp_path / "net.c", int8=x if int8 else None)
    digits = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert written.difference is not None
    assert written.difference < (0.1 if int8 else 10 * digits)


DROPOUTS: list[tuple[type[nn.Module], tuple[int, ...]]] = [
    *((kind, (4,)) for kind in (nn.Dropout, nn.AlphaDropout)),
    *((kind, (4, 3, 3)) for kind in (nn.Dropout2d, nn.FeatureAlphaDropout)),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("kind", "shape"), DROPOUTS)
def test_dropout_is_nothing(kind: Any, shape: tuple[int, ...], inplace: bool) -> None:
    net, x = nn.Sequential(nn.ReLU(), kind(0.5, inplace)), torch.rand(3, *shape)
    assert torch.equal(c.reference(net, x)(x), x)


def test_mistakes_are_told(tmp_path: Path) -> None:
    net, x = nn.Linear(3, 2), torch.rand(4, 3)

    def refused(message: str, path: str = "net.c", net: nn.Module = net, **options: Any) -> None:
        with pytest.raises(LissomError, match=message):
            lissom.export(net, x, tmp_path / path, **options)
        assert not list(tmp_path.iterdir())

    refused(r"stdint.h beside it, which would hide C's own <stdint.h>: take stdint_net", "stdint.c")
    refused(r"a_net\.c, for example, and not 2a-net.c", "2a-net.c")
    refused(r"a tensor \[n, 3\], got \[4, 5\]", int8=torch.rand(4, 5))
    refused("example_inputs", int8="train")
    refused("takes no opset", opset=18)
    refused("takes no int8", "net.pt2", int8=x)
    refused("gives nan", int8=torch.full((2, 3), math.nan))
    refused("differs from the network", int8=x, tolerance=1e-9)
    long = nn.Linear(70_000, 1)
    nn.init.ones_(long.weight)
    with pytest.raises(LissomError, match="70,000 products, more than 32 bits"):
        lissom.export(long, torch.rand(1, 70_000), tmp_path / "net.c", int8=torch.rand(2, 70_000))


@needs_gcc
def test_c_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(program: Any, name: str) -> str:
        return source(program, name).replace("sum = bias[o]", "sum = bias[o] + 9")

    monkeypatch.setattr(c, "source", broken)
    for int8 in (None, torch.rand(5, 3)):
        with pytest.raises(LissomError, match="compiled here, differs from its reference"):
            lissom.export(nn.Linear(3, 2), torch.rand(1, 3), tmp_path / "net.c", int8=int8)
    monkeypatch.setattr(c, "source", lambda program, name: "no C at all")
    with pytest.raises(LissomError, match=r"does not take the C that was written: .*error"):
        lissom.export(nn.Linear(3, 2), torch.rand(1, 3), tmp_path / "net.c")
    assert not list(tmp_path.iterdir())


def test_integers_do_not_hide_what_was_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relu = operators.RULES[torch.ops.aten.relu6.default]
    monkeypatch.setitem(operators.RULES, torch.ops.aten.relu.default, relu)
    net, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 8 * torch.ones(2, 3)
    nn.init.eye_(net[0].weight)
    with pytest.raises(LissomError, match="already in float32, so it was not written: by up to"):
        lissom.export(net, x, tmp_path / "net.c", int8=x)
    assert not list(tmp_path.iterdir())


@needs_gcc
def test_modules_may_have_any_names(tmp_path: Path) -> None:
    names = ("int", "order", "run", "run_weights", "ü", "ä", "3", "a/*b", "*/c", "a_b", "a b")
    net, x = nn.Sequential(), torch.rand(9, 4)
    for name in names:
        net.add_module(name, nn.Linear(4, 4))
        net.add_module(f"{name} relu", nn.ReLU())
    lissom.export(net, x, tmp_path / "net.c")
    assert torch.allclose(computes(tmp_path, x), net(x).detach(), atol=1e-6)


def test_it_is_written_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    written = lissom.export(nn.Linear(3, 2), torch.rand(1, 3), tmp_path / "net.c")
    assert written.cost is not None and written.cost.compiled is None
    assert written.difference is not None and "estimate" in str(written.cost)


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train().double()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    x = torch.rand(4, 1, 5, 5).double()
    lissom.export(net, x, tmp_path / "net.c", int8=x)
    assert net.training and all(
        torch.equal(before[name], x) for name, x in net.state_dict().items()
    )


@exhaustive
def test_the_command_line_writes_c_and_says_what_it_takes(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def says(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output
        return done.output

    says("train", "digits-demo", "--set", "train.epochs=2", "--out", run)
    told = says("export", run, "--to", "c")
    assert "on a Cortex-M4" in told and re.search("test error .* in float32, .* in int8", told)
    assert {"model.c", "model.h"} <= {file.name for file in run.iterdir()}
    found = json.loads(says("export", run, "--to", "c", "--float32", "--json").split("written:")[0])
    assert found["cost"]["macs"] == sum(layer["macs"] for layer in found["cost"]["layers"])
    assert "error_int8" not in found
