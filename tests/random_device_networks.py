"""Random small networks of the layers that the export to C knows, some of their weights zero."""

import random

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """A residual branch: x + f(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Beside(nn.Module):
    """Two branches, their channels one after the other."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


class Mean(nn.Module):
    """The mean over all places of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def random_device_network(seed: int) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, and inputs to calibrate on, [64, …]: of the seed alone."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims = draw.choice([0, 1, 2, 2])
    if dims == 0:
        shape: tuple[int, ...] = (draw.randint(1, 40),)
        net = nn.Sequential(*_dense(draw, shape[0]))
    else:
        shape = (draw.randint(1, 4), *(draw.randint(6, 13) for _ in range(dims)))
        net = nn.Sequential(*_convolutions(draw, shape))
    spread = draw.choice([1.0, 4.0])
    x = torch.rand(64, *shape) if draw.random() < 0.5 else spread * torch.randn(64, *shape)
    _settle_(net, x, draw)
    return net.eval(), x


def _dense(draw: random.Random, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(draw.randint(0, 3)):
        wider = draw.randint(1, 40)
        layers += [nn.Linear(width, wider, bias=draw.random() < 0.8)]
        layers += [nn.BatchNorm1d(wider)] if draw.random() < 0.2 else []
        layers += _activation(draw)
        width = wider
    return [*layers, nn.Linear(width, draw.randint(1, 12))]


def _convolutions(draw: random.Random, shape: tuple[int, ...]) -> list[nn.Module]:
    two = len(shape) == 3
    layers: list[nn.Module] = []
    channels = shape[0]
    x = torch.zeros(1, *shape)
    for _ in range(draw.randint(1, 4)):
        block, after = _block(draw, channels, two)
        try:
            y = nn.Sequential(*block).eval()(x)
        except RuntimeError:  # the window is larger than what is left
            continue
        if y.numel() == 0:
            continue
        layers, channels, x = [*layers, *block], after, y
    if draw.random() < 0.4:
        layers.append(Mean())
        width = channels
    else:
        layers.append(nn.Flatten())
        width = x[0].numel()
    return [*layers, *_dense(draw, width)]


def _block(draw: random.Random, channels: int, two: bool) -> tuple[list[nn.Module], int]:
    """A few layers, and the channels after them."""
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if two else (nn.Conv1d, nn.BatchNorm1d)
    largest, mean = (nn.MaxPool2d, nn.AvgPool2d) if two else (nn.MaxPool1d, nn.AvgPool1d)
    kind = draw.choice(["plain", "plain", "depthwise", "pool", "mean", "sum", "beside"])
    if kind == "pool":
        return [largest(draw.choice([2, 3]), stride=draw.choice([1, 2]))], channels
    if kind == "mean":
        return [mean(2)], channels
    if kind == "sum":
        branch = [conv(channels, channels, 3, padding=1), *_activation(draw)]
        return [Sum(nn.Sequential(*branch)), *_activation(draw)], channels
    if kind == "beside":
        first, second = draw.randint(1, 4), draw.randint(1, 4)
        pair = conv(channels, first, 1), conv(channels, second, 3, padding=1)
        return [Beside(*pair), *_activation(draw)], first + second
    wider = channels if kind == "depthwise" else draw.randint(1, 9)
    window = draw.choice([1, 2, 3, 5]) if kind == "plain" else 3
    made = conv(
        channels,
        wider,
        window,
        stride=draw.choice([1, 1, 2]),
        padding=draw.choice([0, window // 2]),
        dilation=draw.choice([1, 1, 2]) if window == 3 else 1,
        groups=channels if kind == "depthwise" else 1,
        bias=draw.random() < 0.7,
    )
    after = [norm(wider)] if draw.random() < 0.4 else []
    pooled = [largest(2)] if draw.random() < 0.4 else []
    return [made, *after, *_activation(draw), *pooled], wider


def _activation(draw: random.Random) -> list[nn.Module]:
    return draw.choice([[nn.ReLU()], [nn.ReLU()], [nn.ReLU6()], [nn.Hardtanh()], []])


@torch.no_grad()
def _settle_(net: nn.Sequential, x: Tensor, draw: random.Random) -> None:
    """Statistics as after training, and zeros: none, some weights, most of them, or whole rows."""
    zeros = draw.choice([0.0, 0.0, 0.5, 0.9, 0.98])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.weight.mul_(torch.rand_like(module.weight) >= zeros)
            if draw.random() < 0.1:
                module.weight[0] = 0
    net.train()
    for _ in range(20):
        net(x)
