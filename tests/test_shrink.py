"""Exact removal, trap by trap: small networks, how many units go, and the same outputs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from products import exhaustive, few, pairwise, sampled
from shrink_cases import (
    EXACT,
    Inputs,
    apart,
    assert_equal,
    drawn,
    fresh,
    outputs,
    refusals,
    report,
    zero_,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lissom


class Net(nn.Module):
    """Named modules and a forward of a line or two: Net(lambda m, x: m.b(m.a(x)), a=…, b=…)."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.run(self, x) if y is None else self.run(self, x, y)


def example(*shape: int) -> Tensor:
    return fresh(torch.empty(2, *shape, dtype=torch.float64), 0)[0]


def check(
    model: nn.Module,
    inputs: Tensor | Inputs,
    *,
    removed: int,
    grow: int = 0,
    graph: bool = False,
    fixed: bool = False,
    **options: Any,
) -> nn.Module:
    """Shrink; so many units are gone, the network was left alone, and computes the same.

    Nothing was decided wrongly and put right by verification: `graph` says that the model's code
    cannot express the result, `fixed` that units have to stay because of it.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with refusals() as refused:
        small = lissom.shrink(model, inputs, **options)
    assert bool(refused) == fixed, str(report(small))
    assert report(small).removed == removed, str(report(small))
    assert report(small).difference <= report(small).tolerance
    assert report(small).as_graph == graph, str(report(small))
    assert ("code fixes" in reasons(small)) == fixed, str(report(small))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    assert_equal(model, small, inputs)
    if grow:
        assert apart(model, small, fresh(inputs, 13, grow)) <= EXACT
    return small


def reasons(small: nn.Module) -> str:
    return "; ".join(f"{kept.units} {kept.reason}" for kept in report(small).kept)


# Constants: a bias, a β or f(0) is left of a unit.


def dense(act: nn.Module | None = None, *, bias: bool = True) -> nn.Sequential:
    return drawn(nn.Sequential(nn.Linear(4, 6), act or nn.ReLU(), nn.Linear(6, 3, bias=bias)))


def test_a_bias_that_is_left_is_folded() -> None:
    net = dense()
    zero_(net[0].weight[:2])
    net[0].bias.data[:2] = torch.tensor([0.5, -0.5])  # a constant, and nothing behind ReLU
    small = check(net, example(4), removed=2)
    assert report(small).folded == 1
    constant = net[2].weight[:, 0] * 0.5
    torch.testing.assert_close(small[2].bias, net[2].bias + constant)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_bias_is_made_where_there_is_none(in_place: bool) -> None:
    net = dense(bias=False)
    zero_(net[0].weight[:2])
    original = copy.deepcopy(net)
    small = lissom.shrink(net, example(4), in_place=in_place)
    assert report(small).removed == 2
    assert isinstance(small[2].bias, nn.Parameter) and small[2].bias.requires_grad
    assert_equal(original, small, example(4))


def test_without_folding_constants_stay() -> None:
    net = dense()
    zero_(net[0].weight[:2])
    net[0].bias.data[:2] = torch.tensor([0.5, -0.5])
    small = check(net, example(4), removed=1, fold=False)
    assert report(small).folded == 0
    assert "1 it is a constant, and was not to be folded" in reasons(small)


@pytest.mark.parametrize(
    "act",
    [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid(), nn.LogSigmoid(), nn.Softshrink(0.1)],
    ids=lambda act: type(act).__name__,
)
def test_activations_of_zero(act: nn.Module) -> None:
    net = dense(act)
    zero_(net[0].weight[:3], net[0].bias[:3])
    folded = report(check(net, example(4), removed=3)).folded
    assert folded == (0 if isinstance(act, nn.Softshrink) else 3)


@pytest.mark.parametrize("over", ["batch", "tokens"])
@pytest.mark.parametrize("what", ["softmax", "sum", "vector_norm"])
def test_constants_that_depend_on_the_size_of_the_input(over: str, what: str) -> None:
    """1/T, c·T or c·√T is another number for another T: it cannot be folded."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).sigmoid()
        dims = {"batch": [0], "tokens": [1]}[over]
        if what == "softmax":
            return m.b(x.softmax(dims[0]))
        if what == "sum":
            return m.b(x.sum(dims))
        return m.b(torch.linalg.vector_norm(x, dim=dims))

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    zero_(net.a.weight[:2], net.a.bias[:2])
    small = lissom.shrink(net, example(5, 4))
    assert_equal(net, small, example(5, 4))
    other = fresh(torch.empty(3, 7, 4, dtype=torch.float64), 1)
    assert apart(net, small, other) <= EXACT


def convs(padding: Any = 1, *between: nn.Module, **options: Any) -> nn.Sequential:
    second = nn.Conv2d(6, 4, 3, padding=padding, **options)
    return drawn(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *between, nn.ReLU(), second))


def with_constants(net: nn.Sequential) -> nn.Sequential:
    """Of the first convolution, channel 0 gives 0.5 and channel 1 gives 0 behind ReLU."""
    zero_(net[0].weight[:2])
    net[0].bias.data[:2] = torch.tensor([0.5, -0.5])
    return net


PADDINGS = {
    "none": (convs(0), 2),
    "valid": (convs("valid"), 2),
    "one": (convs(1), 1),
    "same": (convs("same"), 1),
    "one side": (convs((0, 1)), 1),
    "reflect": (convs(1, padding_mode="reflect"), 2),
    "replicate": (convs(1, padding_mode="replicate"), 2),
    "circular": (convs(1, padding_mode="circular"), 2),
    "zeros before": (convs(0, nn.ReLU(), nn.ZeroPad2d(1)), 1),
    "the constant before": (convs(0, nn.ReLU(), nn.ConstantPad2d(1, 0.5)), 1),
    "max pool": (convs(0, nn.MaxPool2d(2, padding=1)), 2),
    "average pool": (convs(0, nn.ReLU(), nn.AvgPool2d(2)), 2),
    "padded average pool": (convs(0, nn.ReLU(), nn.AvgPool2d(2, padding=1)), 1),
    "average without padding": (
        convs(0, nn.ReLU(), nn.AvgPool2d(3, padding=1, count_include_pad=False)),
        1,
    ),
    "upsampling": (convs(0, nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")), 2),
    "adaptive pool": (convs(0, nn.ReLU(), nn.AdaptiveAvgPool2d(4)), 2),
}


@sampled(8)
@pytest.mark.parametrize("name", PADDINGS)
def test_constants_and_padding(name: str) -> None:
    """A constant stays where zeros beside it make a border, and the report says so."""
    net, removed = copy.deepcopy(PADDINGS[name])
    small = check(with_constants(net), example(3, 8, 8), removed=removed, grow=5)
    if "padding=(1" in str(net[-1]) and removed == 1:
        assert "1 it is a constant, but" in reasons(small) and "pads with zeros" in reasons(small)
    assert len(report(small).kept) == 2 - removed


def test_the_constant_pad_leaves_one_border_only() -> None:
    """Padded with 0.5, the channel that is 0.5 has no border, and the one that is 0 has one."""
    net = with_constants(convs(0, nn.ReLU(), nn.ConstantPad2d(1, 0.5)))
    small = check(net, example(3, 8, 8), removed=1)
    assert report(small).folded == 1 and 0 not in report(small).keep["0.weight"][0]


def test_a_padded_constant_on_one_pixel() -> None:
    """At 1 × 1 its border cannot be seen; at 8 × 8 it would be wrong to fold it."""
    net = with_constants(convs(1))
    small = check(net, example(3, 1, 1), removed=1)
    assert apart(net, small, example(3, 8, 8)) <= EXACT


def test_what_a_padded_layer_makes_of_constants_is_none() -> None:
    """It has a border, which the layer behind it sees; the constants themselves share a channel."""
    net = drawn(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 4, 1)
        )
    )
    zero_(net[0].weight)
    small = check(net, example(3, 6, 6), removed=5, grow=4)
    assert small[2].out_channels == 5


def test_a_constant_two_layers_deep() -> None:
    """The first padding spoils a constant, but not what only zeros reach."""
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 5, 1), nn.Tanh(),
                      nn.Conv2d(5, 4, 1))
    )  # fmt: skip
    zero_(net[0].weight)  # all constants
    small = check(net, example(3, 6, 6), removed=9, grow=3)
    assert "one unit stays" in reasons(small)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_batch_norm(affine: bool, statistics: bool) -> None:
    """A zero channel gives (0 − mean)/std·γ + β; its batch's statistics are not known."""
    norm = nn.BatchNorm2d(6, affine=affine, track_running_stats=statistics)
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.Tanh(), nn.Conv2d(6, 4, 3)))
    zero_(net[0].weight[:3], net[0].bias[:3])
    small = check(net, example(3, 8, 8), removed=3 if statistics else 0, grow=4)
    if statistics:
        assert report(small).folded == 3 and len(small[1].running_var) == 3
        assert small[1].num_features == 3


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_a_zero_gamma_is_enough(beta: float) -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)))
    zero_(net[1].weight[:3])
    net[1].bias.data[:3] = beta
    small = check(net, example(3, 8, 8), removed=3)
    assert report(small).folded == (3 if beta else 0)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm(affine: bool) -> None:
    norm = nn.InstanceNorm2d(6, affine=affine)
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 4, 3)))
    zero_(net[0].weight[:3], net[0].bias[:3])
    check(net, example(3, 8, 8), removed=3, grow=4)


def test_group_norm_loses_whole_groups() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(),
                              nn.Conv2d(8, 4, 3)))  # fmt: skip
    zero_(net[0].weight[:5], net[0].bias[:5])  # two groups and a half
    small = check(net, example(3, 8, 8), removed=2, grow=4)
    assert (small[1].num_groups, small[1].num_channels, small[0].out_channels) == (2, 4, 4)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_width_of_a_layer_norm_stays(norm: Callable[[int], nn.Module]) -> None:
    """What is normalised together stays; what feeds it may go."""
    net = drawn(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), norm(6),
                              nn.Linear(6, 3)))  # fmt: skip
    zero_(net[0].weight[:3], net[0].bias[:3], net[2].weight[:3], net[2].bias[:3])
    small = check(net, example(4), removed=3)
    assert small[2].out_features == 6 and small[0].out_features == 4


# Coupling: who else has to be dead.


def residual() -> Net:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        x = x + m.block(x)
        return m.head(x.relu())

    return drawn(Net(run, stem=nn.Conv2d(3, 6, 3), block=nn.Conv2d(6, 6, 1),
                     head=nn.Conv2d(6, 4, 1)))  # fmt: skip


@pytest.mark.parametrize("dead, removed", [("stem", 0), ("block", 0), ("stem block", 2)])
def test_a_residual_channel_goes_with_all_its_producers(dead: str, removed: int) -> None:
    net = residual()
    for name in dead.split():
        layer = net.get_submodule(name)
        zero_(layer.weight[:2], layer.bias[:2])
    check(net, example(3, 8, 8), removed=removed, grow=3)


@pytest.mark.parametrize("dead, removed", [("head", 0), ("block", 0), ("head block", 2)])
def test_a_residual_channel_goes_with_all_its_readers(dead: str, removed: int) -> None:
    net = residual()
    for name in dead.split():
        zero_(net.get_submodule(name).weight[:, :2])
    check(net, example(3, 8, 8), removed=removed)


def test_a_cycle_that_feeds_itself_alone_is_closed() -> None:
    """Channels 0 and 1 are read by their own block only, which writes nothing else."""
    net = residual()
    zero_(net.head.weight[:, :2], net.block.weight[2:, :2])
    check(net, example(3, 8, 8), removed=2)


def test_death_cascades_backwards() -> None:
    net = drawn(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(),
                              nn.Linear(6, 3)))  # fmt: skip
    zero_(net[4].weight[:, 2:], net[2].weight[:2, 1:])
    check(net, example(4), removed=4 + 4)


def test_squeeze_and_excitation() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.conv(x).relu()
        gate = m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.head(x * gate)

    net = drawn(Net(run, conv=nn.Conv2d(3, 8, 3), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1),
                    head=nn.Conv2d(8, 5, 3, padding=1)))  # fmt: skip
    zero_(net.conv.weight[:3], net.conv.bias[:3], net.down.weight[:1], net.down.bias[:1])
    small = check(net, example(3, 8, 8), removed=4, grow=3)
    assert small.up.out_channels == 5 and small.down.out_channels == 3


def test_a_gate_that_is_shut() -> None:
    """Zero times anything is zero."""

    def run(m: Net, x: Tensor) -> Tensor:
        return m.head(m.value(x) * m.gate(x).relu())

    net = drawn(Net(run, value=nn.Linear(4, 6), gate=nn.Linear(4, 6), head=nn.Linear(6, 3)))
    zero_(net.gate.weight[:2])
    net.gate.bias.data[:2] = -1
    check(net, example(4), removed=2)


@pytest.mark.parametrize("bias", [False, True])
def test_depthwise(bias: bool) -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(),
                              nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=bias), nn.ReLU(),
                              nn.Conv2d(6, 4, 1)))  # fmt: skip
    zero_(net[0].weight[:2], net[0].bias[:2])
    small = check(net, example(3, 8, 8), removed=2, grow=3)
    assert small[2].groups == small[2].in_channels == 4


def test_depthwise_with_a_multiplier() -> None:
    """Input channel i makes output channels 2i and 2i + 1: one unit."""
    net = drawn(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4),
                              nn.ReLU(), nn.Conv2d(8, 4, 1)))  # fmt: skip
    zero_(net[0].weight[:2], net[0].bias[:2], net[2].bias[:4])
    zero_(net[2].weight[4:5], net[2].bias[4:5])  # half a unit stays
    small = check(net, example(3, 8, 8), removed=2)
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (2, 2, 4)


@pytest.mark.parametrize("dead, removed", [([1], 0), ([5], 0), ([1, 5], 1), ([1, 5, 0, 3], 1)])
def test_few_groups_lose_the_same_offset_in_each(dead: list[int], removed: int) -> None:
    """Two groups of four channels: i and i + 4 are one unit."""
    net = drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)))
    for channel in dead:
        zero_(net[0].weight[channel], net[0].bias[channel])
    small = check(net, example(3, 8, 8), removed=removed)
    assert small[2].groups == 2 and small[2].weight.shape[1] == 4 - removed


@pytest.mark.parametrize("dead, removed", [([2], 0), ([2, 3], 1), ([2, 3, 4], 1)])
def test_many_groups_lose_a_whole_one(dead: list[int], removed: int) -> None:
    """Four groups of two channels, each with its outputs."""
    net = drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(),
                              nn.Conv2d(8, 12, 3, groups=4, bias=False), nn.ReLU(),
                              nn.Conv2d(12, 4, 1)))  # fmt: skip
    for channel in dead:
        zero_(net[0].weight[channel], net[0].bias[channel])
    small = check(net, example(3, 8, 8), removed=removed)
    assert small[2].groups == 4 - removed and small[4].in_channels == 12 - 3 * removed


def test_groups_that_do_not_read() -> None:
    """Offset 1 of two groups of four, and of four groups of two the last."""
    few = drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2)))
    zero_(few[1].weight[:, 1])
    small = check(few, example(3, 8, 8), removed=1)
    assert report(small).keep["1.weight"][1].tolist() == [0, 2, 3]
    half = drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2)))
    zero_(half[1].weight[:3, 1])
    check(half, example(3, 8, 8), removed=0)
    many = drawn(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    )
    zero_(many[2].weight[:, 6:])
    small = check(many, example(3, 8, 8), removed=1)
    assert report(small).keep["0.weight"][0].tolist() == list(range(6))


def test_a_flattened_channel_is_many_columns() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(54, 4)))
    zero_(net[0].weight[:2], net[0].bias[:1], net[3].weight[:, 18:27])  # channel 2 is not read
    zero_(net[3].weight[:, 27:32])  # of channel 3 only a part is not
    small = check(net, example(3, 5, 5), removed=3)
    assert small[3].in_features == 27 and report(small).folded == 2


def test_concatenation() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x).relu(), m.b(x).relu()
        return m.head(torch.cat([a, x, b], 1))

    net = drawn(Net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 5, 1), head=nn.Conv2d(12, 4, 3)))
    zero_(net.a.weight[1:2], net.a.bias[1:2], net.b.weight[:3], net.b.bias[:3])
    check(net, example(3, 6, 6), removed=4, grow=2)


def test_dense_connections() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x = torch.cat([x, m.b(m.norm(x).relu())], 1)
        return m.head(x.relu())

    net = drawn(Net(run, a=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), b=nn.Conv2d(4, 5, 1),
                    head=nn.Conv2d(9, 4, 1)))  # fmt: skip
    zero_(net.head.weight[:, :2], net.norm.weight[:1], net.norm.bias[:1])
    zero_(net.b.weight[3:], net.b.bias[3:])
    check(net, example(3, 6, 6), removed=1 + 2)  # channel 1 of a is read by b


def test_chunks_that_meet_are_one_unit() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        value, gate = m.a(x).chunk(2, 1)
        return m.head(value * gate.sigmoid())

    net = drawn(Net(run, a=nn.Linear(4, 10), head=nn.Linear(5, 3)))
    zero_(net.a.weight[:2], net.a.bias[:2], net.a.weight[9:], net.a.bias[9:])
    small = check(net, example(4), removed=2)  # a shut gate is σ(0): value 4 is alive
    assert small.a.out_features == 6 and not report(small).as_graph


def test_glu() -> None:
    net = drawn(nn.Sequential(nn.Linear(4, 10), nn.GLU(), nn.Linear(5, 3)))
    zero_(net[0].weight[:2], net[0].bias[:2])
    check(net, example(4), removed=2)


def test_a_split_with_literal_sizes() -> None:
    """The model's code says [3, 5]: only the graph can say [1, 4]."""

    def run(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x).split([3, 5], 1)
        return m.b(a.relu()) + m.c(b.tanh())

    net = drawn(Net(run, a=nn.Linear(4, 8), b=nn.Linear(3, 2), c=nn.Linear(5, 2)))
    for unit in (0, 1, 4):
        zero_(net.a.weight[unit], net.a.bias[unit])
    check(net, example(4), removed=3, graph=True)
    small = check(net, example(4), removed=0, fixed=True, as_graph=False)
    assert type(small) is Net


def test_slices() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.b(x[:, :3].relu()) + m.c(x[:, 3:].tanh())

    net = drawn(Net(run, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 2, 1), c=nn.Conv2d(5, 2, 1)))
    zero_(net.a.weight[1:5], net.a.bias[1:5])
    check(net, example(3, 4, 4), removed=4, graph=True)


def test_what_the_code_fixes_in_one_place_does_not_hold_the_rest() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.d(m.c(m.b(x[:, :3].relu()).relu() + x[:, 3:].sum(1, keepdim=True)).relu())

    net = drawn(Net(run, a=nn.Linear(4, 8), b=nn.Linear(3, 6), c=nn.Linear(6, 7),
                    d=nn.Linear(7, 2)))  # fmt: skip
    zero_(net.a.weight[:2], net.a.bias[:2], net.c.weight[:3], net.c.bias[:3])
    check(net, example(4), removed=5, graph=True)
    small = check(net, example(4), removed=3, fixed=True, as_graph=False)
    assert "2 the model's code fixes this size" in reasons(small)


@pytest.mark.parametrize("sum_", ["sum", "mean", "max", "softmax", "norm"])
def test_statistics_over_channels(sum_: str) -> None:
    """A sum loses nothing with a zero; a mean, a maximum or a softmax need the number."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        if sum_ == "norm":
            return m.b(x) * torch.linalg.vector_norm(x, dim=1, keepdim=True)
        found = x.softmax(1) if sum_ == "softmax" else getattr(x, sum_)(1, keepdim=True)
        return m.b(x) * (found[0] if sum_ == "max" else found)[..., :1]

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    zero_(net.a.weight[:2], net.a.bias[:2])
    check(net, example(4), removed=2 if sum_ in ("sum", "norm") else 0)


def test_a_constant_that_is_summed_stays() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        return m.b(x) + x.sum(1, keepdim=True)

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    zero_(net.a.weight[:2])
    net.a.bias.data[:2] = torch.tensor([1.0, -1.0])
    assert "1 aten.sum (dim 1) needs it to be zero" in reasons(check(net, example(4), removed=1))


def test_layers_of_one_and_three_dims() -> None:
    for convolution, norm, size in ((nn.Conv1d, nn.BatchNorm1d, (9,)),
                                    (nn.Conv3d, nn.BatchNorm3d, (5, 5, 5))):  # fmt: skip
        net = drawn(nn.Sequential(convolution(2, 6, 3, padding=1), norm(6), nn.ReLU(),
                                  convolution(6, 3, 3, dilation=2)))  # fmt: skip
        zero_(net[1].weight[:2], net[1].bias[:1])
        net[1].bias.data[1] = 0.5
        check(net, example(2, *size), removed=2, grow=3)


@pytest.mark.parametrize(
    "layer",
    few([nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d], [nn.ConvTranspose1d]),
)
def test_transposed_convolutions(layer: type[nn.Module]) -> None:
    """They leave a pattern of overlaps, so that no constant is folded into them."""
    dims = int(layer.__name__[-2])
    net = drawn(nn.Sequential(layer(2, 6, 3, stride=2), nn.ReLU(), layer(6, 5, 2), nn.ReLU(),
                              layer(5, 3, 3, stride=2, padding=1)))  # fmt: skip
    zero_(net[0].weight[:, :2], net[0].bias[:1], net[2].weight[:, 4], net[2].bias[4:])
    net[0].bias.data[1] = 0.5
    check(net, example(2, *[4 if dims < 3 else 2] * dims), removed=2, grow=2)


def test_pixel_shuffle() -> None:
    """r² channels make one."""
    net = drawn(nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(),
                              nn.Conv2d(3, 2, 3)))  # fmt: skip
    zero_(net[0].weight[:7], net[0].bias[:7])
    small = check(net, example(2, 5, 5), removed=1, grow=2)
    assert small[0].out_channels == 8


def test_einsum() -> None:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 6))
            self.b = nn.Parameter(torch.randn(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.einsum("btc,ch->bth", x, self.a).relu()
            return torch.einsum("bth,oh->bto", x, self.b)

    net = drawn(Mix())
    zero_(net.a[:, :2], net.b[:, 5:])
    small = check(net, example(4, 3), removed=3)
    assert small.a.shape == (3, 3)


def test_matrix_products_of_parameters() -> None:
    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(6, 2))
            self.shift = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.a + self.shift).relu() @ self.b

    net = drawn(Mix())
    zero_(net.a[:, :2], net.shift[:2], net.b[5:])
    check(net, example(4, 3), removed=3)


# Attention.

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Queries, keys and values in one layer or in three; in torch's operator or by hand."""

    def __init__(self, fused: bool, sdpa: bool, kv_heads: int = HEADS, gqa: bool = False) -> None:
        super().__init__()
        self.sdpa, self.kv_heads, self.gqa = sdpa, kv_heads, gqa
        each = WIDTH // HEADS
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH) if fused else None
        if not fused:
            self.q = nn.Linear(WIDTH, WIDTH)
            self.k = nn.Linear(WIDTH, kv_heads * each)
            self.v = nn.Linear(WIDTH, kv_heads * each)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        each = WIDTH // HEADS
        if self.qkv is not None:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, -1, each).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(x).reshape(batch, tokens, -1, each).transpose(1, 2)
                       for f in (self.q, self.k, self.v))  # fmt: skip
        if self.kv_heads < HEADS and not self.gqa:
            k, v = (y.repeat_interleave(HEADS // self.kv_heads, 1) for y in (k, v))
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.gqa)
        else:
            y = (q @ k.transpose(-2, -1) * each**-0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


def zero_heads_(model: nn.Module, inputs: Tensor | Inputs, *dead: int) -> int:
    """Zero these heads of each family."""
    groups = lissom.heads(model, inputs)
    for block in groups:
        scale = torch.ones(block.shape)
        scale[list(dead)] = 0
        block.scale_(scale)
    return len(dead) * len(groups.blocks)


@sampled(2)
@pytest.mark.parametrize("sdpa", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_heads(fused: bool, sdpa: bool) -> None:
    net = drawn(nn.Sequential(Attention(fused, sdpa), nn.Linear(WIDTH, 2)))
    x = example(5, WIDTH)
    assert [len(norms) for norms in lissom.heads(net, x).norms()] == [HEADS]
    zero_heads_(net, x, 0, 2)
    small = check(net, x, removed=2)
    assert small[0].out.in_features == WIDTH // HEADS


def test_a_head_that_is_not_read() -> None:
    net = drawn(nn.Sequential(Attention(True, True), nn.Linear(WIDTH, 2)))
    zero_(net[0].out.weight[:, 4:8])
    check(net, example(5, WIDTH), removed=1)


def test_a_head_with_constant_values() -> None:
    """Whatever it looks at, it gives the bias of its values: folded."""
    net = drawn(nn.Sequential(Attention(False, True), nn.Linear(WIDTH, 2)))
    zero_(net[0].v.weight[4:8])
    small = check(net, example(5, WIDTH), removed=1)
    assert report(small).folded == 1


def test_a_head_with_dead_queries_lives() -> None:
    """Without queries and keys it is a mean of the values, which is something."""
    net = drawn(nn.Sequential(Attention(False, True), nn.Linear(WIDTH, 2)))
    zero_(net[0].q.weight[:4], net[0].q.bias[:4], net[0].k.weight[:4], net[0].k.bias[:4])
    check(net, example(5, WIDTH), removed=0)


@pytest.mark.parametrize("gqa", [True, False])
def test_grouped_query_attention(gqa: bool) -> None:
    """Queries that share a key are one unit."""
    net = drawn(nn.Sequential(Attention(False, True, 1, gqa), nn.Linear(WIDTH, 2)))
    zero_(net[0].q.weight, net[0].k.weight, net[0].v.weight[:, :6])
    check(net, example(5, WIDTH), removed=0)


class Grouped(nn.Module):
    """What two groups of two queries each are made with, and what reads their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(16, 3)


def check_groups(net: nn.Module) -> None:
    """One of them goes."""
    x = example(5, 8)
    [block] = lissom.heads(net, x)
    assert block.shape == (2,)
    zero_heads_(net, x, 0)
    small = check(net, x, removed=1)
    assert (small.q.out_features, small.k.out_features, small.out.in_features) == (8, 4, 8)


@pytest.mark.parametrize("gqa", [True, False])
def test_two_groups_of_queries(gqa: bool) -> None:
    class Repeated(Grouped):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k,
                                                                             self.v))  # fmt: skip
            if not gqa:
                k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
            return self.out(y.transpose(1, 2).flatten(2))

    check_groups(drawn(Repeated()))


@pytest.mark.parametrize("pick", [lambda x, i: x[i], lambda x, i: x.index_select(0, i)])
def test_rows_that_are_picked_by_numbers_of_the_input(pick: Callable[..., Tensor]) -> None:
    """As the ends of a graph's edges: what is zero in all rows is zero in those."""
    a, b = nn.Linear(3, 6, bias=False), nn.Linear(6, 2)
    net = drawn(Net(lambda m, x, i: m.b(pick(m.a(x), i)), a=a, b=b))
    zero_(net.a.weight[:2])
    check(net, (example(3), torch.tensor([1, 0, 0, 1, 1])), removed=2)


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("first", [1, 2])
def test_channels_that_are_shuffled(first: int, second: int) -> None:
    """As many go from each group, at the same places, so that the groups can be taken in turn."""
    layers = [nn.Conv2d(12, 12, 1, groups=first), nn.ChannelShuffle(4)]
    net = drawn(nn.Sequential(nn.Conv2d(2, 12, 1), *layers, nn.Conv2d(12, 4, 3, groups=second)))
    x = example(2, 5, 5)
    blocks = lissom.coupling.units(net, x)
    for block in blocks:
        block.scale_((torch.arange(len(block.norms())) > 0).double())
    check(net, x, removed=len(blocks.blocks))


@pytest.mark.parametrize("table", [False, True])
def test_keys_that_are_copied_for_their_queries(table: bool) -> None:
    """By expand and reshape, rotated by a table or not: heads may go, in groups."""

    class Expanded(Grouped):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(20, 2) if table else None)

        def rotated(self, x: Tensor) -> Tensor:
            cos = self.table[: x.shape[1], None]
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b, a + b * cos], -1)

        def copied(self, x: Tensor) -> Tensor:
            batch, tokens, heads, width = x.shape
            x = x[:, :, :, None, :].expand(batch, tokens, heads, 2, width)
            return x.reshape(batch, tokens, 2 * heads, width)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 4)) for f in (self.q, self.k, self.v))
            if table:
                q, k = self.rotated(q), self.rotated(k)
            q, k, v = (y.transpose(1, 2) for y in (q, self.copied(k), self.copied(v)))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).flatten(2))

    check_groups(drawn(Expanded()))


def test_fused_attention_with_narrower_values() -> None:
    """Its kernels lay their result out otherwise, and a view of it has to be a copy."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.scale, self.out = nn.Parameter(torch.ones(4)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, _ = x.shape
            q, k, v = (f(x).view(batch, tokens, 2, 4) for f in (self.q, self.k, self.v))
            q, k, v = (y.transpose(1, 2) for y in (q, k, v * self.scale))
            y = F.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).contiguous().view(batch, tokens, -1))

    net = drawn(Scaled())
    x = example(5, 8)
    [block] = lissom.coupling.units(net, x)
    block.scale_(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    check(net, x, removed=2, graph=True)


def mha(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, HEADS, **options)


def self_attention(m: Net, x: Tensor) -> Tensor:
    return m.head(m.attention(x, x, x, need_weights=False)[0])


@sampled(2)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multihead_attention(batch_first: bool, bias: bool) -> None:
    attention = mha(batch_first=batch_first, bias=bias)
    net = drawn(Net(self_attention, attention=attention, head=nn.Linear(WIDTH, 2)))
    x = example(5, WIDTH)
    zero_heads_(net, x, 1)
    small = check(net, x, removed=1)
    assert small.attention.num_heads == 2 and small.attention.in_proj_weight.shape == (24, 12)
    assert apart(net, small, fresh(torch.empty(3, 7, WIDTH, dtype=torch.float64), 3)) <= EXACT


@pytest.mark.parametrize("read", [True, False])
def test_multihead_attention_returns_its_weights(read: bool) -> None:
    """Their mean over the heads would be another one: nothing goes, unless nobody looks."""

    def run(m: Net, x: Tensor) -> Any:
        found = m.attention(x, x, x, need_weights=True)
        return found if read else found[0]

    net = drawn(Net(run, attention=mha(batch_first=True)))
    zero_(net.attention.in_proj_weight[24:28], net.attention.in_proj_bias[24:28])
    check(net, example(5, WIDTH), removed=0 if read else 1)


def test_multihead_attention_between_widths() -> None:
    def run(m: Net, x: Tensor, y: Tensor) -> Tensor:
        return m.attention(x, y, y[..., :6], need_weights=False)[0]

    net = drawn(Net(run, attention=mha(kdim=8, vdim=6, batch_first=True)))
    inputs = (example(5, WIDTH), example(4, 8))
    zero_heads_(net, inputs, 0, 2)
    small = check(net, inputs, removed=2)
    assert small.attention.k_proj_weight.shape == (4, 8)


@sampled(2)
@pytest.mark.parametrize("kind", ["causal", "bool", "float", "padding", "both"])
def test_masks(kind: str) -> None:
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    hidden = torch.tensor([[False] * 4 + [True], [False] * 5])

    def run(m: Net, x: Tensor) -> Tensor:
        masks: dict[str, Any] = {}
        if kind in ("causal", "float", "both"):
            masks["attn_mask"] = causal
        if kind == "causal":
            masks["is_causal"] = True
        if kind == "bool":
            masks["attn_mask"] = causal < 0
        if kind in ("padding", "both"):
            masks["key_padding_mask"] = hidden
        return m.attention(x, x, x, need_weights=False, **masks)[0]

    net = drawn(Net(run, attention=mha(batch_first=True)))
    x = example(5, WIDTH)
    zero_heads_(net, x, 1)
    check(net, x, removed=1)


@pytest.mark.parametrize("options", [dict(add_bias_kv=True), dict(add_zero_attn=True)], ids=str)
def test_further_keys_of_multihead_attention(options: dict[str, bool]) -> None:
    net = drawn(Net(self_attention, attention=mha(**options), head=nn.Linear(WIDTH, 2)))
    attention = net.attention
    for part in (attention.in_proj_weight, attention.in_proj_bias, attention.bias_k,
                 attention.bias_v):  # fmt: skip
        if part is not None:
            zero_(part.view(-1, HEADS, 4, *part.shape[1:] if part is attention.in_proj_weight
                            else ())[:, 0])  # fmt: skip
    small = lissom.shrink(net, example(5, WIDTH))
    assert_equal(net, small, example(5, WIDTH))


def test_a_mask_for_each_head() -> None:
    """[batch · heads, tokens, tokens]: the mask of a head goes with it, or the head stays."""

    def run(m: Net, x: Tensor, mask: Tensor) -> Tensor:
        return m.attention(x, x, x, need_weights=False, attn_mask=mask)[0]

    net = drawn(Net(run, attention=mha(batch_first=True)))
    inputs = example(5, WIDTH), fresh(torch.empty(2 * HEADS, 5, 5, dtype=torch.float64), 3)[0]
    zero_(net.attention.in_proj_weight[:4], net.attention.in_proj_weight[12:16],
          net.attention.in_proj_weight[24:28], net.attention.in_proj_bias[24:28])  # fmt: skip
    zero_(net.attention.out_proj.weight[:, :4])
    small = lissom.shrink(net, inputs)
    assert_equal(net, small, inputs)


@exhaustive
def test_an_encoder_layer_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, dropout=0.0)
    net = drawn(nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 2)))
    x = example(5, WIDTH)
    zero_heads_(net, x, 0)
    zero_(net[0].layers[0].linear1.weight[:5], net[0].layers[0].linear1.bias[:5])
    check(net, x, removed=2 + 5)


# Weights that stand in two places.


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.embedding(x)
            return self.head(x + self.body(x).relu())

    net = drawn(Tied())
    zero_(net.embedding.weight[:, :2], net.body.weight[:2], net.body.bias[:2])
    small = check(net, torch.arange(8).view(2, 4) % 9, removed=2)
    assert small.head.weight is small.embedding.weight and small.head.weight.shape == (9, 4)
    assert small.head.in_features == small.embedding.embedding_dim == 4


def test_a_shared_layer_keeps_what_one_of_its_callers_needs() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.b(m.b(m.a(x).relu()).relu()).sum(-1)

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 6)))
    zero_(net.a.weight[:2], net.a.bias[:2])
    check(net, example(4), removed=0)
    zero_(net.b.weight[:2], net.b.bias[:2])
    check(net, example(4), removed=2)


@pytest.mark.parametrize("bias", [False, True])
def test_a_shared_layer_folds_nothing_that_differs(bias: bool) -> None:
    """One bias cannot take two constants."""

    def run(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x).sigmoid()) + m.b(m.c(x).relu())

    net = drawn(Net(run, a=nn.Linear(4, 6), c=nn.Linear(4, 6), b=nn.Linear(6, 3, bias=bias)))
    zero_(net.a.weight[:2], net.a.bias[:2], net.c.weight[:2], net.c.bias[:2])
    check(net, example(4), removed=0)


def test_a_bias_that_is_read_elsewhere_takes_nothing() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x).sigmoid()) * m.b.bias

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    zero_(net.a.weight[:1], net.a.bias[:1])
    check(net, example(4), removed=0)


def test_a_module_under_two_names() -> None:
    layer = nn.Linear(6, 6)
    net = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(),
                              nn.Linear(6, 3)))  # fmt: skip
    for part in (net[0], net[2]):
        zero_(part.weight[:2], part.bias[:2])
    small = check(net, example(4), removed=2)
    assert small[2] is small[4] and small[2].in_features == 4


def test_an_embedding() -> None:
    net = drawn(nn.Sequential(nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 5), nn.ReLU(),
                              nn.Linear(5, 2)))  # fmt: skip
    words = torch.arange(8).view(2, 4) % 9
    zero_(net[0].weight[:, :1])
    net[0].weight.data[:, 1] = 0.5  # the same for every word: a constant
    small = check(net, words, removed=2)
    assert report(small).folded == 1 and small[0].embedding_dim == 4


# Recurrent layers.


@sampled(2)
@pairwise
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(kind: str, gates: int, layers: int, bidirectional: bool) -> None:
    rnn = getattr(nn, kind)(3, 5, layers, bidirectional=bidirectional, batch_first=True)
    directions = 2 if bidirectional else 1
    net = drawn(Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=rnn, head=nn.Linear(5 * directions, 2)))
    x = example(6, 3)
    check(net, x, removed=0)
    for name, parameter in net.rnn.named_parameters():
        rows = parameter.data.view(gates, 5, -1)
        rows[:, :2] = 0
        if (layers == 2 or bidirectional) and name.endswith("l0"):
            rows[:, 2] = 0  # in one direction of one layer only, so it stays
    small = check(net, x, removed=2)
    assert small.rnn.hidden_size == 3 and small.head.in_features == 3 * directions
    longer = fresh(torch.empty(3, 9, 3, dtype=torch.float64), 1)
    assert apart(net, small, longer) <= EXACT


def test_a_recurrent_unit_with_a_bias_moves() -> None:
    net = drawn(Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=nn.LSTM(3, 5, batch_first=True),
                    head=nn.Linear(5, 2)))  # fmt: skip
    for parameter in (net.rnn.weight_ih_l0, net.rnn.weight_hh_l0):
        parameter.data.view(4, 5, -1)[:, :2] = 0
    check(net, example(6, 3), removed=0)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_unit_that_only_the_layer_itself_reads(kind: str) -> None:
    rnn = getattr(nn, kind)(3, 5, batch_first=True)
    net = drawn(Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=rnn, head=nn.Linear(5, 2)))
    zero_(net.head.weight[:, :2])
    check(net, example(6, 3), removed=0)


def test_the_last_state_and_what_feeds_a_recurrent_layer() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        _, (state, cell) = m.rnn(m.embed(x).relu())
        return m.head(torch.cat([state[-1], cell[-1]], -1))

    net = drawn(Net(run, embed=nn.Linear(3, 6), rnn=nn.LSTM(6, 5, batch_first=True),
                    head=nn.Linear(10, 2)))  # fmt: skip
    zero_(net.embed.weight[:2], net.embed.bias[:2])
    for parameter in net.rnn.parameters():
        parameter.data.view(4, 5, -1)[:, 3:] = 0
    small = check(net, example(6, 3), removed=4)
    assert (small.rnn.input_size, small.rnn.hidden_size) == (4, 3)


def test_a_state_that_is_given_stays() -> None:
    def run(m: Net, x: Tensor, state: Tensor) -> Tensor:
        return m.head(m.rnn(x, state)[0])

    net = drawn(Net(run, rnn=nn.GRU(3, 5), head=nn.Linear(5, 2)))
    for parameter in net.rnn.parameters():
        parameter.data.view(3, 5, -1)[:, :2] = 0
    state = fresh(torch.empty(1, 4, 5, dtype=torch.float64), 0)[0]
    sequence = fresh(torch.empty(6, 4, 3, dtype=torch.float64), 1)[0]
    check(net, (sequence, state), removed=0)


# Layers with nothing left.


def test_a_dead_layer_keeps_one_unit() -> None:
    net = dense()
    zero_(net[0].weight, net[0].bias)
    small = check(net, example(4), removed=5)
    assert "1 the layer is dead; one unit stays, or it would be empty" in reasons(small)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dense(nn.Sigmoid()),
        lambda: convs(1, nn.BatchNorm2d(6)),
        residual,
        lambda: drawn(nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 3, 1))),
    ],
    ids=["dense", "convolutions", "residual", "group norm"],
)  # fmt: skip
@pytest.mark.parametrize("biases", [True, False])
def test_everything_dead(make: Callable[[], nn.Module], biases: bool) -> None:
    net = make()
    for name, parameter in net.named_parameters():
        if biases or "bias" not in name:
            zero_(parameter)
    x = example(4) if isinstance(next(iter(net.children())), nn.Linear) else example(3, 8, 8)
    small = lissom.shrink(net, x)
    assert_equal(net, small, x)
    assert report(small).removed > 0 and all(p.numel() for p in small.parameters())


def test_a_network_without_units_stays_as_it_is() -> None:
    net = drawn(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    small = check(net, example(4), removed=0)
    assert small is not net


# What is in the way of a plain weight.


def test_in_place_activations_on_views() -> None:
    """What is written into a view is seen by the whole."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x[:, :3].add_(1.0)
        return m.b(x)

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    for unit in (0, 5):
        zero_(net.a.weight[unit], net.a.bias[unit])
    small = lissom.shrink(net, example(4))
    assert_equal(net, small, example(4))


def test_in_place_relu() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1)))
    zero_(net[0].weight[:2])
    net[0].bias.data[:2] = torch.tensor([0.5, -0.5])
    assert report(check(net, example(3, 4, 4), removed=2)).folded == 1


def test_an_in_place_sum_that_another_reader_sees() -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        y = x.view(-1, 6)
        x += 1.0
        return m.b(y)

    net = drawn(Net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3)))
    zero_(net.a.weight[:2], net.a.bias[:2])
    small = lissom.shrink(net, example(4))
    assert_equal(net, small, example(4))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, w, self.bias)


def test_weight_standardisation() -> None:
    """Its rows go; its columns stay, since the mean is taken over them."""
    net = drawn(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), Standardised(5, 6, 3), nn.ReLU(),
                              nn.Conv2d(6, 2, 1)))  # fmt: skip
    zero_(net[0].weight[:2], net[0].bias[:2], net[2].weight[:2], net[2].bias[:2])
    small = check(net, example(3, 6, 6), removed=2)
    assert small[2].weight.shape == (4, 5, 3, 3)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights(norm: Callable[[nn.Module], nn.Module]) -> None:
    """Exact, whatever torch's parametrisations compute; zeros of other layers go."""
    net = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(),
                              nn.Linear(5, 3)))  # fmt: skip
    norm(net[2])
    net.eval()
    zero_(net[4].weight[:, :2], net[0].weight[:1], net[0].bias[:1])
    small = lissom.shrink(net, example(4))
    assert_equal(net, small, example(4))


def test_a_weight_norm_with_no_length() -> None:
    net = drawn(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(),
                              nn.Linear(6, 3)))  # fmt: skip
    zero_(net[0].parametrizations.weight.original0[:2], net[0].bias[:2])
    small = lissom.shrink(net, example(4))
    assert_equal(net, small, example(4))
    assert report(small).removed in (0, 2)


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


def test_a_parametrisation_of_the_users() -> None:
    net = dense()
    torch.nn.utils.parametrize.register_parametrization(net[0], "weight", Doubled())
    zero_(net[0].parametrizations.weight.original[:2], net[0].bias[:2])
    small = check(net, example(4), removed=2)
    assert small[0].parametrizations.weight.original.shape == (4, 4)


@pytest.mark.parametrize("removed", [False, True])
def test_structured_pruning_of_torch(removed: bool) -> None:
    """ln_structured leaves biases: half of the channels are constants."""
    net = convs(0)
    prune.ln_structured(net[0], "weight", amount=0.5, n=2, dim=0)
    if removed:
        prune.remove(net[0], "weight")
    small = check(net, example(3, 8, 8), removed=3, grow=3)
    assert small[0].weight.shape[0] == 3
    assert prune.is_pruned(small) is not removed


@pytest.mark.parametrize("removed", [False, True])
def test_unstructured_pruning_of_torch(removed: bool) -> None:
    """Nine in ten of the weights: some neurons have none left, or nobody who reads them."""
    net = drawn(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
                              nn.Linear(20, 3)))  # fmt: skip
    for i in (0, 2, 4):
        prune.l1_unstructured(net[i], "weight", amount=0.93)
    masked = [(net[i].weight_mask.clone(), net[i].weight.detach().clone()) for i in (0, 2, 4)]
    if removed:
        for i in (0, 2, 4):
            prune.remove(net[i], "weight")
    small = lissom.shrink(net, example(6))
    assert_equal(net, small, example(6))
    (_, a), (_, b), (_, c) = masked
    dead = ~a.any(1) | ~b.any(0)
    assert report(small).removed >= max(int(dead.sum()), int((~b.any(1) | ~c.any(0)).sum())) - 2
    for i, (mask, weight) in zip((0, 2, 4), masked, strict=True):
        assert torch.equal(net[i].weight, weight)
        assert removed or torch.equal(net[i].weight_mask, mask)


def test_a_mask_of_the_users() -> None:
    class Masked(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.register_buffer("mask", torch.ones(self.weight.shape))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * self.mask, self.bias)

    net = drawn(nn.Sequential(Masked(4, 6), nn.ReLU(), Masked(6, 3)))
    zero_(net[0].mask[:2], net[0].bias[:2], net[2].mask[:, 5:])
    small = check(net, example(4), removed=3)
    assert small[0].mask.shape == (3, 4) and small[2].mask.shape == (3, 3)


def test_a_learned_position_is_cut_with_its_width() -> None:
    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
            self.position = nn.Parameter(torch.zeros(1, 5, 6))
            self.token = nn.Parameter(torch.zeros(1, 1, 6))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
            return self.head((x + self.position).tanh())

    net = drawn(Positioned())
    zero_(net.embed.weight[:3], net.embed.bias[:3], net.position[..., :3], net.token[..., :2])
    small = check(net, example(4, 3), removed=2)
    assert small.position.shape == (1, 5, 4)


def test_operations_without_a_rule_pin_and_are_named() -> None:
    net = drawn(
        Net(lambda m, x: m.b(torch.linalg.pinv(m.a(x)).mT), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    )
    zero_(net.a.weight[:2], net.a.bias[:2])
    small = check(net, example(4), removed=0)
    assert report(small).pinned_by == {"linalg_pinv": 1}
    assert "operators whose inputs stay: linalg_pinv ×1 (it needs whole matrices)" in str(
        report(small)
    )


def test_weights_that_are_not_finite() -> None:
    """NaN is not zero; it is reproduced where it is read."""
    net = dense()
    zero_(net[0].weight[:2], net[0].bias[:2])
    net[0].weight.data[3, 1] = float("nan")
    small = lissom.shrink(net, example(4))
    assert report(small).removed == 2 and outputs(small, example(4))[0].isnan().all()

    net = dense()
    zero_(net[0].weight[:2], net[0].bias[:2])
    net[2].weight.data[1, 0] = float("inf")  # 0 · ∞ is NaN
    small = lissom.shrink(net, example(4))
    assert report(small).removed >= 1 and outputs(small, example(4))[0][:, 1].isnan().all()


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_as_a_graph(kind: str, gates: int) -> None:
    rnn = getattr(nn, kind)(3, 5, batch_first=True)
    net = drawn(Net(lambda m, x: m.head(m.rnn(x)[0]), rnn=rnn, head=nn.Linear(5, 2)))
    for parameter in net.rnn.parameters():
        parameter.data.view(gates, 5, -1)[:, :2] = 0
    small = check(net, example(6, 3), removed=2, graph=True, as_graph=True)
    assert apart(net, small, fresh(torch.empty(3, 6, 3, dtype=torch.float64), 1)) <= EXACT
