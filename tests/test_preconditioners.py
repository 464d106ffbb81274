"""The metric is what the optimizer divides by: found in its real steps, refused where unknown.

A step is w ← w − lr·direction/D. The direction is worked out here from the gradients alone, so
(w_before − w_after)·D/lr has to be it.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import pairwise
from torch import Tensor, nn
from torch.optim import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    SparseAdam,
)

import lissom
from lissom.errors import OptimizerError
from lissom.preconditioners import Preconditioner, preconditioner

LR = 0.05
STEPS = (1, 2, 7)
LOOPS = ({"foreach": False}, {"foreach": True}, {"fused": True})


def weights(*shape: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))


def train(optimizer: Optimizer, w: nn.Parameter, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Step along random gradients, large and small; gives w before the last, and the gradients."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-3, 1, w.numel(), dtype=torch.float64).view_as(w)
    gradients: list[Tensor] = []
    before = w.detach().clone()
    for _ in range(steps):
        gradient = torch.randn(w.shape, generator=generator, dtype=torch.float64) * sizes
        w.grad = gradient.to(w.dtype)
        gradients.append(w.grad.clone())
        before = w.detach().clone()
        optimizer.step()
    return before, gradients


def metric_of(optimizer: Optimizer, w: nn.Parameter) -> Preconditioner:
    found = preconditioner(optimizer, optimizer.param_groups[0], w)
    assert found is not None
    return found


def mean(gradients: list[Tensor], beta: float) -> Tensor:
    """Adam's m̂: the running mean of the gradients, its bias corrected."""
    m = torch.zeros_like(gradients[0])
    for gradient in gradients:
        m = beta * m + (1 - beta) * gradient
    return m / (1 - beta ** len(gradients))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pairwise
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("loop", LOOPS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"initial_accumulator_value": LR**2},
        {"initial_accumulator_value": 0.3, "lr_decay": 0.7, "eps": 0.1},
    ],
    ids=str,
)
def test_adagrad_steps_along_the_gradient(options: dict, loop: dict, steps: int) -> None:
    w = weights(3, 4)
    optimizer = Adagrad([w], lr=LR, **options, **loop)
    before, gradients = train(optimizer, w, steps)
    close((before - w) * metric_of(optimizer, w)() / LR, gradients[-1])


@pairwise
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("loop", LOOPS[:2], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": 0.9, "eps": 0.1}, {"centered": True}, {"centered": True, "alpha": 0.5}],
    ids=str,
)
def test_rmsprop_steps_along_the_gradient(options: dict, loop: dict, steps: int) -> None:
    w = weights(3, 4)
    optimizer = RMSprop([w], lr=LR, **options, **loop)
    before, gradients = train(optimizer, w, steps)
    close((before - w) * metric_of(optimizer, w)() / LR, gradients[-1])


@pairwise
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("loop", LOOPS, ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.8), "eps": 0.1}], ids=str)
@pytest.mark.parametrize(("kind", "decay"), [(Adam, 0.0), (AdamW, 0.0), (AdamW, 0.3)])
def test_adam_steps_along_the_mean_gradient(
    kind: type[Adam], decay: float, options: dict, amsgrad: bool, loop: dict, steps: int
) -> None:
    w = weights(3, 4)
    optimizer = kind([w], lr=LR, weight_decay=decay, amsgrad=amsgrad, **options, **loop)
    before, gradients = train(optimizer, w, steps)
    moved = before * (1 - LR * decay) - w  # the decay of AdamW is no part of the step
    close(moved * metric_of(optimizer, w)() / LR, mean(gradients, optimizer.defaults["betas"][0]))


def test_amsgrad_takes_the_maximum() -> None:
    """Where gradients shrink; elsewhere the test above would not see a difference."""
    metrics = []
    for amsgrad in (False, True):
        w = weights(5)
        optimizer = Adam([w], lr=LR, amsgrad=amsgrad, betas=(0.9, 0.5))
        for size in (10.0, 0.1, 0.1):
            w.grad = torch.full_like(w, size)
            optimizer.step()
        metrics.append(metric_of(optimizer, w)())
    assert bool((metrics[1] > 1.5 * metrics[0]).all())


def test_sgd_has_none() -> None:
    w = weights(3, 4)
    optimizer = SGD([w], lr=LR)
    train(optimizer, w, 2)
    assert preconditioner(optimizer, optimizer.param_groups[0], w) is None


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: SGD(p, lr=LR, momentum=0.9),
        lambda p: SGD(p, lr=LR, momentum=0.9, nesterov=True),
        lambda p: SGD(p, lr=LR, momentum=0.5, dampening=0.3),
        lambda p: RMSprop(p, lr=LR, alpha=0.5, momentum=0.8),
        lambda p: RMSprop(p, lr=LR, alpha=0.5, momentum=0.8, eps=0.1),
    ],
    ids=["sgd", "nesterov", "dampened", "rmsprop", "rmsprop-eps"],
)
def test_under_momentum_it_is_that_of_the_steps_in_the_long_run(optimizer) -> None:
    """With the same gradient over and over, every step becomes lr·g/D."""
    w = weights(3, 4)
    made = optimizer([w])
    gradient = torch.linspace(-2, 3, 12, dtype=w.dtype).view(3, 4)
    for _ in range(400):
        before = w.detach().clone()
        w.grad = gradient.clone()
        made.step()
    close((before - w.detach()) * metric_of(made, w)() / LR, gradient)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda p: Adagrad(p, initial_accumulator_value=0.04, eps=1e-3), 0.2 + 1e-3),
        (lambda p: Adagrad(p, lr_decay=0.5, eps=1e-3), 1e-3),
        (lambda p: RMSprop(p, eps=1e-3), 1e-3),
        (lambda p: RMSprop(p, eps=1e-3, centered=True), 1e-3),
        (lambda p: Adam(p, eps=1e-3), 1e-3),
        (lambda p: AdamW(p, eps=1e-3, amsgrad=True), 1e-3),
    ],
    ids=["adagrad", "adagrad-from-0", "rmsprop", "centered", "adam", "amsgrad"],
)
@pytest.mark.parametrize("others_train", [False, True])
def test_without_a_gradient_it_is_epsilon(optimizer, expected, others_train: bool) -> None:
    """Or what Adagrad starts from; the state of a weight never trained stays unmade."""
    w, other = weights(3, 4), weights(2, 2)
    made = optimizer([w, other])
    if others_train:
        train(made, other, 3)
    keys = set(made.state)
    close(metric_of(made, w)(), torch.full_like(w, expected))
    assert set(made.state) == keys


def test_centred_moments_do_not_go_below_zero() -> None:
    """v − m² of equal gradients is 0 up to its rounding, which may be a negative number."""
    w = weights(1000, dtype=torch.float32)
    optimizer = RMSprop([w], lr=LR, centered=True, alpha=0.1, eps=1e-3)
    for _ in range(30):
        w.grad = torch.linspace(0.1, 10, 1000)
        optimizer.step()
    state = optimizer.state[w]
    assert bool((state["square_avg"] < state["grad_avg"] ** 2).any())
    metric = metric_of(optimizer, w)()
    assert bool(metric.isfinite().all()) and bool((metric >= 0.999e-3).all())


each_optimizer = pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: Adagrad(p, lr=LR, lr_decay=0.1),
        lambda p: RMSprop(p, lr=LR),
        lambda p: RMSprop(p, lr=LR, centered=True),
        lambda p: Adam(p, lr=LR),
        lambda p: AdamW(p, lr=LR, amsgrad=True),
    ],
    ids=["adagrad", "rmsprop", "centered", "adam", "amsgrad"],
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_optimizer
def test_half_precision_gives_float32(optimizer, dtype: torch.dtype) -> None:
    halves, wholes = weights(3, 4, dtype=dtype), weights(3, 4, dtype=torch.float32)
    metrics = []
    for w in (halves, wholes):
        made = optimizer([w])
        for size in (1.0, 0.25, 0.5):
            w.grad = torch.full_like(w, size)
            made.step()
        metrics.append(metric_of(made, w)())
    assert metrics[0].dtype == torch.float32
    torch.testing.assert_close(metrics[0], metrics[1], rtol=0.05, atol=0)


@each_optimizer
@settings(deadline=None)
@given(rows=st.integers(1, 6), steps=st.integers(0, 3))
def test_parts_are_the_whole(optimizer, rows: int, steps: int) -> None:
    w = weights(5, 2, 3)
    made = optimizer([w])
    train(made, w, steps)
    metric = metric_of(made, w)
    parts = [part() for part in metric.parts(rows)]
    assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
    assert torch.equal(torch.cat(parts), metric())


@each_optimizer
def test_it_is_fresh_at_every_call(optimizer) -> None:
    w = weights(3, 4)
    made = optimizer([w])
    train(made, w, 2)
    metric = metric_of(made, w)
    first = metric()
    metric().zero_()
    assert torch.equal(metric(), first)


@pytest.mark.parametrize(
    "kind", [Adadelta, Adamax, LBFGS, NAdam, RAdam, SparseAdam], ids=lambda kind: kind.__name__
)
def test_other_optimizers_are_named_with_what_works(kind: type[Optimizer]) -> None:
    w = weights(3)
    optimizer = kind([w], lr=LR)
    with pytest.raises(OptimizerError) as raised:
        preconditioner(optimizer, optimizer.param_groups[0], w)
    told = str(raised.value)
    assert kind.__name__ in told and "metric='euclidean'" in told and "register" in told
    assert all(name in told for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW"))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: SGD(p, lr=LR, momentum=0.9, dampening=1.0),
        lambda p: SGD(p, lr=LR, momentum=0.9, dampening=1.5),
        lambda p: SGD(p, lr=LR, momentum=1.0),
        lambda p: RMSprop(p, lr=LR, momentum=1.0),
    ],
    ids=["dampened", "turned", "sgd", "rmsprop"],
)
@pytest.mark.parametrize("verb", ["proximal", "nested", "lc"])
def test_steps_without_a_length_in_the_long_run_are_refused(optimizer, verb: str) -> None:
    net = nn.Linear(4, 3)
    penalties = {lissom.weights(net): lissom.TopK(6)}
    made = optimizer(net.parameters())
    with pytest.raises(OptimizerError, match=r"momentum=.* no length in the long run"):
        match verb:
            case "proximal":
                lissom.proximal(made, penalties, metric="adaptive")
            case "nested":
                lissom.nested(made, net, penalties, smallest=0.1)
            case "lc":
                lissom.lc(made, penalties, every=3, mu=1.0, metric="adaptive")


def test_subclasses_are_known() -> None:
    class MyAdam(Adam):
        pass

    w = weights(3, 4)
    optimizer = MyAdam([w], lr=LR)
    before, gradients = train(optimizer, w, 3)
    close((before - w) * metric_of(optimizer, w)() / LR, mean(gradients, 0.9))


def test_register_adds_one() -> None:
    class Halving(SGD):
        """Half as far as SGD: D = 2."""

    class Other(SGD):
        pass

    @preconditioner.register
    def _(optimizer: Halving, group: dict, parameter: Tensor) -> Preconditioner:
        return Preconditioner(torch.full_like(parameter, 4), 1.0, 0.0)

    w = weights(3)
    optimizer = Halving([w], lr=LR)
    close(metric_of(optimizer, w)(), torch.full_like(w, 2))
    other = Other([w], lr=LR)
    assert preconditioner(other, other.param_groups[0], w) is None
