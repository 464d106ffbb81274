"""N:M sparsity: at most N of each run of M neighbours, under every method that takes budgets."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive
from torch import Tensor, nn

import lissom
from lissom import L0, L1, L2, NonNegative, TopK
from lissom.errors import LissomError, MethodError, PenaltyError
from lissom.penalties import Part, Penalty
from lissom.recipes import make_data, make_groups, make_trainer, read_recipe
from lissom.schedules import linear

RUN = 4


def net_of(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Rows of 18 and 10 weights, whose last run of four is shorter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(10, 6)).to(dtype)


def most_alive(weight: Tensor) -> int:
    """The largest count of a run, by a plain loop."""
    rows = weight.detach().flatten(1)
    return max(
        int(row[start : start + RUN].count_nonzero())
        for row in rows
        for start in range(0, rows.shape[1], RUN)
    )


def nearest(row: Tensor, d: Tensor, count: int) -> Tensor:
    """The nearest vector in the metric d with so many non-zeros, by trying all of them."""
    kept = [torch.tensor(c, dtype=torch.long) for c in combinations(range(len(row)), count)]
    tried = [torch.zeros_like(row).index_copy(0, c, row[c]) for c in kept]
    return min(tried, key=lambda x: float((d * (x - row).square()).sum()))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_each_run_has_the_nearest_weights(count: int, adaptive: bool) -> None:
    net = net_of()
    opt = torch.optim.RMSprop(net.parameters(), lr=0.0)
    groups = lissom.blocks(net, RUN)
    metric: Any = "adaptive" if adaptive else "euclidean"
    method = lissom.proximal(opt, {groups: TopK(count, per="block")}, metric=metric)
    before = [block.parameters[0].detach().clone() for block in groups]
    for weight in net.parameters():
        weight.grad = torch.rand_like(weight)
    opt.step()
    method.apply()
    for block, old in zip(groups, before, strict=True):
        weight = block.parameters[0]
        d = opt.state[weight]["square_avg"].sqrt() + 1e-8 if adaptive else torch.ones_like(weight)
        rows = zip(old.flatten(1), d.flatten(1), weight.detach().flatten(1), strict=True)
        for row, ds, now in rows:
            for start in range(0, len(row), RUN):
                here = slice(start, start + RUN)
                k = min(count, len(row[here]))
                torch.testing.assert_close(now[here], nearest(row[here], ds[here], k))


def test_what_lives_in_a_run_is_shrunk_by_the_learning_rate() -> None:
    net = net_of()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    method = lissom.proximal(opt, {lissom.blocks(net, RUN): TopK(2, per="block") + L1(0.3)})
    weight = net[2].weight
    rows = weight.detach().clone()
    method.apply()
    for row, now in zip(rows, weight.detach(), strict=True):
        for start in range(0, len(row), RUN):
            run = row[start : start + RUN]
            soft = run.sign() * (run.abs() - 0.1 * 0.3).clamp(min=0)
            least = run.abs().sort(descending=True).values[1]
            expected = torch.where(run.abs() >= least, soft, 0)
            torch.testing.assert_close(now[start : start + RUN], expected)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "penalty",
    [
        TopK(2, per="block"),
        TopK(fraction=0.25, per="block"),
        TopK(2, per="block") + L2(0.1),
        TopK(2, per="block") + L1(0.01),
        TopK(2, per="block") + NonNegative(),
        TopK(linear(4, 1, steps=3), per="block"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_counts_are_exact_after_every_step(penalty: Penalty, fused: bool) -> None:
    net = net_of(torch.float32)
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    method = lissom.proximal(opt, {lissom.blocks(net, RUN): penalty}, fused=fused)
    x, y = torch.randn(8, 2, 3, 3), torch.randn(8, 6)
    for step in range(4):
        opt.zero_grad()
        (net[2](net[0](x).flatten(1).repeat(1, 2)) - y).square().mean().backward()
        opt.step()
        terms = [t.at(step + 1) for t in penalty.terms]
        [budget] = [term for term in terms if isinstance(term, TopK)]
        assert [most_alive(net[i].weight) for i in (0, 2)] == [budget.kappa(RUN)] * 2
    assert method.step == 4


def test_learning_compression_ends_in_runs() -> None:
    net = net_of()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    method = lissom.lc(opt, {lissom.blocks(net, RUN): TopK(1, per="block")}, every=2, c_steps=2)
    for _ in range(4):
        loss = net[2].weight.square().sum() + net[0].weight.square().sum() + method.penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert method.finalized
    assert [most_alive(net[i].weight) for i in (0, 2)] == [1, 1]
    assert int(net[2].weight.count_nonzero()) == 6 * 3  # runs of 4, 4 and 2 in each row


def test_parts_and_value_take_runs_along_the_last_dim() -> None:
    budget = TopK(1, per="block")
    values = torch.tensor([[3.0, -2.0], [1.0, -4.0], [0.0, 0.0]])
    budget.prox_([Part(values, 0.1)])
    assert values.tolist() == [[3, 0], [0, -4], [0, 0]]
    assert budget.value(values.abs()) == 0
    assert budget.value(torch.ones(1, 2)) == torch.inf


def test_ties_and_nan() -> None:
    budget = TopK(2, per="block")
    assert budget.prox(torch.ones(2, 4)).tolist() == [[1, 1, 0, 0]] * 2
    found = budget.prox(torch.tensor([[1.0, torch.nan, 3.0, 2.0]]))
    assert found[0, 1].isnan() and found[0, 2] == 3 and found[0, 0] == found[0, 3] == 0


def test_what_has_no_runs_is_refused() -> None:
    net = net_of()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(PenaltyError, match=r"counts in each run .* 0.weight.* lissom.blocks\("):
        lissom.proximal(opt, {lissom.weights(net): TopK(2, per="block")})
    with pytest.raises(PenaltyError, match=r"per is 'all' or 'layer', got 'block'"):
        lissom.L1Ball(1.0, per="block")
    with pytest.raises(PenaltyError, match=r"per is 'all', 'layer' or 'block', got 'row'"):
        TopK(2, per="row")  # type: ignore[arg-type]
    groups = lissom.blocks(net, RUN)
    weighted = TopK(2, per="block") + L1([torch.ones_like(n) for n in groups.norms()])
    with pytest.raises(PenaltyError, match=r"budget of each run .* per='layer' can have both"):
        lissom.proximal(opt, {groups: weighted})
    with pytest.raises(MethodError, match="'gates' takes L0"):
        lissom.gate(opt, net, {groups: TopK(2, per="block")})


def test_tiles_and_runs_in_recipes(tmp_path: Path) -> None:
    def entry(line: str) -> Any:
        return read_recipe("digits-demo", [f"penalties=[{{{line}}}]"]).penalties[0]

    net, x = net_of(), torch.zeros(1, 2, 3, 3)
    runs = make_groups(entry('groups="blocks", run=4, TopK={count=2, per="block"}'), net, x)
    assert {block.run for block in runs} == {4}
    boxes = make_groups(entry('groups="tiles", tile=[2, 3], L0=1e-4'), net, x)
    assert boxes.kind == "tiles" and [len(n) for n in boxes.norms()] == [3 * 6, 3 * 4]
    for line, said in (
        ('groups="blocks", L0=1e-4', "groups = 'blocks' and run, as run = 32, go together"),
        ("run=4, L0=1e-4", "groups = 'blocks' and run"),
        ('groups="tiles", tile=[4], L0=1e-4', "tile"),
        ('groups="tiles", L0=1e-4', r"groups = 'tiles' and tile, as tile = \[4, 4\], go together"),
        ('groups="blocks", run=0, L0=1e-4', "run"),
    ):
        with pytest.raises(LissomError, match=said):
            entry(line)


def test_gates_on_runs_are_gates_of_weights() -> None:
    net = net_of()
    opt = torch.optim.Adam(net.parameters())
    gates = lissom.gate(opt, net, {lissom.blocks(net, RUN): L0(0.1)})
    assert len(gates) == sum(p.numel() for p in (net[0].weight, net[2].weight))


@exhaustive
@pytest.mark.parametrize(
    "method",
    ['name="proximal", metric="adaptive", finalize_at=3', 'name="lc", every=1, c_steps=4'],
)
def test_a_recipe_trains_runs_that_stay_when_it_is_shrunk(method: str, tmp_path: Path) -> None:
    changes = [
        f"method={{{method}}}",
        'penalties=[{groups="blocks", run=8, TopK={count=2, per="block"}}]',
        "train.average_from=none",
    ]
    read = read_recipe("digits-demo", changes, quick=True)
    trainer = make_trainer(read, make_data(read))
    trainer.fit()
    groups = lissom.blocks(trainer.model, 8)
    alive = [block.in_runs(block.norms() != 0).sum(-1) for block in groups]
    assert [int(counts.max()) for counts in alive] == [2, 2, 2]
    x = torch.rand(4, 1, 8, 8)
    small = lissom.shrink(trainer.model.eval(), x)
    torch.testing.assert_close(small(x), trainer.model(x))
    assert sum(p.numel() for p in small.parameters()) < 50_610
    pytest.importorskip("onnxruntime")
    assert lissom.export(small, x, tmp_path / "net.onnx").difference < 1e-5  # type: ignore[operator]


def test_learning_compression_says_what_it_needs_of_a_quick_trial() -> None:
    with pytest.raises(LissomError, match="option 'every' has to be given"):
        read_recipe("digits-demo", ['method={name="lc"}'], quick=True)
