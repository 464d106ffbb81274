"""Gates that are trained: some close, some stay open, and what is left is smaller and equal."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from products import exhaustive, few
from sharded_cases import fork_several
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import L0
from lissom.coupling import units
from lissom.errors import GateError
from lissom.groups import weights
from lissom.methods.gates import gate, gates_of


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        return (x + self.norm2(self.conv2(inner))).relu()


def resnet() -> nn.Module:
    stem = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 4))  # fmt: skip


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.place = nn.Linear(8, 12), nn.Parameter(torch.randn(8, 12) * 0.1)
        layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.tokens(x) + self.place).mean(1))


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images 8 × 8 with stripes of one of four periods, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    phase = torch.arange(8) * (y[:, None] + 1) * torch.pi / 4
    return (torch.cos(phase)[:, None, :] + 0.3 * torch.randn(n, 8, 8, generator=generator)), y


Case = tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]
CASES: dict[str, Case] = {
    "resnet": (resnet, lambda x: x[:, None]),
    "transformer": (Transformer, lambda x: x),
}


@exhaustive
@pytest.mark.parametrize("name", few(CASES, ["resnet"]))
def test_trained_gates_close_and_the_net_shrinks(name: str) -> None:
    make, shaped = CASES[name]
    torch.manual_seed(0)
    net = make()
    example = shaped(stripes(2, 0)[0])
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    penalties = {units(net, example): L0(1e-4)}
    gates = gate(optimizer, net, penalties, gate_lr=5e-2, init=0.3, example_inputs=example)
    start = gates.log_alpha.detach().clone()
    net.train()
    for n in range(250):
        x, y = stripes(64, 100 + n)
        optimizer.zero_grad()
        (F.cross_entropy(net(shaped(x)), y) + gates.penalty()).backward()
        optimizer.step()
    net.eval()
    x, y = stripes(500, 1)
    moved = gates.log_alpha.detach() - start
    assert moved.abs().max() > 1 and (moved.abs() > 0.1).float().mean() > 0.9
    z = torch.cat([one.detach() for one in gates.test_gates()])
    assert 0 < int((z == 0).sum()) < len(z)
    expected = gates.expected().item() / gates.total()
    assert expected < 0.9
    with torch.no_grad():
        gated = net(shaped(x))
        accuracy = float((gated.argmax(-1) == y).float().mean())
        assert accuracy > 0.8  # chance is 0.25
        whole = sum(p.numel() for p in net.parameters()) - len(gates)
        gates.finalize()
        small = lissom.shrink(net, example)
        assert sum(p.numel() for p in small.parameters()) < whole
        assert (small(shaped(x)) - gated).abs().max() <= 1e-5 * gated.abs().max()
        exact, smaller = net.double(), lissom.shrink(net.double(), example.double())
        wide = shaped(x).double()
        found = exact(wide)
        assert (smaller(wide) - found).abs().max() <= 1e-10 * found.abs().max()


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        found: dict[str, Any] = {}
        for name, seed in (("same", 3), ("different", 3 + rank)):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            gates = gate(optimizer, net, {weights(net): L0(1e-3)}, gate_lr=1.0, seed=seed)
            with torch.no_grad():
                gates.log_alpha.zero_()  # the start depends on the seed as well
            parallel = nn.parallel.DistributedDataParallel(net)
            x = torch.ones(3, 6)
            found[name] = []
            for _ in range(3):
                optimizer.zero_grad()
                y = parallel(x)
                (y.square().mean() + gates_of(net).penalty()).backward()
                found[name].append(y.detach())
                optimizer.step()
            found[name + "-gradients"] = [p.grad for p in net.parameters()]
            found[name + "-parameters"] = [p.detach() for p in net.parameters()]
            assert gates.step == 3
            with gates.deployed():
                found[name + "-deployed"] = [p.detach().clone() for p in net.parameters()]
            gates.remove()
            wrapped = nn.parallel.DistributedDataParallel(net)
            with pytest.raises(GateError, match="gate the model first, then wrap it"):
                gate(optimizer, wrapped, {weights(net): L0(1e-3)})
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@exhaustive
@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes() -> None:
    """The same seed draws the same gates on all ranks; gradients are averaged in either case."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        fork_several(_rank, (folder,), 2)
        a, b = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a["same"], b["same"], strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a["different"], b["different"], strict=True))
    for name in ("same", "different"):
        for kind in ("gradients", "parameters", "deployed"):
            for x, y in zip(a[f"{name}-{kind}"], b[f"{name}-{kind}"], strict=True):
                assert torch.equal(x, y) and x.any()
