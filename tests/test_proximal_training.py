"""The proximal step among the tools of others: schedulers, scalers, compilers, checkpoints."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from proximal_cases import (
    LR,
    METRICS,
    OPTIMIZERS,
    assert_same,
    column,
    each,
    equal,
    loss_of,
    network,
    nonzeros,
    stand,
    step,
    train,
)
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import lissom
from lissom import L0, L1, TopK, kernels
from lissom.errors import OptimizerError
from lissom.proximal import Proximal
from lissom.schedules import cubic, linear


def sum_of_rates(opt: Optimizer, scheduler: Any, steps: int) -> float:
    """What the prox of L1(1) takes away while the rate goes its way."""
    total = 0.0
    for _ in range(steps):
        total += opt.param_groups[0]["lr"]
        stand(opt, 1)
        scheduler.step()
    return total


@each(
    "schedule",
    {
        "lambda": lambda opt: LambdaLR(opt, lambda n: 0.5**n),
        "one cycle": lambda opt: OneCycleLR(opt, max_lr=0.5, total_steps=10),
    },
)
def test_the_step_follows_the_learning_rate(schedule) -> None:
    net = column(10.0)
    opt = SGD(net.parameters(), LR)
    lissom.proximal(opt, {lissom.weights(net): L1(1.0)})
    total = sum_of_rates(opt, schedule(opt), 8)
    torch.testing.assert_close(net.weight, column(10.0 - total).weight)


def test_the_learning_rate_may_be_a_tensor() -> None:
    net = column(10.0)
    opt = SGD(net.parameters(), torch.tensor(0.25), foreach=False)
    lissom.proximal(opt, {lissom.weights(net): L1(1.0)})
    stand(opt, 4)
    torch.testing.assert_close(net.weight, column(9.0).weight)


@pytest.mark.parametrize("device", DEVICES)
@each(
    "optimizer",
    {
        "sgd": lambda p: SGD(p, LR),
        "adam": lambda p: Adam(p, LR),
        "fused sgd": lambda p: SGD(p, LR, fused=True),
        "fused adam": lambda p: Adam(p, LR, fused=True),
    },
)
def test_a_step_that_the_scaler_skips_is_none(optimizer, device: str) -> None:
    """Fused optimizers are called and skip it themselves, the others are not called."""
    net = network().to(device)
    opt = optimizer(net.parameters())
    handle = lissom.proximal(opt, {lissom.weights(net): L1(1.0)})
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    for n, infinite in enumerate([False, True, False]):
        before = copy.deepcopy(net)
        opt.zero_grad()
        scaler.scale(loss_of(net, n)).backward()
        if infinite:
            net.fc.bias.grad[0] = math.inf
        scaler.step(opt)
        scaler.update()
        assert equal(before, net) == infinite
    assert handle.step == 2
    assert not hasattr(opt, "found_inf")


def test_scaled_gradients_end_where_plain_ones_do() -> None:
    nets = [network(), network()]
    for net, scale in zip(nets, (1.0, 1024.0), strict=True):
        opt = Adam(net.parameters(), LR, fused=True)
        lissom.proximal(opt, {lissom.weights(net): L0(2.0)}, metric="adaptive")
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        for n in range(5):
            opt.zero_grad()
            scaler.scale(loss_of(net, n)).backward()
            scaler.step(opt)
            scaler.update()
    assert_same(*nets)


def test_accumulated_gradients_are_one_step() -> None:
    nets = [network(), network()]
    opts = [SGD(net.parameters(), LR) for net in nets]
    handles = [
        lissom.proximal(opt, {lissom.weights(net): L0(2.0)})
        for net, opt in zip(nets, opts, strict=True)
    ]
    ((loss_of(nets[0], 0) + loss_of(nets[0], 1)) / 2).backward()
    for n in range(2):
        (loss_of(nets[1], n) / 2).backward()
    for opt in opts:
        opt.step()
    assert_same(*nets)
    assert [handle.step for handle in handles] == [1, 1]


def test_closures() -> None:
    nets = [network(), network()]
    opts = [Adam(net.parameters(), LR) for net in nets]
    for net, opt in zip(nets, opts, strict=True):
        lissom.proximal(opt, {kernels(net): L0(2.0)}, metric="adaptive")

    def closure() -> Tensor:
        opts[1].zero_grad()
        loss = loss_of(nets[1], 0)
        loss.backward()
        return loss

    train(nets[0], opts[0], range(1))
    assert isinstance(opts[1].step(closure), Tensor)
    assert equal(*nets)


def test_lbfgs_in_the_euclidean_metric() -> None:
    net = network()
    opt = LBFGS(net.parameters(), lr=0.1, max_iter=3)
    lissom.proximal(opt, {lissom.weights(net): TopK(20)})

    def closure() -> Tensor:
        opt.zero_grad()
        loss = loss_of(net, 0)
        loss.backward()
        return loss

    opt.step(closure)
    assert nonzeros(lissom.weights(net)) == 20


def test_compiled_models() -> None:
    nets = [network(), network()]
    compiled = torch.compile(nets[1], backend="eager")
    for net in (nets[0], compiled):
        groups = lissom.weights(net)
        assert [block.name for block in groups] == ["conv1.weight", "conv2.weight", "fc.weight"]
        opt = Adam(net.parameters(), LR)
        lissom.proximal(opt, {groups: TopK(fraction=0.2)}, metric="adaptive")
        train(net, opt, range(3))
    assert equal(*nets)
    assert nonzeros(lissom.weights(nets[1])) == 36


@each("optimizer", OPTIMIZERS)
def test_the_state_of_the_optimizer_is_its_own(optimizer) -> None:
    """As without a prox, key by key, and momentum and moments left alone, number by number."""
    nets = [network(), network()]
    opts = [optimizer(net.parameters()) for net in nets]
    lissom.proximal(opts[0], {lissom.weights(nets[0]): L0(2.0)}, metric="adaptive")
    for opt in opts:
        step(opt, 0)
        step(opt, 1)
    states = [opt.state_dict() for opt in opts]
    assert states[0].keys() == states[1].keys()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for one, other in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert one.keys() == other.keys()
        assert all(value is None or torch.equal(value, other[k]) for k, value in one.items())


def test_param_groups_added_later() -> None:
    net = nn.ModuleList([column(10.0), column(10.0)])
    opt = SGD(net[0].parameters(), 0.1)
    lissom.proximal(opt, {lissom.weights(net[0]): L1(1.0)})
    opt.add_param_group({"params": net[1].parameters(), "lr": 0.5})
    lissom.proximal(opt, {lissom.weights(net[1]): L1(1.0)})
    stand(opt, 2)
    torch.testing.assert_close(net[0].weight, column(10 - 2 * 0.1).weight)
    torch.testing.assert_close(net[1].weight, column(10 - 2 * 0.5).weight)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)
def test_copies_of_the_model_are_plain(copied) -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    lissom.proximal(opt, {lissom.weights(net): TopK(20)})
    step(opt, 0)
    twin = copied(net)
    assert equal(net, twin)
    before = copy.deepcopy(twin)
    step(opt, 1)
    assert equal(twin, before)


def test_removed_it_is_gone() -> None:
    nets = [network(), network()]
    opts = [Adam(net.parameters(), LR) for net in nets]
    handle = lissom.proximal(opts[0], {lissom.weights(nets[0]): TopK(5)}, start=2)
    for n in range(5):
        if n == 2:
            handle.remove()
        for opt in opts:
            step(opt, n)
    assert equal(*nets)
    assert handle.step == 2


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(optimizer, options: dict, device: str, stops: list[int]) -> tuple[nn.Module, Proximal]:
    """Train to the last stop, in a new process at every one before, as it were."""
    done, state = 0, None
    for stop in stops:
        net = network(seed=0 if state is None else 1).to(device)
        opt = optimizer(net.parameters())
        prices = {
            kernels(net): L0(linear(0.0, 2.0, steps=3)),
            lissom.weights(net).only("fc"): TopK(fraction=cubic(1.0, 0.3, steps=4)),
        }
        handle = lissom.proximal(opt, prices, **options)
        if state is not None:
            for part, saved in zip((net, opt, handle), state["parts"], strict=True):
                part.load_state_dict(saved)
        train(net, opt, range(done, stop))
        done = stop
        state = saved_and_loaded({"parts": [p.state_dict() for p in (net, opt, handle)]})
    return net, handle


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", METRICS)
@each("optimizer", {name: OPTIMIZERS[name] for name in ("sgd", "rmsprop", "adamw")})
@settings(max_examples=15, deadline=None)
@given(
    every=st.integers(1, 3),
    start=st.integers(0, 4),
    length=st.none() | st.integers(1, 6),
    stops=st.lists(st.integers(0, 11), max_size=2).map(sorted),
)
def test_resumed_at_any_step_it_ends_in_the_same_weights(
    optimizer, metric, device, every: int, start: int, length: int | None, stops: list[int]
) -> None:
    """Before the start, amid the ramp, after the freeze; bit by bit."""
    freeze_at = None if length is None else start + length
    options = {"every": every, "start": start, "freeze_at": freeze_at, "metric": metric}
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        once, handle = run(optimizer, options, device, [12])
        again, resumed = run(optimizer, options, device, [*stops, 12])
    assert equal(once, again)
    assert (handle.step, handle.frozen) == (resumed.step, resumed.frozen)
    assert handle.frozen == (freeze_at is not None)


def test_a_state_after_freeze_at_but_not_frozen_freezes_now() -> None:
    """Saved by a run without the freeze, or with a later one."""
    net = network()
    opt = Adam(net.parameters(), LR)
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(20)}, freeze_at=3)
    handle.load_state_dict({"step": 10, "alive": None})
    step(opt, 0)
    assert handle.frozen and nonzeros(lissom.weights(net)) == 20


def test_a_state_of_other_groups_is_refused() -> None:
    net = network()
    handles = [
        lissom.proximal(SGD(net.parameters(), LR), {groups: L0(1.0)})
        for groups in (kernels(net), lissom.weights(net).only("conv*"), lissom.weights(net))
    ]
    handles[0].freeze()
    for handle in handles[1:]:
        with pytest.raises(OptimizerError, match=r"\(4, 2\).*\(4, 2, 3, 3\).*other groups"):
            handle.load_state_dict(handles[0].state_dict())
        assert not handle.frozen and handle.step == 0
