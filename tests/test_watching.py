"""What would train the wrong thing around a method is told, and nothing else is."""

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from products import few, pairwise
from proximal_cases import each
from test_methods import FINALIZED, LASTING, METHODS, Make, Training, bits, loop, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lissom
from lissom import L0, L1, Budget, TopK
from lissom.errors import MethodError, OptimizerError
from lissom.methods import Method

SOME = (METHODS["proximal"], METHODS["lc"])
LOADED = "a state of the optimizer was loaded, and none of method"
BACK = "are not zero any more, as where weights of before were loaded"
ELSEWHERE = "10 steps were taken by another"
EMPTY = "the network's answer hardly depends on its input any more"


@contextmanager
def told(*expected: str) -> Iterator[list[str]]:
    """Each of these warnings once, in their order, and no other; at a line of the caller's file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        messages: list[str] = []
        yield messages
    ours = [w for w in caught if issubclass(w.category, UserWarning) and "lr_sch" not in w.filename]
    messages += [str(w.message) for w in ours]
    assert len(messages) == len(expected), messages
    for warning, message, words in zip(ours, messages, expected, strict=True):
        assert words in message
        for package in (lissom, torch):  # what is told is told of the user's own line
            assert not Path(warning.filename).is_relative_to(Path(package.__file__).parent)


def parts(t: Training) -> dict[str, Any]:
    return {"method": t.method, "net": t.net, "opt": t.opt}


def restore(t: Training, state: dict[str, Any], order: Any) -> None:
    for name in order:
        parts(t)[name].load_state_dict(copy.deepcopy(state[name]))


def steps(net: nn.Module, opt: Optimizer, method: Method | None, n: int) -> None:
    for i in range(n):
        torch.manual_seed(i)
        x = torch.randn(16, 8)
        loss = F.cross_entropy(net(x), torch.arange(16) % 3)
        opt.zero_grad()
        (loss if method is None else loss + method.penalty()).backward()
        opt.step()


# States that come back

ORDERS = [*permutations(("method", "net", "opt"))]


@pytest.mark.parametrize("make", few(METHODS.values(), SOME), ids=METHODS)
@pytest.mark.parametrize("order", few(ORDERS, (ORDERS[0], ORDERS[5])))
def test_who_restores_all_three_is_told_nothing(make: Make, order: tuple[str, ...]) -> None:
    t = Training.of(make)
    loop(t, range(10))
    state = t.state()
    with told():
        loop(t, range(10, 16))
        restore(t, state, order)
        t.scheduler.load_state_dict(state["scheduler"])
        t.scaler.load_state_dict(state["scaler"])
        loop(t, range(10, 20))
    plain = Training.of(make)
    loop(plain, range(20))
    assert bits(t.net) == bits(plain.net)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "plain SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: Adam(p, lr=0.01),
    "RMSprop": lambda p: RMSprop(p, lr=0.01),
    "Adagrad": lambda p: Adagrad(p, lr=0.01),
}


@pairwise
@each("make", OPTIMIZERS)
@pytest.mark.parametrize("kind", few(METHODS.values(), SOME), ids=METHODS)
def test_trial_steps_after_which_the_method_is_not_restored_are_told(
    kind: Make, make: Callable[[Any], Optimizer]
) -> None:
    net = network()
    opt = make(net.parameters())
    method = kind(opt, net)
    saved = copy.deepcopy((net.state_dict(), opt.state_dict(), method.state_dict()))
    with told():
        for group in opt.param_groups:
            group["lr"] *= 2  # as a learning-rate finder does
        steps(net, opt, method, 8)
        net.load_state_dict(saved[0])
        opt.load_state_dict(saved[1])
    with told(LOADED) as messages:
        steps(net, opt, method, 3)
    assert "go on from step 8" in messages[0] and "method.load_state_dict(saved)" in messages[0]
    with told():
        net.load_state_dict(saved[0])
        opt.load_state_dict(saved[1])
        method.load_state_dict(saved[2])
        steps(net, opt, method, 8)


def test_a_checkpoint_without_the_methods_state_is_told() -> None:
    first, second = (Training.of(METHODS["proximal"]) for _ in "ab")
    loop(first, range(9))
    state = first.state()
    restore(second, state, ("opt", "net"))
    with told(LOADED) as messages:
        loop(second, range(3))
    assert "go on from step 0" in messages[0]
    net = network()  # what the message says where it is meant
    opt = Adam(net.parameters())
    steps(net, opt, None, 5)
    new = Adam(net.parameters())
    with told():
        new.load_state_dict(opt.state_dict())
        method = lissom.proximal(new, {lissom.weights(net): TopK(80)})
        steps(net, new, method, 3)
        method.remove()
        method = lissom.proximal(new, {lissom.weights(net): TopK(80)})
        method.warm_start(opt.state_dict())  # a path's next point
        steps(net, new, method, 3)


def test_loading_what_is_there_is_told_as_nothing() -> None:
    """As accelerate's prepare does, to move the state to a device."""
    net = network()
    for make in OPTIMIZERS.values():
        opt = make(net.parameters())
        method = lissom.proximal(opt, {lissom.weights(net): TopK(80)})
        with told():
            opt.load_state_dict(opt.state_dict())
            steps(net, opt, method, 3)
            opt.load_state_dict(copy.deepcopy(opt.state_dict()))
            steps(net, opt, method, 3)
        method.remove()


@pytest.mark.parametrize("what", [("net",), ("net", "opt"), ("opt", "net")])
def test_weights_of_before_the_end_are_told_before_they_are_zeroed(what: tuple[str, ...]) -> None:
    t = Training.of(METHODS["proximal"])
    loop(t, range(4))
    state = t.state()
    loop(t, range(4, FINALIZED + 2))
    assert t.method.finalized
    with told():
        restore(t, t.state(), what)  # of the same moment
        loop(t, range(FINALIZED + 2, FINALIZED + 4))
    dead = sum(int((norms == 0).sum()) for norms in next(iter(t.method.penalties)).norms())
    restore(t, state, what)
    with told(BACK) as messages:
        loop(t, range(FINALIZED + 4, FINALIZED + 6))
    assert messages[0].startswith(f"{dead:,} groups that had vanished")
    assert f"at step {FINALIZED}" in messages[0]


def test_zeros_that_are_noted_anew_are_told_as_nothing() -> None:
    t = Training.of(METHODS["proximal"])
    loop(t, range(4))
    early = t.state()
    loop(t, range(4, FINALIZED + 1))
    with told():
        t.net.load_state_dict(early["net"])
        t.method.note_zeros()
        loop(t, range(FINALIZED + 1, FINALIZED + 4))
        saved = copy.deepcopy(t.net.state_dict())  # an average is looked at, and taken out again
        t.net.load_state_dict(early["net"])
        t.net.load_state_dict(saved)
        loop(t, range(FINALIZED + 4, FINALIZED + 6))


# Another optimizer


@each("make", METHODS)
def test_steps_of_another_optimizer_on_the_same_weights_are_told(make: Make) -> None:
    net = network()
    old = Adam(net.parameters())
    method = make(old, net)
    new = Adam(net.parameters())
    with told(ELSEWHERE) as messages:
        for _ in range(25):
            opt, penalty = new, method.penalty()
            opt.zero_grad()
            (net(torch.rand(4, 8)).square().mean() + penalty).backward()
            opt.step()
    assert f"method {method.name!r} follows" in messages[0] and "it does nothing" in messages[0]
    method.remove()
    with told():
        steps(net, new, None, 15)


def test_gates_whose_group_was_taken_off_the_optimizer_are_told() -> None:
    net = network()
    opt = Adam(net.parameters())
    method = lissom.gate(opt, net, {lissom.weights(net): L0(1e-3)})
    steps(net, opt, method, 2)
    group = opt.param_groups.pop()
    with pytest.raises(OptimizerError, match=r"^log α is in no param group of the optimizer any"):
        steps(net, opt, method, 1)
    opt.add_param_group(group)
    steps(net, opt, method, 1)
    method.finalize()
    opt.param_groups.pop()
    steps(net, opt, method, 1)


def test_zeros_that_another_optimizer_will_not_keep_are_told() -> None:
    net = network()
    old = Adam(net.parameters())
    method = lissom.proximal(old, {lissom.weights(net): TopK(100)})
    steps(net, old, method, 3)
    method.finalize()
    with told(ELSEWHERE) as messages:
        steps(net, SGD(net.parameters(), lr=0.1), None, 12)
    assert "its zeros are not kept" in messages[0]


@each("make", {name: make for name, make in METHODS.items() if name != "lc"})  # w is far from θ
def test_rounds_of_pruning_with_an_optimizer_each_are_told_as_nothing(make: Make) -> None:
    net, kept = network(), []
    with told():
        for _ in range(2):
            opt = Adam(net.parameters())
            kept.append(make(opt, net))
            steps(net, opt, kept[-1], 15)
            kept[-1].finalize()


def test_other_optimizers_that_belong_there_are_told_as_nothing() -> None:
    net, critic = network(), network(1)
    opt, of_critic, now_and_then = (Adam(n.parameters()) for n in (net, critic, net))
    method = lissom.proximal(opt, {lissom.weights(net): TopK(100)})
    with told():
        steps(critic, of_critic, None, 15)  # of other weights
        for _ in range(3):
            steps(net, now_and_then, None, 6)  # by turns
            steps(net, opt, method, 1)

    class Outer(Optimizer):
        """A wrapper that is an optimizer itself, as SAM is."""

        def __init__(self, base: Optimizer) -> None:
            super().__init__(base.param_groups, {})
            self.base_optimizer = base

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.base_optimizer.step()

    outer = Outer(opt)
    with told():
        steps(net, outer, method, 15)
    assert method.step == 3 + 15


def test_a_method_that_is_gone_watches_nothing() -> None:
    net = network()
    for _ in range(2):
        opt = Adam(net.parameters())
        lissom.proximal(opt, {lissom.weights(net): TopK(100)})
        del opt
    import gc

    gc.collect()
    with told():
        steps(net, SGD(net.parameters(), lr=0.1), None, 15)


# Layers with nothing left


def chain(**more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
    return net.append(nn.Linear(12, 3))


def test_a_budget_that_empties_a_layer_is_told_once_and_per_layer_is_the_remedy() -> None:
    for budget, expected in ((TopK(fraction=0.1), (EMPTY,)), (TopK(fraction=0.1, per="layer"), ())):
        net = chain()
        with torch.no_grad():
            net[2].weight.mul_(1e-3)
        opt = SGD(net.parameters(), lr=1e-3)
        method = lissom.proximal(opt, {lissom.weights(net): budget})
        with told(*expected) as messages:
            steps(net, opt, method, 130)
            method.finalize()
        if messages:
            assert re.search(r"leaves 0 of 192 weights in 2\.weight, and 10 % of all", messages[0])
            assert "TopK(fraction=0.1)" in messages[0] and "per='layer'" in messages[0]


EARLY: dict[str, Callable[[Optimizer, nn.Module], Method]] = {
    "proximal": lambda o, n: lissom.proximal(o, {lissom.weights(n): TopK(50)}, start=4),
    "lc": lambda o, n: lissom.lc(o, {lissom.weights(n): TopK(300)}, every=5, mu=1.0, start=4),
    "gates": lambda o, n: lissom.gate(o, n, {lissom.weights(n): L0(1e-5)}, start=4),
    "nested": lambda o, n: lissom.nested(
        o, n, {lissom.weights(n): TopK(50)}, smallest=0.05, start=4
    ),
    "subgradient": lambda o, n: lissom.subgradient(o, {lissom.weights(n): L1(1e-5)}, start=4),
}


@each("make", EARLY)
@pytest.mark.parametrize("n", [0, 3, 4, 5])
def test_an_end_before_the_beginning_is_told(make: Any, n: int) -> None:
    net = chain()
    opt = Adam(net.parameters(), lr=1e-4)
    method = make(opt, net)
    # What is nearest to the weights, or a cut, is there at the beginning; a prox follows a step.
    late = n > 4 or (n == 4 and method.name != "proximal")
    with told(*() if late else (f"ends after {n} steps, and begins after start=4",)):
        steps(net, opt, method, n)
        with method.deployed():  # to look is no end
            pass
        method.finalize()
        method.finalize()


def test_a_prox_that_was_applied_by_hand_is_no_early_end() -> None:
    net = chain()
    method = lissom.proximal(Adam(net.parameters()), {lissom.weights(net): TopK(50)})
    with told():
        method.apply()
        method.finalize()


def test_a_layer_that_fills_again_is_told_as_nothing() -> None:
    net = chain()
    with torch.no_grad():
        net[2].weight.mul_(1e-4)
    opt = Adam(net.parameters(), lr=3e-2)
    method = lissom.proximal(opt, {lissom.weights(net): TopK(fraction=0.4)})
    with told():
        steps(net, opt, method, 70)
        method.finalize()


@pytest.mark.parametrize("penalty", [L0(1e3), L1(1e3), lissom.MCP(1e3, gamma=2000.0)], ids=str)
def test_a_strength_that_leaves_nothing_is_told(penalty: Any) -> None:
    net = chain()
    opt = SGD(net.parameters(), lr=0.01)
    method = lissom.proximal(opt, {lissom.weights(net): penalty})
    with told(EMPTY) as messages:
        steps(net, opt, method, 2)
        method.finalize()
    assert all(f"in {name}.weight" in messages[0] for name in "024")
    assert "A smaller strength helps" in messages[0]


def test_gates_and_learning_compression_are_told_at_their_end() -> None:
    x = torch.rand(2, 8)
    net = chain()
    gates = lissom.gate(Adam(net.parameters()), net, {lissom.neurons(net, x): L0(1e-3)})
    with torch.no_grad():
        gates.log_alpha[:16] = -9
    with told(EMPTY) as messages:
        gates.finalize()
    assert "leaves 0 of 16 groups in 0.weight" in messages[0]
    net = chain()
    with torch.no_grad():
        net[0].weight.mul_(1e-3)
    opt = SGD(net.parameters(), lr=1e-3)
    method = lissom.lc(opt, {lissom.weights(net): TopK(30)}, every=2, c_steps=2, mu=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps(net, opt, method, 4)
    assert sum(EMPTY in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("open_at_test", [8, 6, 5, 3])
def test_a_budget_that_closes_gates_at_the_end_is_told(open_at_test: int) -> None:
    net = nn.Sequential(nn.Linear(8, 10, bias=False), nn.ReLU(), nn.Linear(10, 8, bias=False))
    groups = lissom.neurons(net, torch.rand(2, 8))
    opt = Adam(net.parameters())
    method = lissom.gate(opt, net, {groups: L0(0)}, budget=Budget(weights=0.5), seed=0)
    with torch.no_grad():
        method.log_alpha.fill_(-9)[:open_at_test] = 9
    expected = ("closes",) if open_at_test > 6 else ()  # 5 are allowed; one too many is rounding
    with method.deployed():
        left = sum(int(norms.count_nonzero()) for norms in groups.norms())
    with told(*expected) as messages:
        method.finalize()
        method.finalize()
    assert left == 5 == sum(int(n.count_nonzero()) for n in groups.norms())
    if messages:
        assert "closes 3 of 8 gates that are open in evaluation, P(z ≠ 0) = 1 on" in messages[0]
        assert "128 weights are expected, and the budget is 80" in messages[0]


def test_what_is_no_layer_may_vanish() -> None:
    net = chain()
    opt = SGD(net.parameters(), lr=0.01)
    biases = lissom.weights(net, biases=True).only("*.bias")
    method = lissom.proximal(opt, {biases: L1(1e3)})
    with told():
        steps(net, opt, method, 3)
        method.finalize()
    assert not any(norms.any() for norms in biases.norms())


# Averages of one's own


def averaged(net: nn.Module) -> AveragedModel:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def zeros(net: nn.Module) -> list[Tensor]:
    return [p == 0 for name, p in net.named_parameters() if p.ndim > 1]


@pytest.mark.parametrize("make", few(METHODS.values(), SOME), ids=METHODS)
def test_an_average_of_ones_own_gets_the_zeros_and_keeps_them(make: Make) -> None:
    t = Training.of(make)
    ema = averaged(network())
    by_hand = {name: p.detach().clone() for name, p in network().named_parameters()}

    def follow() -> None:
        ema.module.load_state_dict(t.net.state_dict(), strict=False)
        for name, value in by_hand.items():
            value.lerp_(t.net.get_parameter(name).detach(), 0.1)

    for n in range(FINALIZED + 1):
        loop(t, range(n, n + 1))
        follow()
    before = {name: value.clone() for name, value in by_hand.items()}
    t.method.copy_zeros(by_hand)
    t.method.copy_zeros(ema)
    for n in range(FINALIZED + 1, FINALIZED + 4):
        loop(t, range(n, n + 1))
        follow()
    t.method.copy_zeros(before)
    for name, p in t.net.named_parameters():
        if p.ndim > 1:
            assert torch.equal(by_hand[name] == 0, p == 0) or t.method.name == "subgradient"
            assert torch.equal(before[name] == 0, p == 0) or t.method.name == "subgradient"


def test_an_averaged_model_gets_the_zeros_of_units_with_all_that_belongs_to_them() -> None:
    net = network()
    ema = averaged(net)
    ema.update_parameters(net)
    opt = Adam(net.parameters(), lr=0.01)
    method = lissom.proximal(opt, {lissom.neurons(net, torch.rand(2, 8)): TopK(9)})
    for _ in range(5):
        steps(net, opt, method, 1)
        ema.update_parameters(net)
    assert not any(z.any() for z in zeros(ema))
    with method.deployed():
        expected = zeros(net)
    kept = copy.deepcopy(ema.module.state_dict())
    method.copy_zeros(ema)  # before the end: those of now
    assert all(map(torch.equal, zeros(ema), expected)) and any(z.any() for z in expected)
    for name, tensor in ema.module.state_dict().items():
        assert torch.equal(tensor[tensor != 0], kept[name][tensor != 0])
    x = torch.rand(2, 8)
    small = lissom.shrink(ema.module, x)
    assert torch.allclose(small(x), ema(x), atol=1e-6)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_copies_that_do_not_fit_are_named_and_left_alone() -> None:
    net = network()
    method = lissom.proximal(SGD(net.parameters(), lr=0.1), {lissom.weights(net): TopK(9)})
    method.apply()
    named = dict(network().named_parameters())
    whole = {name: p.detach().clone() for name, p in named.items()}
    with pytest.raises(MethodError, match=r"^the copy has no 4\.weight\. Did you mean '2\.weight'"):
        method.copy_zeros({n: p for n, p in named.items() if n != "4.weight"})
    wrong = "2.weight of the copy is [3], and 2.weight [12, 16]"
    with pytest.raises(MethodError, match=re.escape(wrong)):
        method.copy_zeros({**named, "2.weight": torch.rand(3)})
    with pytest.raises(
        MethodError, match=r"a copy of weights is a model or \{name: tensor\}, got \["
    ):
        method.copy_zeros([*named.values()])  # type: ignore[arg-type]
    assert all(torch.equal(p, whole[name]) for name, p in named.items())


def test_a_scheduled_optimizer_and_a_budget_of_gates_tell_nothing_by_themselves() -> None:
    net = network()
    opt = Adam(net.parameters(), lr=0.01)
    groups = lissom.neurons(net, torch.rand(2, 8))
    method = lissom.gate(opt, net, {groups: L0(0)}, budget=Budget(weights=0.9), init=0.01, seed=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20)
    with told():
        for _ in range(20):
            steps(net, opt, method, 1)
            scheduler.step()
        method.finalize()


@pytest.mark.parametrize("make", few(LASTING.values(), SOME[:1]), ids=LASTING)
def test_a_whole_training_tells_nothing_of_loops(make: Make) -> None:
    t = Training.of(make)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop(t, range(FINALIZED), evaluate=True)
    found = [str(w.message) for w in caught]
    assert not any(words in text for text in found for words in (LOADED, BACK, ELSEWHERE))
