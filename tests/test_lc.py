"""The LC algorithm: its steps by hand, on problems with known solutions, and through a kill."""

import copy
import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICES
from products import exhaustive, pairwise, sampled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adagrad, Adam, Optimizer

import lissom
from lissom import L0, L2, TopK, weights
from lissom.compressions import Codebook, Compression, LowRank, RankSelection
from lissom.compressions.forms import form_of
from lissom.errors import CompressionError, GroupError, MethodError, OptimizerError
from lissom.methods.lc import LC, lc
from lissom.methods.lc.mu import Automatic
from lissom.methods.lc.pull import penalty, pull_
from lissom.penalties import widen
from lissom.schedules import linear


class Vector(nn.Module):
    """L(w) = ½ Σ h (w − a)², a problem that every optimizer solves."""

    def __init__(self, a: Tensor, h: Tensor | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(a.clone()[None])
        self.a, self.h = a, torch.ones_like(a) if h is None else h

    def loss(self) -> Tensor:
        return 0.5 * (self.h * (self.w[0] - self.a) ** 2).sum()

    def lc(self, compression: Any, *, lr: float = 0.1, **options: Any) -> LC:
        opt = SGD(self.parameters(), lr=lr)
        return lc(opt, {weights(self): compression}, **{"every": 200, **options})

    def solve(self, method: LC) -> None:
        """Train until the method has ended."""
        while not method.finalized:
            step(self.loss(), method)

    def move(self, method: LC, *to: float) -> None:
        """A step of the optimizer that leads to these weights."""
        method.optimizer.zero_grad()
        (method.penalty() + self.w.sum()).backward()
        with torch.no_grad():
            self.w.copy_(torch.tensor([to]))
        method.optimizer.step()


def step(loss: Tensor, method: LC) -> None:
    loss = loss + method.penalty()
    method.optimizer.zero_grad()
    loss.backward()
    method.optimizer.step()


def net(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)


DATA = torch.Generator().manual_seed(1)
X, Y = torch.randn(64, 6, generator=DATA), torch.randint(0, 3, (64,), generator=DATA)
EPOCH = 4  # steps


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    """Of batch `number` of an epoch, or of all examples."""
    part = slice(16 * (number % EPOCH), 16 * (number % EPOCH) + 16)
    device = next(model.parameters()).device
    return F.cross_entropy(model(X[part].to(device)), Y[part].to(device))


def train(model: nn.Module, method: LC, steps: int) -> None:
    for _ in range(steps):
        step(loss_of(model, method.step), method)


def made(
    compression: Any = None, opt: Any = None, device: str = "cpu", **options: Any
) -> tuple[nn.Sequential, LC]:
    """A network with two matrices of 30 and 15 weights, and its LC: 7 remain if nothing is said."""
    model = net(device)
    opt = SGD(model.parameters(), lr=0.1) if opt is None else opt(model.parameters())
    given = {"every": EPOCH, "c_steps": 3, "mu": 0.1, **options}
    if not isinstance(given["every"], int):
        given.pop("c_steps")
    return model, lc(opt, {weights(model): compression or TopK(7)}, **given)


def adam(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=1e-2)


def momentum(parameters: Any) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9)


def matrices(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.ndim > 1]


def nonzeros(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in matrices(model))


def equal(a: Any, b: Any) -> bool:
    """Bitwise equality of nested tensors and plain values."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def snapshot(model: nn.Module, method: LC) -> dict[str, Any]:
    """What a checkpoint holds, after a way through a file."""
    own, opt = model.state_dict(), method.optimizer.state_dict()
    file = io.BytesIO()
    torch.save({"method": method.state_dict(), "model": own, "opt": opt}, file)
    file.seek(0)
    kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return kept


def resume(model: nn.Module, method: LC, kept: dict[str, Any]) -> None:
    state = copy.deepcopy(kept)
    method.load_state_dict(state["method"])
    model.load_state_dict(state["model"])
    method.optimizer.load_state_dict(state["opt"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_metric", [False, True])
def test_the_penalty_is_the_formula_and_the_pull_its_gradient(
    dtype: torch.dtype, with_metric: bool
) -> None:
    torch.manual_seed(0)
    ws = [torch.randn(4, 3, dtype=dtype, requires_grad=True), torch.randn(5, dtype=dtype)]
    cs = [torch.randn_like(w) for w in ws]
    # D is in float32 at least, whatever the weights are.
    ds = [torch.rand_like(widen(w)) for w in ws] if with_metric else None
    ws[0].grad = torch.randn_like(ws[0])
    before = ws[0].grad.clone().double()
    pull_(ws, cs, [0.7, -0.7], ds, scale=torch.tensor(3.0))
    clones = [w.detach().double().requires_grad_() for w in ws]
    squares = [(w - c.double()) ** 2 for w, c in zip(clones, cs, strict=True)]
    if ds is not None:
        squares = [s * d.double() for s, d in zip(squares, ds, strict=True)]
    plain = 0.35 * (squares[0].sum() - squares[1].sum())
    (3 * plain).backward()
    close = (
        {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    )
    value = penalty(ws, cs, [0.7, -0.7], ds)
    assert not value.requires_grad
    torch.testing.assert_close(value.double(), plain.detach(), **close)  # type: ignore[arg-type]
    torch.testing.assert_close(ws[0].grad.double(), before + clones[0].grad, **close)  # type: ignore[operator,arg-type]
    torch.testing.assert_close(ws[1].grad.double(), clones[1].grad, **close)  # type: ignore[union-attr,arg-type]


def test_the_pull_joins_a_sparse_gradient() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    opt = SGD(table.parameters(), lr=0.1)
    method = lc(opt, {weights(table): TopK(4)}, every=5, mu=0.5)
    before = table.weight.detach().clone()
    table(torch.tensor([1])).sum().backward()
    opt.step()
    theta = method.state_dict()["own"]["tasks"][0]["forms"]
    dense = form_of(theta[0], torch.device("cpu")).value()
    grad = torch.zeros(4, 2)
    grad[1] = 1
    torch.testing.assert_close(
        table.weight.detach(), before - 0.1 * (grad + 0.5 * (before - dense))
    )


def test_two_steps_by_hand() -> None:
    """Direct compression, targets, C steps and multipliers, each as the equations say."""
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    method = model.lc(TopK(1), every=1, c_steps=2, mu=[0.5, 1.0], lr=0)
    assert method.mu == 0.5
    # θ = (3, 0, 0), u = 0: (μ/2)·(2² + 1²)
    assert method.penalty().item() == pytest.approx(0.25 * 5)
    model.move(method, 3.0, 1.0, 0.5)
    # u = −(w − θ) = (0, −1, −0.5), halved as μ doubles; so c = θ + u = (3, −0.5, −0.25)
    assert method.mu == 1.0 and method.number == 1
    assert method.penalty().item() == pytest.approx(0.5 * (1.5**2 + 0.75**2))
    assert not method.finalized
    model.move(method, 1.0, 1.25, 0.0)
    # nearest to w − u = (1, 1.75, 0.25)
    assert method.finalized and method.finalized_at == 2
    assert model.w.tolist() == [[0.0, 1.75, 0.0]]
    result = method.outcome(model)
    assert result is not None and result.nonzero == 1


def test_the_quadratic_algorithm_has_no_multipliers() -> None:
    model = Vector(torch.tensor([3.0, 2.0]))
    method = model.lc(TopK(1), every=1, c_steps=2, mu=[1.0, 2.0], algorithm="quadratic", lr=0)
    model.move(method, 3.0, 2.0)
    assert method.penalty().item() == pytest.approx(4.0)  # (2/2)·2², with u = 0


@exhaustive
def test_multipliers_find_the_minimum_that_direct_compression_misses() -> None:
    """Min ½ Σ h(w − a)² with one non-zero weight: the one with the largest h·a²."""
    a, h = torch.tensor([2.0, 1.5, 1.0]), torch.tensor([0.2, 1.0, 1.0])
    model = Vector(a, h)
    model.solve(model.lc(TopK(1), every=80, lr=0.25, mu=0.02, mu_factor=1.1, c_steps=60))
    assert model.w[0].tolist() == [0.0, pytest.approx(1.5, abs=1e-2), 0.0]
    # Direct compression keeps the largest weight instead, which is not the best one.
    model = Vector(a, h)
    model.lc(TopK(1), mu=0.02).finalize()
    assert model.w[0].tolist() == [2.0, 0.0, 0.0]


@exhaustive
def test_multipliers_meet_the_constraint_at_a_finite_mu() -> None:
    """Where the penalty method ends ‖w − θ‖ = O(1/μ) away, the multipliers close the gap."""
    gaps = {}
    for algorithm in ("augmented", "quadratic"):
        model = Vector(torch.tensor([2.0, 1.0, 0.5]))
        method = model.lc(TopK(1), every=30, lr=0.3, mu=[0.5] * 30, c_steps=30, algorithm=algorithm)
        model.solve(method)
        gaps[algorithm] = method.gap
    assert gaps["augmented"] < 1e-3 < 0.1 < gaps["quadratic"]


@pytest.mark.parametrize("kappa", [0, 1, 7, 30, 44, 45, 60])
def test_the_asked_for_count_is_met_exactly(kappa: int) -> None:
    model, method = made(TopK(kappa), mu=[0.1, 0.2], c_steps=2)
    train(model, method, 2 * EPOCH)
    assert method.finalized and nonzeros(model) == min(kappa, 45)


@pytest.mark.parametrize("steps", [0, 1])
def test_l2_in_the_c_step_shrinks_by_mu(steps: int) -> None:
    """θ = top κ of w times μ/(μ + 2λ), eq. 6 of the poster."""
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    method = model.lc(TopK(2) + L2(0.25), mu=0.5, lr=0)
    for _ in range(steps):
        model.move(method, 3.0, 2.0, 1.0)
    method.finalize()
    assert method.number == steps
    assert model.w[0].tolist() == [pytest.approx(1.5), pytest.approx(1.0), 0.0]


def test_lambda_is_weighed_by_mu() -> None:
    model = Vector(torch.tensor([3.0, 2.0, 1.0]))
    method = model.lc(L0(1.0), mu=0.5, lr=0)  # dies where w² ≤ 2λ/μ = 4
    model.move(method, 3.0, 2.0, 1.0)
    method.finalize()
    assert model.w[0].tolist() == [3.0, 0.0, 0.0]


def test_units_are_compressed_whole() -> None:
    model = net()
    units = lissom.neurons(model, X[:2])
    method = lc(SGD(model.parameters(), lr=0.1), {units: TopK(2)}, every=4, c_steps=3, mu=0.1)
    train(model, method, 12)
    assert int((units.norms()[0] != 0).sum()) == 2
    small = lissom.shrink(model, X[:2])
    assert small[0].weight.shape == (2, 6)


def test_what_goes_with_a_unit_waits_for_the_end() -> None:
    """The bias of a dead unit is no part of θ: C steps, and a look at the penalty, leave it."""
    model = net()
    units = lissom.neurons(model, X[:2])
    method = lc(SGD(model.parameters(), lr=0.1), {units: TopK(2)}, every=2, c_steps=2, mu=0.1)
    bias = model[0].bias
    method.penalty()
    assert bias.count_nonzero() == len(bias)
    train(model, method, 2)
    assert method.number == 1 and bias.count_nonzero() == len(bias)
    with method.deployed():
        assert bias.count_nonzero() == 2
    assert bias.count_nonzero() == len(bias)
    train(model, method, 2)
    assert method.finalized and bias.count_nonzero() == 2


# When L steps end.


def c_steps_of(model: nn.Module, method: LC) -> list[int]:
    """The steps after which there was a C step, until the end."""
    found = []
    while not method.finalized:
        before = method.number
        train(model, method, 1)
        if method.number > before:
            found.append(method.step)
    return found


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize(
    "options, ends",
    [
        ({"every": 2, "c_steps": 3}, [2, 4, 6]),
        ({"every": 2, "first": 5, "c_steps": 3}, [5, 7, 9]),
        ({"every": 3, "first": 1, "c_steps": 2}, [1, 4]),
        ({"every": [1, 2, 6, 9]}, [1, 2, 6, 9]),
        ({"every": (4,)}, [4]),
    ],
)
def test_c_steps_come_when_they_should(
    options: dict[str, Any], ends: Sequence[int], start: int
) -> None:
    model, method = made(start=start, **options)
    assert method.options.end == start + ends[-1]
    assert c_steps_of(model, method) == [start + end for end in ends]
    assert method.finalized_at == start + ends[-1] and nonzeros(model) == 7


@pytest.mark.parametrize(
    "end, numbers",
    [(3, [3]), (4, [4]), (6, [4, 6]), (8, [4, 8]), (12, [4, 8, 12]), (20, [4, 8, 12])],
)
def test_finalize_at_ends_an_l_step_early(end: int, numbers: list[int]) -> None:
    """By a C step of its own, if it does not fall on one."""
    model, method = made(finalize_at=end)
    assert method.options.end == numbers[-1]
    assert c_steps_of(model, method) == numbers
    assert method.finalized_at == numbers[-1] and nonzeros(model) == 7


def test_a_loop_left_early_is_finalized_by_hand() -> None:
    model, method = made(c_steps=9)
    train(model, method, 2 * EPOCH + 1)
    assert method.number == 2 and nonzeros(model) == 45
    method.finalize()
    assert method.number == 3  # the open L step was ended by its C step
    result = method.outcome(model)
    assert result is not None and nonzeros(model) == result.nonzero == 7
    before = snapshot(model, method)
    method.finalize()
    assert method.number == 3 and equal(snapshot(model, method), before)


def test_schedules_are_read_in_optimizer_steps() -> None:
    """At 0 for direct compression, and at each C step, counted from `start`."""
    model, method = made(TopK(linear(45, 5, 16)), start=2, c_steps=4)
    seen = []
    while not method.finalized:
        if method.step >= 2 and (method.step - 2) % EPOCH == 0:
            with method.deployed():
                seen.append(nonzeros(model))
        train(model, method, 1)
    assert [*seen, nonzeros(model)] == [45, 35, 25, 15, 5]


def test_before_start_and_after_the_end_there_is_no_penalty() -> None:
    model, method = made(start=2, every=[1, 3])
    found = []
    for _ in range(7):
        found.append(method.penalty().item() > 0)
        train(model, method, 1)
    assert found == [False, False, True, True, True, False, False]


def test_zeros_stay_while_what_lives_is_fine_tuned() -> None:
    model, method = made(opt=momentum)
    train(model, method, 12)
    assert method.finalized and not method.optimizer.state
    ended = [w.clone() for w in matrices(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, method, 5)
    for before, now in zip(ended, matrices(model), strict=True):
        assert torch.equal(before != 0, now != 0) and not torch.equal(before, now)


# The pull is a part of the optimizer's step.


@pytest.mark.parametrize("by", ["hook", "closure", "closure=", "scaler", "fused scaler"])
def test_steps_are_those_of_the_penalty_in_the_loss(by: str) -> None:
    """Whoever makes the gradients, and whatever scales them; in any way that torch knows."""
    (model, method), (other, plain) = (
        made(opt=lambda p: Adam(p, lr=1e-2, fused="fused" in by), mu=0.5, every=50)
        for _ in range(2)
    )
    train(model, method, 1)
    train(other, plain, 1)
    theta = [form.value() for task in plain._tasks for form in task.forms]
    plain.remove()
    opt, scaler = method.optimizer, torch.amp.GradScaler("cpu", init_scale=1024.0)
    for at in range(6):
        loss = loss_of(other, at)
        for w, c in zip(matrices(other), theta, strict=True):
            loss = loss + 0.25 * (w - c).square().sum()
        plain.optimizer.zero_grad()
        loss.backward()
        plain.optimizer.step()

        def closure(at: int = at) -> Tensor:
            opt.zero_grad()
            found = loss_of(model, at)
            found.backward()
            return found

        if by == "closure":
            opt.step(closure)  # type: ignore[arg-type]
        elif by == "closure=":
            opt.step(closure=closure)  # type: ignore[arg-type]
        elif by == "hook":
            closure()
            opt.step()
        else:
            opt.zero_grad()
            scaler.scale(loss_of(model, at)).backward()
            scaler.step(opt)
            scaler.update()
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)
    assert method.step == 7


@pytest.mark.parametrize("penalty_in", ["nowhere", "the loss", "the loss, printed", "print"])
@pytest.mark.parametrize("returns", [lambda loss: loss, float], ids=["tensor", "float"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_the_loss_of_a_closure_has_the_pull_in_it_once(
    penalty_in: str, returns: Any, search: str | None
) -> None:
    """A line search compares the loss with its gradient, in which the pull is."""

    def trained(penalty_in: str) -> tuple[list[float], nn.Module]:
        model, method = made(
            opt=lambda p: LBFGS(p, max_iter=4, line_search_fn=search), every=2, mu=0.5
        )

        def closure() -> Any:
            method.optimizer.zero_grad()
            loss = loss_of(model)
            if "loss" in penalty_in:
                loss = loss + method.penalty()
            if "print" in penalty_in:
                float(method.penalty())
            loss.backward()
            return returns(loss)

        return [float(method.optimizer.step(closure)) for _ in range(6)], model

    (losses, model), (plain, other) = trained(penalty_in), trained("the loss")
    assert losses == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_closure_without_a_loss_is_left_alone() -> None:
    model, method = made(mu=0.5)

    def closure() -> None:
        loss_of(model).backward()

    assert method.optimizer.step(closure) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("in_loss", [False, True])
@pytest.mark.parametrize("opt", [SGD, Adam])
def test_where_the_optimizer_maximizes_weights_are_drawn_to_theta_too(
    opt: Any, in_loss: bool
) -> None:
    def trained(first: bool, second: bool) -> tuple[nn.Module, list[float]]:
        model = net()
        groups = [
            {"params": model[i].parameters(), "maximize": up} for i, up in ((0, first), (2, second))
        ]
        method = lc(opt(groups, lr=0.05), {weights(model): TopK(7)}, every=3, c_steps=4, mu=0.5)
        signs = [-1 if up else 1 for up in (first, first, second, second)]
        penalties = []
        for at in range(12):
            method.optimizer.zero_grad()
            loss = loss_of(model, at)
            penalties.append(float(method.penalty()))
            (loss + method.penalty() if in_loss else loss).backward()
            for p, sign in zip(model.parameters(), signs, strict=True):
                assert p.grad is not None
                p.grad *= sign
            method.optimizer.step()
        return model, penalties

    (down, values), (up, negative), (mixed, _) = trained(0, 0), trained(1, 1), trained(1, 0)
    for other in (up, mixed):
        torch.testing.assert_close(other.state_dict(), down.state_dict())
    assert negative == pytest.approx([-value for value in values], rel=1e-4)


def test_what_the_loss_does_not_reach_is_drawn_too() -> None:
    model, method = made(mu=0.5)
    before = matrices(model)[1].detach().clone()
    model[0].weight.sum().backward()
    method.optimizer.step()
    assert not torch.equal(matrices(model)[1], before)


def test_a_step_that_is_none_has_no_pull() -> None:
    """Of gradients that are 0 at a rate of 0, by which checkpoints make an optimizer's state."""
    model, method = made(opt=adam, mu=0.5)
    for group in method.optimizer.param_groups:
        group["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    method.optimizer.step()
    assert method.step == 0 and not method.begun
    assert not any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)


def test_a_look_at_what_is_deployed_between_forward_and_backward_disturbs_no_gradient() -> None:
    found = []
    for look in (True, False):
        model, method = made(opt=adam)
        train(model, method, 6)
        loss = loss_of(model) + method.penalty()
        if look:
            with method.deployed():
                loss_of(model)
        method.optimizer.zero_grad()
        loss.backward()
        found.append([p.grad for p in model.parameters()])
    assert equal(*found)


@pytest.mark.parametrize("mu", [None, 0.1])
def test_the_penalty_can_be_asked_for_as_often_as_one_likes(mu: float | None) -> None:
    (model, method), (other, plain) = made(mu=mu, opt=adam), made(mu=mu, opt=adam)
    for _ in range(14):
        first = method.penalty()
        state = method.state_dict()
        with torch.no_grad():
            assert torch.equal(method.penalty(), first)
        assert torch.equal(method.penalty(), first) and equal(method.state_dict(), state)
        train(model, method, 1)
        train(other, plain, 1)
    assert equal(snapshot(model, method), snapshot(other, plain))


# What would be delivered.


@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("algorithm", ["augmented", "quadratic"])
@pytest.mark.parametrize("mu", [None, 0.1])
@pytest.mark.parametrize("steps", [0, 2, 3, 5, 6, 9, 10, 12, 14])
def test_deployed_is_what_finalize_leaves(metric: Any, algorithm: Any, mu: Any, steps: int) -> None:
    """Before `start`, at it, in the middle of an L step, after a C step, and after the end."""
    model, method = made(
        TopK(linear(30, 7, 9)),
        opt=adam, metric=metric, algorithm=algorithm, mu=mu, start=3, every=3,
    )  # fmt: skip
    train(model, method, steps)
    with method.deployed():
        deployed = copy.deepcopy(model.state_dict())
    assert nonzeros(model) == (45 if steps < 12 else 7)
    method.finalize()
    assert equal(model.state_dict(), deployed)
    assert nonzeros(model) == (45 if steps < 3 else round(30 - 23 * min(steps - 3, 9) / 9))


def test_deployed_puts_everything_back() -> None:
    """Bit for bit, also if something fails within; and training goes on as if nothing was."""
    (model, method), (other, plain) = made(opt=adam, start=1), made(opt=adam, start=1)
    calls = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    model[0].register_forward_pre_hook(lambda *_: calls.append("layer"))
    for at in range(1 + 12 + 2):
        before, pointers = snapshot(model, method), [p.data_ptr() for p in model.parameters()]
        parameters = list(model.named_parameters())
        grads = [p.grad for p in model.parameters()]
        hooks = [dict(model._forward_hooks), dict(model[0]._forward_pre_hooks)]
        with pytest.raises(ZeroDivisionError), method.deployed(), method.deployed():
            assert nonzeros(model) == (45 if at < 1 else 7)
            assert method.penalty().item() == 0
            model[0].bias.grad = None
            model[0].bias.grad = grads[1]
            raise ZeroDivisionError
        assert equal(snapshot(model, method), before)
        assert [p.data_ptr() for p in model.parameters()] == pointers
        again = list(model.named_parameters())
        assert [name for name, _ in again] == [name for name, _ in parameters]
        assert all(p is q for (_, p), (_, q) in zip(again, parameters, strict=True))
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        assert [dict(model._forward_hooks), dict(model[0]._forward_pre_hooks)] == hooks
        train(model, method, 1)
        train(other, plain, 1)
    assert calls == ["layer", "model"] * 15
    assert equal(snapshot(model, method), snapshot(other, plain))


def test_a_look_before_the_first_step_begins_nothing() -> None:
    """So that weights may still be loaded."""
    model, method = made()
    with method.deployed():
        assert nonzeros(model) == 7
    assert not method.begun and method.event() == {}
    trained = {name: 2 + torch.rand_like(p) for name, p in model.state_dict().items()}
    model.load_state_dict(trained)
    other, plain = made()
    other.load_state_dict(trained)
    assert torch.equal(method.penalty(), plain.penalty())


def test_nothing_is_trained_or_ended_within_deployed() -> None:
    model, method = made()
    train(model, method, 5)
    with method.deployed():
        with pytest.raises(MethodError, match="within deployed"):
            method.finalize()
        with pytest.raises(MethodError, match="step outside"):
            train(model, method, 1)
    assert method.step == 5 and not method.finalized
    method.finalize()
    assert nonzeros(model) == 7


# States.

STOPS = (0, 1, 2, 3, 9, 17, 18, 19, 20, 21, 22, 25, 26, 27, 28)


@sampled(3)
@pairwise
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("algorithm", ["augmented", "quadratic"])
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("mu", [None, [0.1, 0.13, 0.16, 0.2]])
@pytest.mark.parametrize("stops", [STOPS[part::3] for part in range(3)])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(
    device: str, algorithm: Any, metric: Any, mu: Any, stops: tuple[int, ...]
) -> None:
    """Killed before `start`, in each L step, right after C steps, at the end, and afterwards.

    The first L step has 18 steps, of which the first 16 find μ. The optimizer is told to forget
    its moments in half of the cases.
    """

    def start() -> tuple[nn.Module, LC]:
        restart = (algorithm == "augmented") == (metric == "adaptive")
        return made(
            TopK(linear(20, 9, 20)),
            opt=adam, device=device, start=2, every=[18, 20, 23, 24],
            mu=mu, algorithm=algorithm, metric=metric, restart=restart,
        )  # fmt: skip

    model, method = start()
    kept = {}
    for at in range(29):
        if at in stops:
            kept[at] = snapshot(model, method)
        train(model, method, 1)
    end = snapshot(model, method)
    assert method.finalized_at == 26 and nonzeros(model) == 9
    for at, state in kept.items():
        again, resumed = start()
        train(again, resumed, 1)  # which the state replaces
        resume(again, resumed, state)
        assert resumed.step == at and equal(snapshot(again, resumed), state)
        with resumed.deployed():
            assert nonzeros(again) <= (45 if at < 2 else 20)
        train(again, resumed, 29 - at)
        assert equal(again.state_dict(), model.state_dict()), at
        assert resumed.gap == method.gap and resumed.mu == method.mu
        assert equal(snapshot(again, resumed), end)


@pytest.mark.parametrize("compression", [Codebook(3), LowRank(1), TopK(4) + Codebook(2)], ids=repr)
def test_forms_are_kept_in_states(compression: Any) -> None:
    model, method = made(compression)
    for _ in range(13):
        again, resumed = made(compression)
        resume(again, resumed, snapshot(model, method))
        with resumed.deployed(), method.deployed():
            assert equal(again.state_dict(), model.state_dict())
        if method.finalized:
            break
        train(model, method, 1)
        train(again, resumed, 1)
        assert equal(again.state_dict(), model.state_dict())
    result = resumed.outcome(again)
    assert str(result) == str(method.outcome(model))


def test_a_state_of_before_the_first_step_has_no_form_yet() -> None:
    model, method = made()
    assert method.penalty() > 0
    kept = snapshot(model, method)
    again, resumed = made()
    train(again, resumed, 1)
    assert resumed.begun
    resume(again, resumed, kept)
    assert not resumed.begun and torch.equal(resumed.penalty(), method.penalty())


def test_a_finalized_run_stays_finalized_after_a_resume() -> None:
    model, method = made(c_steps=1, restart=True)
    train(model, method, EPOCH)
    again, resumed = made(c_steps=1, restart=True)
    resume(again, resumed, snapshot(model, method))
    assert resumed.done and resumed.finalized and resumed.penalty().item() == 0
    result = resumed.outcome(again)
    assert result is not None and result.nonzero == 7
    train(again, resumed, 3)
    assert resumed.number == 1 and nonzeros(again) == 7
    assert resumed.outcome(again) is None


def test_states_that_do_not_fit_are_refused() -> None:
    _, method = made()
    small = nn.Linear(2, 2)
    other = lc(SGD(small.parameters(), lr=1), {weights(small): TopK(1)}, every=1)
    with pytest.raises(MethodError, match="saved with others"):
        method.load_state_dict(other.state_dict())
    with pytest.raises(MethodError, match="no state of a method"):
        method.load_state_dict({"shapes": []})
    near = net()
    proximal = lissom.proximal(SGD(near.parameters(), lr=1), {weights(near): L0(1)})
    with pytest.raises(MethodError, match="of method 'proximal', this is 'lc'"):
        method.load_state_dict(proximal.state_dict())
    kept = method.state_dict()
    method.finalize()
    with pytest.raises(MethodError, match="make a new one"):
        method.load_state_dict(kept)


# The metric, μ and restarts.


def test_the_adaptive_metric_is_the_optimizers() -> None:
    """The C step keeps the top of w²·D with Adam's D; the pull is D-weighted too."""
    model, method = made(
        TopK(9), opt=adam, start=EPOCH, mu=2.0, algorithm="quadratic", metric="adaptive"
    )
    train(model, method, EPOCH)
    state = method.optimizer.state
    scores, expected = [], 0.0
    for p in (model[0].weight, model[2].weight):
        d = (state[p]["exp_avg_sq"] / (1 - 0.999 ** float(state[p]["step"]))).sqrt() + 1e-8
        scores.append((p**2 * d).flatten())
    order = torch.cat(scores).sort(descending=True).values
    expected = order[9:].sum().item()
    assert method.penalty().item() == pytest.approx(expected, rel=1e-4)
    with method.deployed():
        kept = torch.cat([(p != 0).flatten() for p in (model[0].weight, model[2].weight)])
    assert torch.equal(kept, torch.cat(scores) >= order[8])


def test_the_adaptive_metric_is_that_of_the_last_c_step() -> None:
    model, method = made(TopK(9), opt=adam, mu=2.0, algorithm="quadratic", metric="adaptive")
    train(model, method, EPOCH + 2)
    weight, own = model[0].weight, method.state_dict()["own"]
    now = method.optimizer.state[weight]
    d = (now["exp_avg_sq"] / (1 - 0.999 ** float(now["step"]))).sqrt() + 1e-8
    assert not torch.allclose(own["tasks"][0]["metric"][0], d)
    train(model, method, 2)
    now = method.optimizer.state[weight]
    d = (now["exp_avg_sq"] / (1 - 0.999 ** float(now["step"]))).sqrt() + 1e-8
    torch.testing.assert_close(method.state_dict()["own"]["tasks"][0]["metric"][0], d)


def test_param_groups_with_and_without_momentum_have_a_metric_each() -> None:
    model = net()
    opt = SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "momentum": 0.9}], 0.1
    )
    method = lc(opt, {weights(model): TopK(9)}, every=2, mu=1.0, metric="adaptive")
    train(model, method, 3)
    first, second = method.state_dict()["own"]["tasks"][0]["metric"]
    torch.testing.assert_close(first, torch.ones(5, 6))
    torch.testing.assert_close(second, torch.full((3, 5), 0.1))


def squares(model: nn.Module) -> float:
    return sum(float(p.grad.square().sum()) for p in matrices(model))  # type: ignore[union-attr]


def direct(model: nn.Module, count: int) -> list[Tensor]:
    """Copies of the matrices with the largest weights alone."""
    all_of_them = torch.cat([p.flatten() for p in matrices(model)]).detach()
    least = all_of_them.abs().sort(descending=True).values[count - 1]
    return [torch.where(p.abs() >= least, p, 0).detach() for p in matrices(model)]


def apart(model: nn.Module, theta: Sequence[Tensor]) -> float:
    pairs = zip(matrices(model), theta, strict=True)
    return math.sqrt(sum(float((w.detach() - t).square().sum()) for w, t in pairs))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("every", [5, 16, 40])
def test_automatic_mu_starts_as_a_tenth_of_the_gradient(every: int, start: int) -> None:
    """As measured by hand over 16 steps, or over a first L step that is shorter."""
    model, method = made(TopK(9), mu=None, every=every, start=start, c_steps=5)
    train(model, method, start)
    theta, found = direct(model, 9), []
    for _ in range(min(every, 16)):
        assert method.mu == 0 and method.penalty().item() == 0
        train(model, method, 1)
        found.append(squares(model))
    gap = apart(model, theta)
    mu = 0.1 * math.sqrt(sum(found) / len(found)) / gap
    if every == 40:
        assert method.mu == pytest.approx(mu, rel=1e-4)
        assert method.penalty().item() == pytest.approx(method.mu / 2 * gap**2, rel=1e-4)
    else:  # the C step let it grow, since w has only come closer to θ by chance
        assert method.number == 1
        assert method.mu == pytest.approx(1.5 * mu, rel=1e-4)


def test_automatic_mu_is_what_the_fastest_of_the_groups_can_follow() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.01, 0.5, 0.0)]
    mu = Automatic(steps=3, tolerance=0.01, mu=1.9, first=1.0, optimizer=SGD(groups))
    mu.follow(0, gap=1.0)  # behind
    assert mu(1) == 1 / 0.5 < 1.5 * 1.9


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_does_not_enter_automatic_mu(fused: bool) -> None:
    """It is measured on the gradients that the optimizer steps with; skipped steps are none."""
    found = []
    for scaled in (False, True):
        model, method = made(
            TopK(9), opt=lambda p: Adam(p, lr=1e-2, fused=fused), mu=None, every=20
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for at in range(17):
            if scaled and at == 8:
                method.optimizer.zero_grad()
                scaler.scale(loss_of(model) * math.inf + method.penalty()).backward()
                scaler.step(method.optimizer)
                scaler.update()
                assert method.step == 8 and len(method.state_dict()["own"]["mu"]["squares"]) == 8
            method.optimizer.zero_grad()
            scaler.scale(loss_of(model, at) + method.penalty()).backward()
            scaler.step(method.optimizer)
            scaler.update()
        assert method.step == 17
        found.append(method.mu)
    assert found[0] > 0 and found[0] == pytest.approx(found[1], rel=1e-5)


def test_accumulated_gradients_give_the_same_automatic_mu() -> None:
    found = []
    for parts in (1, 4):
        model, method = made(TopK(9), mu=None, every=20)
        for _ in range(17):
            method.optimizer.zero_grad()
            for x, y in zip(X.chunk(parts), Y.chunk(parts), strict=True):
                ((F.cross_entropy(model(x), y) + method.penalty()) / parts).backward()
            method.optimizer.step()
        assert method.step == 17
        found.append(method.mu)
    assert found[0] > 0 and found[0] == pytest.approx(found[1], rel=1e-5)


def test_automatic_mu_brings_w_and_theta_together() -> None:
    model, method = made(TopK(15), opt=momentum, mu=None, every=4 * EPOCH, c_steps=30)
    gaps, mus = [], []
    while not method.finalized:
        train(model, method, 4 * EPOCH - 1)
        mus.append(method.mu)
        train(model, method, 1)
        gaps.append(method.gap)
    assert method.gap < 0.05 < gaps[0]
    assert mus == sorted(mus) and mus[-1] > mus[1] and mus[-1] <= 10  # 1/lr


def test_automatic_mu_grows_also_where_a_schedule_begins_with_all_weights() -> None:
    model, method = made(TopK(fraction=linear(1, 0.2, 4 * EPOCH)), mu=None, c_steps=8)
    train(model, method, 2 * EPOCH)
    found = method.mu
    train(model, method, 4 * EPOCH)
    assert method.mu > found > 0 and not method.finalized


def test_automatic_mu_needs_a_gradient() -> None:
    model, method = made(mu=None, every=1)
    (loss_of(model) + method.penalty()).backward()
    for p in matrices(model):
        p.grad = None
    with pytest.raises(CompressionError, match="had none in it: give mu"):
        method.optimizer.step()


def test_a_tolerance_ends_the_algorithm_early() -> None:
    model = Vector(torch.tensor([2.0, 1.0]))
    method = model.lc(TopK(1), mu=1.0, c_steps=50, tolerance=0.01)
    model.solve(method)
    assert method.gap <= 0.01 and method.number < 50 and method.done
    assert method.finalized_at == 200 * method.number < method.options.end
    assert model.w[0].count_nonzero() == 1
    for _ in range(3):
        step(model.loss(), method)
    assert method.number < 50 and model.w[0].count_nonzero() == 1


@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_a_schedule_that_asks_for_nothing_yet_is_no_end(tolerance: float | None) -> None:
    """‖w − θ‖ is 0 as long as all weights are kept."""
    schedule = linear(1, 1, EPOCH).then(linear(1, 0.2, EPOCH))
    model, method = made(TopK(fraction=schedule), c_steps=4, tolerance=tolerance)
    train(model, method, EPOCH)
    assert method.number == 1 and method.gap == 0 and not method.finalized
    while not method.finalized:
        train(model, method, 1)
    assert nonzeros(model) == 9


@pytest.mark.parametrize("start", [0, 3])
def test_restart_forgets_the_moments_when_an_l_step_begins(start: int) -> None:
    model, method = made(opt=momentum, restart=True, start=start, every=[2, 5, 6])
    known = []
    method.optimizer.register_step_pre_hook(lambda *_: known.append(bool(method.optimizer.state)))
    train(model, method, start + 6 + 2)
    fresh = [at for at, moments in enumerate(known) if not moments]
    # and once more where it ends, with whatever training follows
    assert fresh == sorted({0, start, start + 2, start + 5, start + 6})


def test_restart_does_so_after_a_resume_too() -> None:
    """From a state of after a C step and before the next step; and not in the middle."""
    for at, forgotten in ((4, True), (5, False)):
        model, method = made(opt=momentum, restart=True)
        train(model, method, at)
        again, resumed = made(opt=momentum, restart=True)
        resume(again, resumed, snapshot(model, method))
        assert resumed.optimizer.state
        step(loss_of(again, at), resumed)
        buffer = resumed.optimizer.state[again[0].weight]["momentum_buffer"]
        assert torch.equal(buffer, again[0].weight.grad) == forgotten


def test_restart_leaves_the_first_l_step_the_metric_of_the_training_before() -> None:
    """Moments are forgotten when it begins, and after direct compression."""
    model, method = made(opt=adam, restart=True, start=EPOCH, metric="adaptive")
    train(model, method, EPOCH)
    known = method.optimizer.state[model[0].weight]
    d = (known["exp_avg_sq"] / (1 - 0.999 ** float(known["step"]))).sqrt() + 1e-8
    expected = method.penalty().item()
    train(model, method, 1)
    torch.testing.assert_close(method.state_dict()["own"]["tasks"][0]["metric"][0], d)
    assert expected > 0 and float(method.optimizer.state[model[0].weight]["step"]) == 1


@pytest.mark.parametrize(
    ("opt", "d"),
    [
        (adam, 1.0),
        (momentum, 0.1),
        (lambda p: Adagrad(p, lr=0.1), 1.0),
        (lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=0.04), 0.2),
    ],
)
def test_the_metric_before_the_first_step_is_1_where_it_needs_steps(opt: Any, d: float) -> None:
    """And not the ε of moments that are still 0, in which every weight would be free to remove."""
    model, method = made(L0(1e-3), opt=opt, metric="adaptive", mu=1.0)
    dead = sum(d * w.square() <= 2e-3 for w in torch.cat([m.flatten() for m in matrices(model)]))
    with method.deployed():
        assert nonzeros(model) == 45 - int(dead) > 0


def test_without_restart_moments_go_on() -> None:
    model, method = made(opt=momentum)
    train(model, method, 5)
    buffer = method.optimizer.state[model[0].weight]["momentum_buffer"]
    assert not torch.equal(buffer, model[0].weight.grad)


# What comes out.


def test_a_compression_of_ones_own_is_one_method() -> None:
    class Grid(Compression):
        def project(self, w: Any, mu: float, metric: Any = None) -> list[Tensor]:
            return [torch.round(4 * x) / 4 for x in w]

    model = Vector(torch.tensor([1.9, -0.6]))
    method = model.lc(Grid(), mu=1.0, lr=0)
    model.move(method, 1.9, -0.6)
    method.finalize()
    assert model.w[0].tolist() == [2.0, -0.5]
    result = method.outcome(model)
    assert result is not None
    saved = result.forms["w"].state()
    assert torch.equal(form_of(saved, torch.device("cpu")).value(), model.w.detach())


def test_the_outcome_knows_its_size() -> None:
    model = net()
    method = lc(SGD(model.parameters(), lr=0.1), {weights(model).only("0"): TopK(3)}, every=1, mu=1)
    train(model, method, 40)
    result = method.outcome(model)
    assert result is not None and list(result.forms) == ["0.weight"]
    assert result.nonzero == 3
    assert result.bytes == result.bits // 8 + 4 * (5 + 15 + 3)
    assert "3 of 30 non-zero" in str(result)


def test_there_is_an_outcome_from_the_end_until_training_goes_on() -> None:
    model, method = made(start=1)
    for _ in range(13):
        assert method.outcome(model) is None
        train(model, method, 1)
    result = method.outcome(model)
    assert result is not None and result.nonzero == nonzeros(model) == 7
    assert result.gap == method.gap
    for name, form in result.forms.items():
        assert torch.equal(form.value(), model.get_parameter(name))
    train(model, method, 1)
    assert method.outcome(model) is None


def test_there_is_no_outcome_of_weights_that_were_not_compressed() -> None:
    model, method = made(start=2)
    train(model, method, 1)
    method.finalize()
    assert method.finalized and nonzeros(model) == 45 and method.outcome(model) is None
    model, method = made()
    train(model, method, 6)
    method.remove()
    assert nonzeros(model) == 45 and method.outcome(model) is None


def test_the_outcome_is_of_one_model() -> None:
    model, method = made()
    method.finalize()
    for other in (net(), copy.deepcopy(model), nn.Linear(6, 5)):
        with pytest.raises(CompressionError, match=f"no parameters of this {type(other).__name__}"):
            method.outcome(other)
    assert list(method.outcome(nn.ModuleDict({"inner": model})).forms) == [  # type: ignore[union-attr]
        "inner.0.weight",
        "inner.2.weight",
    ]


@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("mu", [1e-6, 3.0])
def test_an_end_far_from_its_compressed_form_is_told(mu: float, metric: Any) -> None:
    net = nn.Linear(6, 4, bias=False)
    opt = Adam(net.parameters(), lr=0.05)
    method = lissom.lc(opt, {weights(net): TopK(3)}, every=20, c_steps=8, mu=mu, metric=metric)
    x = torch.randn(64, 6)
    target = x @ torch.randn(6, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while not method.finalized:
            opt.zero_grad()
            ((net(x) - target).square().mean() + method.penalty()).backward()
            opt.step()
    told = [str(w.message) for w in caught]
    if mu != 1e-6:
        assert not told
        return
    [message] = told
    assert "ends after 8 C steps, and ‖w − θ‖/‖w‖ is still" in message
    assert "a larger μ towards the end, which is 1e-06 now" in message
    assert Path(caught[0].filename).name == Path(__file__).name


def test_training_on_after_a_codebook_warns_once() -> None:
    model = net()
    groups = weights(model)
    method = lc(
        SGD(model.parameters(), lr=0.1),
        {groups.only("0"): TopK(4), groups.only("2"): Codebook(2)},
        every=2, c_steps=2, mu=0.1,
    )  # fmt: skip
    train(model, method, 4)
    assert method.finalized and len(model[2].weight.unique()) == 2
    with pytest.warns(UserWarning, match="codebooks, are lost with this step"):
        train(model, method, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, method, 3)
    assert len(model[2].weight.unique()) > 2 and int(model[0].weight.count_nonzero()) == 4


def test_zeros_last_and_other_forms_do_not() -> None:
    assert LC.lasts([TopK(3), L0(1)]) and not LC.lasts([TopK(3), Codebook(2)])
    assert not LC.lasts([TopK(3) + Codebook(2)])


def test_an_event_says_how_it_stands() -> None:
    model, method = made(start=1)
    assert method.event() == {}
    train(model, method, 1 + EPOCH)
    told = method.event()
    assert told["summary"].startswith("C step 1 of 3  μ 0.1")
    assert told["curves"] == {
        "μ": {"μ": 0.1},
        "‖w − θ‖/‖w‖": {"after the last C step": method.gap},
    }


def test_remove_leaves_the_weights_as_they_are() -> None:
    model, method = made(opt=momentum, restart=True)
    train(model, method, 4)
    before = copy.deepcopy(model.state_dict())
    method.remove()
    assert equal(model.state_dict(), before) and method.finalized
    assert method.penalty().item() == 0
    for at in range(3):
        step(loss_of(model, at), method)
    assert method.step == 4 and nonzeros(model) == 45
    buffer = method.optimizer.state[model[0].weight]["momentum_buffer"]
    assert not torch.equal(buffer, model[0].weight.grad)  # not cleared either
    method.remove()
    method.finalize()
    assert nonzeros(model) == 45


# Mistakes.


def _lc(model: nn.Module, **changed: Any) -> LC:
    opt = changed.pop("optimizer", SGD(model.parameters(), lr=0.1))
    given = {"every": 4, "c_steps": 2, "mu": 1.0, **changed}
    if isinstance(given["every"], list) and "c_steps" not in changed:
        given.pop("c_steps")
    return lc(opt, {weights(model): given.pop("penalty", TopK(3))}, **given)


def _twice(model: nn.Module) -> LC:
    given = {weights(model): TopK(3), weights(model): TopK(2)}
    return lc(SGD(model.parameters(), lr=0.1), given, every=1, mu=1.0)


BAD: list[tuple[Callable[[nn.Module], Any], type[Exception], str]] = [
    (lambda m: _lc(m, mu=[]), CompressionError, "positive number.*got \\[\\]"),
    (lambda m: _lc(m, mu=[1.0, -2.0]), CompressionError, "-2.0"),
    (lambda m: _lc(m, mu=0), CompressionError, "list.*got 0"),
    (lambda m: _lc(m, mu=math.inf), CompressionError, "inf"),
    (lambda m: _lc(m, mu=[0.5]), CompressionError, "1 numbers, and there are 2 C steps"),
    (lambda m: _lc(m, mu=[0.5], every=[1, 2]), CompressionError, "there are 2 C steps"),
    (lambda m: _lc(m, mu="auto"), CompressionError, "auto"),
    (lambda m: _lc(m, mu_factor=-1), CompressionError, "above 0, got -1"),
    (lambda m: _lc(m, algorithm="admm"), MethodError, "'augmented' or 'quadratic', got 'adm"),
    (lambda m: _lc(m, metric="l2"), MethodError, "got 'l2'"),
    (lambda m: _lc(m, metric="adaptive", penalty=LowRank(1)), CompressionError, "knows no metric"),
    (lambda m: _lc(m, mu=None, c_steps=0), CompressionError, "≥ 1, got 0"),
    (lambda m: _lc(m, every=0), CompressionError, "1 or more, got 0"),
    (lambda m: _lc(m, every=2.5), CompressionError, "got 2.5"),
    (lambda m: _lc(m, every="epoch"), CompressionError, "got 'epoch'"),
    (lambda m: _lc(m, first=0), CompressionError, "first.*got 0"),
    (lambda m: _lc(m, every=[]), CompressionError, "got \\[\\]"),
    (lambda m: _lc(m, every=[0, 3]), CompressionError, "got \\[0, 3\\]"),
    (lambda m: _lc(m, every=[3, 3]), CompressionError, "got \\[3, 3\\]"),
    (lambda m: _lc(m, every=[5, "6"]), CompressionError, "got \\[5, '6'\\]"),
    (lambda m: _lc(m, every=[5, 6], first=2), CompressionError, "leave out first"),
    (lambda m: _lc(m, every=[5, 6], c_steps=2), CompressionError, "leave out c_steps"),
    (lambda m: _lc(m, mu=None, mu_factor=1.1), CompressionError, "one number, got mu=None"),
    (lambda m: _lc(m, mu=[1.0, 2.0], mu_factor=1.1), CompressionError, "one number, got mu=\\["),
    (lambda m: _lc(m, tolerance=2), CompressionError, "between 0 and 1, got 2"),
    (lambda m: _lc(m, start=-1), MethodError, "0 or more, got -1"),
    (lambda m: _lc(m, start=5, finalize_at=5), MethodError, "after start=5.*got 5"),
    (lambda m: _lc(m, penalty=3), MethodError, "takes penalties, and comp.*got 3"),
    (_twice, GroupError, "twice"),
    (lambda m: _lc(m, mu=None, penalty=L0(1e-3)), CompressionError, "TopK.*L0.*weighed against μ"),
    (lambda m: _lc(m, mu=None, penalty=TopK(3) + L2(1e-3)), CompressionError, "against μ"),
    (lambda m: _lc(m, mu=None, penalty=RankSelection(0.1)), CompressionError, "against μ"),
    (lambda m: _lc(m, mu=None, penalty=TopK(3) + RankSelection(1)), CompressionError, "against μ"),
    (lambda m: _lc(m, optimizer="net"), OptimizerError, "Optimizer, got str"),
    (lambda m: _lc(m, optimizer=m), OptimizerError, "Optimizer, got Sequential"),
    (
        lambda m: _lc(m, metric="adaptive", optimizer=SGD(net().parameters(), lr=1)),
        OptimizerError,
        "does not hold 0.weight",
    ),
    (lambda m: next(_lc(m).sample()), MethodError, "learns one network"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input_is_a_clear_error(number: int) -> None:
    call, error, message = BAD[number]
    with pytest.raises(error, match=message):
        call(net())


def test_weights_of_another_method_at_work_are_refused() -> None:
    """It would change what LC ends in; gates act in the forward pass, too."""
    model = net()
    opt = SGD(model.parameters(), lr=0.1)
    gates = lissom.gate(opt, model, {weights(model).only("0"): L0(1e-3)})
    with pytest.raises(MethodError, match=r"'gates'.*0\.weight.*finalize"):
        lc(opt, {weights(model).only("0"): TopK(3)}, every=1)
    lc(opt, {weights(model).only("2"): TopK(3)}, every=1)
    gates.finalize()
    lc(opt, {weights(model).only("0"): TopK(3)}, every=1)


def test_divergence_is_said_and_not_written_into_the_weights() -> None:
    model, method = made()
    train(model, method, EPOCH - 1)
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(CompressionError, match="diverged in L step 0"):
        train(model, method, 1)
    assert model[0].weight.isnan().all() and not method.finalized
