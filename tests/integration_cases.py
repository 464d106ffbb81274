"""What the tests of integrations share: one network, its batches in one order, and every method."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fifth_method import Rewinding, RewindingOptions
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import lissom
from lissom import L0, L1, TopK
from lissom.schedules import cubic

EXAMPLES, BATCH, EPOCHS = 48, 8, 4
PER_EPOCH = EXAMPLES // BATCH
STEPS = EPOCHS * PER_EPOCH
MIDDLE = STEPS // 2

Make = Callable[[Optimizer, nn.Module], lissom.Method]

METHODS: dict[str, Make] = {
    "proximal": lambda opt, net: lissom.proximal(
        opt, {lissom.weights(net): TopK(fraction=cubic(1, 0.2, STEPS))}, every=5, metric="adaptive"
    ),
    "gates": lambda opt, net: lissom.gate(opt, net, {lissom.weights(net): L0(5e-3)}, seed=0),
    "lc": lambda opt, net: lissom.lc(
        opt, {lissom.weights(net): TopK(fraction=0.2)}, every=4, c_steps=9, mu=0.5
    ),
    "nested": lambda opt, net: lissom.nested(
        opt, net, {lissom.weights(net): TopK(fraction=0.2)}, smallest=0.1, falls=MIDDLE
    ),
    "subgradient": lambda opt, net: lissom.subgradient(opt, {lissom.weights(net): L1(1e-3)}),
    "a user's own": lambda opt, net: Rewinding(
        opt, {lissom.weights(net): TopK(fraction=0.2)}, RewindingOptions(every=5, start=3)
    ),
}
# Over by the middle, where training is resumed: what the methods added is gone by then.
ENDED: dict[str, Make] = {
    "ended proximal": lambda opt, net: lissom.proximal(
        opt, {lissom.weights(net): TopK(fraction=0.2, per="layer")}, finalize_at=MIDDLE - 2
    ),
    "ended gates": lambda opt, net: lissom.gate(
        opt, net, {lissom.weights(net): L0(5e-3)}, seed=0, finalize_at=MIDDLE - 2
    ),
}
ALL = METHODS | ENDED


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def examples() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(EXAMPLES) % 3
    x = torch.randn(3, 6, generator=generator)[y]
    return TensorDataset(x + 0.5 * torch.randn(x.shape, generator=generator), y)


def loader() -> DataLoader[Any]:
    return DataLoader(examples(), BATCH)


def adam(net: nn.Module) -> AdamW:
    return AdamW(net.parameters(), lr=0.02, weight_decay=0.0)


def own_loop(make: Make, *, clip: float | None = None, accumulate: int = 1) -> nn.Module:
    """The loop of the documentation."""
    net = Net()
    opt = adam(net)
    method = make(opt, net)
    for _ in range(EPOCHS):
        for i, (x, y) in enumerate(loader()):
            loss = F.cross_entropy(net(x), y) + method.penalty()
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                opt.step()
                opt.zero_grad()
    method.finalize()
    return net


def weights(net: nn.Module) -> list[Tensor]:
    assert all("log_alpha" not in name for name, _ in net.named_parameters())
    return [p.detach() for p in net.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def require_same_zeros(net: nn.Module, reference: nn.Module) -> None:
    """The same zeros, and but for rounding the same weights."""
    for a, b in zip(weights(net), weights(reference), strict=True):
        assert torch.equal(a == 0, b == 0)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def zeros(net: nn.Module) -> int:
    return sum(int((w == 0).sum()) for w in weights(net))
