"""A method minds its own groups: what is not stepped, what others hold, what was only looked at."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fifth_method import Rewinding, RewindingOptions
from proximal_cases import each
from torch import nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam, AdamW, NAdam, Optimizer, RMSprop, SparseAdam

import lissom
from lissom import L0, L1, Budget, LissomError, TopK
from lissom.errors import MethodError, OptimizerError
from lissom.methods import Method, methods_on


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def train(net: nn.Module, opt: Optimizer, *methods: Method, steps: int = 1, start: int = 0) -> None:
    for n in range(start, start + steps):
        generator = torch.Generator().manual_seed(n)
        y = torch.randint(3, (16,), generator=generator)
        x = torch.randn(16, 8, generator=generator) + y[:, None]
        loss = F.cross_entropy(net.train()(x), y)
        for method in methods:
            loss = loss + method.penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, 0.05),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9),
    "rmsprop": lambda p: RMSprop(p, 0.01),
    "adam": lambda p: Adam(p, 0.01),
    "adamw": lambda p: AdamW(p, 0.01),
}


@each("make", OPTIMIZERS)
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("penalty", [L0(1e-2), L1(1e-2), TopK(fraction=0.5)], ids=str)
def test_what_the_optimizer_does_not_step_is_left_alone(
    make: Callable[[Any], Optimizer], metric: Any, penalty: Any
) -> None:
    net = network()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    opt = make(net.parameters())
    method = lissom.proximal(opt, {lissom.weights(net): penalty}, metric=metric, every=2)
    train(net, opt, method, steps=3)
    with method.deployed():
        assert torch.equal(net[0].weight, before)
    assert torch.equal(net[0].weight, before)
    if isinstance(penalty, TopK):  # of the groups that are trained
        assert int((net[2].weight != 0).sum()) <= 48
        method.finalize()
        assert int((net[2].weight != 0).sum()) == 24
    net[0].requires_grad_(True)  # unfrozen, it takes part
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("make", [OPTIMIZERS["adam"], OPTIMIZERS["rmsprop"]])
def test_the_adaptive_prox_waits_for_a_metric(make: Callable[[Any], Optimizer]) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    opt = make(net.parameters())
    method = lissom.proximal(opt, {lissom.weights(net): L0(1e-6)}, metric="adaptive")
    assert isinstance(method, lissom.methods.proximal.Proximal)
    method.apply()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_end_of_one_method_leaves_the_moments_of_another() -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    layers = [lissom.weights(net).only("0"), lissom.weights(net).only("2")]
    gates = lissom.gate(opt, net, {layers[0]: L0(1e-5)}, finalize_at=20)
    prox = lissom.proximal(opt, {layers[1]: L1(1e-5)}, metric="adaptive")
    train(net, opt, gates, prox, steps=19)
    alive = int((net[2].weight != 0).sum())
    moment = opt.state[net[2].weight]["exp_avg_sq"]
    train(net, opt, gates, prox, start=19)
    assert gates.finalized
    assert opt.state[net[2].weight]["exp_avg_sq"] is moment
    assert net[0].bias not in opt.state
    train(net, opt, gates, prox, start=20)
    assert int((net[2].weight != 0).sum()) >= alive - 2


def _muon(parameters: Any, lr: float) -> Optimizer:
    matrices = [p for p in parameters if p.ndim == 2]
    made: Optimizer = getattr(torch.optim, "Muon", LBFGS)(matrices, lr=lr)
    return made


ORPHANS: dict[str, tuple[Callable[[nn.Sequential, Optimizer], Any], Any]] = {
    "proximal in a metric that is not known": (
        lambda n, o: lissom.proximal(o, {lissom.weights(n): L1(1)}, metric="adaptive"),
        NAdam,
    ),
    "gates under one param group": (
        lambda n, o: lissom.gate(o, n, {lissom.weights(n): L0(1)}),
        LBFGS,
    ),
    "a budget that no gates can meet": (
        lambda n, o: lissom.gate(o, n, {lissom.weights(n): L0(1)}, budget=Budget(weights=1e-6)),
        Adam,
    ),
    "gates under an optimizer of matrices": (
        lambda n, o: lissom.gate(o, n, {lissom.weights(n): L0(1)}),
        _muon,
    ),
    "lc under an optimizer of sparse gradients": (
        lambda n, o: lissom.lc(o, {lissom.weights(n): TopK(5)}, every=3),
        SparseAdam,
    ),
    "a user's own": (lambda n, o: _Failing(o, {lissom.weights(n): TopK(fraction=0.5)}), Adam),
}


class _Failing(Rewinding):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, RewindingOptions(every=3), **kwargs)
        raise MethodError("no")


@each("orphan", ORPHANS)
def test_a_method_that_cannot_be_made_leaves_nothing(
    orphan: tuple[Callable[[nn.Sequential, Optimizer], Any], Any],
) -> None:
    make, kind = orphan
    net = network()
    opt = kind(net.parameters(), lr=0.01)
    with pytest.raises(LissomError):
        make(net, opt)
    assert methods_on(opt) == []
    assert not opt._optimizer_step_pre_hooks
    assert len(opt.param_groups) == 1
    assert not net._forward_pre_hooks and list(net.state_dict()) == list(network().state_dict())


class _OneGroup(SGD):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if len(self.param_groups):
            raise ValueError("matrices only")
        super().add_param_group(param_group)


def test_an_optimizer_that_takes_no_group_for_the_gates_is_told_about() -> None:
    net = network()
    opt = _OneGroup(net.parameters(), lr=0.1)
    with pytest.raises(OptimizerError, match=r"_OneGroup takes no param group.*matrices only"):
        lissom.gate(opt, net, {lissom.weights(net): L0(1e-3)})
    assert not net._forward_pre_hooks
    lissom.gate(Adam(net.parameters()), net, {lissom.weights(net): L0(1e-3)})


def test_dead_units_of_gates_stay_dead_behind_any_activation() -> None:
    """sigmoid(0) = 1/2 reaches the columns that read a dead unit, and would revive them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 3))
    opt = Adam(net.parameters(), 0.02)
    neurons = lissom.neurons(net, torch.rand(2, 8))
    gates = lissom.gate(
        opt, net, {neurons: L0(0)}, gate_lr=0.5, budget=Budget(weights=0.5, rate=0.2)
    )
    train(net, opt, gates, steps=60)
    gates.finalize()
    dead = [p == 0 for p in net.parameters()]
    assert int(dead[2].sum()) >= 9  # columns
    train(net, opt, gates, steps=10, start=60)
    for zeros, p in zip(dead, net.parameters(), strict=True):
        assert not p[zeros].any()


@pytest.mark.parametrize("layer", ["0", "2"])
def test_a_penalty_of_what_is_frozen_for_a_while_is_not_forgotten(layer: str) -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    method = lissom.subgradient(opt, {lissom.weights(net).only(layer): L1(1e-3)})
    net.get_submodule(layer).requires_grad_(False)
    train(net, opt, method, steps=15)
    net.get_submodule(layer).requires_grad_(True)
    train(net, opt, method, steps=15)


def test_lc_begins_with_the_first_penalty_in_a_loss_and_not_with_one_that_is_printed() -> None:
    one, other = network(), network()
    pretrained = network(seed=1).state_dict()
    for net, prints in ((one, True), (other, False)):
        opt = SGD(net.parameters(), 0.05)
        method = lissom.lc(opt, {lissom.weights(net): TopK(40)}, every=4, c_steps=3, mu=0.3)
        if prints:
            method.penalty().detach().item()
        net.load_state_dict(pretrained)
        train(net, opt, method, steps=12)
        assert method.finalized
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_multipliers_move_by_penalties_in_a_loss_only() -> None:
    net = network()
    opt = Adam(net.parameters(), 0.01)
    budget = Budget(weights=0.5)
    gates = lissom.gate(opt, net, {lissom.weights(net): L0(0)}, budget=budget)
    for _ in range(3):
        gates.penalty().detach().item()
        x = torch.rand(4, 8)
        opt.zero_grad()
        net(x).square().sum().backward()
        opt.step()
    assert [c.value() for c in gates.constraints] == [0.0]
    train(net, opt, gates)
    assert gates.constraints[0].value() > 0


def test_states_of_other_options_are_a_clear_error() -> None:
    net = network()
    opt = SGD(net.parameters(), 0.05)
    given = lissom.lc(opt, {lissom.weights(net): TopK(40)}, every=4, c_steps=3, mu=0.3)
    state = given.state_dict()
    given.remove()
    found = lissom.lc(opt, {lissom.weights(net): TopK(40)}, every=4, c_steps=3)
    with pytest.raises(MethodError, match=r"of a 'lc' with other options.*mu"):
        found.load_state_dict(state)
