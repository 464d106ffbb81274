"""Generated C beside its reference: under sanitizers, and on microcontrollers under qemu."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from microcontrollers import BOARDS, Network, missing, on_host, run
from products import exhaustive, few, thinned
from random_device_networks import random_device_network
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from lissom.cli import app
from lissom.data import Dataset, load, load_digits
from lissom.exporting.c import reference
from lissom.exporting.c.compiling import ARM, CORTEX_M4
from lissom.exporting.c.costs import STACK_BYTES
from lissom.exporting.c.writing import header, programmed, source
from lissom.running import as_inputs

needs_gcc = pytest.mark.skipif(bool(missing()), reason=missing())
EACH = 6  # networks built into one program


def board_or_skip(name: str) -> None:
    if absent := missing(BOARDS[name]):
        pytest.skip(absent)


def written(
    net: nn.Module, x: Tensor, folder: Path, name: str, calibration: Tensor | None = None
) -> tuple[Network, np.ndarray]:
    """The C of a network, with inputs to run it on, and what its reference makes of them."""
    given = None if calibration is None else as_inputs(calibration)
    with torch.no_grad():
        computing = reference(net, as_inputs(x[:1]), given)
        expected = computing(x).flatten(1).numpy()
    program = programmed(computing.network)
    (folder / f"{name}.c").write_text(source(program, name))
    (folder / f"{name}.h").write_text(header(program, name))
    inputs = x.flatten(1).numpy().astype(np.float32)
    return Network(name, [folder / f"{name}.c"], inputs, expected.shape[1]), expected


@needs_gcc
@pytest.mark.parametrize("batch", few(thinned(range(50), 5), keep=[0]))
def test_random_networks_are_their_reference(batch: int, tmp_path: Path) -> None:
    """int8 bit for bit, float32 up to rounding; LISSOM_ALL=1 runs all 300."""
    networks, references, floats = [], [], []
    for seed in range(batch * EACH, (batch + 1) * EACH):
        net, calibration = random_device_network(seed)
        x = torch.cat([calibration[:4], 3 * torch.randn_like(calibration[:2])])
        for name, given in ((f"net{seed}", calibration), (f"net{seed}_float", None)):
            network, expected = written(net, x, tmp_path, name, given)
            networks.append(network)
            references.append(expected)
            floats.append(given is None)
    found = on_host(networks, tmp_path / "build")
    for network, outputs, expected, in_floats in zip(
        networks, found, references, floats, strict=True
    ):
        if in_floats:
            np.testing.assert_allclose(
                outputs,
                expected,
                rtol=1e-4,
                atol=1e-4 * np.abs(expected).max(),
                err_msg=network.name,
            )
        else:
            np.testing.assert_array_equal(outputs, expected, err_msg=network.name)


@pytest.mark.parametrize("seed", [13, 50, *few(range(0, 60, 6), keep=[])])
def test_the_stack_takes_no_more_than_is_told(seed: int, tmp_path: Path) -> None:
    board_or_skip("Cortex-M4")
    net, calibration = random_device_network(seed)
    network, _ = written(net, calibration[:2], tmp_path, "net", calibration)
    assert 0 < deepest(network.sources[0]) <= STACK_BYTES


def deepest(code: Path) -> int:
    """Bytes of stack of the deepest chain of calls on a Cortex-M4, as gcc tells them."""
    flags = [*CORTEX_M4.split(), "-Os", "-std=c99", "-ffreestanding", "-fcallgraph-info=su", "-c"]
    subprocess.run([ARM, *flags, code.name], cwd=code.parent, check=True)
    graph = code.with_suffix(".ci").read_text()
    frames = re.findall(r'title: "([^"]+)" label: "[^"]*?(\d+) bytes', graph)
    calls = re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', graph)
    bytes_of = {name: int(size) for name, size in frames}

    def depth(name: str) -> int:
        called = [depth(there) for here, there in calls if here == name]
        return bytes_of.get(name, 0) + max(called, default=0)

    return max(depth(name) for name in bytes_of)


LOOP = """
#include "loop.h"
static const uint8_t table[1000] = {1};
static volatile uint8_t kept[200];
void loop_infer(const float *in, float *out, void *arena)
{
    volatile uint8_t deep[4096];
    uint32_t n = (uint32_t)in[0];
    deep[0] = kept[n % 200] = table[n % 1000];
    *(volatile char *)arena = 0;
    *out = (float)(in[0] * 2);
    __asm__ volatile(".syntax unified\\n 1: subs %0, #1\\n bne 1b" : "+l"(n) : : "cc");
}
"""


def test_costs_are_what_a_program_is_known_to_need(tmp_path: Path) -> None:
    board_or_skip("Cortex-M4")
    (tmp_path / "loop.c").write_text(LOOP)
    (tmp_path / "loop.h").write_text(
        "#include <stdint.h>\n#define LOOP_ARENA_BYTES 300\n"
        "void loop_infer(const float *in, float *out, void *arena);\n"
    )
    x = np.array([[1000.0], [26_000.0]], np.float32)
    cost = run(
        BOARDS["Cortex-M4"], Network("loop", [tmp_path / "loop.c"], x, 1), tmp_path / "build"
    )
    assert cost.outputs.tolist() == [[2000.0], [52_000.0]]
    assert abs(cost.instructions - cost.least - 2 * 25_000) <= 5  # two a round; a tick is five
    assert 1000 < cost.flash < 1150  # the table and a little code
    assert cost.arena == 300 and cost.variables == 200 and 4096 < cost.stack < 4250
    assert cost.ram == cost.arena + cost.variables + cost.stack


def lenet() -> nn.Sequential:
    """LeNet-5 as it is when little is left of it."""
    return nn.Sequential(
        nn.Conv2d(1, 7, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(7, 8, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 26),
        nn.ReLU(),
        nn.Linear(26, 10),
    )


def sparse_mlp() -> nn.Sequential:
    """784-300-100 with a fiftieth of its weights."""
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(torch.rand_like(layer.weight) < 0.02)
                layer.weight.mul_(4)
    return net


def brought_up(net: nn.Sequential, data: Dataset) -> nn.Sequential:
    """A few steps of training, so that activations are as wide as a user's; zeros stay."""
    alive = [p != 0 for p in net.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for x, y in zip(
        data.train_x[:25_600].split(128), data.train_y[:25_600].split(128), strict=True
    ):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for p, living in zip(net.parameters(), alive, strict=True):
                p.mul_(living)
    return net.eval()


@pytest.fixture(scope="module", params=[lenet, sparse_mlp])
def trained(request: pytest.FixtureRequest) -> tuple[nn.Sequential, Dataset]:
    torch.manual_seed(0)
    data = load("mnist")
    return brought_up(request.param(), data), data


@exhaustive
@pytest.mark.real_data
@pytest.mark.parametrize("board", BOARDS)
def test_mnist_on_a_microcontroller(
    board: str, trained: tuple[nn.Sequential, Dataset], tmp_path: Path
) -> None:
    """Every logit equal: of 1,000 test images on a Cortex-M4, of 100 on the others.

    LISSOM_ALL=1 runs all 10,000.
    """
    board_or_skip(board)
    net, mnist = trained
    shown = thinned(range(10_000), 10) if board == "Cortex-M4" else range(100)
    x, y = mnist.test_x[shown], mnist.test_y[shown].numpy()
    network, expected = written(net, x, tmp_path, "net", mnist.train_x[:1000])
    found = run(BOARDS[board], network, tmp_path / "build")
    np.testing.assert_array_equal(found.outputs, expected)
    right = (found.outputs.argmax(1) == y).mean()
    assert right > 0.5
    pixels = Network("net", network.sources, np.rint(255 * network.x[:20]).astype(np.uint8), 10)
    bytewise = run(BOARDS[board], pixels, tmp_path / "build")
    np.testing.assert_array_equal(bytewise.outputs, expected[:20])
    assert bytewise.instructions < found.instructions  # it need not quantize


@exhaustive
def test_two_commands_from_a_recipe_to_flashed_sizes(tmp_path: Path) -> None:
    board_or_skip("Cortex-M4")
    runner, run_folder, c = CliRunner(), str(tmp_path / "run"), str(tmp_path / "digits.c")
    trained = runner.invoke(app, ["train", "digits-channels", "--quick", "--out", run_folder])
    assert trained.exit_code == 0, trained.output
    exported = runner.invoke(app, ["export", run_folder, "--to", "c", "--out", c])
    assert exported.exit_code == 0, exported.output
    told = re.search(r"flash +([\d,]+) bytes, compiled", exported.output)
    assert told and "in int8" in exported.output, exported.output
    x = load_digits().test_x[:20]
    network = Network("digits", [Path(c)], x.flatten(1).numpy(), 10)
    cost = run(BOARDS["Cortex-M4"], network, tmp_path / "build")
    assert abs(int(told[1].replace(",", "")) - cost.flash) < 200
