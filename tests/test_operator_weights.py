"""Weights elsewhere than in a layer: on the left, stacked, complex, quantised, in cells."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from products import exhaustive, few, sampled
from shrink_cases import Between as Net
from shrink_cases import assert_equal, drawn, inputs, refusals, report, zero_half_
from torch import Tensor, nn

import lissom
from lissom.coupling import units
from lissom.measuring.macs import forward_pass
from lissom.running import as_inputs


def weight(*shape: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    generator = torch.Generator().manual_seed(sum(shape))
    return nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator))


def dense(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, dtype=torch.float64)


relu = F.relu
Forward = Callable[..., Tensor]
Layers = dict[str, nn.Module | nn.Parameter]
TOKENS, THREE = (5, 6), (6,)
# name: (forward, its layers, shape of an example, units)
PRODUCTS: dict[str, tuple[Forward, Layers, tuple[int, ...], list[int]]] = {
    "stacked": (
        lambda m, x: (relu(relu(x.expand(3, -1, -1) @ m.a) @ m.b) @ m.c).mean(0),
        dict(a=weight(3, 6, 8), b=weight(3, 8, 7), c=weight(3, 7, 2)),
        THREE,
        [8, 7],
    ),
    "on the left": (
        lambda m, x: m.b @ relu(m.a @ x.mT),
        dict(a=weight(8, 6), b=weight(2, 8)),
        TOKENS,
        [8],
    ),
    "a vector": (lambda m, x: relu(x @ m.a) @ m.b, dict(a=weight(6, 8), b=weight(8)), TOKENS, [8]),
    "inner": (
        lambda m, x: torch.inner(relu(torch.inner(x, m.a)), m.b),
        dict(a=weight(8, 6), b=weight(2, 8)),
        TOKENS,
        [8],
    ),
    "baddbmm": (
        lambda m, x: torch.baddbmm(
            m.d, relu(torch.baddbmm(m.c, x.expand(3, -1, -1), m.a)), m.b
        ).mean(0),
        dict(a=weight(3, 6, 8), b=weight(3, 8, 2), c=weight(3, 1, 8), d=weight(3, 1, 2)),
        THREE,
        [8],
    ),
    "baddbmm with factors": (
        lambda m, x: (
            torch.baddbmm(m.c, x.expand(3, -1, -1), m.a, beta=0.5, alpha=2).tanh().mean(0) @ m.b
        ),
        dict(a=weight(3, 6, 8), b=weight(8, 2), c=weight(8)),
        THREE,
        [8],
    ),
    "addbmm": (
        lambda m, x: relu(torch.addbmm(m.c, x.expand(3, -1, -1), m.a)) @ m.b,
        dict(a=weight(3, 6, 8), b=weight(8, 2), c=weight(8)),
        THREE,
        [8],
    ),
    "einsum with dots": (
        lambda m, x: m.o(relu(torch.einsum("...d,de->...e", relu(m.i(x)), m.a))),
        dict(i=dense(6, 8), a=weight(8, 7), o=dense(7, 3)),
        TOKENS,
        [8, 7],
    ),
    "einsum of three": (
        lambda m, x: m.o(torch.einsum("bti,ij,jk->btk", relu(m.i(x)), m.a, m.b)),
        dict(i=dense(6, 8), a=weight(8, 7), b=weight(7, 5), o=dense(5, 3)),
        TOKENS,
        [8, 7, 5],
    ),
    "experts": (
        lambda m, x: (
            torch.einsum("bteh,ehd->bted", relu(torch.einsum("btd,edh->bteh", x, m.a)), m.b)
            * m.g(x).softmax(-1)[..., None]
        ).sum(2),
        dict(a=weight(3, 6, 8), b=weight(3, 8, 6), g=dense(6, 3)),
        TOKENS,
        [8],
    ),
    "experts that are added": (
        lambda m, x: torch.einsum(
            "bteh,ehd->btd", relu(torch.einsum("btd,edh->bteh", x, m.a)), m.b
        ),
        dict(a=weight(4, 6, 8), b=weight(4, 8, 6)),
        TOKENS,
        [4],
    ),
    "bilinear": (
        lambda m, x: m.o(relu(m.w(relu(m.a(x)), relu(m.b(x))))),
        dict(a=dense(6, 8), b=dense(6, 7), w=nn.Bilinear(8, 7, 5), o=dense(5, 2)),
        TOKENS,
        [8, 7, 5],
    ),
}


@sampled(2)
@pytest.mark.parametrize("as_graph", [None, pytest.param(True, marks=exhaustive)])
@pytest.mark.parametrize(
    "name", few(PRODUCTS, ["stacked", "baddbmm", "einsum of three", "experts"])
)
def test_weights_on_the_left_or_stacked(name: str, as_graph: bool | None) -> None:
    f, layers, shape, sizes = PRODUCTS[name]
    net, x = drawn(Net(f, **deepcopy(layers))), inputs(*shape)
    assert sorted(len(family.labels) for family in units(net, x)) == sorted(sizes)
    removed_exactly(net, x, as_graph)


@pytest.mark.parametrize("name", ["stacked", "baddbmm", "einsum with dots", "experts", "addbmm"])
def test_macs_of_products(name: str) -> None:
    """By hand: each product of matrices once."""
    f, layers, shape, _ = PRODUCTS[name]
    net, x = drawn(Net(f, **deepcopy(layers))), inputs(*shape)
    assert (
        forward_pass(net, as_inputs(x)).total
        == {
            "stacked": 3 * 2 * (6 * 8 + 8 * 7 + 7 * 2),
            "baddbmm": 3 * 2 * (6 * 8 + 8 * 2),
            "addbmm": 3 * 2 * 6 * 8 + 2 * 8 * 2,
            "einsum with dots": 2 * 5 * (6 * 8 + 8 * 7 + 7 * 3),
            "experts": 2 * 5 * 3 * (6 * 8 + 8 * 6 + 6),
        }[name]
    )


def complex_(layer: type[nn.Module], *sizes: int, **options: object) -> nn.Module:
    torch.manual_seed(sum(sizes))
    return layer(*sizes, dtype=torch.complex128, **options)


def signal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, dtype=torch.complex128, generator=generator)


C = torch.complex128
# name: (forward, its layers, an input, units)
COMPLEX: dict[str, tuple[Forward, Layers, Tensor, list[int]]] = {
    "gated by size": (
        lambda m, z: m.b((h := m.a(z)) * torch.sigmoid(h.abs())).mean(-1).abs(),
        dict(a=complex_(nn.Conv1d, 2, 8, 5), b=complex_(nn.Conv1d, 8, 3, 3)),
        signal(2, 2, 24),
        [8],
    ),
    "grouped": (
        lambda m, z: m.c(m.b(m.a(z)).mean(-1)).real,
        dict(
            a=complex_(nn.Conv1d, 2, 8, 5),
            b=complex_(nn.Conv1d, 8, 4, 3, groups=2),
            c=complex_(nn.Linear, 4, 2),
        ),
        signal(2, 2, 24),
        [4, 2],
    ),
    "size and angle": (
        lambda m, z: m.b(torch.polar(relu(m.a(z).abs() - 0.1), m.a(z).angle())).angle(),
        dict(a=complex_(nn.Linear, 6, 8), b=complex_(nn.Linear, 8, 3)),
        signal(2, 5, 6),
        [8],
    ),
    "two parts": (
        lambda m, x: torch.view_as_real(m.b(torch.complex(m.a(x), m.d(x)).conj())).flatten(-2),
        dict(a=dense(6, 8), d=dense(6, 8), b=complex_(nn.Linear, 8, 3)),
        inputs(5, 6),
        [8],
    ),
    "pairs of real numbers": (
        lambda m, x: (torch.view_as_complex(m.a(x).unflatten(-1, (8, 2)) * 1) @ m.b).imag,
        dict(a=dense(6, 16), b=weight(8, 3, dtype=C)),
        inputs(5, 6),
        [8],
    ),
    "filtered along time": (
        lambda m, x: m.b(torch.fft.irfft(torch.fft.rfft(m.a(x), dim=1) * m.w, n=5, dim=1)),
        dict(a=dense(6, 8), w=weight(3, 8, dtype=C), b=dense(8, 3)),
        inputs(5, 6),
        [8],
    ),
    "a scale": (
        lambda m, x: ((x.to(C) @ m.a) * m.s @ m.b).abs(),
        dict(a=weight(6, 8, dtype=C), s=weight(8, dtype=C), b=weight(8, 3, dtype=C)),
        inputs(5, 6),
        [8],
    ),
}


@sampled(2)
@pytest.mark.parametrize("as_graph", [None, pytest.param(True, marks=exhaustive)])
@pytest.mark.parametrize(
    "name", few(COMPLEX, ["gated by size", "two parts", "filtered along time"])
)
def test_complex_weights(name: str, as_graph: bool | None) -> None:
    f, layers, x, sizes = COMPLEX[name]
    net = Net(f, **deepcopy(layers)).eval()
    assert sorted(len(family.labels) for family in units(net, x)) == sorted(sizes)
    removed_exactly(net, x, as_graph)


def test_a_complex_constant_is_folded() -> None:
    """Rows are zero and the bias is left in: c + di goes into the next bias, or onto another."""
    f, layers, x, _ = COMPLEX["gated by size"]
    for folds in (True, False):
        last = complex_(nn.Conv1d, 8, 3, 3, padding=0 if folds else 1)
        net = Net(f, a=deepcopy(layers["a"]), b=last).eval()
        with torch.no_grad():
            net.a.weight[:3] = 0
        small = lissom.shrink(net, x)
        assert (report(small).folded, report(small).shared) == ((3, 0) if folds else (0, 2))
        assert_equal(net, small, x)


class Loop(nn.Module):
    """A loop of one's own over a cell."""

    def __init__(self, cell: nn.Module, given: bool) -> None:
        super().__init__()
        self.cell, self.given, self.last, self.width = cell, given, nn.Linear(8, 3), 8

    def forward(self, x: Tensor) -> Tensor:
        h: object = None
        if self.given:
            h = x.new_zeros(x.shape[0], self.width)
            h = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.last(h[0] if isinstance(h, tuple) else h)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.RNNCell(4, 8),
    "relu": lambda: nn.RNNCell(4, 8, nonlinearity="relu", bias=False),
    "gru": lambda: nn.GRUCell(4, 8),
    "lstm": lambda: nn.LSTMCell(4, 8),
}


@sampled(2)
@pytest.mark.parametrize("given", [False, pytest.param(True, marks=exhaustive)])
@pytest.mark.parametrize("name", CELLS)
def test_cells_in_a_loop(name: str, given: bool) -> None:
    net, x = drawn(Loop(CELLS[name](), given)), inputs(3, 4)
    assert [len(family.labels) for family in units(net, x)] == [8]
    gates = {"gru": 3, "lstm": 4}.get(name, 1)
    assert forward_pass(net, as_inputs(x)).total == 2 * (3 * gates * 8 * (4 + 8) + 8 * 3)
    removed_exactly(net, x)
    small = lissom.shrink(net, x)
    assert small.cell.hidden_size == 4
    assert_equal(net, small, inputs(6, 4))  # a longer sequence


@pytest.mark.parametrize("name", CELLS)
def test_a_state_that_is_given_keeps_what_it_holds(name: str) -> None:
    """Units whose rows are zero, but which an old state may fill."""

    def step(m: nn.Module, x: Tensor) -> Tensor:
        state = m.first(x[:, 0])
        found = m.cell(x[:, 1], (state, state) if name == "lstm" else state)
        return m.last(found[0] if name == "lstm" else found)

    cell = CELLS[name]()
    net = drawn(Net(step, first=nn.Linear(4, 8), cell=cell, last=nn.Linear(8, 3)))
    with torch.no_grad():
        for p in cell.parameters():
            p.unflatten(0, (-1, 8))[:, :3] = 0
    small = lissom.shrink(net, inputs(2, 4))
    assert report(small).removed == 0  # `first` fills them
    assert_equal(net, small, inputs(2, 4))


@exhaustive
@pytest.mark.parametrize(
    "options",
    few(
        [
            dict(),
            dict(num_layers=2, bidirectional=True),
            dict(num_layers=2, bias=False),
        ],
        [dict()],
    ),
    ids=str,
)
def test_projected_states(options: dict[str, int]) -> None:
    """What is in a cell and what it gives are units of their own."""
    rnn = nn.LSTM(4, 8, proj_size=6, batch_first=True, **options)
    width = 6 * (2 if "bidirectional" in options else 1)
    net, x = drawn(Net(lambda m, x: m.b(m.a(x)[0]), a=rnn, b=nn.Linear(width, 2))), inputs(5, 4)
    assert sorted(len(family.labels) for family in units(net, x)) == [6, 8]
    for as_graph in (None, True):
        removed_exactly(net, x, as_graph)
    small = lissom.shrink(net, x)
    assert (small.a.hidden_size, small.a.proj_size) == (4, 3)


GROUPED = [(8, 8, 8), (2, 8, 12), (4, 8, 4), (4, 8, 8), (2, 4, 12), (6, 6, 12)]


@sampled(2)
@pytest.mark.parametrize("sizes", few(GROUPED, [(8, 8, 8), (2, 8, 12), (6, 6, 12)]), ids=str)
def test_grouped_transposed_convolutions(sizes: tuple[int, int, int]) -> None:
    groups, read, made = sizes
    up = nn.ConvTranspose2d(read, made, 4, 2, 1, groups=groups)
    net = drawn(
        nn.Sequential(nn.Conv2d(3, read, 3), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(made, 2, 1))
    )
    x = inputs(3, 8, 8)
    for as_graph in (None, True):
        removed_exactly(net, x, as_graph)


@pytest.mark.parametrize("mode", few(["sum", "mean", "max"], ["mean"]))
def test_bags_of_words(mode: str) -> None:
    net = drawn(
        Net(lambda m, x: m.b(m.a(x).relu()), a=nn.EmbeddingBag(10, 8, mode=mode), b=nn.Linear(8, 2))
    )
    removed_exactly(net, torch.arange(20).view(4, 5) % 10)


def test_quantised_weights() -> None:
    """As in training for quantised inference: scales by channel, of weights and activations."""

    def quantised(x: Tensor, scale: Tensor, zero: Tensor, dim: int) -> Tensor:
        return torch.fake_quantize_per_channel_affine(x, scale, zero, dim, -128, 127)

    def run(m: nn.Module, x: Tensor) -> Tensor:
        h = F.linear(x.float(), quantised(m.a.weight, m.scale, m.zero, 0), m.a.bias)
        h = quantised(h.relu(), m.scale, m.zero, 2)
        return F.linear(h, torch.fake_quantize_per_tensor_affine(m.b.weight, 0.01, 0, -128, 127))

    net = drawn(Net(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3, bias=False))).float()
    net.register_buffer("scale", torch.linspace(0.01, 0.1, 8))
    net.register_buffer("zero", torch.zeros(8, dtype=torch.int32))
    zeroed, x = zero_half_(net, inputs(5, 6)), inputs(5, 6)
    small = lissom.shrink(net, x)
    assert report(small).removed == zeroed == 4 and small.zero.shape == (4,)
    assert_equal(net, small, x, within=1e-5)


def removed_exactly(net: nn.Module, x: Tensor, as_graph: bool | None = None) -> None:
    zeroed = zero_half_(net, x)
    with refusals() as refused:
        small = lissom.shrink(net, x, as_graph=as_graph)
    assert not refused and zeroed > 0
    assert report(small).removed == zeroed and report(small).pinned_by == {}
    assert_equal(net, small, x)
