"""C for a microcontroller: it computes what the network computes, or it is not written."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.exporting import c
from lissom.models.normalize import Normalize

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
STRICT = "-std=c99 -O1 -Wall -Wextra -pedantic -Werror -Wconversion -Wno-sign-conversion".split()
SAFE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "net.h"

int main(void)
{
    void *arena = malloc(NET_ARENA_BYTES);
    float *x = malloc(sizeof(float) * NET_INPUTS), *y = malloc(sizeof(float) * NET_OUTPUTS);
    FILE *in = fopen("x.bin", "rb"), *out = fopen("y.bin", "wb");
    while (fread(x, sizeof(float), NET_INPUTS, in) == NET_INPUTS) {
        net_infer(x, y, arena);
        fwrite(y, sizeof(float), NET_OUTPUTS, out);
    }
    fclose(out);
    free(x), free(y), free(arena), fclose(in);
    return 0;
}
"""


def computes(folder: Path, x: Tensor, main: str = MAIN) -> Tensor:
    """The outputs of net.c, compiled with all warnings and sanitizers, in a process of its own."""
    (folder / "main.c").write_text(main)
    command = ["gcc", *STRICT, *SAFE, "net.c", "main.c", "-o", "net"]
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


def huge_bias(net: nn.Linear) -> nn.Module:
    """A unit of weights far below its bias."""
    with torch.no_grad():
        net.weight[0] *= 1e-12
        net.bias[0] = 5.0
    return nn.Sequential(net, nn.Linear(net.out_features, 2))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Linear(7, 3), (7,)),
    "no bias": (lambda: nn.Linear(7, 3, bias=False), (7,)),
    "mlp": (lambda: sequence(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1)), (9,)),
    "mlp of images": (
        lambda: sequence(nn.Flatten(), nn.Linear(24, 6), nn.BatchNorm1d(6), nn.ReLU6(), nn.Linear(6, 4)),
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
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3),
        ),
        (3, 6, 6),
    ),  # fmt: skip
    "normalized": (
        lambda: sequence(Normalize([0.2, 0.5, 0.4], [0.3, 0.1, 0.6]), nn.Conv2d(3, 4, 3, padding=1)),
        (3, 5, 5),
    ),
    "norm alone": (lambda: sequence(nn.BatchNorm2d(3), nn.Hardtanh(-0.3, 0.4)), (3, 4, 4)),
    "residual": (Residual, (3, 6, 6)),
    "shuffled": (Shuffled, (4, 4, 4)),
    "columns": (lambda: Selects(0, [3, 1, 11, 7, 7], nn.Linear(5, 3)), (2, 2, 3)),
    "many columns": (lambda: Selects(0, list(range(0, 300, 7)), nn.Linear(43, 2)), (300,)),
    "channels": (lambda: Selects(1, [2, 0], nn.Conv2d(2, 3, 2)), (3, 4, 4)),
    "max pool": (
        lambda: sequence(
            *(nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
            *(nn.MaxPool2d((2, 1), 1), nn.Flatten(), nn.Linear(3 * 12, 2)),
        ),
        (2, 9, 9),
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
}  # fmt: skip


def inputs_of(kind: str, count: int, spread: bool) -> Tensor:
    """Pixels in [0, 1], or numbers of both signs."""
    generator = torch.Generator().manual_seed(1)
    shape = (count, *KINDS[kind][1])
    if spread:
        return 2 * torch.randn(shape, generator=generator)
    return torch.randint(256, shape, generator=generator) / 255


@needs_gcc
@pytest.mark.parametrize("spread", [False, True], ids=["pixels", "spread"])
@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_computes_the_same(
    kind: str, int8: bool, spread: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = KINDS[kind][0]().eval()
    seen, x = inputs_of(kind, 64, spread), 1.3 * inputs_of(kind, 20, spread)
    written = lissom.export(net, seen[:1], tmp_path / "net.c", int8=seen if int8 else None)
    expected = net(torch.cat([seen, x])).detach().flatten(1)
    found = computes(tmp_path, torch.cat([seen, x]))
    if int8:
        module = c.reference(net, seen[:1], seen)
        assert torch.equal(found, module(torch.cat([seen, x])).flatten(1))
        span = float(expected.max() - expected.min()) or 1.0
        assert float((found - expected)[:64].abs().max()) < 0.06 * span
        assert written.difference is not None
    else:
        assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))
        assert written.difference is not None and written.difference < 1e-5
