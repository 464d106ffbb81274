"""The proximal step among the tools of others: schedulers, scalers, wrappers, checkpoints."""

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
from products import sampled
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
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import lissom
from lissom import L0, L1, TopK, kernels
from lissom.errors import MethodError, OptimizerError
from lissom.methods import methods_on
from lissom.methods.proximal import Proximal
from lissom.schedules import cubic, linear


class SAM(Optimizer):
    """As in davda54/sam, shortened: `step` of the base optimizer is the one that counts."""

    def __init__(self, params: Any, base: type[Optimizer], rho: float = 0.05, **options: Any):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        for p in params:
            self.state[p]["old"] = p.clone()
            p.add_(p.grad * self.param_groups[0]["rho"] / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


class Accelerated(Optimizer):
    """As accelerate wraps an optimizer; it has no `super().__init__` either."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Lit:
    """As Lightning wraps an optimizer: it is none itself."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer


class AdamWScheduleFree(Adam):
    """By its name: weights are those of an average in eval mode, and zeros are lost there."""


class Lookahead(Optimizer):
    """By its name: every k steps it goes back towards slow weights of its own."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


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


@each("optimizer", {"sgd": SGD, "adam": Adam})
def test_what_the_scaler_skips_moves_no_schedule(optimizer) -> None:
    """Nor the end, nor the count of steps since the last prox."""
    net = network()
    opt = optimizer(net.parameters(), LR, fused=True)
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(20)}, every=2, start=1, finalize_at=5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    alive = []
    for n in range(10):
        opt.zero_grad()
        scaler.scale(loss_of(net, n)).backward()
        if n % 2:
            net.fc.bias.grad[0] = math.nan
        scaler.step(opt)
        scaler.update()
        alive.append(nonzeros(lissom.weights(net)) == 20)
    assert handle.step == handle.finalized_at == 5
    assert [alive[n] for n in (0, 1, 2, 3)] == [False] * 4
    assert [alive[n] for n in (4, 5, 8, 9)] == [True] * 4


phantoms = each(
    "optimizer",
    {
        "sgd": lambda p: SGD(p, LR),
        "momentum": lambda p: SGD(p, LR, momentum=0.9),
        "adam": lambda p: Adam(p, LR),
        "adamw": lambda p: AdamW(p, LR, amsgrad=True),
        "a rate in a tensor": lambda p: Adam(p, torch.tensor(LR)),
    },
)


@phantoms
@pytest.mark.parametrize("done", [0, 1, 4, 7])
def test_the_phantom_step_of_a_distributed_checkpoint_is_none(optimizer, done: int) -> None:
    """With a rate of 0 and gradients of 0 it makes the optimizer's state: asked for or set."""
    checkpoint = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    net = network()
    opt = optimizer(net.parameters())
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(20)}, every=3, finalize_at=5)
    train(net, opt, range(done))
    opt.zero_grad()
    before, state = copy.deepcopy(net), handle.state_dict()
    saved = checkpoint.get_optimizer_state_dict(net, opt)
    checkpoint.set_optimizer_state_dict(net, opt, saved)
    assert equal(before, net)
    assert repr(handle.state_dict()) == repr(state)
    assert handle.step == done and handle.finalized == (done >= 5)


@phantoms
def test_a_warm_up_at_a_rate_of_0_is_a_step(optimizer) -> None:
    """It has gradients: schedules begin, and a count is kept at once."""
    net = network()
    opt = optimizer(net.parameters())
    warm_up = LambdaLR(opt, lambda n: n / 4)
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(20)})
    assert float(opt.param_groups[0]["lr"]) == 0
    train(net, opt, range(1))
    warm_up.step()
    assert handle.step == 1 and nonzeros(lissom.weights(net)) == 20


def test_a_step_without_any_gradient_is_none() -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    handle = lissom.proximal(opt, {lissom.weights(net): TopK(20)})
    before = copy.deepcopy(net)
    opt.zero_grad()
    opt.step()
    assert equal(before, net) and handle.step == 0


@each(
    "wrap",
    {
        "accelerate": Accelerated,
        "lightning": Lit,
        "both": lambda opt: Lit(Accelerated(opt)),
        "none": lambda opt: opt,
    },
)
def test_wrappers_are_looked_through(wrap) -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    wrapped = wrap(opt)
    handle = lissom.proximal(wrapped, {lissom.weights(net): TopK(20)}, metric="adaptive")
    assert handle.optimizer is opt
    assert methods_on(wrapped) == methods_on(opt) == [handle]
    train(net, opt, range(2))
    assert handle.step == 2 and nonzeros(lissom.weights(net)) == 20


@pytest.mark.parametrize("inner", [False, True])
def test_sam_keeps_the_zeros(inner: bool) -> None:
    """Its first step moves the weights away and its second puts them back: neither counts."""
    net = network()
    sam = SAM(net.parameters(), SGD, lr=LR, momentum=0.9)
    given = sam.base_optimizer if inner else sam
    handle = lissom.proximal(given, {lissom.weights(net): TopK(20)}, finalize_at=4)
    for n in range(6):
        for half in (sam.first_step, sam.second_step):
            loss_of(net, n).backward()
            half()
        assert handle.step == n + 1 and nonzeros(lissom.weights(net)) == 20
    assert handle.finalized_at == 4


@each(
    "wrap",
    {
        "schedule-free": lambda p: AdamWScheduleFree(p, LR),
        "lookahead": lambda p: Lookahead(Adam(p, LR)),
        "wrapped": lambda p: Accelerated(Lookahead(Adam(p, LR))),
        "wrapping": lambda p: Lookahead(Accelerated(Adam(p, LR))),
    },
)
def test_optimizers_that_move_weights_between_steps_are_refused(wrap) -> None:
    net = network()
    told = r"(AdamWScheduleFree|Lookahead) moves weights outside.*use the optimizer that it is made"
    with pytest.raises(OptimizerError, match=told):
        lissom.proximal(wrap(net.parameters()), {lissom.weights(net): TopK(20)})


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
        penalties = {
            kernels(net): L0(linear(0.0, 2.0, steps=3)),
            lissom.weights(net).only("fc"): TopK(fraction=cubic(1.0, 0.3, steps=4)),
        }
        handle = lissom.proximal(opt, penalties, **options)
        if state is not None:
            for part, saved in zip((handle, net, opt), state["parts"], strict=True):
                part.load_state_dict(saved)
        train(net, opt, range(done, stop))
        done = stop
        state = saved_and_loaded({"parts": [p.state_dict() for p in (handle, net, opt)]})
    return net, handle


@sampled(2)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", METRICS)
@each("optimizer", {name: OPTIMIZERS[name] for name in ("sgd", "rmsprop", "adamw")})
@settings(max_examples=5, deadline=None)
@given(
    every=st.integers(1, 3),
    start=st.integers(0, 4),
    length=st.none() | st.integers(1, 6),
    stops=st.lists(st.integers(0, 11), max_size=2).map(sorted),
)
def test_resumed_at_any_step_it_ends_in_the_same_weights(
    optimizer, metric, device, every: int, start: int, length: int | None, stops: list[int]
) -> None:
    """Before the start, amid the ramp, between two proxes, after the end; bit by bit."""
    finalize_at = None if length is None else start + length
    options = {"every": every, "start": start, "finalize_at": finalize_at, "metric": metric}
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        once, handle = run(optimizer, options, device, [12])
        again, resumed = run(optimizer, options, device, [*stops, 12])
    assert equal(once, again)
    assert (handle.step, handle.finalized_at) == (resumed.step, resumed.finalized_at)
    assert handle.finalized == (finalize_at is not None)


def test_a_state_after_finalize_at_but_not_finalized_finalizes_now() -> None:
    """Saved by a run without that end, or with a later one."""
    net = network()
    opt = Adam(net.parameters(), LR)
    penalties = {lissom.weights(net): TopK(20)}
    longer = lissom.proximal(opt, penalties)
    stand(opt, 10)
    state = longer.state_dict()
    longer.remove()
    handle = lissom.proximal(opt, penalties, finalize_at=3)
    handle.load_state_dict(state)
    assert handle.step == 10 and not handle.finalized
    step(opt, 0)
    assert handle.finalized and nonzeros(lissom.weights(net)) == 20


def test_a_state_of_other_groups_is_refused() -> None:
    net = network()
    handles = [
        lissom.proximal(SGD(net.parameters(), LR), {groups: L0(1.0)})
        for groups in (kernels(net), lissom.weights(net).only("conv*"), lissom.weights(net))
    ]
    handles[0].finalize()
    for handle in handles[1:]:
        with pytest.raises(MethodError, match=r"\[4, 2\].*\[4, 2, 3, 3\].*saved with others"):
            handle.load_state_dict(handles[0].state_dict())
        assert not handle.finalized and handle.step == 0
