"""Gates under unusual calls: exchanged parameters, interruption, recursion, layers not called."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gates_cases import delivered, gated
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lissom
from lissom import L0
from lissom.errors import GateError, MethodError
from lissom.groups import columns
from lissom.methods.gates import Budget
from lissom.schedules import linear

X = torch.linspace(-1, 2, 16).view(4, 4)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in model.state_dict().items()}


def test_functional_call_computes_with_the_parameters_it_is_given() -> None:
    net = mlp()
    gated(net, {lissom.weights(net): L0(0)})
    assert torch.func.functional_call(net, zeros(net), (X,)).abs().max() == 0


def test_parameters_that_were_assigned_are_used_and_not_finalized() -> None:
    net = mlp()
    gates = gated(net, {lissom.weights(net): L0(0)})
    net.load_state_dict(zeros(net), assign=True)
    assert net(X).abs().max() == 0
    assert gates.log_alpha is net.get_parameter("lissom_log_alpha")
    with pytest.raises(GateError, match="were replaced"):
        gates.finalize()
    with pytest.raises(GateError, match="were replaced"), gates.deployed():
        pass
    assert net(X).abs().max() == 0 and not gates.finalized


def test_gates_of_layers_that_a_call_leaves_out_learn_nothing_from_it() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor, other: bool) -> Tensor:
            out: Tensor = (self.other if other else self.one)(x)
            return out

    torch.manual_seed(0)
    net = Either()
    gated(net, {lissom.weights(net): L0(0)})
    for other in (False, True):
        net.zero_grad()
        net(X, other).square().sum().backward()
        grad = net.get_parameter("lissom_log_alpha").grad
        assert grad is not None
        used = grad.view(2, -1).count_nonzero(1).bool().tolist()
        assert used == [not other, other]


def test_an_interrupted_call_leaves_nothing_behind() -> None:
    """torch runs no hooks after Ctrl-C."""

    class Interrupts(nn.Module):
        now = False

        def forward(self, x: Tensor) -> Tensor:
            if self.now:
                raise KeyboardInterrupt
            return x

    net = nn.Sequential(*mlp(), Interrupts())
    gates = gated(net, {lissom.weights(net): L0(0)})
    net[5].now = True
    with pytest.raises(KeyboardInterrupt):
        net(X)
    net[5].now = False
    assert not torch.equal(net(X), net(X))  # drawn anew
    net.eval()
    before = net(X)
    gates.finalize()
    assert "weight" not in net[0].__dict__
    assert torch.equal(net(X), before)


def test_a_model_that_calls_itself() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            x = self(x, False) if again else x
            return F.linear(x, self.fc.weight)

    net = Twice().eval()
    gates = gated(net, {lissom.weights(net): L0(0)})
    assert torch.equal(net(X), delivered(gates)(X))
    assert "weight" not in net.fc.__dict__


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_the_whole_model_is_refused(reentrant: bool) -> None:
    net = mlp()
    gated(net, {lissom.neurons(net, X): L0(0)})
    loss = checkpoint(net, X.clone().requires_grad_(), use_reentrant=reentrant).sum()
    with pytest.raises(GateError, match="on parts inside of the gated Sequential"):
        loss.backward()


def test_gates_by_example_need_layers_that_are_called() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.a(x), self.b.weight)

    net = Direct()
    gated(net, {columns(net): L0(0)}, draws="example")
    with pytest.raises(GateError, match=r"the layer of b\.weight was not called"):
        net(X)
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(GateError, match="out_proj"):
        gated(attention, {columns(attention): L0(0)}, draws="example")


def test_frozen_layers_cost_operations_and_are_not_counted() -> None:
    net = mlp()
    net[4].requires_grad_(False)
    gates = gated(net, {lissom.neurons(net, X): L0(0)}, example_inputs=X)
    assert gates.total("macs") == 4 * 6 + 6 * 5 + 5 * 3
    assert gates.total("weights") == 4 * 6 + 6 + 6 * 5 + 5


def test_groups_of_a_part_are_costed_in_the_whole() -> None:
    net = nn.Sequential(mlp(), nn.Linear(3, 2))
    gates = gated(net, {lissom.neurons(net[0], X): L0(0)}, example_inputs=X)
    assert gates.expected().item() < gates.total()
    assert gates.expected("macs").item() < gates.total("macs")


def test_budgets_that_cannot_be_at_any_time_are_refused() -> None:
    net = mlp()
    for start in (0.001, 0.0):
        with pytest.raises(GateError, match="weights"):
            gated(
                net, {lissom.neurons(net, X): L0(0)}, budget=Budget(weights=linear(start, 0.9, 10))
            )


def test_evaluation_in_inference_mode_before_training() -> None:
    net = mlp()
    gates = gated(net, {lissom.weights(net): L0(0)}, noise="pooled")
    with torch.inference_mode():
        net(X)
    net(X).sum().backward()
    assert gates.log_alpha.grad is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda g: g.sample(0), "n ≥ 1"),
        (lambda g: g.sample(1, seed=-1), "seed"),
        (lambda g: g.expected({"0.weight": "x"}), "is a number"),
        (lambda g: g.expected_loss(lambda: 1.0), "gives a tensor"),
        (lambda g: g.load_state_dict({}), "no state of a method"),
        (lambda g: Budget(weights=0.5, damping=0), "above 0"),
        (lambda g: Budget(weights=0.5, rate=-1), "above 0"),
        (lambda g: [g.finalize(), g.log_alpha], "are gone"),
        (lambda g: [g.finalize(), list(g.sample())], "are gone"),
        (lambda g: gated(g.model[0], {lissom.weights(g.model[0]): L0(0)}), "there are gates"),
        (lambda g: gated(nn.Sequential(g.model), {lissom.weights(g.model): L0(0)}), "a parent"),
    ],
)
def test_mistakes_are_told(wrong: Any, message: str) -> None:
    net = mlp()
    gates = gated(net, {lissom.weights(net): L0(0)})
    with pytest.raises((GateError, MethodError), match=message):
        wrong(gates)


def test_data_parallel_is_refused() -> None:
    """Its replicas, as on several devices."""
    net = mlp()
    gates = gated(net, {lissom.weights(net): L0(0)})
    replica = net._replicate_for_data_parallel()
    with pytest.raises(GateError, match=r"use nn\.parallel\.DistributedDataParallel"):
        replica(X)
    assert net(X).isfinite().all() and not gates.finalized


def test_deployed_after_an_interrupted_call() -> None:
    """What the call left in the way of parameters is gone in it, and the weights come back."""
    net = mlp()
    gates = gated(net, {lissom.weights(net): L0(0)})

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = net[2].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        net(X)
    handle.remove()
    before = [p.detach().clone() for p in net.parameters()]
    copied = delivered(gates)
    assert "weight" not in net[0].__dict__ and "weight" not in copied[0].__dict__
    assert torch.equal(net.eval()(X), copied.eval()(X))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
