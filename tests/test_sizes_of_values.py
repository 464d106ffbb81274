"""Sizes that depend on values: what is made of such a tensor stays, and all else can go."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.errors import GroupError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([True, False, True, True])


class Net(nn.Module):
    """Two dense layers, the second on some of the examples."""

    def __init__(self, pick: Callable[[Tensor, Tensor], Any], beside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.pick, self.beside = nn.Linear(6, 8), nn.Linear(8, 3), pick, beside
        with torch.no_grad():
            self.a.weight[:4] = self.a.bias[:4] = 0.0

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        y = torch.relu(self.a(x))
        if self.beside:
            return self.b(y), self.pick(x, mask)
        return self.b(self.pick(y, mask))


PICKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda y, mask: y[mask],
    "nonzero": lambda y, mask: y[torch.nonzero(mask)[:, 0]],
    "repeat_interleave": lambda y, mask: torch.repeat_interleave(y, mask.long() + 1, 0),
    "slice": lambda y, mask: y[: mask.sum().item()],  # type: ignore[misc]
}


@pytest.mark.parametrize("pick", PICKS)
def test_what_is_read_by_value_stays(pick: str) -> None:
    net = Net(PICKS[pick], beside=False).eval()
    named = {"nonzero": "index"}.get(pick, pick)
    with pytest.raises(GroupError, match=rf"aten\.{named} pins dim 1 .* depend on values"):
        lissom.units(net, (X, MASK))
    small: Any = lissom.shrink(net, (X, MASK))
    assert small.a.out_features == 8 and torch.equal(small(X, MASK), net(X, MASK))
    measured = lissom.measure(net, (X, MASK))
    assert measured.macs == 4 * 6 * 8 + len(net(X, MASK)) * 8 * 3 and measured.unshrunk is None


@pytest.mark.parametrize("pick", PICKS)
def test_what_is_beside_it_goes(pick: str) -> None:
    net = Net(PICKS[pick], beside=True).eval()
    units = lissom.units(net, (X, MASK))
    assert [(len(block.norms()), block.macs) for block in units.blocks] == [(8, 6 + 3)]
    small: Any = lissom.shrink(net, (X, MASK))
    assert small.a.out_features == 4
    torch.testing.assert_close(small(X, MASK), net(X, MASK))
    assert lissom.measure(net, (X, MASK)).macs == 6 * 8 + 8 * 3
