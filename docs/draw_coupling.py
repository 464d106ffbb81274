"""Draw units on the tensors they run through: docs/figures/coupling.svg.

python docs/draw_coupling.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from lissom.coupling import units
from lissom.groups import Member, Partition, Role

COLOURS = ("#00897b", "#ef6c00")
CELL = 0.1


class Block(nn.Module):
    """One residual block between a stem and a head, as small as can be drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 9, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.conv2 = nn.Conv2d(9, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, x + block(x), mean over positions, head."""
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.norm(self.conv1(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def draw(model: nn.Module, families: list[Partition]) -> plt.Figure:
    """Each tensor as a grid, rows × columns, with unit 2 of each family on it."""
    tensors = [
        (name, tensor)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.ndim
    ]
    figure, axes = plt.subplots(figsize=(9, 2.6))
    left = 0.0
    for layer, owned in _by_layer(tensors).items():
        start = left
        for name, tensor in owned:
            rows, columns = tensor.shape[0], tensor.shape[1] if tensor.ndim > 1 else 1
            _grid(axes, left, rows, columns)
            for family, colour in zip(families, COLOURS, strict=True):
                for member in family.members:
                    if member.name == name:
                        _slices(axes, left, rows, columns, member, colour)
            axes.text(
                left + columns * CELL / 2, -0.02, _short(name), ha="left", va="top", rotation=-60,
                fontsize=7, color="#555555",
            )  # fmt: skip
            left += columns * CELL + 0.1
        axes.text((start + left - 0.1) / 2, 1.0, layer, ha="center", fontsize=10)
        left += 0.3
    axes.set(xlim=(-0.05, left - 0.3), ylim=(-0.5, 1.15), aspect="equal")
    axes.axis("off")
    return figure


def _by_layer(tensors: list[tuple[str, Tensor]]) -> dict[str, list[tuple[str, Tensor]]]:
    layers: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        layers.setdefault(name.rpartition(".")[0], []).append((name, tensor))
    return layers


def _grid(axes: Axes, left: float, rows: int, columns: int) -> None:
    for row in range(rows):
        for column in range(columns):
            corner = (left + column * CELL, 0.92 - (row + 1) * CELL)
            axes.add_patch(Rectangle(corner, CELL, CELL, fc="#f3f3f3", ec="white", lw=0.6))


def _slices(axes: Axes, left: float, rows: int, columns: int, member: Member, colour: str) -> None:
    for index in torch.nonzero(member.index == 2).flatten().tolist():
        if member.dims == (0,):
            corner, width, height = (left, 0.92 - (index + 1) * CELL), columns * CELL, CELL
        else:
            corner, width, height = (left + index * CELL, 0.92 - rows * CELL), CELL, rows * CELL
        style = {
            Role.NORM: {"fc": colour, "alpha": 0.9},
            Role.ZEROED: {"fc": colour, "alpha": 0.4},
            Role.CUT: {"fc": "none", "ec": colour, "lw": 1.8},
        }[member.role]
        axes.add_patch(Rectangle(corner, width, height, **style))


def _short(name: str) -> str:
    last = name.rpartition(".")[2]
    return {"weight": "weight", "bias": "bias"}.get(last, last.replace("running_", ""))


if __name__ == "__main__":
    net = Block()
    found = list(units(net, torch.randn(2, 3, 8, 8)))
    out = Path(__file__).parent / "figures" / "coupling.svg"
    draw(net, found).savefig(out, bbox_inches="tight", transparent=False)
    print(out.name)
