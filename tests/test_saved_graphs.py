"""Traced graphs on disk: what they compute, return and train comes back, without code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.errors import RunError

X = torch.linspace(-1, 1, 24).reshape(4, 6)


class Everything(nn.Module):
    """What constants, nesting and gradients a graph may have."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)
        self.tied = nn.Linear(6, 8)
        self.tied.weight = self.a.weight
        self.b.weight.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            shift = (x * self.scale).sum(-1, keepdim=True).to(torch.float64)
        y = self.b((self.a(x) + self.tied(x)).relu())
        hidden = y.masked_fill(y < -9, -torch.inf).softmax(-1)
        half = (y + shift.to(x.dtype))[:, : y.shape[-1] // 2]
        return {"both": [hidden, (half,)], "type": torch.zeros_like(y, dtype=torch.int32)}


def shrunk() -> nn.Module:
    torch.manual_seed(0)
    net = Everything().eval()
    with torch.no_grad():
        for tensor in (net.a.weight, net.a.bias, net.tied.bias):
            tensor[2:5] = 0
    return lissom.shrink(net, X, as_graph=True)


def test_a_graph_comes_back_in_all_its_parts(tmp_path: Path) -> None:
    small = shrunk()
    assert lissom.measure(small).weights < 124
    lissom.save(small, tmp_path / "small")
    back = lissom.load(tmp_path / "small")
    x = torch.randn(3, 6)
    mine, theirs = small(x), back(x)
    assert mine.keys() == theirs.keys() and type(theirs["both"][1]) is tuple
    assert mine["type"].dtype == theirs["type"].dtype
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    mine, theirs = dict(small.named_parameters()), dict(back.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(theirs[name].requires_grad == p.requires_grad for name, p in mine.items())
    assert not any(isinstance(module, Everything) for module in back.modules())
    assert back.tied.weight is back.a.weight  # type: ignore[union-attr]
    for net in (small, back):
        net(x)["both"][1][0].sum().backward()
    assert all((p.grad is None) == (theirs[name].grad is None) for name, p in mine.items())
    again = lissom.shrink(back, X, as_graph=True)
    torch.testing.assert_close(again(x), back(x))


def test_a_graph_of_an_operation_of_ones_own_is_refused(tmp_path: Path) -> None:
    with torch.library._scoped_library("lissom_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")

        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(6, 3)

            def forward(self, x: Tensor) -> Tensor:
                return torch.ops.lissom_test.twice(self.a(x))

        small = lissom.shrink(Own().eval(), X, as_graph=True)
        with pytest.raises(RunError, match=r"lissom_test\.twice\.default is none of"):
            lissom.save(small, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []
