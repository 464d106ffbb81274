"""One handle and one loop: the same lines of a user's own training, under every method."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from fifth_method import Rewinding, RewindingOptions
from products import few, sampled
from proximal_cases import each
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

import lissom
from lissom import L0, L1, Budget, LissomError, TopK
from lissom.compressions import Codebook
from lissom.errors import GateError, MethodError, OptimizerError
from lissom.methods import Method, methods_on
from lissom.schedules import linear

EVERY, FINALIZED, STEPS = 6, 30, 40

Make = Callable[[Optimizer, nn.Module], Method]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def weights_by_prox(opt: Optimizer, net: nn.Module) -> Method:
    penalties = {lissom.weights(net): TopK(50)}
    return lissom.proximal(
        opt, penalties, metric="adaptive", every=4, start=5, finalize_at=FINALIZED
    )


def neurons_by_gates(opt: Optimizer, net: nn.Module) -> Method:
    groups = lissom.neurons(net, torch.rand(2, 8))
    return lissom.gate(
        opt, net, {groups: L0(1e-3)}, gate_lr=0.3, budget=Budget(weights=0.6, rate=0.1),
        finalize_at=FINALIZED, seed=1,
    )  # fmt: skip


def weights_by_gates(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.gate(
        opt,
        net,
        {lissom.weights(net): L0(3e-3)},
        gate_lr=0.3,
        start=3,
        finalize_at=FINALIZED,
        seed=1,
    )


def weights_by_lc(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.lc(opt, {lissom.weights(net): TopK(50)}, every=EVERY, c_steps=5, mu=0.1)


def codes_by_lc(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.lc(opt, {lissom.weights(net): Codebook(3)}, every=EVERY, c_steps=5)


def weights_nested(opt: Optimizer, net: nn.Module) -> Method:
    penalties = {lissom.weights(net): TopK(50)}
    return lissom.nested(opt, net, penalties, smallest=0.05, falls=9, finalize_at=FINALIZED)


def weights_in_the_loss(opt: Optimizer, net: nn.Module) -> Method:
    return lissom.subgradient(opt, {lissom.weights(net): L1(1e-2)}, start=4, finalize_at=FINALIZED)


def weights_rewound(opt: Optimizer, net: nn.Module) -> Method:
    options = RewindingOptions(every=EVERY, finalize_at=FINALIZED)
    return Rewinding(opt, {lissom.weights(net): TopK(fraction=0.2)}, options)


METHODS: dict[str, Make] = {
    "proximal": weights_by_prox,
    "gates of neurons": neurons_by_gates,
    "gates of weights": weights_by_gates,
    "lc": weights_by_lc,
    "nested": weights_nested,
    "subgradient": weights_in_the_loss,
    "a user's own": weights_rewound,
}
LASTING = {**METHODS, "lc of codes": codes_by_lc}


@dataclass
class Training:
    """All that a user's own loop holds, and how much of the optional it does."""

    net: nn.Module
    opt: Optimizer
    method: Method
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    run: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, make: Make, *, compiled: bool = False) -> "Training":
        net = network()
        opt = AdamW(net.parameters(), lr=0.01, weight_decay=0.01)
        method = make(opt, net)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        run = torch.compile(net, backend="aot_eager") if compiled else net
        return cls(net, opt, method, scheduler, scaler, run)

    def state(self) -> dict[str, Any]:
        parts = (self.method, self.net, self.opt, self.scheduler, self.scaler)
        names = ("method", "net", "opt", "scheduler", "scaler")
        state = {name: part.state_dict() for name, part in zip(names, parts, strict=True)}
        return copy.deepcopy(state)

    def load(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.net.load_state_dict(state["net"])
        self.opt.load_state_dict(state["opt"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])


def batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(3, (16,), generator=generator)
    return torch.randn(16, 8, generator=generator) + y[:, None], y


def loop(
    t: Training, steps: range, *, evaluate: bool = False, asked: int = 1, halves: int = 2
) -> None:
    """The user's loop: AMP, accumulated gradients, a scheduler, evaluations in between."""
    for n in steps:
        torch.manual_seed(n)
        t.net.train()
        t.opt.zero_grad()
        x, y = batch(n)
        for part in range(halves):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(t.run(x[part::halves]), y[part::halves])
            for _ in range(asked):
                penalty = t.method.penalty()
            t.scaler.scale((loss + penalty) / halves).backward()
        t.scaler.step(t.opt)
        t.scaler.update()
        t.scheduler.step()
        if evaluate and n % 5 == 2:
            with t.method.deployed(), torch.no_grad():
                t.net.eval()
                t.run(x)
                assert set(t.net.state_dict()) == set(network().state_dict())


def bits(net: nn.Module) -> list[tuple[str, bytes]]:
    return [(name, tensor.numpy().tobytes()) for name, tensor in net.state_dict().items()]


@pytest.fixture(autouse=True)
def _one_compilation() -> Any:
    yield
    torch._dynamo.reset()


@sampled(3)
@each("make", METHODS)
def test_the_loop_ends_in_plain_weights_whose_zeros_stay(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(FINALIZED - 1), evaluate=True)
    assert not t.method.finalized
    loop(t, range(FINALIZED - 1, FINALIZED))
    assert t.method.finalized
    assert t.method.finalized_at == FINALIZED
    assert list(t.net.state_dict()) == list(network().state_dict())
    ended = copy.deepcopy(t.net)
    dead = [p == 0 for p in ended.parameters()]
    assert sum(int(d.sum()) for d in dead) > 20 or t.method.name == "subgradient"
    if make in (weights_by_prox, weights_by_lc, weights_nested, weights_rewound):
        assert sum(int((p != 0).sum()) for p in ended.parameters() if p.ndim > 1) <= 72
    loop(t, range(FINALIZED, STEPS), evaluate=True)
    assert bits(ended) != bits(t.net)
    for d, p in zip(dead, t.net.parameters(), strict=True):
        if d.any() and p.ndim > 1:
            assert not p[d].any()
    assert all(torch.isfinite(p).all() for p in t.net.parameters())


@sampled(2)
@each("make", LASTING)
def test_looking_changes_nothing(make: Make) -> None:
    plain, looked_at = Training.of(make), Training.of(make)
    loop(plain, range(FINALIZED))
    loop(looked_at, range(FINALIZED), evaluate=True, asked=3)
    assert bits(plain.net) == bits(looked_at.net)


ANYWHERE = (2, 5, EVERY, EVERY + 3, 4 * EVERY, FINALIZED, FINALIZED + 3)


@cache
def undisturbed(make: Make) -> list[tuple[str, bytes]]:
    """How a training without a break ends."""
    whole = Training.of(make)
    loop(whole, range(STEPS))
    return bits(whole.net)


@sampled(5)
@each("make", METHODS)
@pytest.mark.parametrize("at", few(ANYWHERE, (2, EVERY + 3, FINALIZED)))
def test_a_checkpoint_anywhere_goes_on_with_the_same_bits(make: Make, at: int) -> None:
    first, second = Training.of(make), Training.of(make)
    loop(first, range(at))
    second.load(first.state())
    assert second.method.finalized == first.method.finalized
    loop(second, range(at, STEPS))
    assert bits(second.net) == undisturbed(make)


SOME = (weights_by_lc, weights_rewound)  # compiled gates are in test_gates.py


@pytest.mark.parametrize("make", few(METHODS.values(), SOME), ids=METHODS)
def test_compiled_it_ends_in_the_same_zeros(make: Make) -> None:
    plain, compiled = Training.of(make), Training.of(make, compiled=True)
    loop(plain, range(STEPS), evaluate=True)
    loop(compiled, range(STEPS), evaluate=True)
    for p, q in zip(plain.net.parameters(), compiled.net.parameters(), strict=True):
        assert torch.equal(p == 0, q == 0)
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@sampled(6)
@each("make", LASTING)
@pytest.mark.parametrize("at", [3, EVERY, EVERY + 2, 4 * EVERY])
def test_deployed_shows_what_finalize_leaves(make: Make, at: int) -> None:
    t = Training.of(make)
    loop(t, range(at))
    before, order = t.state(), list(t.net.named_parameters())
    with t.method.deployed():
        assert float(t.method.penalty()) == 0
        shown = copy.deepcopy(t.net)
    after = t.state()
    assert str(before) == str(after)
    assert [name for name, _ in order] == [name for name, _ in t.net.named_parameters()]
    t.method.finalize()
    assert bits(shown) == bits(t.net)
    ended = t.state()
    t.method.finalize()
    assert str(ended) == str(t.state())


@each("make", LASTING)
def test_deployed_between_the_forward_and_the_backward_pass(make: Make) -> None:
    one, other = Training.of(make), Training.of(make)
    for t in (one, other):
        loop(t, range(8))
        x, y = batch(8)
        torch.manual_seed(8)
        loss = F.cross_entropy(t.net.train()(x), y) + t.method.penalty()
        if t is other:
            with t.method.deployed():
                pass
        t.opt.zero_grad()
        loss.backward()
        t.opt.step()
    assert bits(one.net) == bits(other.net)


@sampled(3)
@each("make", METHODS)
def test_an_exception_while_deployed_puts_everything_back(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    before = bits(t.net)
    with pytest.raises(ZeroDivisionError), t.method.deployed():
        _ = 1 / 0
    assert bits(t.net) == before
    loop(t, range(8, STEPS))


@each("make", METHODS)
def test_steps_and_finalize_while_deployed_are_refused(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    with t.method.deployed():
        with pytest.raises(MethodError, match="finalize within deployed"):
            t.method.finalize()
        x, y = batch(8)
        F.cross_entropy(t.net(x), y).backward()
        with pytest.raises(MethodError, match="step within deployed"):
            t.opt.step()


@each("make", METHODS)
def test_a_copy_of_the_network_has_no_optimizer(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    twin = copy.deepcopy(t.net)
    x, _ = batch(0)
    t.net.eval()
    twin.eval()
    assert torch.equal(t.net(x), twin(x))
    state = t.state()
    loop(t, range(8, 12))
    assert bits(twin) == [(n, v.numpy().tobytes()) for n, v in state["net"].items()]


@each("make", METHODS)
def test_removed_it_leaves_weights_and_optimizer_alone(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    names = list(network().state_dict())
    t.method.remove()
    assert list(t.net.state_dict()) == names
    assert methods_on(t.opt) == []
    before = bits(t.net)
    assert float(t.method.penalty()) == 0
    with t.method.deployed():
        assert bits(t.net) == before
    x, y = batch(9)
    F.cross_entropy(t.net(x), y).backward()
    t.opt.step()
    assert bits(t.net) != before


NO_TERM = (
    "proximal",
    "nested",
    "lc",
    "lc of codes",
    "a user's own",
)  # nothing of theirs is in the loss


@each("make", {k: m for k, m in LASTING.items() if k not in NO_TERM})
@pytest.mark.parametrize("how", ["never asked", "asked and left out", "in the loss"])
def test_a_loop_without_the_penalty_is_told(make: Make, how: str) -> None:
    t = Training.of(make)

    def train(steps: int) -> None:
        for n in range(steps):
            x, y = batch(n)
            loss = F.cross_entropy(t.net.train()(x), y)
            penalty = 0.0 if how == "never asked" else t.method.penalty()
            if how == "in the loss":
                loss = loss + penalty
            t.opt.zero_grad()
            loss.backward()
            t.opt.step()

    if how == "in the loss":
        train(FINALIZED)
        return
    with pytest.raises(MethodError, match=r"penalty of method .* in the loss.*method\.penalty\(\)"):
        train(14)


@each("method", {"subgradient": (lissom.subgradient, L1), "gates": (lissom.gate, L0)})
def test_schedules_count_from_start(method: tuple[Any, Any]) -> None:
    make, penalty = method
    net = nn.Linear(3, 2)
    opt = SGD(net.parameters(), 0.1)
    model = [net] if make is lissom.gate else []
    ramp = {lissom.weights(net): penalty(linear(0.0, 1.0, 4))}
    made = make(opt, *model, ramp, start=2)
    found = []
    for _ in range(8):
        found.append(float(made.penalty().detach()))
        for p in opt.param_groups[0]["params"]:
            p.grad = torch.zeros_like(p)
        opt.step()
    whole = found[-1]
    assert whole > 0
    assert found == pytest.approx([0, 0, 0, whole / 4, whole / 2, 3 * whole / 4, whole, whole])


@each("make", METHODS)
def test_steps_that_are_none_move_no_clock(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    before, step = bits(t.net), t.method.step
    t.opt.zero_grad()
    t.opt.step()
    assert (bits(t.net), t.method.step) == (before, step)
    rates = [group["lr"] for group in t.opt.param_groups]
    for group in t.opt.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    t.opt.step()
    assert (bits(t.net), t.method.step) == (before, step)
    x, y = batch(8)
    t.opt.zero_grad()
    (F.cross_entropy(t.net.train()(x), y) + t.method.penalty()).backward()
    t.opt.step()
    assert t.method.step == step + 1  # a warm-up at rate 0 is one
    for group, rate in zip(t.opt.param_groups, rates, strict=True):
        group["lr"] = rate


@each("make", METHODS)
def test_states_of_others_are_refused_and_change_nothing(make: Make) -> None:
    t = Training.of(make)
    loop(t, range(8))
    state = t.method.state_dict()
    before = str(t.state())
    other = {**state, "method": "another"}
    with pytest.raises(MethodError, match="of method 'another'"):
        t.method.load_state_dict(other)
    with pytest.raises(MethodError, match="groups shaped"):
        t.method.load_state_dict({**state, "groups": [[3]]})
    with pytest.raises(MethodError, match="no state of a method"):
        t.method.load_state_dict({"step": 3})
    assert str(t.state()) == before
    t.method.finalize()
    with pytest.raises(MethodError, match="finalized"):
        t.method.load_state_dict(state)


MISTAKES: dict[str, tuple[Callable[[Optimizer, nn.Module], Any], type[LissomError], str]] = {
    "no optimizer": (
        lambda o, n: lissom.proximal(n, {lissom.weights(n): L1(1e-3)}),  # type: ignore[arg-type]
        OptimizerError,
        "torch.optim.Optimizer, got Sequential",
    ),
    "prox of another model": (
        lambda o, n: lissom.proximal(o, {lissom.weights(network()): L1(1e-3)}),
        OptimizerError,
        "does not hold 0.weight",
    ),
    "lc of another model": (
        lambda o, n: lissom.lc(o, {lissom.weights(network()): TopK(3)}, every=5),
        OptimizerError,
        "does not hold 0.weight",
    ),
    "gates of another model": (
        lambda o, n: lissom.gate(o, n, {lissom.weights(network()): L0(1e-3)}),
        GateError,
        "is not a parameter of this Sequential",
    ),
    "L0 in the loss": (
        lambda o, n: lissom.subgradient(o, {lissom.weights(n): L0(1e-3)}),
        MethodError,
        "takes penalties with a gradient.*L0.*Methods that take it: 'gates', 'lc', 'proximal'$",
    ),
    "L1 of gates": (
        lambda o, n: lissom.gate(o, n, {lissom.weights(n): L1(1e-3)}),
        MethodError,
        "'gates' takes L0.*L1.*Methods that take it: 'lc', 'proximal', 'subgradient'$",
    ),
    "no groups": (lambda o, n: lissom.proximal(o, {}), LissomError, r"\{groups: penalty\}"),
    "start": (
        lambda o, n: lissom.proximal(o, {lissom.weights(n): L1(1)}, start=-1),
        MethodError,
        "start counts steps.*-1",
    ),
    "start that is no number": (
        lambda o, n: lissom.subgradient(o, {lissom.weights(n): L1(1)}, start="soon"),  # type: ignore[arg-type]
        MethodError,
        "start counts steps.*'soon'",
    ),
    "an end before the start": (
        lambda o, n: lissom.gate(o, n, {lissom.weights(n): L0(1)}, start=9, finalize_at=9),
        MethodError,
        "finalize_at must lie after start=9.*got 9",
    ),
    "options of another method": (
        lambda o, n: Rewinding(
            o, {lissom.weights(n): TopK(fraction=0.1)}, lissom.methods.Options()
        ),
        MethodError,
        "options of 'rewinding' are a RewindingOptions",
    ),
    "options that have to be given": (
        lambda o, n: Rewinding(o, {lissom.weights(n): TopK(fraction=0.1)}),
        MethodError,
        "'every' has to be given",
    ),
}


@each("mistake", MISTAKES)
def test_mistakes_are_refused_before_anything_is_touched(
    mistake: tuple[Callable[[Optimizer, nn.Module], Any], type[LissomError], str],
) -> None:
    wrong, error, words = mistake
    net = network()
    opt = AdamW(net.parameters(), lr=0.01)
    with pytest.raises(error, match=words):
        wrong(opt, net)
    assert bits(net) == bits(network())
    assert methods_on(opt) == []
    assert len(opt.param_groups) == 1
    assert not net._forward_pre_hooks
