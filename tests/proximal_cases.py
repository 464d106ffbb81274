"""What the tests of proximal optimizers share: a small network, steps, optimizers, penalties."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import lissom
from lissom import L0, L1, L2, L1Ball, Threshold, TopK, kernels
from lissom.groups import Groups
from lissom.schedules import linear

LR = 0.01

GRANULARITIES = {"weights": lissom.weights, "kernels": kernels}
METRICS = ("euclidean", "adaptive")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, LR, momentum=0.9, dampening=0.9),
    "adagrad": lambda p: Adagrad(p, LR, lr_decay=0.1, initial_accumulator_value=0.1),
    "rmsprop": lambda p: RMSprop(p, LR, alpha=0.9, centered=True),
    "adam": lambda p: Adam(p, LR),
    "adamw": lambda p: AdamW(p, LR, amsgrad=True, fused=True),
}

PENALTIES = {
    "l0": L0(2.0),
    "l1": L1(4.0),
    "l2": L2(1.0),
    "l0+l1+l2": L0(1.0) + L1(1.0) + L2(1.0),
    "l0 ramp": L0(linear(0.0, 2.0, steps=4)),
    "top 30 %": TopK(fraction=0.3),
    "top 6 per layer": TopK(6, per="layer"),
    "top+l1+l2": TopK(fraction=0.6) + L1(1.0) + L2(1.0),
    "ball": L1Ball(0.3),
    "ball per layer": L1Ball(0.1, per="layer"),
    "threshold": Threshold(0.2),
}


def each(name: str, cases: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, cases.values(), ids=cases.keys())


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    """For 5 × 5 images in 2 channels, with kernels so unequal that every penalty kills some."""
    torch.manual_seed(seed)
    layers = OrderedDict(
        conv1=nn.Conv2d(2, 4, 3),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(4, 3, 2),
        flatten=nn.Flatten(),
        fc=nn.Linear(12, 5),
    )
    for layer in (layers["conv1"], layers["conv2"]):
        sizes = torch.logspace(-1.5, 0.5, layer.weight[..., 0, 0].numel())
        layer.weight.data *= sizes.view(*layer.weight.shape[:2], 1, 1)
    return nn.Sequential(layers).to(dtype)


def step(optimizer: Optimizer, n: int) -> None:
    """A step along gradients that depend on n alone."""
    generator = torch.Generator().manual_seed(n)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
    optimizer.step()


def loss_of(net: nn.Module, n: int) -> Tensor:
    """The loss on a batch that depends on n alone."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(8, 2, 5, 5, generator=generator)
    y = torch.randint(5, (8,), generator=generator)
    where = next(net.parameters())
    return F.cross_entropy(net(x.to(where)), y.to(where.device))


def train(net: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for n in steps:
        optimizer.zero_grad()
        loss_of(net, n).backward()
        optimizer.step()


def stand(optimizer: Optimizer, steps: int) -> None:
    """Steps along gradients next to 0: whatever moves is moved by the prox."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 1e-30)
    for _ in range(steps):
        optimizer.step()


def column(value: float, n: int = 4) -> nn.Linear:
    """n equal weights in float64."""
    net = nn.Linear(n, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(net.weight, value)
    return net


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """The same zeros, and survivors equal up to rounding."""
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p == 0, q == 0), name
        eps = 4 * torch.finfo(p.dtype).eps
        torch.testing.assert_close(p, q, rtol=eps, atol=eps)


def nonzeros(groups: Groups) -> int:
    return sum(int(torch.count_nonzero(norms)) for norms in groups.norms())
