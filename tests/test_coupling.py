"""Labels: what is tied, what is pinned, whose norm counts; rule by rule on small modules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from products import sampled
from shrink_cases import EXACT, apart, fresh
from torch import Tensor, nn

import lissom
from lissom.coupling import Coupler, Role, couple, families, trace, units
from lissom.coupling.labels import PINNED, Labels, narrow, placed, varying
from lissom.coupling.resizing import left
from lissom.errors import GroupError, LissomError

# Union-find


class Sets:
    """The same, naively."""

    def __init__(self, n: int) -> None:
        self.of = {i: {i} for i in range(n)}

    def union(self, a: int, b: int) -> None:
        merged = self.of[a] | self.of[b]
        for i in merged:
            self.of[i] = merged


@pytest.mark.parametrize("seed", range(20))
def test_union_find_against_sets(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n = int(draw.integers(2, 60))
    labels, sets = Labels(), Sets(n + 1)
    labels.fresh([n])
    for _ in range(int(draw.integers(1, 15))):
        size = int(draw.integers(1, 6))
        a, b = (draw.integers(0, n + 1, size) for _ in range(2))
        labels.union(a, b)
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            sets.union(i, j)
        found = labels.find(np.arange(n + 1))
        assert found.tolist() == [min(sets.of[i]) for i in range(n + 1)]


def test_labels_of_one_and_several_dims() -> None:
    labels = Labels()
    grid = labels.fresh([3, 4])
    assert len(labels) == 13 and grid.min() == 1 and varying(grid) == [0, 1]
    rows = labels.along(grid, 0)
    assert len(set(rows.tolist())) == 3 and narrow(labels.find(grid)).shape == (3, 1)
    labels.rigid(rows.reshape(3, 1), 0)
    assert (labels.find(grid) == PINNED).all()

    grid = labels.fresh([3, 4])
    labels.rigid(grid, 0)  # 4 columns are left
    assert narrow(labels.find(grid)).shape == (1, 4)
    assert labels.settled((labels.fresh([1, 1]),)) == ()
    assert placed(np.arange(3), -1, 3).shape == (1, 1, 3)

    grid = labels.fresh([2, 5])
    labels.settle(grid)  # along the longest
    assert narrow(labels.find(grid)).shape == (1, 5)


def test_broadcasting_unions() -> None:
    labels = Labels()
    grid, row = labels.fresh([3, 4]), labels.fresh([4])
    labels.union(grid, row)
    assert (labels.find(grid) == labels.find(grid)[0]).all()
    labels.pin(row[:2])
    assert (labels.find(grid)[:, :2] == PINNED).all() and (labels.find(grid)[:, 2:] > 0).all()


# Rules. A network of a first layer, something, and a last layer that reads it.


class Between(nn.Module):
    def __init__(self, first: nn.Module, run: Callable[..., Tensor], last: nn.Module,
                 **more: nn.Module) -> None:  # fmt: skip
        super().__init__()
        self.first, self.run, self.last = first, run, last
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))


def dense(run: Callable[..., Tensor], outputs: int = 6, **more: nn.Module) -> Between:
    return Between(nn.Linear(4, 6), run, nn.Linear(outputs, 3), **more)


def maps(run: Callable[..., Tensor], outputs: int = 6, **more: nn.Module) -> Between:
    return Between(nn.Conv2d(2, 6, 1), run, nn.Conv2d(outputs, 3, 1), **more)


X, IMAGES = torch.randn(2, 4), torch.randn(2, 2, 8, 8)


def coupled(model: nn.Module, x: Tensor) -> tuple[list[list[int]], Coupler]:
    """Which rows of `first` are one unit: a list of lists; pinned ones are in none."""
    coupler = couple(trace(model.eval(), x))
    [node] = (n for n, name in coupler.trace.names.items() if name == "first.weight")
    labels = np.zeros(6, np.int64)
    for axis in coupler.axes(node):
        if axis.shape[0] > 1:
            labels = axis.ravel()
    together: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        if label != PINNED:
            together.setdefault(label, []).append(i)
    return list(together.values()), coupler


FREE = [[0], [1], [2], [3], [4], [5]]
PAIRS = [[0, 3], [1, 4], [2, 5]]
NONE: list[list[int]] = []

DENSE: dict[str, tuple[Callable[..., Any], int, list[list[int]]]] = {
    "relu": (lambda m, x: x.relu(), 6, FREE),
    "a number is added": (lambda m, x: (x + 1).clamp(min=0.2).pow(2), 6, FREE),
    "its own mean": (lambda m, x: x - x.mean(1, keepdim=True), 6, NONE),
    "its own sum": (lambda m, x: x - x.sum(1, keepdim=True), 6, FREE),
    "softmax": (lambda m, x: x.softmax(-1), 6, NONE),
    "softmax over the batch": (lambda m, x: x.softmax(0), 6, FREE),
    "cumsum": (lambda m, x: x.cumsum(1), 6, NONE),
    "layer norm": (lambda m, x: F.layer_norm(x, (6,)), 6, NONE),
    "chunk": (lambda m, x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], 3, PAIRS),
    "glu": (lambda m, x: F.glu(x), 3, PAIRS),
    "view and sum": (lambda m, x: x.view(-1, 2, 3).sum(1), 3, PAIRS),
    "interleaved": (lambda m, x: x.view(-1, 3, 2).sum(2), 3, [[0, 1], [2, 3], [4, 5]]),
    "view and swap": (lambda m, x: x.view(-1, 2, 3).transpose(1, 2).flatten(1), 6, PAIRS),
    "cat with itself": (lambda m, x: torch.cat([x, x.relu()], 1), 12, FREE),
    "stack": (lambda m, x: torch.stack([x, x.relu()], 1).sum(1), 6, FREE),
    "flip": (lambda m, x: x + x.flip(1), 6, [[0, 5], [1, 4], [2, 3]]),
    "neighbours": (lambda m, x: x[:, :3] + x[:, 3:], 3, PAIRS),
    "every second": (lambda m, x: x[:, ::2], 3, NONE),
    "one by one": (lambda m, x: x[:, 0:1] * torch.stack(x.unbind(1), 1), 6, NONE),
    "roll": (lambda m, x: x + x.roll(1, 1), 6, NONE),
    "narrow": (lambda m, x: x.narrow(1, 0, 3) + x.narrow(1, 3, 3), 3, PAIRS),
    "padded": (lambda m, x: F.pad(x, (1, 1)), 8, FREE),
    "cropped": (lambda m, x: F.pad(x, (-1, -1)), 4, NONE),
    "repeat": (lambda m, x: x.repeat(1, 2), 12, FREE),
    "repeat interleave": (lambda m, x: x.repeat_interleave(2, 1), 12, FREE),
    "index": (lambda m, x: x[:, torch.tensor([1, 0, 2])], 3, NONE),
    "max": (lambda m, x: x / x.amax(1, keepdim=True), 6, NONE),
    "norm": (lambda m, x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True), 6, FREE),
    "norm of order 3": (lambda m, x: x / x.norm(3, dim=1, keepdim=True), 6, FREE),
    "norm of order -1": (lambda m, x: x / x.norm(-1, dim=1, keepdim=True), 6, NONE),
    "max norm": (lambda m, x: x / torch.linalg.vector_norm(x, float("inf"), 1, True), 6, FREE),
    "outer product": (lambda m, x: (x[:, :, None] * x[:, None, :]).sum(2), 6, FREE),
    "tied to the output": (lambda m, x: x + m.other.weight.sum(), 6, FREE),
    "sorted": (lambda m, x: x.sort(1)[0], 6, NONE),
    "prelu of each": (lambda m, x: F.prelu(x, torch.ones(6)), 6, FREE),
    "prelu": (lambda m, x: m.prelu(x), 6, FREE),
    "batch norm": (lambda m, x: m.norm(x), 6, FREE),
    "a product with itself": (lambda m, x: x @ x.T @ x, 6, FREE),
    "einsum": (lambda m, x: torch.einsum("bi,bj->bi", x, x), 6, FREE),
    "einsum with an ellipsis": (lambda m, x: torch.einsum("...i,...i->...i", x, x), 6, FREE),
}  # fmt: skip


@sampled(10)
@pytest.mark.parametrize("name", DENSE)
def test_dense_rules(name: str) -> None:
    run, outputs, expected = DENSE[name]
    model = dense(run, outputs, other=nn.Linear(2, 2), prelu=nn.PReLU(6), norm=nn.BatchNorm1d(6))
    found, coupler = coupled(model, X)
    assert found == expected
    assert not coupler.declined


MAPS: dict[str, tuple[Callable[..., Any], int, list[list[int]]]] = {
    "pooled": (lambda m, x: F.avg_pool2d(F.max_pool2d(x, 2), 2), 6, FREE),
    "adaptive": (lambda m, x: F.adaptive_max_pool2d(x, 2), 6, FREE),
    "upsampled": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"), 6, FREE),
    "padded": (lambda m, x: F.pad(x, (1, 2, 0, 1)), 6, FREE),
    "reflected": (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 6, FREE),
    "circular": (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="circular"), 6, FREE),
    "cropped": (lambda m, x: F.pad(x, (-1, -1, 0, 0)), 6, FREE),
    "padded and cropped": (lambda m, x: F.pad(x, (1, -1)), 6, FREE),
    "softmax over space": (lambda m, x: x * x.flatten(2).softmax(2).view_as(x), 6, FREE),
    "depthwise": (lambda m, x: m.depthwise(x), 6, FREE),
    "two groups": (lambda m, x: m.two(x), 4, PAIRS),
    "three groups": (lambda m, x: m.three(x), 6, [[0, 1], [2, 3], [4, 5]]),
    "transposed": (lambda m, x: m.transposed(x), 6, FREE),
    "group norm": (lambda m, x: m.groups(x), 6, [[0, 1, 2], [3, 4, 5]]),
    "instance norm": (lambda m, x: m.instance(x), 6, FREE),
    "shuffled": (lambda m, x: F.channel_shuffle(x, 2), 6, [[0, 3], [1, 4], [2, 5]]),
    "shuffled and added": (lambda m, x: F.channel_shuffle(x, 2) + x, 6, NONE),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(x[:, :4], 2), 1, [[4], [5]]),
    "a residual": (lambda m, x: x + m.same(x.relu()), 6, FREE),
    "a gate": (lambda m, x: x * m.same(x.mean((2, 3), keepdim=True)).sigmoid(), 6, FREE),
    "channel mean": (lambda m, x: x * x.mean(1, keepdim=True), 6, NONE),
    "space as channels": (lambda m, x: x.transpose(1, 2), 8, None),
}  # fmt: skip


@sampled(10)
@pytest.mark.parametrize("name", MAPS)
def test_rules_of_maps(name: str) -> None:
    run, outputs, expected = MAPS[name]
    model = maps(
        run, outputs, depthwise=nn.Conv2d(6, 6, 3, groups=6), two=nn.Conv2d(6, 4, 3, groups=2),
        three=nn.Conv2d(6, 6, 3, groups=3), transposed=nn.ConvTranspose2d(6, 6, 2),
        groups=nn.GroupNorm(2, 6), instance=nn.InstanceNorm2d(6, affine=True),
        same=nn.Conv2d(6, 6, 1),
    )  # fmt: skip
    found, coupler = coupled(model, IMAGES)
    if expected is None:
        assert found in (NONE, FREE)
        return
    assert found == expected and not coupler.declined


def test_pixel_shuffle_ties_what_makes_one_pixel() -> None:
    model = Between(nn.Conv2d(2, 6, 1), lambda m, x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
                    nn.Conv2d(3, 3, 1))  # fmt: skip
    found, _ = coupled(model, IMAGES)
    assert found == [[0, 1, 2, 3, 4, 5]] or found == NONE


def test_outputs_and_inputs_are_pinned() -> None:
    model = dense(lambda m, x: x.relu())
    coupler = couple(trace(model, X))
    by_name = {name: coupler.axes(node) for node, name in coupler.trace.names.items()}
    assert [axis.shape for axis in by_name["first.weight"]] == [(6, 1)]
    assert [axis.shape for axis in by_name["last.weight"]] == [(1, 6)]
    assert by_name["last.bias"] == ()
    free = couple(trace(model, X), inputs=True)
    by_name = {name: free.axes(node) for node, name in free.trace.names.items()}
    assert [axis.shape for axis in by_name["first.weight"]] == [(6, 1), (1, 4)]


def test_unknown_operations_pin_and_are_named() -> None:
    found, coupler = coupled(dense(lambda m, x: torch.linalg.pinv(x).T), X)
    assert found == NONE and [call.name for call, _ in coupler.declined] == ["linalg_pinv"]


def test_an_operation_of_constants_alone_is_not_named() -> None:
    model = dense(lambda m, x: x + torch.arange(6).sort()[0])
    assert not coupled(model, X)[1].declined


# Roles


def roles(model: nn.Module, x: Tensor, **options: bool) -> dict[tuple[str, int], str]:
    found = families(couple(trace(model.eval(), x), **options), model)
    return {(m.name, m.dims[0]): str(m.role) for family in found for m in family.members}


def test_producers_count_in_the_norm() -> None:
    model = maps(lambda m, x: m.norm(x).relu(), norm=nn.BatchNorm2d(6))
    assert roles(model, IMAGES) == {
        ("first.weight", 0): "norm", ("first.bias", 0): "zeroed",
        ("norm.weight", 0): "zeroed", ("norm.bias", 0): "zeroed",
        ("norm.running_mean", 0): "cut", ("norm.running_var", 0): "cut",
        ("last.weight", 1): "cut",
    }  # fmt: skip


def test_readers_count_in_the_norm_where_inputs_are_free() -> None:
    model = dense(lambda m, x: x.relu())
    assert roles(model, X, inputs=True) == {
        ("first.weight", 1): "norm", ("first.weight", 0): "cut", ("first.bias", 0): "zeroed",
        ("last.weight", 1): "norm",
    }  # fmt: skip


def test_a_square_weight_counts_along_one_dim() -> None:
    model = dense(lambda m, x: x + m.same(x).relu(), same=nn.Linear(6, 6))
    found = roles(model, X)
    assert found[("same.weight", 0)] == "norm" and found[("same.weight", 1)] == "cut"


def test_embeddings_and_recurrent_layers() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.rnn = nn.Embedding(9, 6), nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embedding(x))[0])

    assert roles(Words(), torch.zeros(2, 4, dtype=torch.long)) == {
        ("embedding.weight", 1): "norm", ("rnn.weight_ih_l0", 1): "cut",
        ("rnn.weight_ih_l0", 0): "norm", ("rnn.weight_hh_l0", 0): "norm",
        ("rnn.weight_hh_l0", 1): "cut", ("rnn.bias_ih_l0", 0): "zeroed",
        ("rnn.bias_hh_l0", 0): "zeroed", ("head.weight", 1): "cut",
    }  # fmt: skip


# Groups


class Mixed(nn.Module):
    """Channels, neurons and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.conv(x).relu().transpose(1, 2))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.out(y))


MIXED = torch.randn(2, 4, 9)


@pytest.mark.parametrize("verb, names, sizes", [
    (lissom.channels, ["conv.weight"], [6]),
    (lissom.heads, ["qkv.weight"], [2]),
    (lissom.neurons, ["head.1.weight"], [7]),
    (units, ["conv.weight", "qkv.weight", "head.1.weight"], [6, 2, 7]),
])  # fmt: skip
def test_kinds(verb: Any, names: list[str], sizes: list[int]) -> None:
    found = verb(Mixed(), MIXED)
    assert [block.name for block in found] == names
    assert [len(norms) for norms in found.norms()] == sizes


def test_macs_and_weights() -> None:
    [channels, heads, neurons] = units(Mixed(), MIXED)
    tokens = 9
    assert channels.macs == tokens * (4 * 3 + 8)  # made by a 3-tap kernel, read by a dense layer
    assert neurons.macs == tokens * (8 + 3)
    assert channels.cost()[0] == 4 * 3 + 1 + 8 and neurons.cost()[0] == 8 + 1 + 3
    assert heads.cost()[0] == 3 * 4 * 9 + 4 * 8


def test_the_table() -> None:
    text = str(units(Mixed(), MIXED))
    for part in ("norm of", "zeroed", "cut", "conv", "embed", "head.1", "total", "15"):
        assert part in text
    assert repr(units(Mixed(), MIXED)) == "<15 units in 3 blocks>"


def test_only_and_without() -> None:
    found = units(Mixed(), MIXED)
    assert [b.name for b in found.only("conv")] == ["conv.weight"]
    assert [b.name for b in found.only("head.*", "qkv")] == ["qkv.weight", "head.1.weight"]
    assert [b.name for b in found.without(nn.Linear)] == ["conv.weight"]
    assert [b.name for b in found.only(lambda b: b.kind == "heads")] == ["qkv.weight"]
    with pytest.raises(GroupError, match=r"'convs' matches none.*Did you mean 'conv'"):
        found.only("convs")

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c((self.a(x) + self.b(x)).relu())

    assert len(units(Sum(), X).only("b").blocks) == 1  # by any member of the norm


# The model is left as it was; mistakes


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5),
                          nn.Conv2d(6, 3, 1)).train()  # fmt: skip
    model[1].eval()
    model(IMAGES).sum().backward()
    modes = [module.training for module in model.modules()]
    parameters = [(id(p), id(p.grad), p.clone()) for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    found = lissom.channels(model, IMAGES)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert [module.training for module in model.modules()] == modes
    for p, (which, grad, value) in zip(model.parameters(), parameters, strict=True):
        assert (id(p), id(p.grad)) == (which, grad) and torch.equal(p, value)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert found.blocks[0].members[0].tensor is model[0].weight


@pytest.mark.parametrize("verb, message", [
    (lissom.heads, "no heads can be removed from this model; it has neurons"),
    (lissom.channels, "no channels can be removed from this model; it has neurons"),
])  # fmt: skip
def test_other_kinds_are_named(verb: Any, message: str) -> None:
    with pytest.raises(GroupError, match=message):
        verb(dense(lambda m, x: x), X)


def test_mistakes() -> None:
    model = dense(lambda m, x: x.relu())
    with pytest.raises(GroupError, match="nor any other units"):
        units(nn.Linear(4, 3), X)
    with pytest.raises(GroupError, match=r"does not run on example_inputs \(2×5 torch.float32\)"):
        units(model, torch.randn(2, 5))
    with pytest.raises(LissomError, match=r"example_inputs is a tensor.*'x'"):
        units(model, "x")
    with pytest.raises(LissomError, match="in tuple"):
        units(model, (X, object()))
    with pytest.raises(GroupError, match=r"torch.export cannot read Between"):
        units(dense(lambda m, x: x if x.sum() > 0 else -x), X)


def test_a_batch_of_one() -> None:
    assert len(units(Mixed(), MIXED[:1])) == len(units(Mixed(), MIXED))


def test_units_are_found_in_the_order_of_the_layers() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    assert [b.name for b in units(model, X)] == [f"{i}.weight" for i in range(4)]
    assert all(member.role in Role for b in units(model, X) for member in b.members)  # type: ignore[attr-defined]


def test_two_inputs() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c((self.a(x) * self.b(y)).relu())

    inputs = (X, fresh(torch.empty(2, 3), 0)[0])
    [family] = units(Both(), inputs)
    assert family.names == ("a.weight", "b.weight")


class Normed(nn.Module):
    """What a layer makes lies along the positions over which statistics are taken."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 8), nn.Linear(8, 3), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))  # [batch, channels, 8]


@pytest.mark.parametrize(
    "norm",
    [
        F.instance_norm,
        lambda h: F.instance_norm(h.unsqueeze(-1).expand(-1, -1, -1, 2)).mean(-1),
        lambda h: F.batch_norm(h, None, None, training=True),
        lambda h: F.batch_norm(h, torch.zeros(6), torch.ones(6), training=True),
        lambda h: F.group_norm(h, 2),
    ],
)
def test_statistics_over_positions_need_all_of_them(norm: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(GroupError, match="nor any other units"):
        units(Normed(norm), torch.randn(2, 6, 4))


def test_statistics_that_are_known_need_none() -> None:
    """Each position is normalised by itself then, and is a unit."""
    net = Normed(lambda h: F.batch_norm(h, torch.zeros(6), torch.ones(6)))
    assert len(units(net, torch.randn(2, 6, 4))) == 8


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3 * 6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(F.pad(x, (1, 1)).flatten(1))))


def test_what_is_left_of_a_padded_dim() -> None:
    """A row or a column stays while any entry of it does, and zeros beside it do."""
    net, x = Padded().double(), torch.randn(2, 3, 4).double()
    coupler = couple(trace(net, x), inputs=True)
    [node] = coupler.inputs
    [pad] = (n for n in coupler.trace.nodes if n.name == "pad")
    [pixels] = coupler.axes(node)
    times = np.ones(len(coupler.labels), int)
    times[pixels[0, 0]] = times[pixels[0, :, 1]] = times[pixels[0, 2, 3]] = 0
    assert left(coupler, times, node) == (2, 2, 3)  # a row and a column are gone as a whole
    assert left(coupler, times, pad) == (2, 3, 5)  # of a row that is gone the zeros stay
    with torch.no_grad():
        net.a.weight.view(5, 3, 6)[:, 0, 1:5] = net.a.weight.view(5, 3, 6)[:, :, 2] = 0
    small = lissom.shrink(net, x, inputs=True)
    assert apart(net, small, torch.randn(3, 3, 4).double()) < EXACT
