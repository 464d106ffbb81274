"""Numbers for each group, signs, and single weights beside their groups: solved to the end.

Least squares by full batches of proximal SGD, against scikit-learn and the conditions of Karush,
Kuhn and Tucker.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from products import sampled
from proximal_cases import LR, assert_same, each, network, nonzeros, step
from sklearn.linear_model import Lasso
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

import lissom
from lissom import L0, L1, L2, L1Ball, NonNegative, TopK, rescaling
from lissom.errors import GroupError, PenaltyError
from lissom.groups import Groups, columns
from lissom.recipes import make_data, make_trainer, read_recipe

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 12, generator=GENERATOR, dtype=torch.float64)
TRUE = torch.zeros(3, 12, dtype=torch.float64)
TRUE[:, :5] = torch.randn(3, 5, generator=GENERATOR, dtype=torch.float64)
TRUE[1, 2], TRUE[0, 4] = 0, 0
Y = X @ TRUE.T + 0.3 * torch.randn(60, 3, generator=GENERATOR, dtype=torch.float64)


def solve(
    penalties: Callable[[nn.Module], dict[Groups, Any]], outputs: int = 3, **options: Any
) -> tuple[Tensor, Tensor]:
    """The minimiser of ½‖Xw − y‖²/n + penalties, and the gradient of the first there."""
    net = nn.Linear(12, outputs, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    y = Y[:, :outputs]
    lipschitz = float(torch.linalg.matrix_norm(X, 2) ** 2 / len(X))
    opt = SGD(net.parameters(), 1 / lipschitz)
    lissom.proximal(opt, penalties(net), **options)
    for _ in range(250):
        opt.zero_grad()
        (F.mse_loss(net(X), y, reduction="sum") / (2 * len(X))).backward()
        opt.step()
    w = net.weight.detach()
    return w, (w @ X.T - y.T) @ X / len(X)


@pytest.mark.parametrize("fused", [False, True])
def test_non_negative_lasso(fused: bool) -> None:
    w, _ = solve(lambda n: {lissom.weights(n): L1(0.1) + NonNegative()}, 1, fused=fused)
    found = Lasso(alpha=0.1, positive=True, fit_intercept=False, tol=1e-12, max_iter=10**5)
    np.testing.assert_allclose(w[0], found.fit(X, Y[:, 0]).coef_, atol=1e-7)
    assert (TRUE[0] < 0).any() and 0 < w.count_nonzero() < 12


def test_the_lasso_with_a_strength_for_each_weight() -> None:
    strengths = torch.linspace(0.02, 0.3, 12, dtype=torch.float64)
    w, _ = solve(lambda n: {lissom.weights(n): L1(strengths[None])}, 1)
    found = Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=10**5)
    scaled = found.fit(X / strengths, Y[:, 0]).coef_
    np.testing.assert_allclose(w[0], scaled / strengths.numpy(), atol=1e-7)
    assert 0 < w.count_nonzero() < 12


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_the_sparse_group_lasso(fused: bool, turned: bool) -> None:
    def penalties(net: nn.Module) -> dict[Groups, Any]:
        both = [(lissom.weights(net), L1(0.1)), (columns(net), L1(0.15))]
        return dict(both[::-1] if turned else both)

    w, gradient = solve(penalties, fused=fused)
    norms = w.norm(dim=0)
    dead = norms == 0
    soft = (gradient.abs() - 0.1).clamp(min=0).norm(dim=0)
    assert 0 < dead.sum() < 12 and (soft[dead] <= 0.15).all()
    alive = (w != 0) & ~dead
    slope = gradient + 0.1 * w.sign() + 0.15 * w / norms
    torch.testing.assert_close(slope[alive], 0 * slope[alive], atol=1e-7, rtol=0)
    single = (w == 0) & ~dead
    assert single.any() and (gradient[single].abs() <= 0.1).all()


STRENGTHS = torch.rand(2, 2, generator=GENERATOR)


@sampled(2)
@each(
    "pair",
    {
        "l0": (L1(0.2), L0(0.3), lambda r: 0.3 * (r > 0).sum(-1)),
        "signs, l0": (L1(0.2) + NonNegative(), L0(0.3), lambda r: 0.3 * (r > 0).sum(-1)),
        "top 1": (L1(0.2), TopK(1), lambda r: torch.where((r > 0).sum(-1) > 1, torch.inf, 0.0)),
        "l2": (L1(STRENGTHS), L2(0.4), lambda r: 0.4 * (r**2).sum(-1)),
        "ball": (L1(0.2), L1Ball(0.8), lambda r: torch.where(r.sum(-1) > 0.80001, torch.inf, 0.0)),
    },
)
def test_any_penalty_of_the_groups_after_one_of_their_weights(pair: Any) -> None:
    """Against a grid of all four weights of two columns."""
    single, coarse, value = pair
    strength = STRENGTHS if coarse == L2(0.4) else 0.2

    def cost(w: Tensor, start: Tensor) -> Tensor:
        near = ((w - start) ** 2).sum((-2, -1)) / 2
        signs = torch.where(((w < 0).any(-1)).any(-1) & single.signed, torch.inf, 0.0)
        return near + (strength * w.abs()).sum((-2, -1)) + signs + value(w.norm(dim=-2))

    line = torch.linspace(-2, 2, 41)
    grid = torch.cartesian_prod(line, line, line, line).view(-1, 2, 2)
    for seed in range(3):
        net = nn.Linear(2, 2, bias=False)
        net.weight.data = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
        start = net.weight.detach().clone()
        opt = SGD(net.parameters(), 1.0)
        lissom.proximal(opt, {columns(net): coarse, lissom.weights(net): single}).apply()
        found = net.weight.detach()
        between = grid[((grid - start).abs() <= start.abs() + 0.1).all(-1).all(-1)]
        assert cost(found, start) <= cost(between, start).min() + 1e-5


def test_other_overlaps_are_refused_and_say_what_is_possible() -> None:
    net = network()
    weights, kernels = lissom.weights(net), lissom.kernels(net)
    possible = "is penalised twice; .* L1 of single weights beside a penalty of the groups"
    for penalties in (
        {weights: L0(1), kernels: L1(1)},
        {weights: L1(1) + L2(1), kernels: L1(1)},
        {weights: L1(1), lissom.weights(net): L1(1)},
        {weights: L0(1), lissom.weights(net).only("fc"): L1(1)},
        {weights: L1(1), kernels: L1(1), lissom.kernels(net): L0(1)},
    ):
        with pytest.raises(GroupError, match=possible):
            lissom.proximal(Adam(net.parameters()), penalties)
    nested = {weights: L1(1), kernels: L1(1)}
    opt = Adam(net.parameters())
    with pytest.raises(GroupError, match=possible):
        lissom.proximal(opt, nested, metric="adaptive")
    with pytest.raises(GroupError, match=possible):
        lissom.lc(opt, nested, every=3, mu=1.0)
    with pytest.raises(GroupError, match=possible):
        lissom.gate(opt, net, nested)
    method = lissom.subgradient(opt, nested)
    expected = sum(norms.sum() for groups in nested for norms in groups.norms())
    torch.testing.assert_close(method.penalty(), expected)


def test_zeros_of_both_stay_after_the_end() -> None:
    net = network()
    weights, kernels = lissom.weights(net), lissom.kernels(net)
    opt = SGD(net.parameters(), LR)
    method = lissom.proximal(opt, {kernels: L1(4.0), weights: L1(4.0)}, every=2)
    step(opt, 0)
    step(opt, 1)
    step(opt, 2)  # due, and applied by `finalize`
    method.finalize()
    alive = nonzeros(weights), nonzeros(kernels)
    step(opt, 3)
    assert (nonzeros(weights), nonzeros(kernels)) == alive
    assert alive[0] < len(weights) and alive[1] < len(kernels)


METHODS: dict[str, Callable[..., Any]] = {
    "euclidean": lissom.proximal,
    "adaptive": lambda *args: lissom.proximal(*args, metric="adaptive"),
    "reference": lambda *args: lissom.proximal(*args, fused=False),
    "lc": lambda *args: lissom.lc(*args, every=2, mu=30.0, c_steps=2),
    "subgradient": lissom.subgradient,
}


@each("method", METHODS)
@each("groups", {"weights": lissom.weights, "kernels": lissom.kernels})
@each("penalty", {"l1": L1, "l1 + l2": lambda s: L1(s) + L2(0.5)})
def test_equal_numbers_for_groups_are_one_number(method: Any, groups: Any, penalty: Any) -> None:
    nets = [network(), network()]
    for net, many in zip(nets, (False, True), strict=True):
        opt = Adam(net.parameters(), LR)
        chosen = groups(net)
        strength = [torch.full_like(n, 3.0) for n in chosen.norms()] if many else 3.0
        made = method(opt, {chosen: penalty(strength)})
        for n in range(4):
            opt.zero_grad()
            (sum((p**2).sum() for p in net.parameters()) + n + made.penalty()).backward()
            opt.step()
    assert_same(*nets)


@pytest.mark.parametrize("penalty", [L1, L0, lambda s: TopK(5, per="layer") + L1(s)])
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
def test_numbers_for_the_weights_of_a_large_tensor(
    monkeypatch: pytest.MonkeyPatch, penalty: Any, metric: str
) -> None:
    """Which would be worked on in parts, above 7 weights here, if it were one number for all."""
    monkeypatch.setattr(rescaling, "SMALL", 7)
    nets = [network(), network()]
    for net, fused in zip(nets, (False, True), strict=True):
        opt = Adam(net.parameters(), LR)
        weights = lissom.weights(net)
        strengths = [torch.linspace(0, 5, n.numel()).view(n.shape) for n in weights.norms()]
        lissom.proximal(opt, {weights: penalty(strengths)}, metric=metric, fused=fused)
        step(opt, 0)
        step(opt, 1)
    assert_same(*nets)
    assert 0 < nonzeros(lissom.weights(nets[0])) < len(lissom.weights(nets[0]))


def test_a_number_for_each_gate() -> None:
    terms = []
    for many in (False, True):
        torch.manual_seed(0)
        net = network()
        groups = lissom.kernels(net)
        strength = [torch.full_like(n, 0.3) for n in groups.norms()] if many else 0.3
        opt = SGD(net.parameters(), LR)
        gates = lissom.gate(opt, net, {groups: L0(strength) + L2(0.1)})
        gates.penalty().backward()
        terms.append((gates.penalty().detach(), gates.log_alpha.grad))
    torch.testing.assert_close(*terms)
    gates.penalties[groups].terms[0].strength[0].zero_()  # type: ignore[attr-defined, index]
    assert gates.penalty() < terms[0][0]


def test_a_reweighted_lasso_is_renewed_in_place() -> None:
    net = network()
    groups = lissom.weights(net)
    strengths = [torch.full_like(norms, 2.0) for norms in groups.norms()]
    opt = SGD(net.parameters(), LR)
    lissom.proximal(opt, {groups: L1(strengths)})
    step(opt, 0)
    norms = [n.detach() for n in groups.norms()]
    for strength, now in zip(strengths, norms, strict=True):
        strength.copy_(1 / (now + 1e-3))
    for group in opt.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    opt.step()
    for found, now in zip(groups.norms(), norms, strict=True):
        torch.testing.assert_close(found.detach(), (now - LR / (now + 1e-3)).clamp(min=0))


def test_numbers_that_do_not_fit_are_refused_when_the_method_is_made() -> None:
    net = network()
    groups = lissom.kernels(net)
    opt = Adam(net.parameters(), LR)
    fitting = [torch.ones_like(norms) for norms in groups.norms()]
    wrong = [torch.ones(4, 3), torch.ones(3, 4)]
    shapes = r"shaped \[\[4, 3\], \[3, 4\]\] for its strength, .* are shaped \[\[4, 2\], \[3, 4\]\]"
    with pytest.raises(PenaltyError, match=shapes):
        lissom.proximal(opt, {groups: L1(wrong)})
    with pytest.raises(PenaltyError, match=r"shaped \[\[4, 2\]\] for its L1\.strength"):
        lissom.lc(opt, {groups: L0(1.0) + L1(fitting[:1])}, every=2, mu=1.0)
    with pytest.raises(PenaltyError, match=r"shaped \[\[\]\] for its strength"):
        lissom.subgradient(opt, {groups: L1(torch.tensor(1.0))})
    spoilt = L1([torch.ones_like(norms) for norms in groups.norms()])
    spoilt.tensors["strength"][1][0, 0] = torch.nan  # after it was made
    with pytest.raises(PenaltyError, match=r"has NaN or infinite numbers in its strength"):
        lissom.proximal(opt, {groups: spoilt})
    with pytest.raises(PenaltyError, match=r"one budget over 2 blocks, .* per='layer' can have"):
        lissom.proximal(opt, {groups: TopK(3) + L1(fitting)})
    lissom.proximal(opt, {groups: TopK(3, per="layer") + L1(fitting)})
    step(opt, 0)
    assert [int(n.count_nonzero()) for n in groups.norms()] == [3, 3]


def test_numbers_that_are_none_say_so() -> None:
    one, two = torch.ones(2, 3), torch.ones(3)
    for number, words in (
        ([one, 0.1], "got a list of Tensor, float"),
        (one.numpy().repeat(9, 0), r"got a NumPy array of float32 \[18, 3\]"),
        (one.to("meta"), r"tensor 1 of 1 is a tensor of float32 \[2, 3\] on the device meta"),
        ([one, one.to(torch.complex64)], "tensor 2 of 2 is a tensor of complex64"),
    ):
        with pytest.raises(PenaltyError, match=f"L1 needs a finite strength λ ≥ 0.*{words}"):
            L1(number)  # type: ignore[arg-type]
    for numbers in ([one, two], two):
        with pytest.raises(PenaltyError, match=r"\+ L1\(.* would add numbers for other groups"):
            L1(one) + L1(numbers)
    assert L1(np.float32(0.5)).prox(two).tolist() == [0.5, 0.5, 0.5]  # type: ignore[arg-type]


def test_strengths_made_of_the_weights_have_no_gradient() -> None:
    net = network()
    groups = lissom.weights(net)
    penalty = L1([1 / (norms + 0.1) for norms in groups.norms()])
    method = lissom.subgradient(SGD(net.parameters(), LR), {groups: penalty})
    for _ in range(2):  # a second pass through one graph would be an error
        method.penalty().backward()
    [weight, *_] = (p for p in net.parameters() if p.ndim > 1)
    torch.testing.assert_close(weight.grad, 2 * weight.sign() / (weight.abs() + 0.1))


@pytest.mark.parametrize("make", [lissom.proximal, lambda *a: lissom.lc(*a, every=9, mu=1.0)])
def test_signs_are_of_single_weights(make: Any) -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    with pytest.raises(PenaltyError, match=r"NonNegative\(\) is about the signs of single weights"):
        make(opt, {lissom.kernels(net): L1(0.1) + NonNegative()})
    weights = lissom.weights(net)
    method = make(opt, {weights: TopK(fraction=0.3) + NonNegative()})
    for n in range(2):
        step(opt, n)
        method.penalty()
    with method.deployed():
        assert all((p >= 0).all() for p in net.parameters() if p.ndim > 1)
        assert 0 < nonzeros(weights) <= round(0.3 * len(weights))


def test_sparse_groups_in_a_recipe(tmp_path: Any) -> None:
    path = tmp_path / "sparse.toml"
    path.write_text("""
title = "Sparse columns"
data = { name = "digits" }
model = { name = "henrikson" }
optimizer = { name = "SGD", lr = 0.1 }
train = { epochs = 1 }
method = { name = "proximal" }
[[penalties]]
groups = "columns"
L1 = 0.02
[[penalties]]
L1 = 1e-3
""")
    recipe = read_recipe(str(path))
    trainer = make_trainer(recipe, make_data(recipe))
    assert trainer.method is not None
    weights, coarse = trainer.method.penalties
    assert (weights.kind, coarse.kind) == ("weights", "columns")
