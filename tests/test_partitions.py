"""Tiles, runs and numbers of one's own: entry by entry, and under every method."""

import copy
import pickle
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gates_cases import delivered, gated
from hypothesis import given, settings
from hypothesis import strategies as st
from products import exhaustive, sampled
from proximal_cases import DTYPES, METRICS, each
from shrink_cases import drawn
from torch import Tensor, nn

import lissom
from lissom import L0, L1, L2, TopK
from lissom.compressions import Codebook
from lissom.coupling import channels, heads, neurons
from lissom.errors import CompressionError, GroupError
from lissom.groups import (
    Groups,
    Member,
    Partition,
    Role,
    Spread,
    blocks,
    columns,
    kernels,
    partition,
    tiles,
    weights,
)
from lissom.hard_concrete import HardConcrete
from lissom.methods.gates import gates_of
from lissom.methods.gates.expected import Box


class Net(nn.Module):
    """A convolution and two dense layers, none of whose sizes is a multiple of four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.fc1, self.fc2 = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(self.conv(x).relu().flatten(1)).relu()
        out: Tensor = self.fc2(x)
        return out


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = numbers(4, 2, 3, 3)


def of_ones_own(net: nn.Module) -> Groups:
    """Unequal groups: rows with their biases, some entries of none, some in three tensors."""
    rows = torch.tensor([0, 1, -1, 2, 2])
    fc2 = torch.tensor([[3, 3, -1, 0, 4]], dtype=torch.int16)
    return partition(net, {"fc1.weight": rows[:, None], net.fc1.bias: rows, "fc2.weight": fc2})


def in_order(net: nn.Module) -> Groups:
    """The rows of the first layer in order; the second has as many rows, and fewer groups."""
    return partition(
        net, {"fc1.weight": torch.arange(5)[:, None], "fc2.weight": torch.arange(3)[:, None]}
    )


KINDS: dict[str, Callable[[nn.Module], Groups]] = {
    "weights": weights,
    "kernels": kernels,
    "columns": columns,
    "tiles": tiles,
    "long tiles": lambda net: tiles(net, (1, 5)),
    "blocks": lambda net: blocks(net, 8),
    "own": of_ones_own,
    "in order": in_order,
    "neurons": lambda net: neurons(net, X.to(net.fc1.weight.dtype)),
}
SEVERAL = {k: KINDS[k] for k in ("kernels", "tiles", "blocks", "own", "in order")}


def group_of(member: Member) -> dict[tuple[int, ...], int]:
    """The group of each entry, one by one; without those of none."""
    found = {}
    for entry in np.ndindex(*member.tensor.shape):
        at = tuple(entry[d] for d in member.dims)
        if member.index is not None:
            group = int(member.index[at])
        else:
            sizes = [member.tensor.shape[d] for d in member.dims]
            group = int(np.ravel_multi_index(at, sizes))
        if group >= 0:
            found[tuple(int(i) for i in entry)] = group
    return found


def entries(part: Partition, role: Role = Role.NORM) -> Iterator[tuple[Member, Any, int]]:
    for member in part.members:
        if member.role is role and isinstance(member.tensor, nn.Parameter):
            for entry, group in group_of(member).items():
                yield member, entry, group


def made(kind: Callable[[nn.Module], Groups], dtype: torch.dtype = torch.float64) -> Any:
    net = drawn(Net()).to(dtype)
    return net, kind(net)


def test_tiles_by_hand() -> None:
    net = Net()
    groups = tiles(net, shape=(2, 4))
    assert groups.kind == "tiles" and [b.name for b in groups] == [
        "conv.weight", "fc1.weight", "fc2.weight"
    ]  # fmt: skip
    for block, parameter in zip(
        groups, (net.conv.weight, net.fc1.weight, net.fc2.weight), strict=True
    ):
        matrix = parameter.detach().flatten(1)
        cut = [t for rows in matrix.split(2) for t in rows.split(4, 1)]
        assert block.norms().tolist() == pytest.approx([float(t.norm()) for t in cut])
        assert block.cost().tolist() == [t.numel() for t in cut]
    assert tiles(nn.Linear(8, 8)).blocks[0].weights_each() == 16
    assert tiles(nn.Linear(7, 5)).cost()[0].tolist() == [16, 12, 4, 3]


@each("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_scales_and_metrics_entry_by_entry(kind: Any, dtype: torch.dtype) -> None:
    net, groups = made(kind, dtype)
    generator = torch.Generator().manual_seed(0)
    eps = 8 * torch.finfo(dtype).eps
    for block in groups:
        count = block.shape.numel()
        metric = {m.name: torch.rand(m.tensor.shape, generator=generator) for m in block.normed}
        squares, moved, size = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
        for member, entry, group in entries(block):
            square = member.tensor[entry].detach().double() ** 2
            squares[group] += square
            moved[group] += square * metric[member.name][entry]
            size[group] += 1
        norms = block.norms().flatten()
        assert norms.dtype == (dtype if dtype.itemsize >= 4 else torch.float32)
        torch.testing.assert_close(norms.double(), squares.sqrt(), rtol=1e-5, atol=0)
        weighted = block.weighted(*metric.values()).flatten().double()
        torch.testing.assert_close(weighted, moved / squares, rtol=1e-5, atol=0)
        each_ = block.weights_each()
        same = isinstance(each_, int)
        assert same == (len(size.unique()) == 1)
        assert (torch.full((count,), each_) if same else each_).tolist() == size.tolist()
        scales = torch.rand(count, generator=generator)
        scales[0] = 0
        before = {name: p.detach().double().clone() for name, p in net.named_parameters()}
        block.scale_(scales.view(block.shape))
        factor = {name: torch.ones_like(p) for name, p in before.items()}
        for member, entry, group in entries(block):
            factor[member.name][entry] *= scales[group]
        for member, entry, group in entries(block, Role.ZEROED):
            factor[member.name][entry] *= scales[group] != 0
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.double(), before[name] * factor[name], rtol=eps, atol=0)


@each("kind", KINDS)
def test_a_dead_group_has_the_mean_metric_and_no_gradient(kind: Any) -> None:
    _, groups = made(kind)
    for block in groups:
        dead = torch.zeros(block.shape, dtype=torch.bool)
        dead.view(-1)[0] = True
        block.kill_(dead)
        metrics = [torch.rand(m.tensor.shape).double() for m in block.normed]
        mine = [metrics[block.normed.index(m)][e] for m, e, group in entries(block) if group == 0]
        found = block.weighted(*metrics).flatten()[0]
        assert float(found) == pytest.approx(float(torch.stack(mine).mean()))
        block.norms().sum().backward()
        for member, entry, group in entries(block):
            gradient = member.tensor.grad[entry]
            assert gradient.isfinite() and (gradient == 0) == (group == 0)


@each("kind", KINDS)
def test_the_cost_of_a_group(kind: Any) -> None:
    """Every parameter entry that goes with it, once."""
    _, groups = made(kind)
    for block, cost in zip(groups, groups.cost(), strict=True):
        found = [set() for _ in range(cost.numel())]  # type: ignore[var-annotated]
        for role in Role:
            for member, entry, group in entries(block, role):
                found[group].add((id(member.tensor), entry))
        assert cost.flatten().tolist() == [len(one) for one in found]


def square() -> nn.Module:
    """A residual stream, whose units are rows and columns of one weight."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            out: Tensor = self.head((x + self.block(x)).relu())
            return out

    return drawn(Stream())


def test_the_cost_of_a_unit_counts_the_corner_once() -> None:
    [block] = neurons(square(), numbers(2, 2))
    # rows of stem with bias, row and column of the block with bias, a column of the head
    assert block.cost().tolist() == [2 + 1 + (3 + 3 - 1) + 1 + 2] * 3


def mixed_tiles() -> tuple[nn.Module, dict[Groups, Any], Tensor]:
    net = drawn(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU()))
    x = numbers(2, 3)
    return net, {neurons(net, x): L0(1.0), tiles(net).only("2"): L0(1.0)}, x


def mixed_kernels() -> tuple[nn.Module, dict[Groups, Any], Tensor]:
    net = drawn(nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 3, 2)))
    x = numbers(2, 1, 4, 4)
    return net, {channels(net, x): L0(1.0), kernels(net).only("2"): L0(1.0)}, x


def alone(
    make: Callable[[], nn.Module], kind: Callable[..., Groups], x: Tensor, *args: Any
) -> Callable[[], tuple[nn.Module, dict[Groups, Any], Tensor]]:
    def case() -> tuple[nn.Module, dict[Groups, Any], Tensor]:
        net = make()
        return net, {kind(net, *args): L0(1.0)}, x

    return case


def mlp() -> nn.Module:
    return drawn(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


def scattered(net: nn.Module) -> Groups:
    first = torch.arange(12).view(4, 3) % 4 - 1
    return partition(net, {"0.weight": first, "2.bias": torch.tensor([1, 3])})


STATES = {
    "tiles": alone(mlp, tiles, numbers(2, 3), (3, 2)),
    "own": alone(mlp, scattered, numbers(2, 3)),
    "columns": alone(mlp, columns, numbers(2, 3)),
    "neurons": alone(mlp, neurons, numbers(2, 3), numbers(2, 3)),
    "square": alone(square, neurons, numbers(2, 2), numbers(2, 2)),
    "tiles and neurons": mixed_tiles,
    "kernels and channels": mixed_kernels,
}


@each("make", STATES)
def test_expected_sizes_against_all_states(make: Any) -> None:
    """Σ over all states of gates, of its probability times what is left, entry by entry."""
    net, penalties, x = make()
    gates = gated(net, penalties, example_inputs=x)
    with torch.no_grad():
        gates.log_alpha.copy_(numbers(len(gates), seed=2))
    parts = gates.blocks()
    chances = torch.cat([p.detach().flatten() for p in gates.p_nonzero()])
    names = {id(p): name for name, p in net.named_parameters()}
    lies_in: dict[tuple[str, Any], set[int]] = {}
    start = 0
    for part in parts:
        for role in Role:
            for member, entry, group in entries(part, role):
                lies_in.setdefault((names[id(member.tensor)], entry), set()).add(start + group)
        start += part.shape.numel()
    each_ = {name: 1.0 + i for i, name in enumerate(names.values()) if name != gates_name}
    total = dict.fromkeys(("weights", "each"), 0.0)
    rest = {k: v for k, v in each_.items()}
    loose = {name: p.numel() for name, p in net.named_parameters() if name in rest}
    for name, _ in lies_in:
        loose[name] -= 1
    total["weights"] = float(sum(loose.values()))
    total["each"] = sum(each_[name] * n for name, n in loose.items())
    for state in product([0, 1], repeat=len(gates)):
        alive = torch.tensor(state)
        chance = float(torch.where(alive == 1, chances, 1 - chances).prod())
        for (name, _), groups in lies_in.items():
            left = chance * all(state[g] for g in groups)
            total["weights"] += left
            total["each"] += each_[name] * left
    assert gates.expected().item() == pytest.approx(total["weights"], rel=1e-10)
    assert gates.expected(each_).item() == pytest.approx(total["each"], rel=1e-10)
    assert gates.total() == sum(p.numel() for name, p in net.named_parameters() if name in rest)
    [gradient] = torch.autograd.grad(gates.expected(), gates.log_alpha)
    assert (gradient > 0).all()


gates_name = "lissom_log_alpha"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_box_against_all_states(data: st.DataObject) -> None:
    """Whatever lies in it, along whichever dims, however often."""
    draw = data.draw
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    placed = []
    for number in draw(st.lists(st.integers(0, len(counts) - 1), max_size=4)):
        along = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
        size = tuple(n if here else 1 for n, here in zip(shape, along, strict=True))
        n = int(np.prod(size))
        index = draw(st.lists(st.integers(0, counts[number]), min_size=n, max_size=n))
        placed.append((number, Spread(size, torch.tensor(index))))
    p = [numbers(n, seed=n).sigmoid() for n in counts]
    starts = np.cumsum([0, *counts])
    expected = 0.0
    met: list[set[int]] = []
    for entry in np.ndindex(*shape):
        groups = set()
        for number, spread in placed:
            at = tuple(i if n > 1 else 0 for i, n in zip(entry, spread.shape, strict=True))
            group = int(spread.numbers()[at])
            if group < counts[number]:
                groups.add(int(starts[number]) + group)
        met.append(groups)
    flat = torch.cat(p)
    for state in product([0, 1], repeat=len(flat)):
        chance = float(torch.where(torch.tensor(state) == 1, flat, 1 - flat).prod())
        expected += chance * sum(all(state[g] for g in groups) for groups in met)
    found = Box(shape, placed, counts).expected(p, [q.sum() for q in p])
    assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_the_issue_of_tiles_under_gates() -> None:
    net = nn.Sequential(nn.Linear(28, 60), nn.ReLU(), nn.Linear(60, 10))
    gates = gated(net, {tiles(net): L0(1.0)})
    with torch.no_grad():
        gates.log_alpha.copy_(torch.where(torch.rand(len(gates)) < 0.4, 30.0, -30.0))
    left = sum(int(p.count_nonzero()) for p in delivered(gates).parameters())
    assert gates.total() == 28 * 60 + 60 + 600 + 10
    assert gates.expected().item() == pytest.approx(left, rel=1e-4) and left < gates.total()


@exhaustive
def test_expected_operations_of_attention_by_groups_of_ones_own() -> None:
    """All slices of a head in one group are the head, whoever numbered them."""
    torch.manual_seed(0)
    net = drawn(nn.TransformerEncoderLayer(6, 3, 4, dropout=0.0, batch_first=True))
    x = numbers(2, 4, 6)
    [family] = heads(net, x)
    own = partition(
        net,
        {
            m.tensor: m.index.view([-1 if d in m.dims else 1 for d in range(m.tensor.ndim)])
            for m in family.members
        },
    )
    found = []
    for groups in (heads(net, x), own):
        copied = copy.deepcopy((net, groups))
        gates = gated(copied[0], {copied[1]: L0(1.0)}, example_inputs=x)
        with torch.no_grad():
            gates.log_alpha.copy_(torch.tensor([1.0, -60.0, 60.0]))
        found.append(gates.expected("macs").item())
        with torch.no_grad():
            gates.log_alpha[0] = -60.0
        small = lissom.shrink(delivered(gates), x)
        macs = lissom.measure(small, x).macs
        assert macs is not None
        assert gates.expected("macs").item() == pytest.approx(macs, rel=1e-9)
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_unit_in_two_groups_is_not_gone_with_one_of_them() -> None:
    """Without their queries the heads of an attention still multiply."""
    torch.manual_seed(0)
    net = drawn(nn.TransformerEncoderLayer(6, 3, 4, dropout=0.0, batch_first=True))
    x = numbers(2, 4, 6)
    [family] = heads(net, x)
    own = {}
    for member in family.members:
        index = member.index.clone()
        if "in_proj" in member.name:
            index[:6] = 3  # rows that make queries
        dims = range(member.tensor.ndim)
        own[member.tensor] = index.view([-1 if d in member.dims else 1 for d in dims])
    gates = gated(net, {partition(net, own): L0(1.0)}, example_inputs=x)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor([60.0, 60.0, 60.0, -60.0]))
    queries = 4 * 6 * 6  # tokens × width × width
    assert gates.total("macs") - gates.expected("macs").item() == pytest.approx(queries)


@each("kind", SEVERAL)
@pytest.mark.parametrize("draws", ["training", "evaluation"])
def test_gates_multiply_all_of_a_group_alike(kind: Any, draws: str) -> None:
    net, groups = made(kind)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    gates = gated(net, {groups: L0(1.0)}, seed=3)
    after = {name: p.detach().clone() for name, p in net.named_parameters()}
    mean = [1 / HardConcrete().mean(part) for part in gates._by_block(gates.log_alpha.detach())]
    net.train(draws == "training")
    seen: dict[str, Tensor] = {}
    hooks = [
        m.register_forward_hook(lambda m, a, o, n=n: seen.update({n: m.weight.detach()}))
        for n, m in net.named_children()
    ]
    net(X)
    for hook in hooks:
        hook.remove()
    for block, start in zip(groups, mean, strict=True):
        ratios: dict[int, set[float]] = {}
        for member, entry, group in entries(block):
            factor = start.flatten()[group]
            assert after[member.name][entry] == pytest.approx(before[member.name][entry] * factor)
            if member.name.endswith("weight"):
                z = seen[member.name.removesuffix(".weight")][entry] / after[member.name][entry]
                ratios.setdefault(group, set()).add(round(float(z), 9))
        assert all(len(zs) == 1 for zs in ratios.values())


@each("kind", SEVERAL)
@pytest.mark.parametrize("per", ["weight", "group"])
def test_the_penalty_of_gates_by_hand(kind: Any, per: Any) -> None:
    net, groups = made(kind)
    gates = gated(net, {groups: L0(0.3) + L2(0.7)}, per=per, detach_l2=False)
    with torch.no_grad():
        gates.log_alpha.copy_(numbers(len(gates)))
    expected = torch.zeros(())
    slopes = []
    for block, p in zip(groups, gates.p_nonzero(), strict=True):
        size, squares = (torch.zeros(p.numel(), dtype=torch.float64) for _ in range(2))
        for member, entry, group in entries(block):
            size[group] += 1
            squares[group] += member.tensor[entry].detach() ** 2
        slope = 0.3 * (size if per == "weight" else 1) + 0.7 * squares
        expected = expected + (slope * p.flatten()).sum()
        slopes.append(slope * (p * (1 - p)).flatten().detach())
    torch.testing.assert_close(gates.penalty(), expected)
    [gradient] = torch.autograd.grad(gates.penalty(), gates.log_alpha)
    torch.testing.assert_close(gradient, torch.cat(slopes))


@each("kind", SEVERAL)
def test_gates_end_in_zeros_of_whole_groups(kind: Any) -> None:
    net, groups = made(kind)
    gates = gated(net, {groups: L0(1.0)}, seed=0)
    with torch.no_grad():
        gates.log_alpha.copy_(3 * (-1.0) ** torch.arange(len(gates)))
    closed = [z == 0 for z in gates.test_gates()]
    assert any(bool(dead.any()) for dead in closed)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.eval(), net.eval()
        assert torch.equal(other(X), net(X))
        expected = net(X)
        gates_of(other).finalize()
        torch.testing.assert_close(other(X), expected)
    gates.finalize()
    for block, dead in zip(groups, closed, strict=True):
        assert torch.equal(block.norms() == 0, dead)
        for member, entry, group in entries(block):
            assert (member.tensor[entry] == 0) == dead.flatten()[group]
    small = lissom.shrink(net, X)
    torch.testing.assert_close(small(X), net(X))


PENALTIES = {"l0": L0(3.0), "l1": L1(3.0), "topk": TopK(4), "topk+l2": TopK(4) + L2(1.0)}


@sampled(4)
@each("kind", SEVERAL)
@each("penalty", PENALTIES)
def test_proximal_fused_and_reference(kind: Any, penalty: Any) -> None:
    """In both metrics, with whole groups zero, an exact count, and zeros that stay."""
    for metric in METRICS:
        nets = [made(kind) for _ in range(2)]
        for (net, groups), fused in zip(nets, (True, False), strict=True):
            opt = torch.optim.Adam(net.parameters(), 0.02)
            options = {"metric": metric, "fused": fused, "finalize_at": 3}
            lissom.proximal(opt, {groups: penalty}, **options)
            for n in range(4):
                opt.zero_grad()
                net(numbers(*X.shape, seed=n)).square().mean().backward()
                opt.step()
        (net, groups), (other, _) = nets
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
        alive = 0
        for block in groups:
            zero = (block.norms() == 0).flatten()
            alive += int((~zero).sum())
            for member, entry, group in entries(block):
                assert (member.tensor[entry] == 0) == zero[group]
        if "TopK" in repr(penalty):
            assert alive == 4
        torch.testing.assert_close(lissom.shrink(net, X)(X), net(X))


@each("kind", SEVERAL)
def test_subgradients_entry_by_entry(kind: Any) -> None:
    net, groups = made(kind)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    lissom.subgradient(opt, {groups: L1(0.5) + L2(0.2)}).penalty().backward()
    for block in groups:
        norms = block.norms().flatten().detach()
        for member, entry, group in entries(block):
            w = member.tensor[entry].detach()
            expected = 0.5 * w / norms[group] + 2 * 0.2 * w
            assert float(member.tensor.grad[entry]) == pytest.approx(float(expected))


@each("kind", SEVERAL)
def test_learning_compression_keeps_as_many_groups(kind: Any) -> None:
    net, groups = made(kind)
    opt = torch.optim.Adam(net.parameters(), 0.01)
    method = lissom.lc(opt, {groups: TopK(3)}, every=2, c_steps=3, mu=0.1)
    for n in range(6):
        loss = net(numbers(*X.shape, seed=n)).square().mean() + method.penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()
    method.finalize()
    zeros = [(block.norms() == 0).flatten() for block in groups]
    assert sum(int((~zero).sum()) for zero in zeros) == 3
    for block, zero in zip(groups, zeros, strict=True):
        for member, entry, group in entries(block):
            assert (member.tensor[entry] == 0) == zero[group]


def test_codebooks_are_of_whole_tensors() -> None:
    net, _ = made(tiles)
    opt = torch.optim.Adam(net.parameters(), 0.01)
    method = lissom.lc(opt, {tiles(net): Codebook(2)}, every=1, c_steps=1, mu=0.1)
    method.finalize()
    assert len(net.fc1.weight.unique()) <= 2
    for groups in (of_ones_own(net), neurons(net, X)):
        with pytest.raises(CompressionError, match=r"compresses whole tensors, but .* parts of"):
            lissom.lc(torch.optim.Adam(net.parameters()), {groups: Codebook(2)}, every=1, mu=0.1)


def test_blocks_are_weights_that_know_their_run() -> None:
    net = Net()
    groups = blocks(net, 32)
    assert groups.kind == "weights" and len(groups) == len(weights(net))
    assert [block.run for block in groups] == [32, 32, 32]
    assert all(block.single for block in groups)
    assert {block.run for block in weights(net)} == {None}


def test_a_network_that_was_cut() -> None:
    """Shapes are followed where groups are numbered in order; numbers of one's own are not."""
    net, groups = made(of_ones_own)
    plain = weights(net)
    with torch.no_grad():
        net.fc1.weight[0], net.fc1.bias[0] = 0, 0
    lissom.shrink(net, X, in_place=True)
    assert [norms.shape for norms in plain.norms()][1] == (4, 12)
    with pytest.raises(GroupError, match=r"fc1.weight had 5 entries along dim 0 when its"):
        groups.norms()


def test_names_of_one_partition() -> None:
    net = Net()
    groups = of_ones_own(net)
    [block] = groups
    assert block.name == "fc1.weight" and block.module is net.fc1
    assert block.names == ("fc1.weight", "fc1.bias", "fc2.weight")
    assert groups.only("fc2").blocks == groups.only("fc1").blocks == (block,)
    assert partition(torch.compile(net), {"fc1.bias": torch.arange(5)}).blocks[0].name == "fc1.bias"
    lines = str(partition(net, {"fc1.bias": torch.arange(5)}, kind="biases")).splitlines()
    assert lines[0].split() == [
        "parameter",
        "module",
        "shape",
        "weights",
        "each",
        "biases",
        "non-zero",
    ]
    assert lines[2].split() == ["fc1.bias", "Linear", "5", "1", "5", "5"]
    assert "fc1.weight + 2   Linear" in str(groups) and "3–26" in str(groups)
    assert str(block).splitlines()[0].strip() == "5 groups, 3–26 weights each"


ROWS = torch.arange(5)[:, None]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, r"a mapping \{parameter: its entries' groups\}.*got \{\}"),
        (ROWS, "a mapping"),
        ({"fc1.wight": ROWS}, r"'fc1.wight' is no parameter of .* Did you mean 'fc1.weight'"),
        ({nn.Parameter(torch.ones(2, 3)): ROWS}, r"of shape \[2, 3\] is none of this Net"),
        ({3: ROWS}, "3 is none of this Net"),
        ({"fc1.weight": [0, 1]}, r"by a tensor of whole numbers; fc1.weight got \[0, 1\]"),
        ({"fc1.weight": ROWS.float()}, "whole numbers; fc1.weight got torch.float32"),
        ({"fc1.weight": ROWS > 2}, "whole numbers; fc1.weight got torch.bool"),
        ({"fc1.weight": torch.arange(5)}, r"to its shape \[5, 12\], and \[5\] is not; .* \[5, 1\]"),
        ({"fc1.bias": ROWS}, r"to its shape \[5\], and \[5, 1\] is not"),
        ({"fc1.weight": ROWS - 2}, "numbered from 0, with −1 for none; fc1.weight got -2"),
        ({"fc1.weight": 2 * ROWS}, "without a gap; there is a group 8, and no group 1"),
        ({"fc1.weight": ROWS + 1}, "no group 0"),
        ({"fc1.weight": ROWS * 0 - 1}, "no entry of fc1.weight is of a group"),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_do_not_fit(given_: Any, said: str) -> None:
    with pytest.raises(GroupError, match=said):
        partition(Net(), given_)


def test_numbered_twice() -> None:
    net = Net()
    with pytest.raises(GroupError, match=r"fc1.weight is numbered twice"):
        partition(net, {"fc1.weight": ROWS, net.fc1.weight: ROWS})


@pytest.mark.parametrize("shape", [(0, 4), (4,), 4, (4, 4, 4), (2.0, 4), (True, 4)])
def test_no_tiles(shape: Any) -> None:
    with pytest.raises(GroupError, match=r"a tile has rows and columns, as in shape=\(4, 4\); got"):
        tiles(Net(), shape)


def test_tiles_of_an_empty_parameter_are_none() -> None:
    net = nn.ParameterList([torch.ones(0, 3), torch.ones(3, 0), torch.ones(1, 1)])
    groups = tiles(net)
    assert [list(norms.shape) for norms in groups.norms()] == [[0], [0], [1]]
    lissom.proximal(torch.optim.SGD(net.parameters(), 1.0), {groups: L0(2.0)}).apply()
    assert not net[2].any()


@pytest.mark.parametrize("choose", [lissom.weights, tiles, lambda m: partition(m, {"w": ROWS})])
def test_groups_of_what_is_no_model(choose: Any) -> None:
    with pytest.raises(GroupError, match=r"chosen from a torch\.nn\.Module, got SGD"):
        choose(torch.optim.SGD(Net().parameters(), 0.1))


@pytest.mark.parametrize("run", [0, 2.5, "32"])
def test_no_runs(run: Any) -> None:
    with pytest.raises(GroupError, match="a run of neighbours is a whole number, 1 or more; got"):
        blocks(Net(), run)


def test_a_tied_parameter_goes_by_any_of_its_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    [block] = partition(net, {"1.weight": torch.arange(3)[:, None]})
    assert block.name == "0.weight" and block.shape == (3,)


def test_columns_that_something_else_reads_too_are_not_killed() -> None:
    """What comes out of a dead unit may be f(0) ≠ 0, which all readers see alike or none."""

    class Squared(nn.Module):
        def __init__(self, also: bool) -> None:
            super().__init__()
            self.a, self.b, self.also = nn.Linear(4, 6), nn.Linear(6, 3), also

        def forward(self, x: Tensor) -> Tensor:
            h = torch.sigmoid(self.a(x))
            return self.b(h) + (h @ h.mT if self.also else 0)

    for also in (False, True):
        net, x = Squared(also).double(), torch.randn(3, 3, 4).double()
        [family] = neurons(net, x)
        columns, rows = net.b.weight.detach().clone(), net.a.weight.detach().clone()
        dead = torch.arange(6) % 2 == 0
        family.kill_(dead)
        assert torch.equal(net.a.weight, rows * ~dead[:, None])
        assert torch.equal(net.b.weight, columns if also else columns * ~dead)
        assert not net.a.bias[dead].any() and net.a.bias[~dead].all()
