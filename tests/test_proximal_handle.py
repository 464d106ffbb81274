"""What every handle promises, on the two methods with the least of their own.

`penalty` is a question, `deployed` is undone bit by bit, `finalize` is the one end, a state goes on
where it was taken, and a loop without the penalty is told.
"""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from products import pairwise, sampled
from proximal_cases import (
    LR,
    METRICS,
    OPTIMIZERS,
    each,
    equal,
    loss_of,
    network,
    nonzeros,
    step,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import lissom
from lissom import L0, L1, L2, TopK, kernels
from lissom.errors import MethodError
from lissom.methods import Method, methods_on
from lissom.schedules import cubic, linear

END = 7
RAMP = L1(linear(0.0, 2.0, steps=4)) + L2(0.1)


def every_third(opt: Optimizer, net: nn.Module) -> Method:
    penalties = {
        kernels(net).without("conv2"): TopK(fraction=cubic(1.0, 0.3, steps=4)),
        lissom.weights(net).without("conv1"): RAMP,
    }
    return lissom.proximal(opt, penalties, every=3, start=1, metric="adaptive", finalize_at=END)


def each_step(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.proximal(opt, {lissom.weights(net): TopK(fraction=0.3)}, finalize_at=END)


def in_the_loss(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.subgradient(opt, {lissom.weights(net): RAMP}, start=1, finalize_at=END)


METHODS: dict[str, Callable[[Optimizer, nn.Module], Method]] = {
    "every third": every_third,
    "each step": each_step,
    "in the loss": in_the_loss,
}
every_method = each("make", METHODS)
every_phase = pytest.mark.parametrize("done", range(END + 2))


def trained(make: Any, steps: int, seed: int = 0) -> tuple[nn.Module, Optimizer, Method]:
    net = network(seed=seed)
    opt = Adam(net.parameters(), LR)
    method = make(opt, net)
    train(net, opt, method, range(steps))
    return net, opt, method


def train(net: nn.Module, opt: Optimizer, method: Method, steps: range) -> None:
    for n in steps:
        opt.zero_grad()
        (loss_of(net, n) + method.penalty()).backward()
        opt.step()


def state_of(*parts: Any) -> str:
    """Everything in the states of a training, bit by bit."""
    torch.set_printoptions(threshold=100_000, precision=20)
    try:
        return repr([part.state_dict() for part in parts])
    finally:
        torch.set_printoptions(profile="default")


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_method
@every_phase
def test_a_penalty_is_a_question(make, done: int) -> None:
    """Asked twice it says the same; it changes no weight, no gradient and no generator."""
    net, opt, method = trained(make, done)
    before, random = state_of(net, opt, method), torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    first, second = method.penalty(), method.penalty()
    assert torch.equal(first, second) and first.ndim == 0
    asked = make is in_the_loss and 1 <= done < END
    assert bool(first > 0) == first.requires_grad == asked
    assert state_of(net, opt, method) == before
    assert torch.equal(torch.get_rng_state(), random)
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        assert p.grad is gradient is None or torch.equal(p.grad, gradient)


@sampled(13)
@every_method
@every_phase
def test_deployed_is_undone_bit_by_bit(make, done: int) -> None:
    """Weights, the objects that hold them, their order, gradients, hooks, and what follows."""
    net, opt, method = trained(make, done)
    twin, twin_opt, twin_method = trained(make, done)
    parameters = list(net.named_parameters())
    places = [p.data_ptr() for _, p in parameters]
    hooks = [hook for m in net.modules() for hook in (m._forward_hooks, m._forward_pre_hooks)]
    hooks = [dict(hook) for hook in hooks]
    before = state_of(net, opt, method)
    opt.zero_grad()
    loss = loss_of(net, 99)  # its backward pass is after
    with method.deployed():
        inside = [p.detach().clone() for p in net.parameters()]
        with method.deployed():
            assert all(torch.equal(p, q) for p, q in zip(net.parameters(), inside, strict=True))
        assert float(method.penalty()) == 0
        copied = copy.deepcopy(net)
    assert state_of(net, opt, method) == before
    assert [(n, id(p)) for n, p in net.named_parameters()] == [(n, id(p)) for n, p in parameters]
    assert [p.data_ptr() for p in net.parameters()] == places
    after = [hook for m in net.modules() for hook in (m._forward_hooks, m._forward_pre_hooks)]
    assert [dict(hook) for hook in after] == hooks
    loss.backward()
    for p, q in zip(copied.parameters(), inside, strict=True):
        assert torch.equal(p, q)
    train(net, opt, method, range(done, END + 2))
    train(twin, twin_opt, twin_method, range(done, END + 2))
    assert equal(net, twin)


@every_method
def test_deployed_is_undone_after_an_error_too(make) -> None:
    net, opt, method = trained(make, 5)
    before = state_of(net, opt, method)
    with pytest.raises(KeyError), method.deployed():
        raise KeyError
    assert state_of(net, opt, method) == before
    train(net, opt, method, range(5, 6))
    assert method.step == 6


def test_within_deployed_nothing_is_trained_or_ended() -> None:
    _, opt, method = trained(each_step, 2)
    with method.deployed():
        with pytest.raises(MethodError, match="undone at its end"):
            method.finalize()
        with pytest.raises(MethodError, match="step outside"):
            step(opt, 2)
    assert method.step == 2 and not method.finalized


@pairwise
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("steps", range(1, 8))
@each("optimizer", OPTIMIZERS)
def test_the_end_between_two_proxes_is_what_deployed_shows(optimizer, steps, metric) -> None:
    """What is due since the last prox is applied then, with the penalty of the present step."""
    nets = [network(), network()]
    for net, by_hand in zip(nets, (False, True), strict=True):
        opt = optimizer(net.parameters())
        penalties = {
            kernels(net): L0(linear(0.0, 2.0, steps=5)),
            lissom.weights(net).only("fc"): TopK(fraction=cubic(1.0, 0.3, steps=5)),
        }
        method = lissom.proximal(opt, penalties, every=4, metric=metric)
        for n in range(steps):
            step(opt, n)
        if by_hand:
            if steps % 4:
                method.apply()
            continue
        with method.deployed():
            shown = [p.detach().clone() for p in net.parameters()]
        assert (steps % 4 == 0) == all(
            torch.equal(p, q) for p, q in zip(net.parameters(), shown, strict=True)
        )
        method.finalize()
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), shown, strict=True))
        assert method.finalized_at == steps
    assert equal(*nets)


@sampled(13)
@every_method
@every_phase
def test_finalize_twice_is_once(make, done: int) -> None:
    net, opt, method = trained(make, done)
    with method.deployed():
        shown = copy.deepcopy(net)
    method.finalize()
    assert method.finalized and method.finalized_at == min(done, END)
    assert equal(net, shown)
    before = state_of(net, opt, method)
    method.finalize()
    with method.deployed():
        assert state_of(net, opt, method) == before
    assert state_of(net, opt, method) == before
    assert float(method.penalty()) == 0 and not method.penalty().requires_grad
    zeros = [p.detach() == 0 for p in net.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(net, opt, method, range(done, done + 12))  # long enough to forget a penalty
    for p, dead in zip(net.parameters(), zeros, strict=True):
        assert torch.equal(p == 0, dead)
    assert method.step == done + 12 and method.finalized_at == min(done, END)


@sampled(9)
@pairwise
@every_method
@every_phase
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_state_goes_on_where_it_was_taken(make, done: int, by_hand: bool) -> None:
    net, opt, method = trained(make, done)
    if by_hand:
        method.finalize()
    state = saved_and_loaded([part.state_dict() for part in (method, net, opt)])
    again, again_opt, resumed = trained(make, 0, seed=1)
    for part, saved in zip((resumed, again, again_opt), state, strict=True):
        part.load_state_dict(saved)
    assert (resumed.step, resumed.finalized_at) == (method.step, method.finalized_at)
    assert state_of(again, again_opt, resumed) == state_of(net, opt, method)
    with method.deployed(), resumed.deployed():
        assert equal(net, again)
    train(net, opt, method, range(done, END + 3))
    train(again, again_opt, resumed, range(done, END + 3))
    assert equal(net, again)
    assert state_of(again, again_opt, resumed) == state_of(net, opt, method)


@every_method
@every_phase
def test_removed_it_leaves_the_weights_and_the_optimizer(make, done: int) -> None:
    net, opt, method = trained(make, done)
    before = state_of(net, opt)
    twin = copy.deepcopy(net)
    twin_opt = Adam(twin.parameters(), LR)
    twin_opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    method.remove()
    method.remove()
    assert state_of(net, opt) == before
    assert methods_on(opt) == [] and float(method.penalty()) == 0
    for n in range(done, done + 3):
        step(opt, n)
        step(twin_opt, n)
    assert equal(net, twin) and method.step == done


@every_method
def test_a_state_of_a_removed_method_does_nothing_either(make) -> None:
    net, _, method = trained(make, 3)
    method.remove()
    again, opt, resumed = trained(make, 0)
    resumed.load_state_dict(method.state_dict())
    again.load_state_dict(net.state_dict())
    twin = copy.deepcopy(again)
    twin_opt = Adam(twin.parameters(), LR)
    for n in range(3):
        step(opt, n)
        step(twin_opt, n)
    assert equal(again, twin)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: {**state, "method": "gates"}, "of method 'gates', this is 'proximal'"),
        (lambda state: {**state, "groups": [[3]]}, r"shaped \[\[3\]\].*saved with others"),
        (lambda state: {"step": 1, "alive": None}, "no state of a method: it has"),
        (lambda state: {k: v for k, v in state.items() if k != "steps_without"}, "no state of a"),
        (lambda state: {**state, "finalized_at": None, "alive": None}, "make a new one"),
    ],
)
def test_a_state_that_cannot_be_is_refused_before_anything_is_changed(change, told: str) -> None:
    net, opt, method = trained(each_step, END)
    before = state_of(net, opt, method)
    with pytest.raises(MethodError, match=told):
        method.load_state_dict(change(method.state_dict()))
    assert state_of(net, opt, method) == before


def without(method: Method) -> Tensor:
    return torch.zeros(())


def printed(method: Method) -> Tensor:
    """A penalty that is looked at and not added."""
    with torch.no_grad():
        return method.penalty()


def detached(method: Method) -> Tensor:
    return method.penalty().detach()


@pytest.mark.parametrize("asked", [without, printed, detached])
@pytest.mark.parametrize("start", [0, 3])
def test_a_loop_without_the_penalty_is_told(asked, start: int) -> None:
    """After 10 steps in a row, of those that count; once it is in the loss, they are forgiven."""
    net = network()
    opt = SGD(net.parameters(), LR)
    method = lissom.subgradient(opt, {lissom.weights(net): L1(0.1)}, start=start)
    assert asked(method) is not None

    def steps(term: Callable[[Method], Tensor], number: int) -> None:
        for n in range(number):
            opt.zero_grad()
            (loss_of(net, n) + term(method)).backward()
            opt.step()

    steps(asked, start + 9)
    steps(lambda method: method.penalty(), 1)
    steps(asked, 9)
    with pytest.raises(MethodError, match=r"10 steps.*'subgradient'.*loss = … \+ method.penalty"):
        steps(asked, 1)


def test_the_count_of_forgotten_penalties_is_in_the_state() -> None:
    net = network()
    opt = SGD(net.parameters(), LR)
    penalties = {lissom.weights(net): L1(0.1)}
    method = lissom.subgradient(opt, penalties)
    for n in range(9):
        step(opt, n)
        state = method.state_dict()
        method.remove()
        method = lissom.subgradient(opt, penalties)
        method.load_state_dict(state)
    with pytest.raises(MethodError, match="10 steps"):
        step(opt, 9)


def test_a_method_that_adds_nothing_to_the_loss_misses_nothing() -> None:
    net = network()
    opt = SGD(net.parameters(), LR)
    method = lissom.proximal(opt, {lissom.weights(net): TopK(20)})
    for n in range(30):
        step(opt, n)
    assert method.step == 30 and nonzeros(lissom.weights(net)) == 20
