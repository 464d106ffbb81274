"""Budgets of units in widths that are multiples: the rule, every method that has it, a training."""

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, rest, sampled
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import L0, L1, L2, TopK
from lissom.errors import GateError, LissomError, PenaltyError
from lissom.methods.gates.options import GateOptions
from lissom.penalties import Part, Penalty
from lissom.recipes import make_groups, read_recipe
from lissom.schedules import cubic


def nearest(count: int, n: int, m: int) -> int:
    """Of 0 for none, and m, 2m, … and n for some: the nearest, of two the larger."""
    widths = [0] if count == 0 else [*range(m, n, m), n]
    return max(widths, key=lambda width: (-abs(width - count), width))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 16])
def test_a_width_is_the_nearest_multiple(m: int) -> None:
    budget = TopK(1, multiple_of=m)
    for n in range(1, 70):
        for count in range(n + 1):
            assert budget.width(count, n) == nearest(count, n, m)
            if m <= count:
                assert abs(budget.width(count, n) - count) <= m / 2


def test_narrow_layers_are_not_floored() -> None:
    widths = {(30, 32): 32, (9, 30): 16, (1, 512): 16, (3, 10): 10, (30, 30): 30, (24, 24): 24}
    widths |= {(20, 24): 24, (19, 24): 16, (23, 32): 16, (24, 32): 32, (0, 64): 0}
    for (count, n), width in widths.items():
        assert TopK(1, multiple_of=16).width(count, n) == width


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("m", [2, 3])
def test_of_one_family_the_prox_is_the_projection(count: int, m: int) -> None:
    """Onto all vectors in which as many live as a width: tried one by one."""
    budget = TopK(count, multiple_of=m)
    generator = torch.Generator().manual_seed(count)
    for zeros in (0, 3):
        norms = torch.rand(8, generator=generator, dtype=torch.float64)
        d = torch.rand(8, generator=generator, dtype=torch.float64) + 0.1
        norms[:zeros] = 0
        met = [alive for alive in range(9) if alive <= nearest(min(count, alive), 8, m)]
        tried = [
            torch.zeros_like(norms).index_copy(
                0, torch.tensor(kept, dtype=torch.long), norms[[*kept]]
            )
            for alive in met
            for kept in combinations(range(8), alive)
        ]
        least = min(float((d * (x - norms).square()).sum()) for x in tried)
        found = budget.prox(norms, metric=d)
        assert float((d * (found - norms).square()).sum()) == pytest.approx(least)
        assert budget.value(found) == 0
        assert (budget.value(norms) == 0) == bool((found == norms).all())


def largest(norms: Tensor, d: Tensor, count: int) -> set[int]:
    return set(sorted(range(len(norms)), key=lambda i: (-float(d[i] * norms[i] ** 2), i))[:count])


@pytest.mark.parametrize("plus", [None, L1(0.2), L2(0.5)], ids=str)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("levels", [3, 1000])
def test_each_family_has_the_width_nearest_to_its_share(
    plus: Penalty | None, adaptive: bool, levels: int
) -> None:
    """By a plain loop; with 3 levels of norms most are equal, and many are 0."""
    generator = torch.Generator().manual_seed(1)
    for kappa in range(0, 43, 3):
        sizes = (10, 1, 16, 12, 3)
        norms = [torch.randint(levels, (n,), generator=generator) / levels for n in sizes]
        ds = [torch.randint(1, 3, (n,), generator=generator).float() for n in sizes]
        if not adaptive:
            ds = [torch.ones(n) for n in sizes]
        budget: Penalty = TopK(kappa, multiple_of=4)
        shrunk = [
            L1(0.0).prox(r, 0.5, d) if plus is None else plus.prox(r, 0.5, d)
            for r, d in zip(norms, ds, strict=True)
        ]
        grown = [d if plus is None or plus == L1(0.2) else d + 0.5 for d in ds]
        kept = largest(torch.cat(shrunk), torch.cat(grown), kappa)
        expected, start = [], 0
        for x, d in zip(shrunk, grown, strict=True):
            count = sum(start + i in kept and float(r) > 0 for i, r in enumerate(x))
            alive = largest(x, d, nearest(count, len(x), 4))
            expected.append([float(r) if i in alive else 0.0 for i, r in enumerate(x)])
            start += len(x)
        values = [r.clone() for r in norms]
        metrics = [d.clone if adaptive else None for d in ds]
        parts = [Part(v, 0.5, d) for v, d in zip(values, metrics, strict=True)]
        (budget if plus is None else budget + plus).prox_(parts)
        for found, x in zip(values, expected, strict=True):
            torch.testing.assert_close(found, torch.tensor(x))
        again = [x.clone() for x in values]
        budget.prox_([Part(x, 0.5, d) for x, d in zip(again, metrics, strict=True)])
        assert all(map(torch.equal, again, values))


def test_ties_and_nan() -> None:
    assert TopK(3, multiple_of=4).prox(torch.ones(6)).tolist() == [1, 1, 1, 1, 0, 0]
    values = [torch.tensor([1.0, 2.0, torch.nan, 4.0]), torch.ones(5)]
    TopK(2, multiple_of=2).prox_([Part(x, 1.0) for x in values])
    assert values[0][2].isnan() and values[0][3] == 4 and values[0][:2].tolist() == [0, 0]
    assert values[1].tolist() == [0] * 5


def net_of(width: int = 20) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(),
        nn.Conv2d(width, 24, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(24, 13), nn.ReLU(), nn.Linear(13, 3),
    )  # fmt: skip


X = torch.randn(2, 1, 6, 6)


def stripes(count: int) -> tuple[Tensor, Tensor]:
    """Images of three kinds, by the direction in which they change."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(3, (count,), generator=generator)
    line = torch.randn(count, 1, 6, 1, generator=generator)
    x = torch.where((y == 0).view(-1, 1, 1, 1), line, line.transpose(2, 3))
    x = torch.where((y == 2).view(-1, 1, 1, 1), line + line.transpose(2, 3), x)
    return x + 0.1 * torch.randn(count, 1, 6, 6, generator=generator), y


def widths(groups: lissom.groups.Groups) -> list[int]:
    return [int(norms.count_nonzero()) for norms in groups.norms()]


def fit(net: nn.Module, opt: torch.optim.Optimizer, method: Any, steps: int, each: Any) -> None:
    x, y = stripes(64)
    for _ in range(steps):
        opt.zero_grad()
        (F.cross_entropy(net(x), y) + method.penalty()).backward()
        opt.step()
        each()


@pytest.mark.parametrize(
    ("per", "metric"),
    [("all", "adaptive"), rest("layer", "euclidean"), rest("all", "euclidean")],
)
def test_proximal_steps_keep_to_widths_and_to_the_budget(per: Any, metric: Any) -> None:
    net = net_of()
    groups = lissom.units(net, X)
    sizes = [len(norms) for norms in groups.norms()]
    assert sizes == [20, 24, 13]
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    budget = TopK(fraction=cubic(1, 0.5, steps=12), per=per, multiple_of=4)
    method = lissom.proximal(opt, {groups: budget}, metric=metric, finalize_at=16)
    before = sizes

    def each() -> None:
        nonlocal before
        found, now = widths(groups), budget.at(min(method.step, 16))
        assert all(w in (*range(4, n, 4), n) for w, n in zip(found, sizes, strict=True))
        if per == "all":
            assert abs(sum(found) - now.kappa(sum(sizes))) <= 3 * 4 / 2
        else:
            assert found == [now.width(now.kappa(n), n) for n in sizes]
        before = found

    fit(net, opt, method, 20, each)
    assert method.finalized and sum(before) < 40


@exhaustive
def test_without_fusion_the_same_units_live() -> None:
    found = []
    for fused in (False, True):
        net = net_of()
        groups = lissom.units(net, X)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        budget = TopK(fraction=0.6, multiple_of=4) + L1(1e-3)
        method = lissom.proximal(opt, {groups: budget}, fused=fused)
        fit(net, opt, method, 3, lambda: None)
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*found)


def test_learning_compression_ends_in_widths() -> None:
    net = net_of()
    groups = lissom.units(net, X)
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    budget = TopK(fraction=0.5, multiple_of=4)
    method = lissom.lc(opt, {groups: budget}, every=2, c_steps=3, mu=1.0)
    fit(net, opt, method, 6, lambda: None)
    assert method.finalized
    assert all(w % 4 == 0 or w == n for w, n in zip(widths(groups), (20, 24, 13), strict=True))
    assert 24 <= sum(widths(groups)) <= 32  # half of 57, and 2 for each family


@exhaustive
def test_a_trained_network_is_as_wide_when_it_is_shrunk_and_exported(tmp_path: Path) -> None:
    net = net_of(40)
    groups = lissom.channels(net, X)
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    budget = TopK(fraction=cubic(1, 0.45, steps=30), multiple_of=8)
    method = lissom.proximal(opt, {groups: budget}, finalize_at=40)
    fit(net, opt, method, 80, lambda: None)
    left = widths(groups)
    assert all(width % 8 == 0 and 0 < width < 40 for width in left)
    x, y = stripes(200)
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9  # a third by chance
    small = lissom.shrink(net.eval(), X)
    assert [m.out_channels for m in small if isinstance(m, nn.Conv2d)] == [left[0], *left]
    torch.testing.assert_close(small(x), net(x), atol=1e-5, rtol=1e-5)
    pytest.importorskip("onnxruntime")
    assert lissom.export(small, X, tmp_path / "net.onnx").difference < 1e-4  # type: ignore[operator]


def test_a_recipe_has_widths() -> None:
    changes = ['penalties=[{groups="channels", TopK={fraction=0.5, multiple_of=4}}]']
    [entry] = read_recipe("digits-channels", changes).penalties
    assert entry.penalty(1) == TopK(fraction=0.5, multiple_of=4)
    net = net_of()
    groups = make_groups(entry, net, X)
    method = lissom.proximal(torch.optim.SGD(net.parameters(), lr=0.1), {groups: entry.penalty(1)})
    method.apply()
    assert all(width % 4 == 0 for width in widths(groups)) and 20 <= sum(widths(groups)) <= 24
    changes = ['penalties=[{groups="channels", TopK={fraction=0.5, multiple_of=0}}]']
    with pytest.raises(LissomError, match=r"multiple_of: multiple_of is a whole number"):
        read_recipe("digits-channels", changes)


SIZES = [20, 24, 13]  # of `net_of`'s families
BUDGETS = [None, {"weights": 0.5}, {"macs": 0.6}, {"weights": 0.6, "macs": 0.5}]


def gated(budget: dict[str, float] | None, **options: Any) -> Any:
    """Gates on units whose log α are drawn, as after a training."""
    net = net_of()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    penalties = {lissom.units(net, X): L0(1e-4)}
    options |= {"budget": lissom.Budget(**budget) if budget else None, "example_inputs": X}
    gates = lissom.gate(opt, net, penalties, **options)
    generator = torch.Generator().manual_seed(3)
    gates.log_alpha.data.copy_(2 * torch.randn(len(gates), generator=generator))
    return gates


def opened(gates: Any) -> list[Tensor]:
    """Which gates of each family are open in what would be delivered."""
    return [z != 0 for z in gates._delivered()]


@sampled(2)
@pytest.mark.parametrize("m", [4, rest(2), 5, rest(16)])
@pytest.mark.parametrize("test", ["published", rest("mode"), rest("median")])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_gates_end_in_the_nearest_widths_and_within_budgets(
    budget: dict[str, float] | None, test: Any, m: int
) -> None:
    gates, free = (gated(budget, test=test, multiple_of=k) for k in (m, 1))
    assert [len(z) for z in gates.log_alphas().values()] == SIZES
    log_alpha = torch.cat([z.flatten() for z in gates.log_alphas().values()])
    order = log_alpha.argsort(descending=True).tolist()

    def chosen(kappa: int) -> list[Tensor]:
        """By a plain loop: the widths nearest to what is among the κ largest log α."""
        found, start = [], 0
        for n in SIZES:
            mine = [i - start for i in order if start <= i < start + n]
            share = sum(start <= i < start + n for i in order[:kappa])
            alive = torch.zeros(n, dtype=torch.bool)
            alive[mine[: nearest(share, n, m)]] = True
            found.append(alive)
            start += n
        return found

    def size(alive: list[Tensor], cost: str) -> float:
        return float(gates._expected([x.double() for x in alive], cost))

    if budget is None:
        kappa = sum(int(z.count_nonzero()) for z in gates.test_gates())
        assert kappa == sum(int(x.sum()) for x in opened(free))
    else:
        met = [
            all(size(chosen(k), c) <= part * gates.total(c) for c, part in budget.items())
            for k in range(len(log_alpha) + 1)
        ]
        kappa = max(k for k, within in enumerate(met) if within)
    found = opened(gates)
    assert all(map(torch.equal, found, chosen(kappa)))
    assert all(x.any() for x in found) or m == 16  # of which the narrow families have no two
    if budget:  # what is counted as the expected size is what is there
        most = {cost: part * gates.total(cost) for cost, part in budget.items()}
        gates.finalize()
        small = lissom.shrink(gates.model.eval(), X)
        assert all(getattr(lissom.measure(small, X), cost) <= most[cost] for cost in budget)


def test_gates_train_to_widths() -> None:
    net = net_of(40)
    groups = lissom.channels(net, X)
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    method = lissom.gate(
        opt, net, {groups: L0(0)}, example_inputs=X, multiple_of=8, init=0.2, gate_lr=0.3,
        budget=lissom.Budget(macs=cubic(1, 0.5, steps=30), rate=0.1), finalize_at=40,
    )  # fmt: skip
    fit(net, opt, method, 80, lambda: None)
    left = widths(groups)
    assert all(width % 8 == 0 and width > 0 for width in left) and sum(left) < 64
    x, y = stripes(200)
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9  # a third by chance
    small = lissom.shrink(net.eval(), X)
    assert [m.out_channels for m in small if isinstance(m, nn.Conv2d)] == [left[0], *left]


def test_a_recipe_of_gates_has_widths() -> None:
    changes = ["method.multiple_of=4"]
    assert read_recipe("digits-gates", changes).method.multiple_of == 4
    with pytest.raises(LissomError, match=r"method.multiple_of: multiple_of is a whole number ≥ 1"):
        read_recipe("digits-gates", ["method.multiple_of=0"])


def test_a_budget_with_no_room_for_a_multiple_in_each_family_is_told() -> None:
    with pytest.warns(UserWarning, match=r"multiple_of=16 a network .* 16 units or all in"):
        gated({"macs": 0.4}, multiple_of=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gated({"macs": 0.4}, multiple_of=4)
        gated({"macs": 0.05})


def test_gates_of_what_has_no_width_are_refused() -> None:
    net = net_of()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(GateError, match=r"multiple_of=4 rounds the widths .* 0.weight, 3.weight"):
        lissom.gate(opt, net, {lissom.weights(net): L0(0)}, multiple_of=4)
    assert all(map(torch.equal, before, net.parameters()))
    lissom.gate(opt, net, {lissom.weights(net): L0(0)}, multiple_of=1).remove()


def refused(penalties: Any) -> str:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(PenaltyError) as caught:
        lissom.proximal(opt, penalties(net))
    return str(caught.value)


@pytest.mark.parametrize("kind", ["weights", "kernels"])
@pytest.mark.parametrize("per", ["all", "layer"])
def test_what_has_no_width_is_refused(kind: str, per: Any) -> None:
    budget = TopK(9, multiple_of=2, per=per) + L2(0.1)
    said = refused(lambda net: {getattr(lissom, kind)(net): budget})
    assert "0.weight, 2.weight is cut into other groups: choose lissom.channels(" in said
    assert "multiple_of=2" in said


@pytest.mark.parametrize("multiple_of", [0, -4, 1.5, "16", True, None])
def test_a_multiple_is_of_a_whole_number(multiple_of: Any) -> None:
    with pytest.raises(LissomError, match=r"multiple_of is a whole number ≥ 1, such as 16, got"):
        TopK(5, multiple_of=multiple_of)
    with pytest.raises(LissomError, match=r"multiple_of is a whole number ≥ 1, such as 16, got"):
        GateOptions(multiple_of=multiple_of)


def test_what_widths_do_not_go_with() -> None:
    with pytest.raises(PenaltyError, match=r"per='block' counts in each run .* leave out one"):
        TopK(2, per="block", multiple_of=16)
    with pytest.raises(PenaltyError, match="no prox in closed form"):
        TopK(8, multiple_of=4) + L0(0.1)
    assert str(TopK(8, multiple_of=4) + L2(1)) == "TopK(8, multiple_of=4) + L2(1)"
    assert str(TopK(8, multiple_of=1)) == "TopK(8)"
