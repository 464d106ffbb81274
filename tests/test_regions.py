"""Parts without gradients, or with autocast that is off: units are followed through them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import lissom

X = torch.linspace(-1, 1, 40).view(4, 10)
Region = Callable[[], AbstractContextManager[object]]


class Within(nn.Module):
    """Its second layer is in a region; a buffer is read there, and a sum over its units."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.region = region
        self.first, self.second = nn.Linear(10, 16), nn.Linear(16, 12)
        self.third, self.head = nn.Linear(12, 8), nn.Linear(8, 2)
        self.register_buffer("shift", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        with self.region():
            x = self.second(x).relu()
            total, x = x.sum(1, keepdim=True) * self.shift, x * 2
        return self.head(self.third(x).relu()) + total


class Both(AbstractContextManager[object]):
    """A region within a region."""

    def __enter__(self) -> None:
        self.within = [torch.no_grad(), torch.autocast("cpu", enabled=False)]
        for region in self.within:
            region.__enter__()

    def __exit__(self, *error: object) -> None:
        for region in reversed(self.within):
            region.__exit__(None, None, None)


REGIONS: dict[str, Region] = {
    "none": nullcontext,
    "no_grad": torch.no_grad,
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "autocast elsewhere": lambda: torch.autocast("cuda", torch.float16),
    "both": Both,
}


def halved(net: nn.Module) -> lissom.Groups:
    groups = lissom.neurons(net, X)
    groups.scale_([(torch.arange(n.numel()) % 2).to(n) for n in groups.norms()])
    return groups


@pytest.mark.parametrize("as_graph", [None, True])
@pytest.mark.parametrize("name", REGIONS)
def test_units_are_followed_through(name: str, as_graph: bool | None, tmp_path: Path) -> None:
    net = Within(REGIONS[name])
    assert len(halved(net).blocks) == 3
    small = lissom.shrink(net, X, as_graph=as_graph)
    assert isinstance(small, fx.GraphModule) == bool(as_graph)
    assert lissom.measure(small, X).macs == 10 * 8 + 8 * 6 + 6 * 4 + 4 * 2
    torch.testing.assert_close(small(X), net(X), rtol=0, atol=1e-6)
    lissom.save(small, tmp_path / "small")
    again = lissom.load(tmp_path / "small", *([] if as_graph else [lambda: Within(REGIONS[name])]))
    assert torch.equal(again(X), small(X))
    for one in (net, small, again):
        one(X).sum().backward()
    trained = [
        {name for name, p in one.named_parameters() if p.grad is not None}
        for one in (net, small, again)
    ]
    assert trained[0] == trained[1] == trained[2]
    assert ("first.weight" in trained[0]) == (name not in ("no_grad", "both"))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_gradient_checkpointing_runs_again(reentrant: bool) -> None:
    class Again(Within):
        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(self.second, self.first(x).relu(), use_reentrant=reentrant).relu()
            return self.head(self.third(x).relu())

    net = Again(nullcontext)
    halved(net)
    small = lissom.shrink(net, X)
    assert lissom.measure(small, X).macs == 10 * 8 + 8 * 6 + 6 * 4 + 4 * 2
    torch.testing.assert_close(small(X), net(X), rtol=0, atol=1e-6)
    small(X.clone().requires_grad_()).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_region_of_another_dtype_stays_closed() -> None:
    groups = lissom.neurons(Within(lambda: torch.autocast("cpu", torch.bfloat16)), X)
    assert [block.name for block in groups] == ["third.weight"]
