"""The sizes that a user's own code holds: the fewest change, and each of them has to."""

import json
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from products import few
from shrink_cases import EXACT, apart, drawn
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom.running import copied

DIM, WINDOW = 16, 16
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
Pair = namedtuple("Pair", "dim window")


@dataclass
class Config:
    dim: int = DIM
    window: int = WINDOW


@dataclass(frozen=True)
class Frozen:
    dim: int = DIM
    window: int = WINDOW


class Local(nn.Module):
    """A gated MLP over the last `window` steps, whose width is as large by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 2 * DIM), nn.Linear(DIM, 6)

    def sizes(self) -> tuple[int, int]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        dim, window = self.sizes()
        u, g = self.up(x[:, -window:]).split(dim, -1)
        return self.down(u * F.silu(g)).mean(1)


class Plain(Local):
    def __init__(self) -> None:
        super().__init__()
        self.dim, self.window = DIM, WINDOW

    def sizes(self) -> tuple[int, int]:
        return self.dim, self.window


class Listed(Local):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [WINDOW, DIM]

    def sizes(self) -> tuple[int, int]:
        return self.kept[1], self.kept[0]


class Tupled(Local):
    def __init__(self) -> None:
        super().__init__()
        self.kept = ((WINDOW, 1), {"dim": DIM})

    def sizes(self) -> tuple[int, int]:
        return self.kept[1]["dim"], self.kept[0][0]  # type: ignore[index]


class NamedTupled(Local):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Pair(DIM, WINDOW)

    def sizes(self) -> tuple[int, int]:
        return self.kept.dim, self.kept.window


class Configured(Local):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def sizes(self) -> tuple[int, int]:
        return self.config.dim, self.config.window


class Slotted(Local):
    __slots__ = ("dim", "window")

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.window = DIM, WINDOW

    def sizes(self) -> tuple[int, int]:
        return self.dim, self.window


class OfClass(Local):
    dim: ClassVar[int] = DIM
    window: ClassVar[int] = WINDOW

    def sizes(self) -> tuple[int, int]:
        return self.dim, self.window


class Property(Plain):
    @property
    def width(self) -> int:
        return self.dim

    def sizes(self) -> tuple[int, int]:
        return self.width, self.window


class Child(nn.Module):
    def forward(self, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        return x.split(dim, -1)


class Parent(nn.Module):
    """Its child is told the size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.child = nn.Linear(6, 2 * DIM), nn.Linear(DIM, 6), Child()
        self.dim, self.window = DIM, WINDOW

    def forward(self, x: Tensor) -> Tensor:
        u, g = self.child(self.up(x[:, -self.window :]), self.dim)
        return self.down(u * F.silu(g)).mean(1)


class Late(Plain):
    """The width is read for longer inputs alone."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x[:, -self.sizes()[1] :])
        u, g = h.split(self.dim, -1) if h.shape[1] > 7 else h.chunk(2, -1)
        return self.down(u * F.silu(g)).mean(1)


class Trained(Plain):
    """The width is read in training mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x[:, -self.sizes()[1] :])
        u, g = h.split(self.dim, -1) if self.training else h.chunk(2, -1)
        return self.down(u * F.silu(g)).mean(1)


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "attribute": (Plain, "dim"),
    "list": (Listed, "kept[1]"),
    "tuple and dict": (Tupled, "kept[1]['dim']"),
    "named tuple": (NamedTupled, "kept[0]"),
    "config": (lambda: Configured(Config()), "config.dim"),
    "frozen config": (lambda: Configured(Frozen()), "config.dim"),
    "namespace": (lambda: Configured(SimpleNamespace(dim=DIM, window=WINDOW)), "config.dim"),
    "slot": (Slotted, "dim"),
    "attribute of the class": (OfClass, "dim"),
    "property": (Property, "dim"),
    "parent": (Parent, "dim"),
    "late": (Late, "dim"),
    "training": (Trained, "dim"),
}


def halved(net: nn.Module, x: Any) -> nn.Module:
    """With every second unit at zero."""
    for family in lissom.units(net, x):
        alive = torch.arange(len(family.labels)) % 2  # type: ignore[attr-defined]
        family.scale_(alive.double())
    return net


@pytest.mark.parametrize("case", few(CASES, ["attribute", "tuple and dict", "frozen config"]))
def test_one_attribute_of_two_that_are_equal(case: str, tmp_path: Path) -> None:
    """The window stays, so that all lengths give the same; wherever the sizes are kept."""
    make, name = CASES[case]
    net = halved(drawn(make()), X)
    before = copied(net)
    small = lissom.shrink(net, X)
    assert type(small) is type(net) and small.shrinkage.attributes == {name: (DIM, DIM // 2)}
    assert f"{name} 16 → 8" in str(small.shrinkage)
    assert small.shrinkage.to_dict()["attributes"] == {name: [16, 8]}
    for length in (1, 5, 8, 9, 16, 17, 40):
        x = torch.randn(2, length, 6).double()
        assert apart(before, small, x) < EXACT and apart(before, net, x) == 0
    assert small.train()(X).shape == (2, 6)
    lissom.save(small, tmp_path / "small.safetensors")
    back = lissom.load(tmp_path / "small.safetensors", lambda: make().double())
    assert apart(small, back, X) == 0
    cut = lissom.shrink(net, X, in_place=True)
    assert cut is net and apart(before, cut, X) < EXACT


def test_a_configuration_of_others_stays() -> None:
    """What the changed size lies in is copied, also when the model itself is cut."""
    config = Config()
    one, other = (drawn(Configured(config)) for _ in range(2))
    lissom.shrink(halved(one, X), X, in_place=True)
    assert config == Config() and other(X).shape == (2, 6)


class Attention(nn.Module):
    """As many heads as a head is wide, and both get fewer."""

    def __init__(self, n: int = 8, open_: int | None = None) -> None:
        super().__init__()
        self.width, self.count, self.open = n, n, open_
        self.q, self.k, self.v = (nn.Linear(6, n * n) for _ in range(3))
        self.out = nn.Linear(n * n, 3)

    def split(self, x: Tensor) -> Tensor:
        last = self.width if self.open is None else self.open
        return x.view(*x.shape[:2], self.count, last).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        h = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return self.out(h.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("open_", [None, -1])
def test_two_attributes_equal_to_two_widths(open_: int | None) -> None:
    """Heads and their width are 8, and only the heads get fewer: the code says which is which."""
    net = drawn(Attention(open_=open_))
    heads = lissom.heads(net, X)
    assert len(heads) == 8
    heads.scale_([torch.arange(8) % 2.0 for _ in heads])
    small = lissom.shrink(net, X)
    assert type(small) is Attention and (small.count, small.width) == (4, 8)
    assert small.shrinkage.attributes == {"count": (8, 4)}
    for length in (1, 4, 8, 9, 17):
        x = torch.randn(3, length, 6).double()
        assert apart(net, small, x) < EXACT


class WithLoss(Plain):
    def loss(self, x: Tensor) -> Tensor:
        return self.up(x).unflatten(-1, (2, self.dim)).sum()

    def other(self, x: Tensor) -> Tensor:
        return self._parts(x) + self.window

    def error(self, x: Tensor, y: Tensor) -> Tensor:
        return (self(x) - y).square().mean()

    def _parts(self, x: Tensor) -> Tensor:
        return x / self.dim


class Chunked(WithLoss):
    def forward(self, x: Tensor) -> Tensor:
        u, g = self.up(x).chunk(2, -1)
        return self.down(u * F.silu(g)).mean(1)


def test_methods_that_no_check_runs() -> None:
    """Those that read a size that changed are named, and those that read one that did not."""
    net = halved(drawn(WithLoss()), X)
    with pytest.warns(UserWarning) as told:
        small = lissom.shrink(net, X)
    [said] = [str(w.message) for w in told]
    assert told[0].filename == __file__
    assert "WithLoss.loss reads dim, which is 8 now and was 16" in said
    assert "WithLoss.other reads dim" in said and ".error" not in said and "._parts" not in said
    small.loss(X)  # its meaning followed
    with pytest.warns(UserWarning, match="Chunked.loss reads dim, which is still 16"):
        small = lissom.shrink(halved(drawn(Chunked()), X), X)
    assert small.shrinkage.attributes == {} and type(small) is Chunked
    with warnings.catch_warnings(action="error"):
        lissom.shrink(halved(drawn(Plain()), X), X)
        lissom.measure(net, X)  # which shrinks a copy to count it


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.b(h * h.shape[-1] ** -0.5)


def test_a_size_that_is_read_as_a_number() -> None:
    """The own class would compute something else, and the graph does not."""
    net = halved(drawn(Scaled()), X)
    small = lissom.shrink(net, X)
    assert small.shrinkage.as_graph and small.shrinkage.removed == 4
    x = torch.randn(3, 9, 6).double()
    assert apart(net, small, x) < EXACT
    kept = lissom.shrink(net, X, as_graph=False).shrinkage
    assert kept.removed == 0 and "it would cost" in kept.kept[0].reason


def test_a_file_changes_no_more_than_sizes(tmp_path: Path) -> None:
    """A name in a file is an attribute that holds a whole number, or the file is refused."""
    small = lissom.shrink(halved(drawn(Listed()), X), X)
    path = tmp_path / "small.safetensors"
    surgery = small.shrinkage.surgery
    for name in ("kept[7]", "kept.append", "__class__", "kept[1", "kept", ""):
        surgery.sizes[""] = {name: 8}
        lissom.save(small, path)
        with pytest.raises(lissom.errors.RunError, match="is not what the factory made"):
            lissom.load(path, lambda: Listed().double())
    json.dumps(small.shrinkage.to_dict())


class Scales(nn.Module):
    """Its units are made by a vector that stretches one number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(-1, keepdim=True) * self.scale)


def test_what_goes_is_in_the_report_although_no_weight_makes_it() -> None:
    net = drawn(Scales())
    net.scale.data[::2] = 0
    small = lissom.shrink(net, X)
    assert apart(net, small, X) < EXACT and small.out.weight.shape == (3, 4)
    assert small.shrinkage.families == (("scale", "neurons", 8, 4),)
    assert small.shrinkage.removed == 4
