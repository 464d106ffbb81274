"""A keyword spotter: a small DS-CNN, and synthetic examples until you have your own."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn


def ds_cnn(classes: int = 4, width: int = 32, blocks: int = 3) -> nn.Module:
    """Depthwise-separable convolutions over spectrograms [n, 1, time, features]."""

    def block(inputs: int, kernel: tuple[int, int], stride: int, groups: int) -> list[nn.Module]:
        pad = (kernel[0] // 2, kernel[1] // 2)
        conv = nn.Conv2d(inputs, width, kernel, stride, pad, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(width), nn.ReLU()]

    layers = block(1, (5, 3), stride=2, groups=1)
    for _ in range(blocks):
        layers += block(width, (3, 3), stride=1, groups=width)
        layers += block(width, (1, 1), stride=1, groups=1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def synthetic(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Not speech: in each of four classes a tone rises or falls its own way, in noise."""
    draw = np.random.default_rng(seed)
    y, t = draw.integers(0, 4, n), np.linspace(0, 1, 25)
    ways = np.stack([t, 1 - t, abs(2 * t - 1), 1 - abs(2 * t - 1)])  # [class, time]
    pitch = 1 + 6 * ways[y] + draw.uniform(0, 2, (n, 1))
    x = np.exp(-((np.arange(10) - pitch[:, :, None]) ** 2)) + 0.4 * draw.normal(size=(n, 25, 10))
    return x[:, None].astype(np.float32), y


def write(file: Path) -> None:
    """An .npz file; put your own arrays in its place."""
    parts = {"train": synthetic(640, 0), "valid": synthetic(160, 1), "test": synthetic(160, 2)}
    arrays: dict[str, Any] = {}
    for part, (x, y) in parts.items():
        arrays |= {f"{part}_x": x, f"{part}_y": y}
    np.savez(file, **arrays)


if __name__ == "__main__":
    write(Path("kws.npz"))
