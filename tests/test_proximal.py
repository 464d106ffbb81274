"""The proximal step behind every optimizer: one definition in many forms, counts and mistakes."""

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import pairwise, sampled
from proximal_cases import (
    DTYPES,
    GRANULARITIES,
    LR,
    METRICS,
    OPTIMIZERS,
    PENALTIES,
    assert_same,
    column,
    each,
    equal,
    network,
    nonzeros,
    stand,
    step,
    train,
)
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adadelta, Adam

import lissom
from lissom import L0, L1, L2, L1Ball, Threshold, TopK, kernels, rescaling
from lissom.errors import GroupError, LissomError, MethodError, OptimizerError, PenaltyError
from lissom.penalties import Penalty
from lissom.preconditioners import preconditioner
from lissom.schedules import cubic, linear

FREE = {
    "l0": L0(0.0),
    "l1": L1(0.0),
    "l2": L2(0.0),
    "sum": L0(0.0) + L1(0.0) + L2(0.0),
    "ramp": L1(linear(0, 0, steps=3)),
    "top all": TopK(fraction=1.0),
    "top many": TopK(10_000, per="layer"),
    "large ball": L1Ball(1e6),
    "threshold": Threshold(0.0),
}


def pattern(net: nn.Module) -> list[Tensor]:
    return [p.detach() == 0 for p in net.parameters()]


def combinations(penalties: Mapping[str, Penalty], optimizers: Mapping[str, Any]) -> list[Any]:
    """Optimizer × metric × penalty; Threshold knows the Euclidean metric alone."""
    product = itertools.product(optimizers.items(), METRICS, penalties.items())
    return [
        pytest.param(optimizer, metric, penalty, id=f"{name}-{metric}-{kind}")
        for (name, optimizer), metric, (kind, penalty) in product
        if metric == "euclidean" or not isinstance(penalty, Threshold)
    ]


@sampled(27)
@pairwise
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each("groups", GRANULARITIES)
@pytest.mark.parametrize(("optimizer", "metric", "penalty"), combinations(PENALTIES, OPTIMIZERS))
def test_the_fused_twin_is_the_reference(optimizer, metric, penalty, groups, dtype) -> None:
    nets = [network(dtype) for _ in range(2)]
    opts = [optimizer(net.parameters()) for net in nets]
    for net, opt, fused in zip(nets, opts, (True, False), strict=True):
        lissom.proximal(opt, {groups(net): penalty}, metric=metric, fused=fused)
    for n in range(5):
        for opt in opts:
            step(opt, n)
        assert_same(*nets)
    alive, total = nonzeros(groups(nets[0])), len(groups(nets[0]))
    assert alive == total if penalty == L2(1.0) else 0 < alive < total


@sampled(27)
@pairwise
@each("groups", GRANULARITIES)
@pytest.mark.parametrize(("optimizer", "metric", "penalty"), combinations(PENALTIES, OPTIMIZERS))
def test_large_tensors_in_parts(monkeypatch, optimizer, metric, penalty, groups) -> None:
    """Tensors above a size are worked on in parts; here the size is 7 weights."""
    monkeypatch.setattr(rescaling, "SMALL", 7)
    test_the_fused_twin_is_the_reference(optimizer, metric, penalty, groups, torch.float32)


@pairwise
@each("groups", GRANULARITIES)
@each("penalty", {k: PENALTIES[k] for k in ("l0+l1+l2", "top 30 %", "top+l1+l2", "ball")})
@pytest.mark.parametrize("metric", METRICS)
def test_the_memory_format_does_not_matter(metric, penalty: Penalty, groups) -> None:
    nets = [network(), network().to(memory_format=torch.channels_last)]
    for net in nets:
        opt = Adam(net.parameters(), LR)
        lissom.proximal(opt, {groups(net): penalty}, metric=metric)
        for n in range(5):
            step(opt, n)
    assert not nets[1].conv1.weight.is_contiguous()
    assert_same(*nets)


@pairwise
@pytest.mark.parametrize("fused", [True, False])
@each("groups", GRANULARITIES)
@pytest.mark.parametrize(("optimizer", "metric", "penalty"), combinations(FREE, OPTIMIZERS))
def test_a_penalty_of_nothing_changes_nothing(optimizer, metric, penalty, groups, fused) -> None:
    """Bit by bit."""
    nets = [network() for _ in range(2)]
    opts = [optimizer(net.parameters()) for net in nets]
    lissom.proximal(opts[0], {groups(nets[0]): penalty}, metric=metric, fused=fused)
    for net, opt in zip(nets, opts, strict=True):
        train(net, opt, range(3))
    assert equal(*nets)


@sampled(27)
@pairwise
@pytest.mark.parametrize("fused", [True, False])
@each("groups", GRANULARITIES)
@pytest.mark.parametrize(("optimizer", "metric", "penalty"), combinations(PENALTIES, OPTIMIZERS))
def test_the_dead_train_on(optimizer, metric, penalty, groups, fused) -> None:
    """From all weights zero, biases too, with the penalty and then with one that kills all."""
    net = network()
    for p in net.parameters():
        nn.init.zeros_(p)
    opt = optimizer(net.parameters())
    handle = lissom.proximal(opt, {groups(net): penalty}, metric=metric, fused=fused)
    train(net, opt, range(4))
    handle.remove()
    lissom.proximal(opt, {groups(net): L1(1e9)}, metric=metric, fused=fused)
    train(net, opt, range(4))
    assert nonzeros(groups(net)) == 0
    assert int(net.fc.bias.count_nonzero()) == 5
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@each("groups", GRANULARITIES)
@each("optimizer", OPTIMIZERS)
def test_a_zero_may_come_back(optimizer, groups) -> None:
    net = network()
    for block in groups(net):
        nn.init.zeros_(block.parameters[0])
    opt = optimizer(net.parameters())
    lissom.proximal(opt, {groups(net): L0(1e-9)})
    step(opt, 0)
    assert nonzeros(groups(net)) == len(groups(net))


def objective(w: Tensor, old: Tensor, d: Tensor, penalty: Penalty, norms: Tensor) -> Tensor:
    """½ Σ d_i (w_i − old_i)² + lr·P(norms), for one kernel in many candidates."""
    return 0.5 * (d * (w - old).square()).flatten(1).sum(1) + LR * torch.stack(
        [penalty.value(r[None]) for r in norms]
    )


@sampled(4)
@each("penalty", {k: PENALTIES[k] for k in ("l0", "l1", "l2", "l0+l1+l2")})
@each("optimizer", OPTIMIZERS)
def test_a_kernel_is_rescaled_at_best_in_the_metric(optimizer, penalty: Penalty) -> None:
    """No other s in [0, 1] has a smaller ½‖s·w − w‖²_D + lr·P(s‖w‖): the sense of "adaptive"."""
    plain, penalised = network(torch.float64), network(torch.float64)
    opts = [optimizer(net.parameters()) for net in (plain, penalised)]
    lissom.proximal(opts[1], {kernels(penalised): penalty}, metric="adaptive")
    for opt in opts:
        step(opt, 0)
    group = opts[0].param_groups[0]
    scales = torch.linspace(0, 1, 301, dtype=torch.float64)
    for layer in ("conv1", "conv2"):
        parameter = getattr(plain, layer).weight
        found = preconditioner(opts[0], group, parameter)
        metric = torch.ones_like(parameter) if found is None else found()
        rows = [t.detach().flatten(0, 1) for t in (parameter, getattr(penalised, layer).weight)]
        for old, new, d in zip(*rows, metric.flatten(0, 1), strict=True):
            tried = torch.cat([new[None], scales.view(-1, 1, 1) * old])
            costs = objective(tried, old, d, penalty, tried.flatten(1).norm(dim=1))
            assert costs[0] <= costs[1:].min() + 1e-12
            torch.testing.assert_close(new * old.norm(), old * new.norm())  # on the line of old


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("amsgrad", [True, False])
def test_topk_in_adams_metric_keeps_the_largest_of_w2_sqrt_v(fused: bool, amsgrad: bool) -> None:
    plain, penalised = network(), network()
    opts = [Adam(net.parameters(), LR, eps=1e-12, amsgrad=amsgrad) for net in (plain, penalised)]
    penalties = {lissom.weights(penalised): TopK(20)}
    lissom.proximal(opts[1], penalties, metric="adaptive", start=4, fused=fused)
    for n in range(5):
        for opt in opts:
            step(opt, n)
    scores, sizes, kept = [], [], []
    for name in ("conv1", "conv2", "fc"):
        w, new = getattr(plain, name).weight.detach(), getattr(penalised, name).weight
        v = opts[0].state[getattr(plain, name).weight]["exp_avg_sq"]
        if amsgrad:
            v = opts[0].state[getattr(plain, name).weight]["max_exp_avg_sq"]
        scores.append((w.double() ** 2 * v.double().sqrt()).flatten())
        sizes.append(w.abs().flatten())
        kept.append((new != 0).flatten())
        assert torch.equal(new, torch.where(new != 0, w, 0))
    alive = torch.cat(kept).nonzero().flatten().tolist()
    assert set(alive) == set(torch.cat(scores).topk(20).indices.tolist())
    assert set(alive) != set(torch.cat(sizes).topk(20).indices.tolist())


def test_the_metrics_differ() -> None:
    nets = [network() for _ in METRICS]
    for net, metric in zip(nets, METRICS, strict=True):
        opt = Adam(net.parameters(), LR)
        lissom.proximal(opt, {lissom.weights(net): L0(2.0)}, metric=metric)
        step(opt, 0)
    assert any(not torch.equal(a, b) for a, b in zip(*map(pattern, nets), strict=True))


@pytest.mark.parametrize("metric", METRICS)
@each("optimizer", OPTIMIZERS)
def test_a_parameter_without_a_gradient(optimizer, metric) -> None:
    """The optimizer does not step it, and the prox leaves it alone, in both metrics."""
    net = network()
    opt = optimizer(net.parameters())
    lissom.proximal(opt, {lissom.weights(net): L1(1.0)}, metric=metric)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(2):
        opt.zero_grad()
        net.conv2(net.conv1(torch.ones(1, 2, 5, 5))).sum().backward()
        opt.step()
    assert net.fc.weight.grad is None
    assert torch.equal(net.fc.weight, before["fc.weight"])
    assert torch.equal(net.fc.bias, before["fc.bias"])
    assert not torch.equal(net.conv2.weight, before["conv2.weight"])


def applications(every: int, start: int, finalize_at: int | None, steps: int) -> list[int]:
    """After which steps the prox is due, counted from the start."""
    last = steps if finalize_at is None else min(steps, finalize_at)
    due = {n for n in range(1, last - start + 1) if n % every == 0}
    return sorted(due | ({finalize_at - start} if finalize_at == last else set()))


@settings(deadline=None)
@given(
    every=st.integers(1, 5),
    start=st.integers(0, 6),
    length=st.none() | st.integers(1, 8),
    steps=st.integers(0, 16),
    fused=st.booleans(),
)
def test_counts_and_schedules(
    every: int, start: int, length: int | None, steps: int, fused: bool
) -> None:
    """With no gradients a weight goes down by lr·λ at each application, λ as its schedule says."""
    net, strength = column(100.0), linear(0.0, 4.0, steps=4)
    opt = SGD(net.parameters(), LR)
    finalize_at = None if length is None else start + length
    options = {"every": every, "start": start, "finalize_at": finalize_at, "fused": fused}
    handle = lissom.proximal(opt, {lissom.weights(net): L1(strength)}, **options)
    stand(opt, steps)
    paid = sum(min(n, 4) for n in applications(every, start, finalize_at, steps))
    torch.testing.assert_close(net.weight, column(100.0 - LR * paid).weight)
    assert handle.step == steps
    assert handle.finalized == (finalize_at is not None and steps >= finalize_at)


@pytest.mark.parametrize("metric", METRICS)
@each("groups", GRANULARITIES)
def test_a_ramp_ends_exactly_at_its_target(groups, metric) -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    penalty = TopK(fraction=cubic(1.0, 0.1, steps=5))
    lissom.proximal(opt, {groups(net): penalty}, metric=metric, start=3)
    n, alive = len(groups(net)), []
    for k in range(12):
        step(opt, k)
        alive.append(nonzeros(groups(net)))
    assert alive[:3] == [n] * 3
    fractions = [0.1 + 0.9 * (1 - k / 5) ** 3 for k in range(1, 5)]
    assert alive[3:7] == [math.floor(n * fraction + 0.5) for fraction in fractions]
    assert alive[7:] == [n // 10] * 5


@pairwise
@pytest.mark.parametrize("metric", METRICS)
@each("groups", GRANULARITIES)
@each("optimizer", OPTIMIZERS)
def test_fine_tuning_keeps_zeros_and_trains_what_lives_alone(optimizer, groups, metric) -> None:
    net = network()
    opt = optimizer(net.parameters())
    handle = lissom.proximal(opt, {groups(net): L1(4.0)}, metric=metric, finalize_at=4, every=3)
    for n in range(4):
        step(opt, n)
    assert handle.finalized
    zeros, before = pattern(net), [p.detach().clone() for p in net.parameters()]
    assert 0 < nonzeros(groups(net)) < len(groups(net))

    plain = network()
    plain.load_state_dict(net.state_dict())
    other = optimizer(plain.parameters())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for n in range(4, 6):
        step(opt, n)
        step(other, n)
        for p, free, dead in zip(net.parameters(), plain.parameters(), zeros, strict=True):
            assert torch.equal(p, free.where(~dead, 0))
    moved = zip(net.parameters(), before, zeros, strict=True)
    assert all(bool((p != old)[~dead].all()) for p, old, dead in moved)


def test_finalizing_by_hand_and_applying_by_hand() -> None:
    net = column(1.0)
    opt = SGD(net.parameters(), LR)
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(2)}, start=1000)
    stand(opt, 3)
    assert nonzeros(lissom.weights(net)) == 4 and not handle.finalized
    handle.apply()
    handle.finalize()
    for n in range(3):
        step(opt, n)
    assert torch.equal(net.weight == 0, torch.tensor([[False, False, True, True]]))


def test_every_group_has_its_penalty_and_every_param_group_its_rate() -> None:
    net = network(torch.float64)
    for p in net.parameters():
        nn.init.constant_(p, 10.0)
    rates = [{"params": net.fc.parameters(), "lr": 0.02}, {"params": net.conv1.parameters()}]
    opt = SGD([*rates, {"params": net.conv2.parameters(), "lr": 0.5}], lr=0.1)
    penalties = {
        lissom.weights(net).only("conv1"): L1(1.0),
        lissom.weights(net, biases=True).only("fc"): L1(3.0),
    }
    lissom.proximal(opt, penalties)
    stand(opt, 5)
    expected = {
        "conv1.weight": 10 - 5 * 0.1 * 1.0,
        "fc.weight": 10 - 5 * 0.02 * 3.0,
        "fc.bias": 10 - 5 * 0.02 * 3.0,
    }
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, torch.full_like(p, expected.get(name, 10.0)))


def test_a_budget_is_met_over_all_layers_or_in_each() -> None:
    for per in ("all", "layer"):
        net = network()
        groups, opt = lissom.weights(net), Adam(net.parameters(), LR)
        lissom.proximal(opt, {groups: TopK(fraction=0.25, per=per)})
        step(opt, 0)
        alive = [int(norms.count_nonzero()) for norms in groups.norms()]
        assert nonzeros(groups) == len(groups) // 4
        assert (alive == [72 // 4, 48 // 4, 60 // 4]) == (per == "layer")


W, K = lissom.weights, kernels


@pytest.mark.parametrize(
    ("error", "told", "penalties", "options"),
    [
        (GroupError, "conv1.weight, conv2.weight is", lambda n: {W(n): L0(1), K(n): L1(1)}, {}),
        (GroupError, "fc.weight is penalised", lambda n: {W(n): L0(1), W(n).only("fc"): L1(1)}, {}),
        (GroupError, "mapping {groups: penalty}, got L0", lambda n: L0(1), {}),
        (GroupError, "mapping {groups: penalty}, got {}", lambda n: {}, {}),
        (GroupError, "mapping {groups: penalty}, got [", lambda n: [(W(n), L0(1))], {}),
        (GroupError, "weights(net): L0(1e-4)", lambda n: {"fc": L0(1)}, {}),
        (MethodError, "takes penalties, such as L0, L1", lambda n: {W(n): 0.1},
         {}),
        (OptimizerError, "does not hold fc.weight", lambda n: {W(network()).only("fc"): L0(1)}, {}),
        (MethodError, "got 'adaptative'", lambda n: {W(n): L0(1)}, {"metric": "adaptative"}),
        (MethodError, "1 or more, got 0", lambda n: {W(n): L0(1)}, {"every": 0}),
        (MethodError, "1 or more, got 1.5", lambda n: {W(n): L0(1)}, {"every": 1.5}),
        (MethodError, "0 or more, got -1", lambda n: {W(n): L0(1)}, {"start": -1}),
        (MethodError, "start=5", lambda n: {W(n): L0(1)}, {"start": 5, "finalize_at": 5}),
        (MethodError, "got 0", lambda n: {W(n): L0(1)}, {"finalize_at": 0}),
        (MethodError, "got 7.5", lambda n: {W(n): L0(1)}, {"finalize_at": 7.5}),
        (PenaltyError, "Threshold(0.1)", lambda n: {W(n): Threshold(0.1)}, {"metric": "adaptive"}),
        (
            PenaltyError,
            "Threshold(0→1 over 9 steps)",
            lambda n: {W(n).only("fc"): L0(1), K(n): Threshold(linear(0, 1, 9))},
            {"metric": "adaptive"},
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named_at_once(error, told: str, penalties, options: dict) -> None:
    """With the user's own words, and before anything is changed."""
    nets = [network(), network()]
    opts = [Adam(net.parameters(), LR) for net in nets]
    with pytest.raises(error) as raised:
        lissom.proximal(opts[0], penalties(nets[0]), **options)
    assert told in str(raised.value) and issubclass(error, LissomError)
    for opt in opts:
        step(opt, 0)
    assert equal(*nets)


@pytest.mark.parametrize("optimizer", [Adadelta, LBFGS])
def test_an_optimizer_without_a_known_metric_is_refused_at_once(optimizer) -> None:
    net = network()
    with pytest.raises(OptimizerError, match=rf"{optimizer.__name__}.*metric='euclidean'"):
        lissom.proximal(optimizer(net.parameters()), {W(net): L0(1)}, metric="adaptive")


def test_what_is_no_optimizer_is_refused() -> None:
    net = network()
    with pytest.raises(OptimizerError, match=r"torch.optim.Optimizer, got Sequential"):
        lissom.proximal(net, {W(net): L0(1)})


@each("optimizer", OPTIMIZERS)
def test_threshold_is_for_the_euclidean_metric(optimizer) -> None:
    """Of whatever optimizer: a recipe is refused before there is one."""
    net = network()
    opt = optimizer(net.parameters())
    with pytest.raises(PenaltyError, match=r"Threshold\(0.1\).*metric='euclidean'"):
        lissom.proximal(opt, {W(net): Threshold(0.1)}, metric="adaptive")
    lissom.proximal(opt, {W(net): Threshold(0.1)}, metric="euclidean")
    step(opt, 0)
    assert 0 < nonzeros(W(net)) < len(W(net))


@each("groups", GRANULARITIES)
@each(
    "penalty",
    {
        "l1": (L1(0.3), 0.3, 0.0),
        "l2": (L2(0.7), 0.0, 0.7),
        "sum": (L1(0.3) + L2(0.7), 0.3, 0.7),
        "ramp": (L1(linear(0.0, 0.6, steps=10)), 0.3, 0.0),
    },
)
def test_the_gradient_of_subgradient(penalty, groups) -> None:
    """λ₁·w/‖w_g‖ + 2λ₂·w, and 0 for what is dead."""
    given, l1, l2 = penalty
    net = network(torch.float64)
    nn.init.zeros_(net.conv1.weight.data[0])
    first = groups(net).only("conv1")
    opt = SGD(net.parameters(), lr=0.0)
    method = lissom.subgradient(opt, {first: given, groups(net).without("conv1"): given})
    for n in range(5):
        step(opt, n)
    opt.zero_grad()
    loss = method.penalty()
    loss.backward()
    value = 0.0
    for block in groups(net):
        w, norms = block.parameters[0].detach(), block.norms().detach()
        sizes = norms.view(*norms.shape, *[1] * (w.ndim - norms.ndim))
        direction = torch.where(sizes > 0, w / sizes, 0)
        torch.testing.assert_close(block.parameters[0].grad, l1 * direction + 2 * l2 * w)
        value += float(l1 * norms.sum() + l2 * norms.square().sum())
    assert loss.item() == pytest.approx(value)


@each("groups", GRANULARITIES)
@each(
    "penalty",
    {k: PENALTIES[k] for k in ("l0", "l0 ramp", "l0+l1+l2", "top 30 %", "ball", "threshold")},
)
def test_subgradient_refuses_what_has_no_gradient(penalty: Penalty, groups) -> None:
    """At once, also a ramp that starts with L0(0), and names the methods that take it."""
    net = network()
    with pytest.raises(MethodError, match="takes penalties with a gradient") as raised:
        lissom.subgradient(SGD(net.parameters(), LR), {groups(net): penalty})
    told, instead = str(raised.value).split(" Methods that take it: ")
    why = "which has none that says anything."
    assert told.endswith(f"got {penalty}, {why}") and "'proximal'" in instead
    assert "'subgradient'" not in instead


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fused", [True, False])
@each("groups", GRANULARITIES)
@pytest.mark.parametrize(
    ("optimizer", "metric", "penalty"),
    combinations(PENALTIES, {name: OPTIMIZERS[name] for name in ("sgd", "adam")}),
)
def test_a_gpu_gives_the_zeros_of_the_cpu(optimizer, metric, penalty, groups, fused) -> None:
    nets = [network(torch.float64), network(torch.float64).to("cuda")]
    for net in nets:
        opt = optimizer(net.parameters())
        lissom.proximal(opt, {groups(net): penalty}, metric=metric, fused=fused)
        for n in range(5):
            step(opt, n)
    assert_same(nets[0], nets[1].cpu())
