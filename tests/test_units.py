"""Coupled units as groups: disjoint norms, exact prox, and zeros that can be removed."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from products import few, pairwise, sampled, thinned
from proximal_cases import METRICS, OPTIMIZERS, each
from shrink_cases import drawn, fresh, report, zero_half_
from torch import Tensor, nn
from zoo import FEW, ZOO, Entry, build

import lissom
from lissom import L0, L1, L2, L1Ball, Threshold, TopK, proximal, subgradient
from lissom.coupling import Family, Role, units
from lissom.errors import GroupError, OptimizerError
from lissom.groups import Groups
from lissom.methods.proximal import Proximal

PENALTIES = {
    "l0": L0(2.0),
    "l1": L1(4.0),
    "l2": L2(1.0),
    "l0+l2": L0(1.0) + L2(1.0),
    "top half": TopK(fraction=0.5),
    "top 2 per layer": TopK(2, per="layer"),
    "ball": L1Ball(0.5),
    "threshold": Threshold(0.5),
}


class Residual(nn.Module):
    """Stem and block make the same four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.block = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.block(self.inner(x).relu())).relu()
        return self.head(x.mean((2, 3)))


EXAMPLE = fresh(torch.empty(2, 2, 5, 5, dtype=torch.float64), 0)[0]


@cache
def traced(dtype: torch.dtype) -> tuple[nn.Module, Groups]:
    net = drawn(Residual()).to(dtype)
    return net, units(net, EXAMPLE.to(dtype))


def residual(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Groups]:
    return copy.deepcopy(traced(dtype))


def by_hand(family: Family, unit: int, values: Mapping[str, Tensor] | None = None) -> Tensor:
    """What counts in one unit's norm (or what stands at its places), collected one by one."""
    found = []
    for member in family.members:
        if member.role is Role.NORM:
            tensor = member.tensor if values is None else values[member.name]
            rows = [i for i, u in enumerate(member.index.tolist()) if u == unit]
            found.append(tensor.detach().movedim(member.dims[0], 0)[rows].flatten())
    return torch.cat(found)


def families(groups: Groups) -> list[Family]:
    assert all(isinstance(block, Family) for block in groups)
    return list(groups)  # type: ignore[arg-type]


@sampled(2)
@pytest.mark.parametrize("inputs", few([False, True], [True]))
@pytest.mark.parametrize(
    "entry", few(dict.fromkeys([*FEW, *thinned(ZOO, 3)]), FEW), ids=lambda entry: entry.name
)
def test_every_weight_counts_once_at_most(entry: Entry, inputs: bool) -> None:
    """Also where inputs are free, and readers count."""
    model, example_inputs = build(entry)
    try:
        groups = units(model, example_inputs, inputs=inputs)
    except GroupError:
        pytest.skip("nothing is free")
    counted: dict[str, Tensor] = {}
    for family in families(groups):
        for member in family.members:
            assert torch.equal(member.index.unique()[-1:], torch.tensor([len(family.labels) - 1]))
            if member.role is Role.NORM:
                count = counted.setdefault(member.name, torch.zeros(member.tensor.shape))
                index = [slice(None)] * member.tensor.ndim
                index[member.dims[0]] = member.index >= 0
                count[tuple(index)] += 1
    assert counted and all(count.max() <= 1 for count in counted.values())


def test_norms_weights_and_costs_one_by_one() -> None:
    net, groups = residual()
    generator = torch.Generator().manual_seed(1)
    metric = {
        name: torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.1
        for name, p in net.named_parameters()
    }
    for family in families(groups):
        weighted = family.weighted(*(metric[m.name] for m in family.normed))
        for unit in range(len(family.labels)):
            w, d = by_hand(family, unit), by_hand(family, unit, metric)
            torch.testing.assert_close(family.norms()[unit], w.norm())
            torch.testing.assert_close(weighted[unit], (d * w**2).sum() / (w**2).sum())
            total = 0
            for member in family.members:
                if isinstance(member.tensor, nn.Parameter):
                    each = member.tensor.numel() // len(member.index)
                    total += each * int((member.index == unit).sum())
            assert family.cost()[unit] == total


def test_members_and_roles() -> None:
    _, groups = residual()
    stem, inner = families(groups)
    assert {(m.name, m.dims[0], str(m.role)) for m in stem.members} == {
        ("stem.weight", 0, "norm"), ("stem.bias", 0, "zeroed"),
        ("norm.weight", 0, "zeroed"), ("norm.bias", 0, "zeroed"),
        ("norm.running_mean", 0, "cut"), ("norm.running_var", 0, "cut"),
        ("inner.weight", 1, "cut"), ("block.weight", 0, "norm"), ("head.weight", 1, "cut"),
    }  # fmt: skip
    assert {(m.name, m.dims[0], str(m.role)) for m in inner.members} == {
        ("inner.weight", 0, "norm"), ("inner.bias", 0, "zeroed"), ("block.weight", 1, "cut"),
    }  # fmt: skip
    assert stem.names == ("stem.weight", "block.weight")


def test_a_dead_group_has_the_mean_metric_and_no_gradient() -> None:
    net, groups = residual()
    stem = families(groups)[0]
    stem.scale_(torch.tensor([0.0, 1, 1, 1]))
    metrics = [torch.full_like(p, 3.0) for p in stem.parameters]
    torch.testing.assert_close(stem.weighted(*metrics), torch.full((4,), 3.0).double())
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    subgradient(opt, {groups: L1(1.0) + L2(0.5)}).penalty().backward()
    for p in net.parameters():
        assert p.grad is None or p.grad.isfinite().all()
    assert not net.stem.weight.grad[0].any() and net.stem.weight.grad[1].any()


def test_scaling() -> None:
    """What counts in the norm is scaled, what is zeroed is zeroed at 0 only, what is cut stays."""
    net, groups = residual()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    groups.scale_([torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.ones(3)])
    factor = torch.tensor([0.0, 0.5, 1.0, 1.0]).double()
    left = (factor > 0).double()
    expected = {
        "stem.weight": factor[:, None, None, None], "block.weight": factor[:, None, None, None],
        "stem.bias": left, "norm.weight": left, "norm.bias": left,
    }  # fmt: skip
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name] * expected.get(name, 1)), name


@sampled(2)
@each("penalty", {k: PENALTIES[k] for k in ("l0", "l1", "l2", "l0+l2")})
@pytest.mark.parametrize("t", [0.0, 0.05, 0.3])
def test_prox_against_brute_force(penalty: Any, t: float) -> None:
    """½‖w − w'‖² + tΣP over all supports and, unit by unit, a fine grid of rescalings."""
    net, groups = residual()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    opt = torch.optim.SGD(net.parameters(), lr=t or 1e-300)
    Proximal(opt, {groups: penalty}).apply()

    def objective(scales: list[Tensor]) -> float:
        moved, cost = 0.0, 0.0
        for family, s in zip(families(groups), scales, strict=True):
            for unit in range(len(family.labels)):
                w = by_hand(family, unit, before)
                moved += float(0.5 * (w - s[unit] * w).square().sum())
                cost += float(penalty.value((s[unit] * w).norm()[None]))
        return moved + (t or 1e-300) * cost

    found = [
        torch.stack([
            by_hand(family, unit).norm() / by_hand(family, unit, before).norm()
            for unit in range(len(family.labels))
        ])
        for family in families(groups)
    ]  # fmt: skip
    least = objective(found)
    sizes = [len(s) for s in found]
    for support in product([0.0, 1.0], repeat=sum(sizes)):
        on_off = torch.tensor(support).double().split(sizes)
        here = [torch.where(k > 0, torch.where(s > 0, s, 1.0), 0.0)
                for k, s in zip(on_off, found, strict=True)]  # fmt: skip
        assert least <= objective(here) + 1e-12
    for i, scales in enumerate(found):
        for unit in range(len(scales)):
            for s in torch.linspace(0, 1.2, 41).tolist():
                other = [x.clone() for x in found]
                other[i][unit] = s
                assert least <= objective(other) + 1e-12
    for family in families(groups):  # only rescaled
        for unit in range(len(family.labels)):
            w, old = by_hand(family, unit), by_hand(family, unit, before)
            torch.testing.assert_close(w, old * (w.norm() / old.norm()))


@sampled(7)
@pairwise
@each("penalty", PENALTIES)
@pytest.mark.parametrize("metric", METRICS)
@each("make", OPTIMIZERS)
def test_every_optimizer_metric_and_penalty(make: Any, metric: Any, penalty: Any) -> None:
    """Fused and reference agree; zeros are whole units; final ones stay; the state goes on."""
    if metric == "adaptive" and isinstance(penalty, Threshold):
        pytest.skip("it knows no metric")
    nets = [residual(torch.float32) for _ in range(2)]
    handles, optimizers = [], []
    for (net, groups), fused in zip(nets, (True, False), strict=True):
        opt = make(net.parameters())
        options = {"metric": metric, "fused": fused, "finalize_at": 4}
        handles.append(proximal(opt, {groups: penalty}, **options))
        optimizers.append(opt)
    for n in range(6):
        if n == 4:
            dead = [norms == 0 for norms in nets[0][1].norms()]
            handles[1].load_state_dict(handles[0].state_dict())
        for (net, _), opt in zip(nets, optimizers, strict=True):
            opt.zero_grad()
            net(fresh(EXAMPLE.float(), n)[0]).square().mean().backward()
            opt.step()
    for p, q in zip(nets[0][0].parameters(), nets[1][0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    net, groups = nets[0]
    for family, was, norms in zip(families(groups), dead, groups.norms(), strict=True):
        assert not norms[was].any()
        for member in family.members:
            if member.role is not Role.CUT:
                rows = torch.isin(member.index, torch.nonzero(norms == 0).flatten())
                assert not member.tensor.movedim(member.dims[0], 0)[rows].any(), member.name
    zeros = sum(int((norms == 0).sum()) for norms in groups.norms())
    small = lissom.shrink(net, EXAMPLE.float())
    last = sum(kept.units for kept in report(small).kept)
    assert report(small).removed + last >= zeros


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("widths", [(8, 0), (0, 8), (0, 0)])
def test_a_layer_without_width_is_none_of_the_units(widths: tuple[int, int]) -> None:
    first, second = widths
    net = nn.Sequential(
        *(nn.Linear(6, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()),
        nn.Linear(second, 3),
    )
    x = torch.rand(2, 6)
    assert lissom.measure(net, x).macs == 6 * first + first * second + 3 * second
    assert torch.equal(lissom.shrink(net, x)(x), net(x))
    if first or second:
        assert [len(block.norms()) for block in units(net, x).blocks] == [8]
    else:
        with pytest.raises(GroupError, match="no units can be removed from this model"):
            units(net, x)


@each("make", OPTIMIZERS)
def test_deployed_units_are_undone_with_all_their_members(make: Any) -> None:
    """Biases and norms that a dead unit takes along come back; the end leaves what was shown."""
    net, groups = residual()
    opt = make(net.parameters())
    handle = proximal(opt, {groups: TopK(fraction=0.5)}, every=3)
    net(EXAMPLE).square().mean().backward()
    opt.step()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with handle.deployed():
        shown = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        small = lissom.shrink(net, EXAMPLE)
    assert report(small).removed + sum(kept.units for kept in report(small).kept) >= 3
    assert sum(int(not row.any()) for row in shown["norm.weight"]) > 0
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    handle.finalize()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, shown[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@each("penalty", PENALTIES)
def test_lower_precision(penalty: Any, dtype: torch.dtype) -> None:
    wide, groups = residual()
    narrow = drawn(Residual()).to(dtype)
    tensors = dict([*narrow.named_parameters(), *narrow.named_buffers()])
    narrow_groups = Groups("units", [
        replace(f, members=tuple(replace(m, tensor=tensors[m.name]) for m in f.members))
        for f in families(groups)
    ])  # fmt: skip
    for p, q in zip(wide.parameters(), narrow.parameters(), strict=True):
        p.data.copy_(q.detach().double())
    for net, found in ((wide, groups), (narrow, narrow_groups)):
        Proximal(torch.optim.SGD(net.parameters(), lr=0.1), {found: penalty}).apply()
    eps = 4 * torch.finfo(dtype).eps
    for a, b in zip(groups.norms(), narrow_groups.norms(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a.float(), b, rtol=eps, atol=eps)


def test_one_unit_with_two_learning_rates() -> None:
    net, groups = residual()
    rest = [p for name, p in net.named_parameters() if name != "block.weight"]
    opt = torch.optim.SGD([{"params": rest}, {"params": [net.block.weight], "lr": 0.5}], lr=0.1)
    handle = proximal(opt, {groups: L1(1.0)})
    with pytest.raises(OptimizerError, match=r"stem.weight, block.weight.*learning rates.*0.5"):
        handle.apply()
    opt.param_groups[1]["lr"] = 0.1
    handle.apply()


def test_units_that_the_optimizer_does_not_hold() -> None:
    net, groups = residual()
    with pytest.raises(OptimizerError, match=r"does not hold stem.weight"):
        proximal(torch.optim.SGD(net.stem.parameters(), lr=0.1), {groups: L1(1.0)})


def test_overlapping_penalties() -> None:
    net, groups = residual()
    with pytest.raises(GroupError, match="penalised twice"):
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        proximal(opt, {groups: L1(1.0), lissom.weights(net): L0(1.0)})


@each("penalty", {"l0": L0(1e9), "l1": L1(1e9), "top 1": TopK(1, per="layer")})
def test_everything_dead(penalty: Any) -> None:
    """Nothing is NaN, and the network can still be shrunk."""
    net, groups = residual()
    handle = proximal(torch.optim.SGD(net.parameters(), lr=1.0), {groups: penalty})
    for _ in range(2):
        handle.apply()
    assert all(p.isfinite().all() for p in net.parameters())
    small = lissom.shrink(net, EXAMPLE)
    assert [after for *_, after in report(small).families] == [1, 1]


@sampled(2)
@pytest.mark.parametrize("seed", range(5))
def test_zeroed_units_are_removed(seed: int) -> None:
    net, _ = residual()
    zeroed = zero_half_(net, EXAMPLE, seed)
    small = lissom.shrink(net, EXAMPLE)
    assert report(small).removed == zeroed == 2 + 1 and not report(small).kept
