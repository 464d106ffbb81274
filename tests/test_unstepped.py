"""The prox leaves alone what no step was about: frozen tensors, rows that were not looked up."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from products import pairwise
from proximal_cases import METRICS, each
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, SparseAdam

import lissom
from lissom import L0, L1, L2, L1Ball, NonNegative, TopK
from lissom.methods.proximal import Proximal

ROWS, WIDTH, SEEN = 12, 4, [1, 2, 5, 7]


class Table(nn.Module):
    """Rows by number: an embedding, a bag, a table of one's own, or stacked experts."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        if kind == "experts":
            self.weight = nn.Parameter(torch.randn(ROWS, WIDTH, WIDTH))
        elif kind == "own":
            self.weight = nn.Parameter(torch.randn(ROWS, WIDTH))
        else:
            make = nn.EmbeddingBag if kind == "bag" else nn.Embedding
            self.emb = make(ROWS, WIDTH, sparse=kind == "sparse")
        self.head = nn.Linear(WIDTH, 3)

    @property
    def table(self) -> nn.Parameter:
        return self.weight if hasattr(self, "weight") else self.emb.weight

    def forward(self, i: Tensor) -> Tensor:
        if self.kind == "experts":
            x = torch.einsum("b,bij->bj", torch.ones(len(i)), self.weight[i])
        elif self.kind == "own":
            x = self.weight[i]
        else:
            x = self.emb(i[:, None] if self.kind == "bag" else i)
        return self.head(x)


KINDS = ("embedding", "bag", "sparse", "own", "experts")
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, 0.05),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9),
    "adagrad": lambda p: Adagrad(p, 0.05),
    "rmsprop": lambda p: RMSprop(p, 0.01),
    "adam": lambda p: Adam(p, 0.01),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.0),
    "sparse adam": lambda p: SparseAdam(p, 0.01),
}
SPARSE = ("sgd", "adagrad", "sparse adam")
PENALTIES = {
    "l0": L0(0.05),
    "l1": L1(0.1),
    "l1+l2": L1(0.1) + L2(0.1),
    "signs": NonNegative(),
    "top": TopK(fraction=0.25),
    "top by layer": TopK(fraction=0.25, per="layer"),
    "ball": L1Ball(0.5),
    "unequal": L1([torch.full((ROWS, WIDTH), 0.1)]),
}


def fit(net: Table, opt: Optimizer, rows: list[int], n: int = 0) -> None:
    y = torch.randint(3, (len(rows),), generator=torch.Generator().manual_seed(n))
    opt.zero_grad()
    F.cross_entropy(net(torch.tensor(rows)), y).backward()
    opt.step()


def tables(net: nn.Module) -> lissom.Groups:
    return lissom.weights(net).without("head")


def rest(rows: list[int]) -> list[int]:
    return [i for i in range(ROWS) if i not in rows]


@pairwise
@each("penalty", PENALTIES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_that_were_stepped_have_the_prox_of_a_table_of_themselves(
    kind: str, name: str, metric: Any, fused: bool, penalty: Any
) -> None:
    """Also of budgets, which count nothing else; all other rows keep every bit."""
    if kind == "sparse" and name not in SPARSE:
        pytest.skip("takes no sparse gradients")
    if name == "sparse adam" and (kind != "sparse" or metric == "adaptive"):
        pytest.skip("takes no others, and its metric is not known")
    net = Table(kind)
    before = net.table.detach().clone()
    unequal = bool(penalty.tensors)
    opt = OPTIMIZERS[name]([net.table])
    given = L1([torch.full(before.shape, 0.1)]) if unequal else penalty
    lissom.proximal(opt, {tables(net): given}, metric=metric, fused=fused)
    fit(net, opt, SEEN)
    assert torch.equal(net.table[rest(SEEN)], before[rest(SEEN)])

    alone = nn.Module()
    alone.own = nn.Parameter(before[SEEN].clone())
    alone.own.grad = net.table.grad.to_dense()[SEEN]
    plain = OPTIMIZERS["adam" if name == "sparse adam" else name]([alone.own])
    given = L1([torch.full(alone.own.shape, 0.1)]) if unequal else penalty
    lissom.proximal(plain, {lissom.weights(alone): given}, metric=metric, fused=fused)
    plain.step()
    torch.testing.assert_close(net.table[SEEN], alone.own.data)
    assert torch.equal(net.table[SEEN] == 0, alone.own == 0)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("kind", ["embedding", "sparse"])
def test_rows_are_noticed_at_each_step_and_sparse_ones_are_due_at_those_of_theirs(
    kind: str, every: int
) -> None:
    """A dense gradient steps all rows that were ever looked up, a sparse one those it has."""
    net = Table(kind)
    opt = SGD([net.table], 0.0, momentum=0.0)
    opt.param_groups[0]["lr"] = 1e-3
    lissom.proximal(opt, {tables(net): L1(1e6)}, every=every)  # what is due is 0
    before = net.table.detach().clone()
    for n, rows in enumerate([[1], [2], [5], [7], [8], [9]]):
        net.table.data.copy_(before)
        fit(net, opt, rows, n)
        zero = [i for i in range(ROWS) if not net.table[i].any()]
        seen = [1, 2, 5, 7, 8, 9][: n + 1]
        due = seen[-every:] if kind == "sparse" else seen
        assert zero == (due if (n + 1) % every == 0 else [])


def test_a_tensor_whose_gradients_were_all_0_was_not_stepped_either() -> None:
    """As of a head that is not in use, after zero_grad(set_to_none=False)."""
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "spare": nn.Linear(4, 3)})
    before = net["spare"].weight.detach().clone()
    opt = Adam(net.parameters(), 0.01)
    lissom.proximal(opt, {lissom.weights(net): L0(0.1)}, metric="adaptive")

    def fit(head: str) -> None:
        opt.zero_grad(set_to_none=False)
        (net[head](torch.ones(2, 4)).sum() + 0 * net["spare"].weight.sum()).backward()
        opt.step()

    fit("used")
    assert torch.equal(net["spare"].weight, before)
    fit("spare")
    assert not torch.equal(net["spare"].weight, before)


@pytest.mark.parametrize("penalty", [TopK(40), L0(1.0)], ids=str)
def test_a_dead_unit_is_no_row_that_was_not_looked_up(penalty: Any) -> None:
    """Its weights count and vanish as all of its layer do, or budgets would never be met."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    net[0].bias.data[:4] = -100
    opt = Adam(net.parameters(), 0.01)
    lissom.proximal(opt, {lissom.weights(net): penalty}, metric="adaptive")
    F.cross_entropy(net(torch.rand(16, 8)), torch.arange(16) % 3).backward()
    opt.step()
    assert not net[0].weight[:4].any()
    if isinstance(penalty, TopK):
        assert sum(int(p.count_nonzero()) for p in (net[0].weight, net[2].weight)) == 40


def test_positions_that_are_stretched_over_a_batch_are_rows_too() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(1, 6, 4))

    net = Places()
    before = net.places.detach().clone()
    opt = Adam(net.parameters(), 0.01)
    method = lissom.proximal(opt, {lissom.weights(net): TopK(fraction=0.5)}, metric="adaptive")
    net.places[:, :3].square().sum().backward()
    opt.step()
    assert torch.equal(net.places[:, 3:], before[:, 3:])
    assert int(net.places[:, :3].count_nonzero()) == 6
    method.load_state_dict(copy.deepcopy(method.state_dict()))


def test_a_number_of_no_dim_waits_for_its_gradient_too() -> None:
    net = nn.Module()
    net.weight, net.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.tensor(2.0))
    opt = SGD(net.parameters(), 1e-6)
    lissom.proximal(opt, {lissom.weights(net, biases=True): L1(1e6)})
    for used in (0, 1):
        opt.zero_grad(set_to_none=False)
        (net.weight.sum() + used * net.bias).backward()
        opt.step()
        assert float(net.bias.detach()) == pytest.approx([2.0, 1.0][used])


def unit(net: nn.Module) -> lissom.Groups:
    return lissom.neurons(net, torch.rand(2, 8))


@each(
    "groups",
    {"neurons": unit, "columns": lissom.columns, "tiles": lissom.tiles, "weights": lissom.weights},
)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("frozen", ["0.weight", "0.bias"])
def test_a_group_of_which_a_part_is_frozen_is_left_alone_as_a_whole(
    frozen: str, metric: Any, groups: Any
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    net.get_parameter(frozen).requires_grad_(False)
    opt = SGD(net.parameters(), 0.01)
    twin, plain = copy.deepcopy((net, opt))
    lissom.proximal(opt, {groups(net).only("0"): L1(1e6)}, metric=metric)  # all of it is dead
    for model, optimizer in ((net, opt), (twin, plain)):
        F.cross_entropy(model(torch.ones(4, 8)), torch.arange(4) % 3).backward()
        optimizer.step()
    trained = groups not in (unit,) and frozen == "0.bias"
    assert torch.equal(net[0].weight == 0, torch.full((16, 8), trained))
    assert torch.equal(net[0].bias, twin[0].bias)


def test_a_group_with_an_entry_in_a_row_that_was_not_looked_up_is_left_alone() -> None:
    net = Table("embedding")
    before = net.table.detach().clone()
    opt = SGD([net.table], 0.01)
    numbers = (torch.arange(ROWS) // 2)[:, None].expand(ROWS, WIDTH)  # two rows a group
    lissom.proximal(opt, {lissom.partition(net, {"emb.weight": numbers}): L1(1e6)})
    fit(net, opt, [0, 1, 2, 6, 7])
    dead = [0, 1, 6, 7]
    assert not net.table[dead].any() and net.table[rest(dead)].all()
    assert torch.equal(net.table[rest([*dead, 2])], before[rest([*dead, 2])])


def test_rows_of_zeros_have_nothing_to_lose_and_count() -> None:
    """So does padding, and a network that an earlier training made sparse."""
    net = Table("embedding")
    net.table.data[[0, 3, 4]] = 0
    opt = SGD([net.table], 1e-6)
    lissom.proximal(opt, {tables(net): TopK(fraction=0.5)})
    fit(net, opt, SEEN)
    assert int(net.table[SEEN].count_nonzero()) == 14  # half of 7 rows


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_in_the_state(kind: str) -> None:
    runs = []
    for cut in (None, 1, 2, 4):
        net = Table(kind)
        opt = SGD(net.parameters(), 0.05)
        options = {"every": 3, "finalize_at": 7}
        method = lissom.proximal(opt, {lissom.weights(net): TopK(fraction=0.5)}, **options)
        for n, rows in enumerate([[1], [2, 3], [2], [4], [1, 5], [6, 7], [0]]):
            if n == cut:
                states = copy.deepcopy([x.state_dict() for x in (method, net, opt)])
                net = Table(kind)
                opt = SGD(net.parameters(), 0.05)
                method = lissom.proximal(opt, {lissom.weights(net): TopK(fraction=0.5)}, **options)
                for part, state in zip((method, net, opt), states, strict=True):
                    part.load_state_dict(state)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(net, opt, rows, n)
        runs.append([p.detach() for p in net.parameters()])
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_apply_leaves_alone_what_no_step_was_about_once_there_were_steps() -> None:
    for metric in METRICS:
        net = Table("embedding")
        before = net.table.detach().clone()
        opt = Adam(net.parameters(), 0.01)
        method = lissom.proximal(opt, {tables(net): L0(1e6)}, metric=metric, start=100)
        assert isinstance(method, Proximal)
        if metric == "adaptive":
            method.apply()
            assert torch.equal(net.table, before)
        method.remove()
        method = lissom.proximal(opt, {tables(net): L0(1e6)}, metric=metric, every=100)
        fit(net, opt, SEEN)
        method.apply()
        assert torch.equal(net.table[rest(SEEN)], before[rest(SEEN)])
        assert not net.table[SEEN].any()


@pytest.mark.parametrize("known", [True, False])
def test_apply_before_the_first_step_knows_the_metrics_that_need_none(known: bool) -> None:
    """Adagrad has a state from the start, which says nothing as long as it is 0."""
    for make in (
        lambda p: SGD(p, 0.01, momentum=0.9 if known else 0),
        lambda p: Adagrad(p, 0.01, initial_accumulator_value=0.1 if known else 0),
    ):
        net = Table("embedding")
        opt = make(net.parameters())
        method = lissom.proximal(opt, {tables(net): L0(1e6)}, metric="adaptive")
        assert isinstance(method, Proximal)
        method.apply()
        assert bool(net.table.any()) == (not known and isinstance(opt, Adagrad))


def test_a_budget_that_did_not_count_all_of_its_groups_is_told_of_at_the_end() -> None:
    net = Table("embedding")
    opt = SGD(net.parameters(), 0.05)
    method = lissom.proximal(opt, {tables(net): TopK(8), lissom.weights(net).only("head"): TopK(3)})
    fit(net, opt, SEEN)
    with pytest.warns(UserWarning, match=r"TopK\(8\) holds for what .* in emb\.weight") as told:
        method.finalize()
    assert [w.filename for w in told] == [__file__]
    assert int(net.table[SEEN].count_nonzero()) == 8 and net.table[rest(SEEN)].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.finalize()
