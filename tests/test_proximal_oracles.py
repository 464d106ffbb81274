"""Proximal optimizers against what others define: TensorFlow, Formanek & Hadházi, the lasso.

The oracles are plain NumPy loops, written from the sources and not from the code.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from products import exhaustive, few, rest, sampled
from sklearn.linear_model import Lasso
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import lissom
from lissom import L0, L1, L2, Threshold, TopK
from lissom.penalties import Penalty

Array = np.ndarray


class Problem:
    """½/n ‖Xw − y‖² with few true weights; `gradient` is of a batch of the rows."""

    def __init__(self, rows: int = 40, columns: int = 24, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(rows, columns))
        truth = np.where(random.random(columns) < 0.3, random.normal(size=columns), 0)
        self.y = self.x @ truth + 0.1 * random.normal(size=rows)
        self.first = random.normal(size=columns)
        self.batches = [random.choice(rows, size=8) for _ in range(100)]

    def gradient(self, w: Array, batch: Array | slice = slice(None)) -> Array:
        x, y = self.x[batch], self.y[batch]
        return x.T @ (x @ w - y) / len(y)

    def curvature(self) -> float:
        return float(np.linalg.eigvalsh(self.x.T @ self.x / len(self.y)).max())


class Model(nn.Conv2d):
    """Holds the weights of a problem: 24 of them as 3 × 2 kernels of 2 × 2."""

    def __init__(self, first: Array) -> None:
        super().__init__(2, 3, 2, bias=False, dtype=torch.float64)
        self.weight.data = torch.tensor(first).view(3, 2, 2, 2)

    def array(self) -> Array:
        return self.weight.detach().flatten().numpy().copy()

    def descend(self, optimizer: Optimizer, gradient: Array) -> None:
        self.weight.grad = torch.tensor(gradient).view_as(self.weight)
        optimizer.step()


def close(actual: Array, expected: Array) -> None:
    assert np.array_equal(actual == 0, expected == 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("l1", "l2"), [(0.9, 0.0), (0.0, 0.4), (0.9, 0.4)])
def test_adagrad_in_its_metric_is_tensorflows_proximal_adagrad(
    l1: float, l2: float, fused: bool
) -> None:
    """apply_proximal_adagrad of TensorFlow, as Henrikson starts it: the accumulator at lr²."""
    problem, lr = Problem(), 0.1
    model = Model(problem.first)
    optimizer = Adagrad(model.parameters(), lr=lr, initial_accumulator_value=lr**2, eps=0)
    penalties = {lissom.weights(model): L1(l1) + L2(l2 / 2)}  # TensorFlow's l2 is of ½‖w‖²
    lissom.proximal(optimizer, penalties, metric="adaptive", fused=fused)

    w, accumulator = problem.first.copy(), np.full(24, lr**2)
    for batch in problem.batches[:50]:
        model.descend(optimizer, problem.gradient(model.array(), batch))

        gradient = problem.gradient(w, batch)
        accumulator += gradient**2
        rate = lr / np.sqrt(accumulator)
        v = w - rate * gradient
        w = np.sign(v) * np.maximum(np.abs(v) - rate * l1, 0) / (1 + rate * l2)
        close(model.array(), w)
    assert (w == 0).any() == (l1 > 0) and (w != 0).any()


def norms(w: Array, kernels: bool) -> Array:
    """Frobenius norms of 2 × 2 kernels (Formanek & Hadházi eq. 12), or of single weights."""
    return np.sqrt((w.reshape(-1, 4 if kernels else 1) ** 2).sum(1))


def hard(w: Array, threshold: float, kernels: bool) -> Array:
    """Their eq. 11."""
    alive = norms(w, kernels) >= threshold
    return np.where(alive.repeat(4 if kernels else 1), w, 0)


def uniform(theta: float, lr: float) -> tuple[Penalty, Callable[[Array], float]]:
    return Threshold(theta), lambda norms: theta


def strength(theta: float, lr: float) -> tuple[Penalty, Callable[[Array], float]]:
    return L0(theta**2 / lr / 2), lambda norms: theta


def compress_rate(theta: float, lr: float) -> tuple[Penalty, Callable[[Array], float]]:
    """Section II.C: in each layer, the n-th percentile of the norms is the threshold."""
    kept = TopK(fraction=1 / 3, per="layer")
    return kept, lambda norms: float(np.percentile(norms, 200 / 3, method="higher"))


@pytest.mark.parametrize("rule", [uniform, strength, compress_rate])
@pytest.mark.parametrize(("kernels", "theta"), [(False, 0.3), (True, 1.5)])
@pytest.mark.parametrize("fused", [True, False])
def test_rmsprop_is_formaneks_proximal_rmsprop(
    rule: Callable, kernels: bool, theta: float, fused: bool
) -> None:
    """Eq. 17–18: q goes on from epoch to epoch, and the prox follows each epoch of M batches."""
    problem, lr, nu, epsilon, m = Problem(), 0.01, 0.9, 1e-8, 10
    penalty, threshold = rule(theta, lr)
    model = Model(problem.first)
    optimizer = RMSprop(model.parameters(), lr=lr, alpha=nu, eps=epsilon)
    groups = lissom.kernels(model) if kernels else lissom.weights(model)
    lissom.proximal(optimizer, {groups: penalty}, every=m, fused=fused)

    w, q = problem.first.copy(), np.zeros(24)
    for j, batch in enumerate(problem.batches, start=1):
        model.descend(optimizer, problem.gradient(model.array(), batch))

        gradient = problem.gradient(w, batch)
        q = nu * q + (1 - nu) * gradient**2
        w = w - lr * gradient / (np.sqrt(q) + epsilon)
        if j % m == 0:
            w = hard(w, threshold(norms(w, kernels)), kernels)
            assert (w == 0).any() and (w != 0).any()
        close(model.array(), w)


def lasso(problem: Problem, strength: float) -> Array:
    solver = Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=100_000)
    solution = solver.fit(problem.x, problem.y).coef_
    assert 0 < np.count_nonzero(solution) < 24
    return solution


@sampled(1)
@pytest.mark.parametrize("strength", few([0.05, 0.3, 1.0], [0.3]))
@pytest.mark.parametrize(
    ("optimizer", "metric"),
    [
        (lambda p, lr: SGD(p, lr), "euclidean"),
        rest(lambda p, lr: SGD(p, lr), "adaptive"),
        rest(lambda p, lr: SGD(p, lr, momentum=0.8, dampening=0.8), "euclidean"),
        (lambda p, lr: Adagrad(p, 0.5), "adaptive"),
        rest(lambda p, lr: RMSprop(p, 0.01), "adaptive"),
        (lambda p, lr: Adam(p, 0.01), "adaptive"),
        rest(lambda p, lr: AdamW(p, 0.03, weight_decay=0, amsgrad=True), "adaptive"),
    ],
    ids=["sgd", "sgd-adaptive", "dampened", "adagrad", "rmsprop", "adam", "amsgrad"],
)
def test_the_prox_ends_in_the_lasso(optimizer, metric, strength: float) -> None:
    problem = Problem()
    model = Model(problem.first)
    opt = optimizer(model.parameters(), 1 / problem.curvature())
    lissom.proximal(opt, {lissom.weights(model): L1(strength)}, metric=metric)
    for _ in range(3000):
        model.descend(opt, problem.gradient(model.array()))
    assert np.array_equal(model.array() == 0, lasso(problem, strength) == 0)
    np.testing.assert_allclose(model.array(), lasso(problem, strength), atol=1e-6)


@sampled(1)
@pytest.mark.parametrize("momentum", few([0.5, 0.9], [0.9]))
@pytest.mark.parametrize(
    ("optimizer", "metric"),
    [
        (lambda p, lr, momentum: SGD(p, lr, momentum), "euclidean"),
        rest(lambda p, lr, momentum: SGD(p, lr, momentum, nesterov=True), "euclidean"),
        (lambda p, lr, momentum: SGD(p, lr, momentum), "adaptive"),
        rest(lambda p, lr, momentum: SGD(p, lr, momentum, nesterov=True), "adaptive"),
        rest(
            lambda p, lr, momentum: RMSprop(p, (1 - momentum) / 100, momentum=momentum), "adaptive"
        ),
    ],
    ids=["sgd", "nesterov", "sgd-adaptive", "nesterov-adaptive", "rmsprop-adaptive"],
)
def test_only_in_the_euclidean_metric_momentum_weakens_a_penalty(
    optimizer, metric, momentum: float
) -> None:
    """Heavy-ball momentum lengthens steps to lr/(1 − μ); with t = lr, λ acts as (1 − μ)λ."""
    problem, strength = Problem(), 1.0
    model = Model(problem.first)
    opt = optimizer(model.parameters(), (1 - momentum) / problem.curvature(), momentum)
    lissom.proximal(opt, {lissom.weights(model): L1(strength)}, metric=metric)
    for _ in range(4000):
        model.descend(opt, problem.gradient(model.array()))
    solution = lasso(problem, strength if metric == "adaptive" else (1 - momentum) * strength)
    assert np.array_equal(model.array() == 0, solution == 0)
    np.testing.assert_allclose(model.array(), solution, atol=1e-6)


def test_the_prox_of_kernels_ends_in_the_group_lasso() -> None:
    """Its conditions: ∇_g = −λw_g/‖w_g‖ where a group lives, ‖∇_g‖ ≤ λ where it is dead."""
    problem, strength = Problem(), 0.5
    model = Model(problem.first)
    opt = SGD(model.parameters(), lr=1 / problem.curvature())
    lissom.proximal(opt, {lissom.kernels(model): L1(strength)})
    for _ in range(3000):
        model.descend(opt, problem.gradient(model.array()))

    w, gradient = model.array().reshape(6, 4), problem.gradient(model.array()).reshape(6, 4)
    alive = (w != 0).all(1)
    assert np.array_equal(alive, (w != 0).any(1))
    assert 0 < alive.sum() < 6
    norms = np.linalg.norm(w[alive], axis=1, keepdims=True)
    np.testing.assert_allclose(gradient[alive], -strength * w[alive] / norms, atol=1e-8)
    assert (np.linalg.norm(gradient[~alive], axis=1) <= strength).all()


@exhaustive
def test_the_subgradient_gives_no_zeros() -> None:
    """Henrikson's "Try 1", and the reason why the prox is there."""
    problem = Problem()
    model = Model(problem.first)
    opt = SGD(model.parameters(), lr=0.1 / problem.curvature())
    method = lissom.subgradient(opt, {lissom.weights(model): L1(0.3)})
    for _ in range(3000):
        opt.zero_grad()
        method.penalty().backward()
        model.descend(opt, model.weight.grad.flatten().numpy() + problem.gradient(model.array()))
    assert np.count_nonzero(model.array()) == 24
    assert np.count_nonzero(np.abs(model.array()) < 0.05) > 5
