"""The LC algorithm: its steps by hand, on problems with known solutions, and through a kill."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import L0, L2, TopK, weights
from lissom.errors import CompressionError, GateError, GroupError
from lissom.learning_compression import LC, Compression, lc
from lissom.learning_compression.forms import form_of
from lissom.learning_compression.pull import pull
from lissom.schedules import geometric, linear


class Vector(nn.Module):
    """L(w) = ½ Σ h (w − a)², a problem that every optimizer solves."""

    def __init__(self, a: Tensor, h: Tensor | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(a.clone()[None])
        self.a, self.h = a, torch.ones_like(a) if h is None else h

    def loss(self) -> Tensor:
        return 0.5 * (self.h * (self.w[0] - self.a) ** 2).sum()

    def solve(self, penalty: Callable[[], Tensor], steps: int = 200, lr: float = 0.1) -> None:
        for _ in range(steps):
            loss = self.loss() + penalty()
            [g] = torch.autograd.grad(loss, [self.w])
            with torch.no_grad():
                self.w -= lr * g


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


DATA = torch.Generator().manual_seed(1)
X, Y = torch.randn(64, 6, generator=DATA), torch.randint(0, 3, (64,), generator=DATA)


def epoch(model: nn.Module, opt: torch.optim.Optimizer, penalty: Callable[[], Tensor]) -> None:
    for x, y in zip(X.split(16), Y.split(16), strict=True):
        loss = F.cross_entropy(model(x), y) + penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()


def nonzeros(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_metric", [False, True])
def test_pull_is_the_formula_and_so_is_its_gradient(dtype: torch.dtype, with_metric: bool) -> None:
    torch.manual_seed(0)
    ws = [torch.randn(4, 3, dtype=dtype, requires_grad=True), torch.randn(5, dtype=dtype)]
    cs = [torch.randn_like(w) for w in ws]
    ds = [torch.rand_like(w) for w in ws] if with_metric else None
    value = pull(ws, cs, 0.7, ds)
    (3 * value).backward()
    clones = [w.detach().double().requires_grad_() for w in ws]
    squares = [(w - c.double()) ** 2 for w, c in zip(clones, cs, strict=True)]
    if ds is not None:
        squares = [s * d.double() for s, d in zip(squares, ds, strict=True)]
    plain = 0.35 * sum(s.sum() for s in squares)
    (3 * plain).backward()  # type: ignore[union-attr]
    close = (
        {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    )
    torch.testing.assert_close(value.double(), plain, **close)  # type: ignore[arg-type]
    torch.testing.assert_close(ws[0].grad.double(), clones[0].grad, **close)  # type: ignore[union-attr,arg-type]


def test_pull_can_be_differentiated_again_from_a_kept_graph() -> None:
    w = torch.ones(3, requires_grad=True)
    value = pull([w], [torch.zeros(3)], 2.0)
    value.backward(retain_graph=True)
    value.backward()
    assert w.grad is not None and w.grad.tolist() == [4.0, 4.0, 4.0]


def test_two_steps_by_hand() -> None:
    """Direct compression, targets, C steps and multipliers, each as the equations say."""
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    run = lc(model, {weights(model): TopK(1)}, mu=[0.5, 1.0])
    steps = iter(run)
    first = next(steps)
    assert first.mu == 0.5
    # θ = (3, 0, 0), u = 0: (μ/2)·(2² + 1²)
    assert first.penalty().item() == pytest.approx(0.25 * 5)
    with torch.no_grad():
        model.w.copy_(torch.tensor([[3.0, 1.0, 0.5]]))
    second = next(steps)
    # u = −(w − θ) = (0, −1, −0.5), halved as μ doubles; so c = θ + u = (3, −0.5, −0.25)
    assert second.mu == 1.0
    assert second.penalty().item() == pytest.approx(0.5 * (1.5**2 + 0.75**2))
    with torch.no_grad():
        model.w.copy_(torch.tensor([[1.0, 1.25, 0.0]]))
    # nearest to w − u = (1, 1.75, 0.25)
    assert next(steps, None) is None
    assert model.w.tolist() == [[0.0, 1.75, 0.0]]
    assert run.result is not None and run.result.nonzero == 1


def test_the_quadratic_method_has_no_multipliers() -> None:
    model = Vector(torch.tensor([3.0, 2.0]))
    steps = iter(lc(model, {weights(model): TopK(1)}, mu=[1.0, 2.0], method="quadratic"))
    next(steps).penalty()
    assert next(steps).penalty().item() == pytest.approx(4.0)  # (2/2)·2², with u = 0


def test_multipliers_find_the_minimum_that_direct_compression_misses() -> None:
    """Min ½ Σ h(w − a)² with one non-zero weight: the one with the largest h·a²."""
    a, h = torch.tensor([2.0, 1.5, 1.0]), torch.tensor([0.2, 1.0, 1.0])
    model = Vector(a, h)
    for step in lc(model, {weights(model): TopK(1)}, mu=geometric(0.02, 1.1, 60)):
        model.solve(step.penalty)
    assert model.w[0].tolist() == [0.0, pytest.approx(1.5, abs=1e-2), 0.0]
    # Direct compression keeps the largest weight instead, which is not the best one.
    assert float(TopK(1).prox(a)[0]) == 2.0


def test_multipliers_meet_the_constraint_at_a_finite_mu() -> None:
    """Where the penalty method ends ‖w − θ‖ = O(1/μ) away, the multipliers close the gap."""
    gaps = {}
    for method in ("augmented", "quadratic"):
        model = Vector(torch.tensor([2.0, 1.0, 0.5]))
        run = lc(model, {weights(model): TopK(1)}, mu=[0.5] * 30, method=method)  # type: ignore[arg-type]
        for step in run:
            model.solve(step.penalty)
        gaps[method] = run.gap
    assert gaps["augmented"] < 1e-3 < 0.1 < gaps["quadratic"]


@pytest.mark.parametrize("kappa", [0, 1, 7, 30, 44, 45, 60])
def test_the_asked_for_count_is_met_exactly(kappa: int) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in lc(model, {weights(model): TopK(kappa)}, mu=[0.1, 0.2]):
        epoch(model, opt, step.penalty)
    assert nonzeros(model) == min(kappa, 45)


def test_l2_in_the_c_step_shrinks_by_mu() -> None:
    """θ = top κ of w times μ/(μ + 2λ), eq. 6 of the poster."""
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    run = lc(model, {weights(model): TopK(2) + L2(0.25)}, mu=[0.5])
    next(iter(run)).penalty()
    run.finish()
    assert model.w[0].tolist() == [pytest.approx(1.5), pytest.approx(1.0), 0.0]


def test_a_price_is_weighed_by_mu() -> None:
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    run = lc(model, {weights(model): L0(1.0)}, mu=[0.5])  # dies where w² ≤ 2λ/μ = 4
    next(iter(run)).penalty()
    run.finish()
    assert model.w[0].tolist() == [3.0, 0.0, 0.0]


def test_units_are_compressed_whole() -> None:
    model = net()
    units = lissom.neurons(model, X[:2])
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in lc(model, {units: TopK(2)}, mu=[0.1] * 3):
        epoch(model, opt, step.penalty)
    assert int((units.norms()[0] != 0).sum()) == 2
    small = lissom.shrink(model, X[:2])
    assert small[0].weight.shape == (2, 6)


def test_apply_shows_the_compressed_self_and_puts_it_back() -> None:
    model = net()
    run = lc(model, {weights(model): TopK(7)}, mu=[0.1, 0.1])
    for step in run:
        step.penalty()
        before = copy.deepcopy(model.state_dict())
        pointers = [p.data_ptr() for p in model.parameters()]
        with pytest.raises(ZeroDivisionError), step.apply():
            assert nonzeros(model) == 7
            raise ZeroDivisionError
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_loop_left_early_is_finished_by_hand() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    run = lc(model, {weights(model): TopK(7)}, mu=[0.1] * 9)
    for step in run:
        epoch(model, opt, step.penalty)
        if step.number == 2:
            break
    assert nonzeros(model) == 45
    result = run.finish()
    assert nonzeros(model) == result.nonzero == 7
    assert run.number == 3  # the open L step was ended by its C step
    assert run.finish() is result


def test_schedules_are_read_at_c_steps() -> None:
    model = net()
    seen = []
    kappa = linear(45, 5, 4)
    run = lc(model, {weights(model): TopK(kappa)}, mu=[0.1] * 4)
    for step in run:
        step.penalty()
        with step.apply():
            seen.append(nonzeros(model))
    assert seen == [35, 25, 15, 5]
    assert nonzeros(model) == 5


@pytest.mark.parametrize("method", ["augmented", "quadratic"])
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("mu", [None, geometric(0.1, 1.3, 6)])
@pytest.mark.parametrize("killed", [1, 6])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    tmp_path: Any, method: Any, metric: Any, mu: Any, killed: int
) -> None:
    """Killed in the first L step or a later one, in the middle of it."""

    def start() -> tuple[nn.Module, torch.optim.Optimizer, LC]:
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=1e-2)
        made = {weights(model): TopK(9)}
        return (
            model,
            opt,
            lc(model, made, mu=mu, method=method, metric=metric, optimizer=opt, steps=6),
        )

    def go_on(model: nn.Module, opt: torch.optim.Optimizer, run: LC, part: int, stop: int) -> None:
        """Each L step has two parts; go on until `stop` of all parts are done."""
        while not run.done:
            run.learn()
            for _ in range(part % 2, 2):
                if part == stop:
                    return
                epoch(model, opt, run.penalty)
                part += 1
            run.compress()
        run.finish()

    whole = start()
    go_on(*whole, 0, -1)
    model, opt, run = start()
    go_on(model, opt, run, 0, killed)
    state = {"lc": run.state_dict(), "model": model.state_dict(), "opt": opt.state_dict()}
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model, opt, run = start()
    model.load_state_dict(state["model"])
    opt.load_state_dict(state["opt"])
    run.load_state_dict(state["lc"])
    go_on(model, opt, run, killed, -1)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert nonzeros(model) == 9 and run.gap == whole[2].gap


def test_a_finished_run_stays_finished_after_a_resume() -> None:
    model = net()
    run = lc(model, {weights(model): TopK(7)}, mu=[0.1])
    for step in run:
        step.penalty()
    again = lc(model, {weights(model): TopK(7)}, mu=[0.1])
    again.load_state_dict(run.state_dict())
    assert again.done and again.result is not None and again.result.nonzero == 7
    assert list(again) == []


def test_the_adaptive_metric_is_the_optimizers() -> None:
    """The C step keeps the top of w²·D with Adam's D; the pull is D-weighted too."""
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    epoch(model, opt, lambda: torch.zeros(()))
    run = lc(
        model,
        {weights(model): TopK(9)},
        mu=[2.0],
        method="quadratic",
        metric="adaptive",
        optimizer=opt,
    )
    step = next(iter(run))
    scores, expected = [], 0.0
    for p in (model[0].weight, model[2].weight):
        d = (opt.state[p]["exp_avg_sq"] / (1 - 0.999 ** float(opt.state[p]["step"]))).sqrt() + 1e-8
        scores.append((p**2 * d).flatten())
    order = torch.cat(scores).sort(descending=True).values
    expected = order[9:].sum().item()
    assert step.penalty().item() == pytest.approx(expected, rel=1e-4)
    with step.apply():
        kept = torch.cat([(p != 0).flatten() for p in (model[0].weight, model[2].weight)])
    assert torch.equal(kept, torch.cat(scores) >= order[8])


def test_automatic_mu_starts_as_a_tenth_of_the_gradient_whatever_the_scale() -> None:
    """As measured by hand; a loss scale (mixed precision) does not enter."""
    found = []
    for scale in (1.0, 1024.0):
        model = net()
        run = lc(model, {weights(model): TopK(9)}, steps=5)
        step = next(iter(run))
        squares = []
        for _ in range(16):
            model.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            assert step.mu == 0
            (scale * (loss + step.penalty())).backward()
            grads = [p.grad / scale for p in (model[0].weight, model[2].weight)]
            squares.append(sum(float((g**2).sum()) for g in grads))
        pulled = step.penalty()
        found.append(step.mu)
        w = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
        gap = w.abs().sort(descending=True).values[9:].norm()
        assert step.mu == pytest.approx(0.1 * math.sqrt(sum(squares) / 16) / float(gap), rel=1e-4)
        assert pulled.item() == pytest.approx(step.mu / 2 * float(gap) ** 2, rel=1e-4)
        assert not model[0].weight._post_accumulate_grad_hooks
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_automatic_mu_brings_w_and_theta_together() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = lc(model, {weights(model): TopK(15)}, steps=30, optimizer=opt)
    gaps, mus = [], []
    for step in run:
        for _ in range(4):
            epoch(model, opt, step.penalty)
        gaps.append(run.gap)
        mus.append(step.mu)
    assert run.gap < 0.05 < gaps[0]
    assert mus == sorted(mus) and mus[-1] > mus[0] and mus[-1] <= 10  # 1/lr


def test_a_tolerance_ends_the_loop() -> None:
    model = Vector(torch.tensor([2.0, 1.0]))
    run = lc(model, {weights(model): TopK(1)}, mu=[1.0] * 50, tolerance=0.01)
    for step in run:
        model.solve(step.penalty)
    assert run.gap <= 0.01 and run.number < 50


def test_a_compression_of_ones_own_is_one_method() -> None:
    class Grid(Compression):
        def project(self, w: Any, mu: float, metric: Any = None) -> list[Tensor]:
            return [torch.round(4 * x) / 4 for x in w]

    model = Vector(torch.tensor([1.9, -0.6]))
    run = lc(model, {weights(model): Grid()}, mu=[1.0])
    next(iter(run)).penalty()
    result = run.finish()
    assert model.w[0].tolist() == [2.0, -0.5]
    saved = result.forms["w"].state()
    assert torch.equal(form_of(saved, torch.device("cpu")).value(), model.w.detach())


def test_the_result_knows_its_size() -> None:
    model = net()
    run = lc(model, {weights(model).only("0"): TopK(3)}, mu=[1.0])
    for step in run:
        step.penalty()
    result = run.result
    assert result is not None and list(result.forms) == ["0.weight"]
    assert result.nonzero == 3
    assert result.bytes == result.bits // 8 + 4 * (5 + 15 + 3)
    assert "3 of 30 non-zero" in str(result)


def _lc(model: nn.Module, **changed: Any) -> LC:
    return lc(model, {weights(model): TopK(3)}, **{"mu": [1.0], **changed})


BAD: list[tuple[Callable[[nn.Module], Any], type[Exception], str]] = [
    (lambda m: _lc(m, mu=[]), CompressionError, "positive numbers.*got \\[\\]"),
    (lambda m: _lc(m, mu=[1.0, -2.0]), CompressionError, "-2.0"),
    (lambda m: _lc(m, mu=0.5), CompressionError, "list.*0.5"),
    (lambda m: _lc(m, mu="auto"), CompressionError, "auto"),
    (lambda m: _lc(m, method="admm"), CompressionError, "'augmented' or 'quadratic', got 'admm'"),
    (lambda m: _lc(m, metric="adaptive"), CompressionError, "optimizer=…, got None"),
    (lambda m: _lc(m, metric="l2"), CompressionError, "got 'l2'"),
    (lambda m: _lc(m, mu=None, steps=0), CompressionError, "≥ 1, got 0"),
    (lambda m: _lc(m, tolerance=2), CompressionError, "between 0 and 1, got 2"),
    (lambda m: lc(m, {weights(net()): TopK(3)}, mu=[1]), CompressionError, "no parameter of this"),
    (lambda m: lc(m, {weights(m): 3}, mu=[1]), GroupError, "3"),  # type: ignore[dict-item]
    (lambda m: lc(m, {weights(m): TopK(3), weights(m): TopK(2)}, mu=[1]), GroupError, "twice"),
    (lambda m: lc(m, {weights(m): L0(1e-3)}), CompressionError, "L0.*is a price.*TopK"),
    (lambda m: lc(m, {weights(m): TopK(3) + L2(1e-3)}), CompressionError, "is a price"),
    (lambda m: lc("net", {weights(m): TopK(3)}, mu=[1]), CompressionError, "Module.*'net'"),  # type: ignore[arg-type]
    (
        lambda m: _lc(m, metric="adaptive", optimizer=torch.optim.SGD(net().parameters(), lr=1)),
        CompressionError,
        "does not hold 0.weight",
    ),
    (lambda m: _lc(m).penalty(), CompressionError, "no L step"),
    (lambda m: _lc(m).compress(), CompressionError, "none was begun"),
    (lambda m: list(_lc(m)), CompressionError, "never asked for.*step.penalty"),
    (lambda m: _lc(m).load_state_dict({"shapes": []}), CompressionError, "other groups"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input_is_a_clear_error(number: int) -> None:
    call, error, message = BAD[number]
    with pytest.raises(error, match=message):
        call(net())


def test_gated_models_are_refused() -> None:
    model = net()
    lissom.gate(model, {weights(model): L0(1e-3)})
    with pytest.raises(GateError):
        lc(model, {weights(model): TopK(3)}, mu=[1.0])


def test_divergence_is_said_and_not_written_into_the_weights() -> None:
    model = net()
    run = lc(model, {weights(model): TopK(3)}, mu=[1.0])
    next(iter(run)).penalty()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(CompressionError, match="diverged in step 0"):
        run.compress()


def test_the_state_of_other_weights_is_refused() -> None:
    small = nn.Linear(2, 2)
    run = lc(small, {weights(small): TopK(1)}, mu=[1.0])
    run.learn()
    model = net()
    with pytest.raises(CompressionError, match="other groups"):
        _lc(model).load_state_dict(run.state_dict())
