"""Calls that only look leave a network as it was, whatever its forward assigns or writes."""

import contextlib
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from products import pairwise
from torch import Tensor, nn

import lissom
from lissom.errors import LissomError
from lissom.exporting import export
from lissom.running import copied, unchanged

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two dense layers; `keep` does something with the activation between them."""

    def __init__(self, keep: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.keep = nn.Linear(6, 8), nn.Linear(8, 3), keep
        self.declared: Any = None
        self.log: list[Any] = []
        self.recent = deque([0, 1], maxlen=2)
        self.cache: dict[str, Any] = {"nested": {"list": []}}
        self.state: tuple[Any, ...] = ()
        self.calls, self.table = 0, torch.zeros(8)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        with torch.no_grad():
            self.a.weight[:4] = self.a.bias[:4] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        self.keep(self, y)
        return self.b(y)


KEEPING: dict[str, Callable[[Net, Tensor], Any]] = {
    "attribute": lambda net, y: setattr(net, "last", y),
    "declared": lambda net, y: setattr(net, "declared", y),
    "of a part": lambda net, y: setattr(net.a, "last", y),
    "list": lambda net, y: net.log.append(y),
    "deque": lambda net, y: net.recent.append(y),
    "dict": lambda net, y: net.cache.update(y=y),
    "nested": lambda net, y: net.cache["nested"]["list"].append((y, [y])),
    "tuple": lambda net, y: setattr(net, "state", (y, {"twice": 2 * y})),
    "number": lambda net, y: setattr(net, "calls", net.calls + 1),
    "buffer": lambda net, y: net.seen.add_(1),
    "other buffer": lambda net, y: setattr(net, "seen", net.seen + len(y)),
    "mean": lambda net, y: net.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1),
    "table": lambda net, y: net.table.copy_(torch.ones(8)),
}
LOOKING: dict[str, Callable[[Net, Path], Any]] = {
    "units": lambda net, path: lissom.units(net, X),
    "shrink": lambda net, path: lissom.shrink(net, X),
    "measure": lambda net, path: lissom.measure(net, X),
    "tolerance": lambda net, path: lissom.measure(net, X, tolerance=1e-3),
    "latency": lambda net, path: lissom.latency({"net": net}, X, rounds=1),
    "pt2": lambda net, path: lissom.export(net, X, path / "net.pt2"),
    "c": lambda net, path: lissom.export(net, X, path / "net.c"),
}


def state(held: Any) -> Any:
    """What something is and holds: objects, and the numbers of tensors and where they lie."""
    if isinstance(held, nn.Module):
        return id(held), state(vars(held))
    if isinstance(held, dict):
        return id(held), [(key, state(value)) for key, value in held.items()]
    if isinstance(held, list | tuple | deque):
        return id(held), [state(value) for value in held]
    if isinstance(held, Tensor):
        return id(held), type(held), held.data_ptr(), held.tolist()
    return id(held)


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "ran before"])
@pytest.mark.parametrize("look", LOOKING)
@pytest.mark.parametrize("keep", KEEPING)
@pairwise
def test_nothing_changes(keep: str, look: str, before: bool, tmp_path: Path) -> None:
    net = Net(KEEPING[keep])
    if before:
        net(X).sum().backward()
    there = state(net)
    with contextlib.suppress(LissomError):  # C has no mean over examples
        LOOKING[look](net, tmp_path)
    assert state(net) == there


def test_nothing_changes_for_onnx(tmp_path: Path) -> None:
    def keep(net: Net, y: Tensor) -> None:
        for name in KEEPING.keys() - {"table"}:  # which torch does not write
            KEEPING[name](net, y)

    net = Net(keep)
    there = state(net)
    lissom.export(net, X, tmp_path / "net.onnx")
    assert state(net) == there


@pytest.mark.parametrize("look", ["measure", "tolerance", "latency"])
def test_weights_that_forward_replaces(look: str, tmp_path: Path) -> None:
    """As layers with a bounded norm do; torch.export reads none of it."""
    net = Net(lambda net, y: setattr(net.b.weight, "data", net.b.weight.data * 0.5))
    there = state(net)
    LOOKING[look](net, tmp_path)
    assert state(net) == there


@pytest.mark.parametrize("keep", KEEPING)
def test_it_is_shrunk(keep: str) -> None:
    net = Net(KEEPING[keep])
    net(X).sum()
    small: Any = lissom.shrink(net, X)
    assert small.a.out_features == 4
    torch.testing.assert_close(small(X), net(X))


def test_what_is_not_a_part_of_the_network_is_put_back_too() -> None:
    """As when forward makes a layer, and when it fails halfway."""

    def keep(net: Net, y: Tensor) -> None:
        net.late = nn.Linear(2, 2)
        raise ValueError("no")

    net = Net(keep)
    there = state(net)
    with pytest.raises(LissomError, match="no"):
        lissom.measure(net, X)
    assert state(net) == there


def test_tensors_in_one_memory_stay_in_one() -> None:
    net = Net(lambda net, y: net.seen.add_(1))
    net.register_buffer("view", net.mean[2:])
    with unchanged(net):
        net.mean[3] = 7.0
        assert net.view[1] == 7.0
    assert net.view[1] == 0.0
    net.mean[3] = 7.0
    assert net.view[1] == 7.0


def test_a_backward_pass_may_follow() -> None:
    net = Net(lambda net, y: net.mean.mul_(0.9))
    loss = (net(X) * net.mean.sum()).sum()
    lissom.measure(net, X)
    loss.backward()
    assert net.a.weight.grad is not None


class Counts(nn.Module):
    """Answers with how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.a(x) + self.calls


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_begins_where_the_network_is(suffix: str, tmp_path: Path) -> None:
    exported = export(Counts(), X, tmp_path / f"net{suffix}")
    assert exported.difference is not None and exported.difference < 1e-5


def test_what_was_computed_is_copied_without_its_history() -> None:
    net = Net(lambda net, y: net.cache.update(y=[y, (2 * y,)]))
    net(X)
    [y, (twice,)] = copied(net).cache["y"]
    assert y.is_leaf and twice.is_leaf and torch.equal(twice, 2 * y)


def test_what_cannot_be_copied_is_told() -> None:
    net = Net(lambda net, y: None)
    net.stream = (n for n in range(3))
    with pytest.raises(LissomError, match=r"Net cannot be copied.*generator"):
        lissom.shrink(net, X)
    assert "cannot be copied" in str(lissom.measure(net, X).unshrunk)
    assert lissom.measure(net, X).macs == 6 * 8 + 8 * 3
    assert lissom.units(net, X).blocks


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def keep(net: Net, y: Tensor) -> None:
        if y.sum() > 0:
            net.calls += 1

    with pytest.raises(LissomError, match="Control flow that depends on values"):
        lissom.units(Net(keep), X)
    assert capsys.readouterr() == ("", "")


def test_hooks_run_along_since_they_may_change_what_is_computed() -> None:
    net = Net(lambda net, y: None)
    net.a.register_forward_hook(lambda layer, given, made: made * 2 + 1)
    with warnings.catch_warnings(action="error"):
        small = lissom.shrink(net, X)
    torch.testing.assert_close(small(X), net(X))
