"""Stochastic gates against networks that multiply by z in the open, and sums by hand."""

import copy
import functools
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from gates_cases import delivered, gated, plain
from products import exhaustive, few, pairwise, sampled
from proximal_cases import each
from shrink_cases import drawn
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.checkpoint import checkpoint
from training_cases import same

import lissom
from lissom import L0, L1, L2, TopK, kernels
from lissom.coupling import channels, heads, neurons
from lissom.errors import GateError, GroupError, MethodError, OptimizerError
from lissom.groups import Groups, columns, weights
from lissom.hard_concrete import HardConcrete, logistic
from lissom.methods.gates import Budget, Gates, close_dead_gates, gate, gates_of
from lissom.schedules import linear

LAW = HardConcrete()
NAME = "lissom_log_alpha"


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
        self.head = nn.Linear(27, 5)

    def forward(self, x: Tensor, z: tuple[Any, ...] = (1, 1)) -> Tensor:
        x = self.norm1(self.conv1(x)).relu() * z[0]
        x = self.norm2(self.conv2(x)).relu() * z[1]
        return self.head(x.flatten(1))


class Residual(nn.Module):
    """Stem and block make the same channels; two layers read them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.block = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor, z: tuple[Any, ...] = (1, 1)) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.block(self.inner(x * z[0]).relu() * z[1])
        return self.head((x * z[0]).mean((2, 3)))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor, z: tuple[Any, ...] = (1, 1, 1)) -> Tensor:
        x = self.fc1(x * z[0]).relu()
        return self.fc3(self.fc2(x * z[1]).relu() * z[2])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.out, self.head = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, z: tuple[Any, ...] = (1,)) -> Tensor:
        q, k, v = (
            each(x).unflatten(-1, (3, 2)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v) * z[0]
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1)


def cnn() -> tuple[nn.Module, Tensor]:
    return drawn(Cnn()), images(4)


def residual() -> tuple[nn.Module, Tensor]:
    return drawn(Residual()), images(4)


def mlp() -> tuple[nn.Module, Tensor]:
    return drawn(Mlp()), numbers(4, 6)


def attention() -> tuple[nn.Module, Tensor]:
    return drawn(Attention()), numbers(4, 3, 6)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(n: int) -> Tensor:
    return numbers(n, 2, 5, 5)


@dataclass(frozen=True)
class Case:
    """A network with a batch and groups, which is made once: tracing takes 50 copies' time."""

    make: Callable[[], tuple[nn.Module, Tensor]]
    groups: Callable[..., Groups]
    trace: bool
    how: dict[str, bool] = field(default_factory=dict)

    def __call__(self) -> tuple[nn.Module, Tensor, Groups]:
        return copy.deepcopy(self._made)

    @functools.cached_property
    def _made(self) -> tuple[nn.Module, Tensor, Groups]:
        net, x = self.make()
        return net, x, self.of(net, x)

    def of(self, net: nn.Module, x: Tensor) -> Groups:
        return self.groups(net, x, **self.how) if self.trace else self.groups(net)


CASES: dict[str, Case] = {
    "weights": Case(mlp, weights, trace=False),
    "kernels": Case(cnn, kernels, trace=False),
    "columns": Case(mlp, columns, trace=False),
    "channels": Case(cnn, channels, trace=True),
    "residual": Case(residual, channels, trace=True),
    "neurons": Case(mlp, neurons, trace=True),
    "inputs": Case(mlp, neurons, trace=True, how={"inputs": True}),
    "heads": Case(attention, heads, trace=True),
}
BY_EXAMPLE = ("columns", "channels", "residual", "neurons", "inputs")
EVERY = [
    pytest.param(CASES[name], draws, id=f"{name}-{draws}")
    for draws in ("batch", "example")
    for name in (CASES if draws == "batch" else BY_EXAMPLE)
]
every = pytest.mark.parametrize(("make", "draws"), EVERY)
OPEN = {  # networks that take z, and how z is laid out over what they compute
    "channels": (CASES["channels"], lambda z: (z[0][..., None, None], z[1][..., None, None])),
    "residual": (CASES["residual"], lambda z: (z[0][..., None, None], z[1][..., None, None])),
    "neurons": (CASES["neurons"], lambda z: (1, z[0], z[1])),
    "inputs": (CASES["inputs"], lambda z: tuple(z)),
    "columns": (CASES["columns"], lambda z: tuple(z)),
}  # fmt: skip


def draw(gates: Gates, seed: int, examples: int | None = None) -> list[Tensor]:
    """The gates that a call after torch.manual_seed(seed) draws, in the order of the blocks."""
    like = gates.log_alpha if examples is None else gates.log_alpha.expand(examples, -1)
    torch.manual_seed(seed)
    z = LAW.sample(like, logistic(like))
    parts = z.split([b.shape.numel() for b in gates.blocks()], -1)
    return [p.unflatten(-1, b.shape) for p, b in zip(parts, gates.blocks(), strict=True)]


def called(net: nn.Module, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return net(x)


def spread_out_(gates: Gates, width: float = 2.0) -> Gates:
    """log α far from one another, so that gates are closed, open and between."""
    with torch.no_grad():
        order = torch.randperm(len(gates), generator=torch.Generator().manual_seed(5))
        gates.log_alpha.copy_(torch.linspace(-1.2 * width, 1.2 * width, len(gates))[order])
    return gates


def assert_clean(net: nn.Module) -> None:
    """No product stands where a parameter is looked for."""
    for module in net.modules():
        assert not module._parameters.keys() & module.__dict__.keys()
        assert not any(isinstance(value, Tensor) for value in module.__dict__.values())


@sampled(6)
@pairwise
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every
def test_the_model_stays_itself(make: Case, draws: Any, dtype: torch.dtype) -> None:
    net, x, _ = make()
    net.to(dtype)
    x = x.to(dtype)
    groups = make.of(net, x)
    before = dict(net.named_parameters())
    keys, kind = list(net.state_dict()), type(net)
    gates = gated(net, {groups: L0(1.0)}, draws=draws)
    after = dict(net.named_parameters())
    assert type(net) is kind
    assert set(after) == {*before, NAME} and set(net.state_dict()) == {*keys, NAME}
    assert all(after[name] is p for name, p in before.items())
    assert gates.log_alpha is after[NAME] and gates_of(net) is gates
    assert len(gates) == len(groups) == gates.log_alpha.numel()
    net.train()
    found = [net(x) for _ in range(3)]
    assert all(y.dtype == dtype and y.isfinite().all() for y in found)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    assert_clean(net)
    torch.testing.assert_close(called(net, x, 1), called(net, x, 1), rtol=0, atol=0)
    found[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in after.values())
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
    assert_clean(net)
    assert all(dict(net.named_parameters())[name] is p for name, p in before.items())


@every
def test_an_exception_leaves_it_clean(make: Case, draws: Any) -> None:
    """In a layer, before the first layer, and for inputs of a wrong shape."""
    net, x, groups = make()
    gated(net, {groups: L0(1.0)}, draws=draws)
    net.train()

    def fails(*_: Any) -> None:
        raise RuntimeError("on purpose")

    last = list(net.children())[-1]
    for module in (last, net):
        for hook in (module.register_forward_pre_hook(fails), module.register_forward_hook(fails)):
            with pytest.raises(RuntimeError, match="on purpose"):
                net(x)
            assert_clean(net)
            hook.remove()
    with pytest.raises(RuntimeError):
        net(x.flatten(1)[:, :-1])
    assert_clean(net)
    assert net(x).isfinite().all()
    assert not torch.equal(net(x), net(x))


@every
def test_seeds(make: Case, draws: Any) -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(found))  # the global generator does not matter
        net, x, groups = make()
        gated(net, {groups: L0(1.0)}, draws=draws, seed=seed)
        state = torch.get_rng_state()
        net.train()
        found.append([net(x) for _ in range(3)])
        assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(*found, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.equal(found[0][0], found[0][1])


@pairwise
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("draws", ["batch", "example"])
@each("name", {name: name for name in OPEN})
def test_forward_against_activations_times_z(name: str, draws: Any, training: bool) -> None:
    """Behind normalisations, all members of a unit by one draw, gradients too."""
    make, laid_out = OPEN[name]
    net, x, groups = make()
    gates = spread_out_(gated(net, {groups: L0(1.0)}, draws=draws, test="median"), 1.0)
    net.train(training)
    reference = plain(gates).train(training)
    examples = len(x) if draws == "example" else None
    z = draw(gates, 11, examples) if training else gates.test_gates()
    if examples is None or not training:
        z = [one[None] for one in z]
    assert len({float(v) for one in z for v in one.flatten()}) > 2
    expected = reference(x, laid_out(z))
    found = called(net, x, 11)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, plain(gates).train(training)(x))  # z has an effect
    [mine] = torch.autograd.grad(found.square().sum(), gates.log_alpha, retain_graph=True)
    [theirs] = torch.autograd.grad(expected.square().sum(), gates.log_alpha)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert mine.any()
    found.square().sum().backward()
    reference.zero_grad()
    fixed = tuple(o.detach() if isinstance(o, Tensor) else o for o in laid_out(z))
    reference(x, fixed).square().sum().backward()
    own = dict(net.named_parameters())
    for key, p in reference.named_parameters():
        torch.testing.assert_close(own[key].grad, p.grad, rtol=1e-9, atol=1e-10)


def test_heads_against_mixed_values_times_z() -> None:
    net, x, groups = CASES["heads"]()
    gates = spread_out_(gated(net, {groups: L0(1.0)}))
    net.train()
    [z] = draw(gates, 7)
    expected = plain(gates).train()(x, (z[:, None, None],))
    torch.testing.assert_close(called(net, x, 7), expected, rtol=1e-12, atol=1e-12)


@each("name", {k: k for k in ("weights", "kernels")})
def test_weights_times_z(name: str) -> None:
    net, x, groups = CASES[name]()
    gates = spread_out_(gated(net, {groups: L0(1.0)}))
    net.train()
    reference = plain(gates).train()
    with torch.no_grad():
        for block, z in zip(gates.blocks(), draw(gates, 7), strict=True):
            weight = reference.get_parameter(block.name)
            weight.mul_(z[..., None, None] if name == "kernels" else z)
    torch.testing.assert_close(called(net, x, 7), reference(x), rtol=1e-12, atol=1e-12)


@sampled(1)
@each("make", {k: CASES[k] for k in ("weights", "columns", "neurons", "inputs")})
def test_at_first_it_computes_what_it_did_on_average(make: Case) -> None:
    """For a network that is linear in each z."""
    net, x, _ = make()
    net.forward = None  # the class' forward has ReLUs
    linear_net = nn.Sequential(net.fc1, net.fc2, net.fc3)
    groups = make.of(linear_net, x)
    with torch.no_grad():
        for p in linear_net.parameters():
            p.mul_(0.5)
        expected = linear_net(x)
    gated(linear_net, {groups: L0(1.0)}, init=0.3)
    linear_net.train()
    torch.manual_seed(0)
    with torch.no_grad():
        found = torch.stack([linear_net(x) for _ in range(4000)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() <= 5 * error).all()
    assert float(error.max()) < 0.1 * float(expected.std())


@every
def test_gradients_against_finite_differences(make: Case, draws: Any) -> None:
    net, x, groups = make()
    gates = gated(net, {groups: L0(1.0)}, draws=draws)
    net.train()

    def loss() -> Tensor:
        return called(net, x, 1).square().mean()

    [found] = torch.autograd.grad(loss(), gates.log_alpha)
    h = 1e-6
    with torch.no_grad():
        for i in range(len(gates)):
            value = gates.log_alpha[i].clone()
            gates.log_alpha[i] = value + h
            above = loss()
            gates.log_alpha[i] = value - h
            below = loss()
            gates.log_alpha[i] = value
            assert float(found[i]) == pytest.approx(float((above - below) / (2 * h)), abs=1e-6)
    assert found.any()


def in_group(groups: Groups) -> Iterator[tuple[int, float]]:
    """(weights that the norm counts, their sum of squares) of each group, one by one."""
    for block in groups:
        norms = block.norms().detach().flatten()
        for i in range(len(norms)):
            n = sum(int((m.spread.numbers().expand_as(m.tensor) == i).sum()) for m in block.normed)
            yield n, float(norms[i] ** 2)


@pytest.mark.parametrize("per", ["weight", "group"])
@each("make", CASES)
def test_penalty_by_hand(make: Case, per: Any) -> None:
    net, _, groups = make()
    optimizer = SGD(net.parameters(), 0.0)  # its steps move nothing
    penalty = L0(linear(0.0, 2.0, steps=4)) + L2(0.5)
    gates = gate(optimizer, net, {groups: penalty}, per=per, gate_lr=0.0, detach_l2=False)
    spread_out_(gates)
    net.train()
    for step in range(6):
        chances = torch.sigmoid(gates.log_alpha - LAW.beta * torch.log(torch.tensor(0.1 / 1.1)))
        l0 = min(2.0, 0.5 * step)
        expected = sum(
            p * (l0 * (n if per == "weight" else 1) + 0.5 * square)
            for p, (n, square) in zip(chances, in_group(groups), strict=True)
        )
        torch.testing.assert_close(gates.penalty(), expected.to(torch.float64))
        assert gates.step == step
        gates.penalty().backward()
        optimizer.step()


@pytest.mark.parametrize("start", [0, 2])
def test_asking_for_the_penalty_changes_nothing(start: int) -> None:
    """Schedules and multipliers move with the steps of the optimizer, from `start` on."""
    net, x, _ = CASES["neurons"]()
    asked, other = (copy.deepcopy(net) for _ in range(2))
    found = []
    for net, asks in ((asked, 3), (other, 0)):
        optimizer = Adam(net.parameters(), 0.01)
        gates = gate(
            optimizer, net, {neurons(net, x): L0(linear(0, 0.1, 4))}, seed=1, start=start,
            budget=Budget(weights=linear(0.6, 0.5, 4)),
        )  # fmt: skip
        [budget] = gates.constraints
        for n in range(6):
            before = gates.state_dict()
            for _ in range(asks):
                net.eval()
                value = gates.penalty()
                net.train()
                with torch.no_grad():
                    assert gates.penalty() == value
                with gates.deployed():
                    assert gates.penalty() == 0
                assert gates.penalty() == value and gates.penalty().requires_grad == (n >= start)
            assert gates.state_dict() == before
            assert (gates.step, gates.now) == (n, max(0, n - start))
            if n < start:
                assert gates.penalty() == 0
            train(net, gates, optimizer, x, 1)
            for _ in range(asks):
                gates.penalty()
            assert (float(budget.multiplier) > 0) == (n >= start)
        found.append([*net.parameters(), budget.multiplier])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


def test_a_forgotten_penalty_is_told() -> None:
    """Also one that was asked for, and is missing from the loss."""
    net, x, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.1)}, start=2)
    net.train()
    for n in range(12):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        gates.penalty()
        if n < 11:
            optimizer.step()
    with pytest.raises(MethodError, match=r"10 steps .*method 'gates'.*\+ method\.penalty\(\)"):
        optimizer.step()


@pytest.mark.parametrize("detach", [True, False])
@each("make", CASES)
def test_gradient_of_the_penalty(make: Case, detach: bool) -> None:
    """The L2 part moves log α only if it is not detached, and the weights by 2λ₂ p w."""
    net, _, groups = make()
    gates = spread_out_(gated(net, {groups: L0(0.3) + L2(0.5)}, detach_l2=detach))
    net.train()
    (3 * gates.penalty()).backward()  # of a loss that is scaled, say
    p = torch.cat([q.flatten() for q in gates.p_nonzero()]).detach()
    slopes = torch.tensor([0.3 * n + (0 if detach else 0.5 * s) for n, s in in_group(groups)])
    torch.testing.assert_close(gates.log_alpha.grad, 3 * p * (1 - p) * slopes.to(p))
    for block, chance in zip(gates.blocks(), gates.p_nonzero(), strict=True):
        for parameter in block.parameters:
            paid = (parameter.grad * parameter).sum() if len(block.parameters) == 1 else None
            if paid is not None:
                squares = (chance * block.norms().square()).sum()
                torch.testing.assert_close(paid, 3 * 2 * 0.5 * squares)


@sampled(1)
@pytest.mark.parametrize(
    "name", few([name for name in CASES if name != "heads"], ("kernels", "residual"))
)
def test_expected_against_draws(name: str) -> None:
    """Networks drawn, shrunk and measured; their average is the expectation."""
    net, x, groups = CASES[name]()
    gates = gated(net, {groups: L0(1.0)}, example_inputs=x, init=0.4)
    p = torch.cat([q.detach().flatten() for q in gates.p_nonzero()])
    expected = {cost: gates.expected(cost).item() for cost in ("weights", "macs")}
    single = groups.blocks[0].macs is None
    generator = torch.Generator().manual_seed(1)
    found: dict[str, list[float]] = {"weights": [], "macs": []}
    shrunk = 0
    for _ in range(400):
        z = torch.bernoulli(p, generator=generator)
        with torch.no_grad():
            gates.log_alpha.copy_(torch.where(z > 0, 60.0, -60.0))
        here = {cost: gates.expected(cost).item() for cost in found}
        for cost, value in here.items():
            found[cost].append(value)
        parts = z.split([block.shape.numel() for block in groups])
        if shrunk == 4 or not (single or all(part.any() for part in parts)):
            continue  # shrink leaves one unit in each layer
        shrunk += 1
        hard = delivered(gates)
        if single:
            left = sum(int(torch.count_nonzero(p)) for p in hard.parameters())
            macs = lissom.measure(hard, x).effective_macs
        else:
            small = lissom.shrink(hard, x, inputs=True, verify=False)
            left = sum(p.numel() for p in small.parameters())
            macs = lissom.measure(small, x).macs
        assert macs is not None
        assert here["weights"] == pytest.approx(left)
        assert here["macs"] == pytest.approx(macs, abs=1 if single else 1e-6)
    assert shrunk == 4
    for cost, values in found.items():
        drawn_costs = torch.tensor(values, dtype=torch.float64)
        error = float(drawn_costs.std()) / len(values) ** 0.5
        assert abs(float(drawn_costs.mean()) - expected[cost]) <= 4 * error


class Skip(nn.Module):
    """Both sides of `inner` are the same four units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.inner(x).relu())


def test_expected_of_units_on_both_sides_of_a_weight() -> None:
    """E[k²] = (E k)² + Var k: k units alive, by the probability of each of their 16 subsets."""
    net, x = drawn(Skip()), numbers(4, 6)
    gates = spread_out_(gated(net, {neurons(net, x): L0(1.0)}, example_inputs=x))
    [chances] = [p.tolist() for p in gates.p_nonzero()]
    assert len(chances) == 4 and max(chances) - min(chances) > 0.5
    weights = macs = 0.0
    for alive in itertools.product((False, True), repeat=4):
        chance = math.prod(p if on else 1 - p for p, on in zip(chances, alive, strict=True))
        k = sum(alive)
        weights += chance * (6 * k + k + k * k + k + 5 * k + 5)
        macs += chance * (6 * k + k * k + 5 * k)
    assert gates.expected("weights").item() == pytest.approx(weights)
    assert gates.expected("macs").item() == pytest.approx(macs)
    assert gates.expected({"inner.weight": 2.0}).item() == pytest.approx(
        2 * (sum(chances) ** 2 + sum(p * (1 - p) for p in chances))
    )


@each("make", CASES)
def test_expected_costs_are_consistent(make: Case) -> None:
    """By bytes, by cost per weight, by groups; differentiable; all open is the whole network."""
    net, x, groups = make()
    total = sum(p.numel() for p in net.parameters())
    before = {name: p.numel() for name, p in net.named_parameters()}
    gates = spread_out_(gated(net, {groups: L0(1.0)}, example_inputs=x))
    assert gates.total() == total and gates.total("bytes") == 8 * total
    assert gates.expected("bytes").item() == pytest.approx(8 * gates.expected().item())
    ones = dict.fromkeys(before, 1.0)
    assert gates.expected(ones).item() == pytest.approx(gates.expected().item())
    p = torch.cat([q.flatten() for q in gates.p_nonzero()])
    assert gates.expected("groups").item() == pytest.approx(float(p.detach().sum()))
    parts = sum(gates.expected({name: 3.0}).item() for name in before)
    assert parts == pytest.approx(3 * gates.expected().item())
    for cost in ("weights", "bytes", "macs", "groups"):
        [gradient] = torch.autograd.grad(gates.expected(cost), gates.log_alpha)
        assert (gradient >= 0).all() and gradient.any()
        assert 0 < gates.expected(cost).item() < gates.total(cost)


@sampled(8)
@pairwise
@pytest.mark.parametrize("test", few(["published", "median", "mean", "mode"], ["median", "mean"]))
@every
def test_finalize(make: Case, draws: Any, test: str) -> None:
    net, x, groups = make()
    keys, hooks = list(net.state_dict()), len(net._forward_pre_hooks)
    gates = spread_out_(gated(net, {groups: L0(1.0)}, draws=draws, test=test), 4.0)
    z = gates.test_gates()
    closed = sum(int((one == 0).sum()) for one in z)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        copied = delivered(gates)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=0)  # it keeps its gates
        assert gates_of(net) is gates and not gates.finalized
        other = gates_of(copy.deepcopy(net))
        other.finalize()
        gates.finalize()
        assert gates.finalized and gates.finalized_at == 0
        torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(copied(x), net(x), rtol=0, atol=0)
        torch.testing.assert_close(other.model(x), net(x), rtol=0, atol=0)
    assert closed == 0 if test == "mean" else 0 < closed < len(gates)
    assert sum(int((norms == 0).sum()) for norms in groups.norms()) == closed
    before = [p.clone() for p in net.parameters()]
    gates.finalize()
    with gates.deployed():
        assert gates.penalty() == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    for left in (net, copied, other.model, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert list(left.state_dict()) == keys and not hasattr(left, NAME)
        assert all(
            len(m._forward_pre_hooks) == hooks and not m._forward_hooks for m in left.modules()
        )
        assert_clean(left)
        with pytest.raises(GateError, match="has no gates"):
            gates_of(left)
    small = lissom.shrink(net, x, verify=False)
    torch.testing.assert_close(small(x), net(x), rtol=1e-10, atol=1e-10)
    if closed and gates.blocks()[0].macs is not None:
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


TABLES = (
    "_parameters",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_always_called",
)


def tables(net: nn.Module) -> list[list[tuple[Any, Any]]]:
    """Parameters and hooks of all modules, in their order."""
    return [list(getattr(m, table).items()) for m in net.modules() for table in TABLES]


@pairwise
@pytest.mark.parametrize("budget", [None, Budget(weights=0.7)], ids=["gates", "budget"])
@every
def test_deployed_puts_everything_back(make: Case, draws: Any, budget: Budget | None) -> None:
    """Bit for bit, with the order of parameters and of hooks, other people's among them."""
    net, x, groups = make()
    last = list(net.children())[-1]
    for module in (net, last):
        module.register_forward_pre_hook(lambda *_: None)
    optimizer = Adam(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.1)}, draws=draws, budget=budget, seed=1, init=0.3)
    net.register_forward_pre_hook(lambda *_: None, prepend=True)
    last.register_forward_hook(lambda *_: None)
    train(net, gates, optimizer, x, 2)
    spread_out_(gates, 4.0)
    twin = copy.deepcopy(net)
    loss, expected = (
        one(x).square().mean() + gates_of(one).penalty() for one in (net, twin)
    )  # whose backward pass comes later
    there, hung = dict(net.named_parameters()), tables(net)
    states = [net.state_dict(), optimizer.state_dict(), gates.state_dict()]
    before, where = copy.deepcopy(states), [p.data_ptr() for p in net.parameters()]

    with pytest.raises(RuntimeError, match="on purpose"), gates.deployed():
        assert NAME not in net.state_dict() and gates.log_alpha is there[NAME]
        assert all(p is there[name] for name, p in net.named_parameters())
        assert len(net._forward_pre_hooks) == 2 and len(last._forward_hooks) == 1
        late = net.register_forward_hook(lambda *_: None)
        with torch.no_grad():
            other = copy.deepcopy(net).train()
            assert torch.equal(other(x), other(x))  # nothing is drawn
            for block in gates.blocks():
                for parameter in block.tensors():
                    parameter.fill_(7.0)
        with gates.deployed(), pytest.raises(MethodError, match="within deployed"):
            gates.finalize()
        raise RuntimeError("on purpose")

    assert late.id in net._forward_hooks
    late.remove()
    assert tables(net) == hung
    assert list(net.named_parameters()) == list(there.items())
    assert [p.data_ptr() for p in net.parameters()] == where
    assert same([net.state_dict(), optimizer.state_dict(), gates.state_dict()], before)
    net.zero_grad()
    loss.backward()
    expected.backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    assert torch.equal(net(x), twin(x)) and net.training


def test_a_step_while_it_is_deployed_is_told() -> None:
    net, x, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.1)
    gates = gate(optimizer, net, {groups: L0(0.1)})
    with gates.deployed(), pytest.raises(MethodError, match="step outside"):
        net(x).sum().backward()
        optimizer.step()


def test_zeros_stay_and_the_rest_is_fine_tuned() -> None:
    """After `finalize_at` steps, with momentum; the optimizer no longer knows of gates."""
    for make in (CASES["weights"], CASES["neurons"]):
        net, x, groups = make()
        optimizer = SGD(net.parameters(), 0.01, momentum=0.9)
        gates = gate(optimizer, net, {groups: L0(0.0)}, finalize_at=3, test="median", seed=1)
        log_alpha = gates.log_alpha
        train(net, gates, optimizer, x, 2)
        spread_out_(gates)
        assert not gates.finalized and log_alpha in optimizer.state
        train(net, gates, optimizer, x, 1)
        assert gates.finalized and gates.finalized_at == gates.step == 3
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert set(held) == set(net.parameters()) and not optimizer.state
        before = [p.detach().clone() for p in net.parameters()]
        dead = [norms == 0 for norms in groups.norms()]
        assert 0 < sum(int(one.sum()) for one in dead) < len(gates)
        train(net, gates, optimizer, x, 3)
        assert gates.step == 6 and gates.finalized_at == 3
        for block, zero, norms in zip(groups, dead, groups.norms(), strict=True):
            assert torch.equal(norms == 0, zero), block.name
        assert not any(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_removed_gates_leave_the_weights_as_they_are() -> None:
    net, x, groups = CASES["neurons"]()
    optimizer = Adam(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.1)})
    train(net, gates, optimizer, x, 1)
    before = {name: p.detach().clone() for name, p in net.named_parameters() if name != NAME}
    gates.remove()
    assert gates.finalized and gates.penalty() == 0
    assert same(dict(net.named_parameters()), before)
    gates.remove()
    with pytest.raises(GateError, match="are gone"):
        _ = gates.log_alpha
    train(net, gates, optimizer, x, 1)
    assert gates.step == 1, "the optimizer's hook is off"
    gate(optimizer, net, {groups: L0(0.1)})


@each("make", CASES)
def test_samples_are_plain_networks(make: Case) -> None:
    net, x, groups = make()
    gates = gated(net, {groups: L0(1.0)})
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, again = (list(gates.sample(3, seed=5)) for _ in range(2))
    assert len(first) == 3
    for a, b in zip(first, again, strict=True):
        assert type(a) is type(net) and NAME not in a.state_dict()
        torch.testing.assert_close(a(x), b(x), rtol=0, atol=0)
    assert not torch.equal(first[0](x), first[1](x))
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    torch.manual_seed(3)
    [one] = gates.sample()
    torch.testing.assert_close(one(x), called_in_training(net, x, 3), rtol=1e-12, atol=1e-12)


def called_in_training(net: nn.Module, x: Tensor, seed: int) -> Tensor:
    """A random call whose normalisations use their statistics, as in evaluation mode."""
    net.training = True
    found = called(net, x, seed)
    net.training = False
    return found


def by_torch(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pairwise
@each("copied", {"deepcopy": copy.deepcopy, "torch.save": by_torch})
@every
def test_copies_go_on(make: Case, draws: Any, copied: Any) -> None:
    """A copy trains exactly as the original does, and the two do not touch one another."""
    net, x, groups = make()
    optimizer = Adam(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.01)}, draws=draws, seed=1)
    train(net, gates, optimizer, x, 1)
    other = copied(net)
    theirs = gates_of(other)
    assert theirs is not gates and theirs.log_alpha is other.get_parameter(NAME)
    assert (theirs.drawn, theirs.step) == (gates.drawn, gates.step) == (1, 1)
    assert theirs.optimizer is None, "the original's belongs to other parameters"
    before = {name: p.detach().clone() for name, p in other.named_parameters()}
    kept = copy.deepcopy(optimizer.state_dict())
    train(net, gates, optimizer, x)
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())
    rest = [p for p in other.parameters() if p is not theirs.log_alpha]
    own = Adam([{"params": rest}, {"params": [theirs.log_alpha]}])
    own.load_state_dict(kept)
    train(other, theirs, own, x)
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert not torch.equal(before[NAME], gates.log_alpha)
    theirs.remove()
    assert NAME not in other.state_dict() and gates_of(net) is gates


def train(net: nn.Module, gates: Gates, optimizer: Optimizer, x: Tensor, steps: int = 3) -> None:
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x).square().mean() + gates.penalty()).backward()
        optimizer.step()


def resumable(**options: Any) -> tuple[nn.Module, Gates, Optimizer, Tensor]:
    net, x, groups = CASES["channels"]()
    optimizer = Adam(net.parameters(), 0.05)
    given = {"seed": 1, "start": 2, "finalize_at": 6, "budget": Budget(weights=0.5), **options}
    penalties = {groups: L0(linear(0, 1, steps=10))}
    return net, gate(optimizer, net, penalties, example_inputs=x, **given), optimizer, x


@pytest.mark.parametrize("n", [1, 4, 6, 8])
def test_a_saved_state_goes_on(n: int) -> None:
    """Taken before gates are penalised, while they are, and after the end."""
    net, gates, optimizer, x = resumable()
    train(net, gates, optimizer, x, n)
    file = io.BytesIO()
    torch.save([gates.state_dict(), net.state_dict(), optimizer.state_dict()], file)
    train(net, gates, optimizer, x)
    other, theirs, own, _ = resumable()
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for one, state in zip((theirs, other, own), states, strict=True):
        one.load_state_dict(state)
    assert same([theirs.state_dict(), other.state_dict(), own.state_dict()], states)
    assert theirs.finalized == (n >= 6) and (NAME in other.state_dict()) == (n < 6)
    train(other, theirs, own, x)
    assert same(other.state_dict(), net.state_dict())
    assert same(own.state_dict(), optimizer.state_dict())
    assert same(theirs.state_dict(), gates.state_dict())


def test_states_of_others_are_refused() -> None:
    _, gates, _, _ = resumable()
    state = gates.state_dict()
    _, other, _, _ = resumable(budget=Budget(macs=0.5))
    with pytest.raises(GateError, match=r"budgets of .*weights.*macs"):
        other.load_state_dict(state)
    net, _, groups = CASES["neurons"]()
    with pytest.raises(MethodError, match="groups shaped"):
        gated(net, {groups: L0(1.0)}).load_state_dict(state)
    with pytest.raises(MethodError, match="of method 'lc', this is 'gates'"):
        gates.load_state_dict({**state, "method": "lc"})
    gates.finalize()
    with pytest.raises(MethodError, match="make a new one"):
        gates.load_state_dict(state)


@exhaustive
@pytest.mark.parametrize("draws", few(["batch", "example"], ["example"]))
@pytest.mark.filterwarnings("ignore")
def test_compiled(draws: Any) -> None:
    """In one graph: fresh draws at each call, the right gradients, and evaluation mode."""
    net, x, groups = CASES["channels"]()
    gates = spread_out_(gated(net, {groups: L0(1.0)}, draws=draws))
    fast = torch.compile(net, fullgraph=True, backend="aot_eager")
    net.train()
    gates_before = gates.log_alpha.detach().clone()
    torch.manual_seed(1)
    found = [fast(x) for _ in range(4)]
    assert len({float(y.detach().sum()) for y in found}) == 4
    torch.manual_seed(1)
    expected = [net(x) for _ in range(4)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    grads = [
        torch.autograd.grad(y[0].square().sum(), list(net.parameters())) for y in (found, expected)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(gates.log_alpha, gates_before)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x))
        torch.testing.assert_close(fast(x), fast(x), rtol=0, atol=0)
    assert_clean(net)


@exhaustive
@pytest.mark.filterwarnings("error:Dynamo detected")
def test_what_was_compiled_without_gates_is_not_used_with_them() -> None:
    """Nor the other way round: torch shares compiled code among models of a class."""
    torch._dynamo.reset()
    for _ in range(2):
        net, x, groups = CASES["weights"]()
        fast = torch.compile(net.train(), backend="eager")
        gates = spread_out_(gated(net, {groups: L0(1.0)}))
        assert not torch.equal(fast(x), fast(x))
        gates.finalize()
        torch.testing.assert_close(fast(x), net(x))
        torch.testing.assert_close(fast(x), fast(x))


@exhaustive
@pytest.mark.parametrize("draws", few(["batch", "example"], ["example"]))
@pytest.mark.parametrize("seed", few([None, 3], [3]))
@pytest.mark.filterwarnings("ignore")
def test_evaluations_between_compiled_steps_compile_nothing_anew(
    draws: Any, seed: int | None
) -> None:
    """Neither as deployed nor with gates, after the first of each."""
    net, x, groups = CASES["channels"]()
    optimizer = SGD(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.1)}, draws=draws, seed=seed)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(net, backend=counter)
    compiled = []
    for _ in range(6):
        train(fast, gates, optimizer, x, 3)
        fast.eval()
        with torch.no_grad():
            expected = fast(x)
            with gates.deployed():
                torch.testing.assert_close(fast(x), expected)
                torch.testing.assert_close(net(x), expected)
        compiled.append(counter.frame_count)
    assert len(set(compiled[2:])) == 1, compiled
    gates.finalize()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x))


@each("make", {k: CASES[k] for k in ("weights", "channels", "heads")})
def test_autocast(make: Case) -> None:
    net, x, _groups = make()
    net.float()
    x = x.float()
    gates = gated(net, {make.of(net, x): L0(1.0)})
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        low = called(net, x, 1)
    high = called(net, x, 1)
    assert low.dtype == torch.bfloat16 and gates.log_alpha.dtype == torch.float32
    assert (low - high).abs().max() < 0.1 * high.abs().max()
    low.float().square().mean().backward()
    assert gates.log_alpha.grad is not None and gates.log_alpha.grad.isfinite().all()


class Checkpointed(nn.Module):
    def __init__(self, again: bool) -> None:
        super().__init__()
        self.first, self.second, self.again = nn.Linear(6, 5), nn.Linear(5, 4), again
        self.third = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        def part(x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh()).tanh()

        x = checkpoint(part, x, use_reentrant=False) if self.again else part(x)
        return self.third(x)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("draws", ["batch", "example"])
def test_activation_checkpointing(draws: Any, seed: int | None) -> None:
    """What the backward pass runs again sees the same draw."""
    found = []
    for again in (True, False):
        net = drawn(Checkpointed(again))
        x = numbers(4, 6)
        torch.manual_seed(0)
        gated(net, {columns(net): L0(1.0)}, draws=draws, seed=seed)
        net.train()
        with torch.no_grad():
            net.get_parameter(NAME).copy_(numbers(15, seed=5))
        for n in range(2):  # draws of their own, whose gradients add up
            called(net, x, n).square().sum().backward()
        found.append([p.grad for p in net.parameters()])
        assert_clean(net)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("draws", ["batch", "example"])
def test_checkpointing_of_two_passes_at_once_is_refused(draws: Any) -> None:
    """Which of the two draws a part that is run again belongs to cannot be known."""
    net, x = drawn(Checkpointed(True)), numbers(4, 6)
    gates = gated(net, {columns(net): L0(1.0)}, draws=draws)
    net.train()
    loss = gates.expected_loss(lambda: net(x).square().sum(), samples=2)
    with pytest.raises(GateError, match="several forward passes wait"):
        loss.backward()
    net(x).square().sum()  # nobody wants its gradient
    loss = net(x).square().sum()
    del loss
    net.zero_grad()
    net(x).square().sum().backward()
    assert gates.log_alpha.grad is not None


def test_a_layer_that_is_called_on_its_own_has_no_draw_of_examples() -> None:
    net, x = drawn(Checkpointed(False)), numbers(4, 6)
    gated(net, {columns(net): L0(1.0)}, draws="example")
    net(x)
    with pytest.raises(
        GateError, match=r"first\.weight was used outside a call of the gated model"
    ):
        net.first(x)


@each("change", {"half": nn.Module.half, "bfloat16": nn.Module.bfloat16, "float": nn.Module.float})
@each("make", CASES)
def test_another_precision_after_gating(make: Case, change: Any) -> None:
    net, x, groups = make()
    gates = gated(net, {groups: L0(1.0) + L2(0.1)})
    change(net)
    x = x.to(next(net.parameters()).dtype)
    assert gates.log_alpha is net.get_parameter(NAME)
    net.train()
    (net(x).square().mean() + gates.penalty()).backward()
    assert gates.log_alpha.grad is not None and gates.log_alpha.grad.isfinite().all()
    net.eval()
    with torch.no_grad():
        expected = net(x)
        gates.finalize()
        torch.testing.assert_close(net(x), expected, rtol=5e-2, atol=5e-2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 7, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.inner(self.embedding(x)).tanh())


def test_tied_weights_see_one_draw() -> None:
    net = drawn(Tied())
    x = torch.tensor([[0, 1, 2], [3, 4, 6]])
    gates = spread_out_(gated(net, {weights(net): L0(1.0)}))
    net.train()
    embedding, inner = draw(gates, 2)
    table = net.embedding.weight * embedding
    expected = F.embedding(x, table) @ (net.inner.weight * inner).T + net.inner.bias
    torch.testing.assert_close(called(net, x, 2), expected.tanh() @ table.T)
    assert net.decoder.weight is net.embedding.weight
    spread_out_(gates, 4.0)
    with gates.deployed():
        assert net.decoder.weight is net.embedding.weight and (net.embedding.weight == 0).any()
    assert net.decoder.weight is net.embedding.weight and (net.embedding.weight != 0).all()
    gates.finalize()
    assert net.decoder.weight is net.embedding.weight and (net.embedding.weight == 0).any()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_neurons_of_an_lstm() -> None:
    """A gate multiplies the state wherever it is read: by the layer itself, and by the next."""
    net, x = drawn(Recurrent()), numbers(4, 6, 3)
    gates = spread_out_(gated(net, {neurons(net, x): L0(1.0)}))
    net.train()
    [z] = draw(gates, 2)
    reference = plain(gates)
    lstm, h, c = reference.lstm, torch.zeros(4, 5).double(), torch.zeros(4, 5).double()
    for t in range(6):
        made = x[:, t] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0
        i, f, g, o = (made + (h * z) @ lstm.weight_hh_l0.T + lstm.bias_hh_l0).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    torch.testing.assert_close(called(net, x, 2), reference.head(h * z))
    net.eval()
    with torch.no_grad():
        expected = net(x)
        with gates.deployed():
            torch.testing.assert_close(net(x), expected)
        assert torch.equal(net(x), expected)
        gates.finalize()
        small = lissom.shrink(net, x)
        torch.testing.assert_close(small(x), expected)
    assert small.lstm.hidden_size < 5


def budgeted() -> tuple[nn.Module, Gates, Optimizer, Tensor]:
    net, x, groups = CASES["neurons"]()
    optimizer = Adam(net.parameters(), 1e-4)
    gates = gate(
        optimizer, net, {groups: L0(0.0)}, gate_lr=0.05, init=0.1, example_inputs=x, seed=1,
        budget=Budget(weights=0.6, rate=0.01),
    )  # fmt: skip
    return net, gates, optimizer, x


def test_budgets_are_reached() -> None:
    net, x, _ = CASES["neurons"]()
    target = net(x).detach()
    net, gates, optimizer, _ = budgeted()
    net.train()
    start = gates.expected().item() / gates.total()
    multipliers = []
    for _ in range(300):
        optimizer.zero_grad()
        (0.1 * F.mse_loss(net(x), target) + gates.penalty()).backward()
        optimizer.step()
        multipliers.append(float(gates.constraints[0].multiplier))
    assert start > 0.65 and gates.expected().item() / gates.total() == pytest.approx(0.6, abs=0.08)
    assert max(multipliers) > 0 and multipliers[0] > 0
    state = gates.state_dict()
    _, again, _, _ = budgeted()
    again.load_state_dict(state)
    assert float(again.constraints[0].multiplier) == pytest.approx(multipliers[-1])
    assert again.step == 300
    with gates.deployed():
        left = lissom.shrink(copy.deepcopy(net).eval(), x)
    assert sum(p.numel() for p in left.parameters()) <= 0.6 * gates.total()


def test_multipliers_move_by_their_rule() -> None:
    """λ ← max(0, λ + ηe) after each step, e = ρ·log(E[size]/target) cut off to [−2, 1]."""
    net, gates, optimizer, x = budgeted()
    [one] = gates.constraints
    multiplier = 0.0
    for size in (0.9, 0.62, 0.59, 0.5, 0.3, 0.62):
        with torch.no_grad():
            gates.log_alpha.fill_(bisected(gates, size))
        violation = torch.log(gates.expected() / gates.total() / 0.6).item()
        error = min(1.0, max(-2.0, 30 * violation))
        value = gates.penalty().item()
        assert value == pytest.approx(multiplier * (1 + error) * violation, abs=1e-9)
        train(net, gates, optimizer, x, 1)
        multiplier = max(0.0, multiplier + 0.01 * error)
        assert float(one.multiplier) == pytest.approx(multiplier, abs=1e-9)


def bisected(gates: Gates, size: float) -> float:
    """log α of all gates at which so much of the network is expected to be left."""
    low, high = -10.0, 10.0
    for _ in range(60):
        gates.log_alpha.fill_(middle := (low + high) / 2)
        below = gates.expected().item() < size * gates.total()
        low, high = (middle, high) if below else (low, middle)
    return low


def test_budgets_that_no_gate_can_reach() -> None:
    net, x, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for target, message in ((0.01, "cannot be reached"), (0.0, "up to 1"), (1.5, "up to 1")):
        for fraction in (target, linear(1.0, target, steps=10)):
            with pytest.raises(GateError, match=message):
                budget = Budget(weights=fraction)
                gate(optimizer, net, {groups: L0(1.0)}, budget=budget, example_inputs=x)
    with pytest.raises(GateError, match="names a size"):
        Budget()
    assert same(dict(net.named_parameters()), before) and not net._forward_pre_hooks
    assert len(optimizer.param_groups) == 1 and not optimizer._optimizer_step_post_hooks
    gate(optimizer, net, {groups: L0(1.0)}, budget=Budget(weights=0.5))


@each("name", {k: k for k in ("weights", "kernels", "heads")})
def test_draws_by_example_refuse_what_is_no_input(name: str) -> None:
    net, x, groups = CASES[name]()
    if name == "heads":
        gated(net, {groups: L0(1.0)}, draws="example")  # columns of a dense layer read them
        assert net.train()(x).shape == net.eval()(x).shape
        return
    with pytest.raises(GateError, match=r"draws='example'.*draws='batch'"):
        gated(net, {groups: L0(1.0)}, draws="example")
    assert NAME not in net.state_dict() and not net._forward_pre_hooks


def test_draws_by_example_need_the_batch_first() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.transpose(0, 1))

    net = TimeFirst().double()
    gated(net, {columns(net): L0(1.0)}, draws="example")
    with pytest.raises(GateError, match="outside a call of the gated model"):
        net.fc(numbers(4, 6))
    with pytest.raises(GateError, match=r"drew for 4 examples.*first dim"):
        net(numbers(4, 3, 6))
    with pytest.raises(GateError, match=r"for each example of a batch, .* without a tensor"):
        net(torch.tensor(1.0))
    assert_clean(net)


def half_traced() -> None:
    _net, _x, groups = CASES["neurons"]()
    other, _, _ = CASES["neurons"]()
    gated(other, {groups: L0(1.0)})


def twice() -> None:
    net, _, groups = CASES["neurons"]()
    gated(net, {groups: L0(1.0)})
    gated(net, {groups: L0(1.0)})


def with_(penalty: Any = None, **options: Any) -> Callable[[], Any]:
    def tried() -> None:
        net, _, groups = CASES["neurons"]()
        optimizer = SGD(net.parameters(), 0.1)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        try:
            gate(optimizer, net, {groups: penalty or L0(1.0)}, **options)
        finally:
            assert same(dict(net.named_parameters()), before)
            assert not net._forward_pre_hooks
            assert len(optimizer.param_groups) == 1 and not optimizer._optimizer_step_post_hooks

    return tried


def of(act: Callable[[Gates], Any]) -> Callable[[], Any]:
    def tried() -> None:
        net, _, groups = CASES["neurons"]()
        act(gated(net, {groups: L0(1.0)}))

    return tried


def overlapping() -> None:
    net, _x, groups = CASES["neurons"]()
    gated(net, {groups: L0(1.0), weights(net): L0(1.0)})


def scheduled() -> None:
    net, _, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.1)
    StepLR(optimizer, 10)
    try:
        gate(optimizer, net, {groups: L0(1.0)})
    finally:
        assert NAME not in net.state_dict() and len(optimizer.param_groups) == 1


def not_held() -> None:
    net, _, groups = CASES["neurons"]()
    other, _, _ = CASES["neurons"]()
    gate(SGD(other.parameters(), 0.1), net, {groups: L0(1.0)})


class Plain:
    """Has parameters and is no module."""

    def parameters(self) -> list[Tensor]:
        return [torch.zeros(1, requires_grad=True)]


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "twice": (twice, GateError, "there are gates on this Mlp"),
    "another model's": (half_traced, GateError, r"not a parameter of this Mlp"),
    "overlapping": (overlapping, GroupError, "penalised twice"),
    "no penalties": (lambda: gated(drawn(Mlp()), {}), GroupError, "mapping"),
    "no module": (lambda: gated(Plain(), {}), GateError, "model is a torch.nn.Module, got "),
    "l1": (with_(L1(1.0)), MethodError, "P.z ≠ 0.*Methods that take it: .*'proximal'"),
    "top": (with_(TopK(2)), MethodError, "P.z ≠ 0"),
    "init 0": (with_(init=0.0), GateError, r"0 < p < 1, got 0.0"),
    "init 1": (with_(init=1), GateError, "0 < p < 1, got 1"),
    "init of two": (with_(init=[0.5, 0.2]), GateError, "it has 2, and there are 1 groups"),
    "init of one wrong": (with_(init=[2.0]), GateError, "0 < p < 1, got 2.0"),
    "gate_lr": (with_(gate_lr="x"), GateError, "gate_lr is a learning rate ≥ 0, got 'x'"),
    "negative gate_lr": (with_(gate_lr=-1.0), GateError, "gate_lr is a learning rate ≥ 0"),
    "budget": (with_(budget=0.5), GateError, r"Budget\(macs=0\.1\), got 0\.5"),
    "law": (with_(law=3), GateError, "a law is .*got 3"),
    "seed": (with_(seed=-1), GateError, "a seed is a whole number ≥ 0, or None, got -1"),
    "noise": (with_(noise="old"), MethodError, "noise is .*got 'old'"),
    "start": (with_(start=-1), MethodError, "start counts steps"),
    "finalize_at": (with_(start=3, finalize_at=3), MethodError, "after start=3.*got 3"),
    "scheduled": (scheduled, OptimizerError, "make the scheduler after lissom.gate"),
    "not held": (not_held, OptimizerError, "holds no parameter of this Mlp"),
    "no optimizer": (lambda: gate(3, drawn(Mlp()), {}), OptimizerError, "got int"),
    "per": (with_(per="layer"), MethodError, "per is 'weight' or 'group', got 'layer'"),
    "test": (with_(test="max"), MethodError, "test is .*'mean' or 'mode', got 'max'"),
    "draws": (with_(draws="step"), MethodError, "draws is .*got 'step'"),
    "no gates": (lambda: gates_of(nn.Linear(2, 2)), GateError, "this Linear has no gates"),
    "unknown cost": (of(lambda g: g.expected("flops")), GateError, "'weights'.*got 'flops'"),
    "macs without example": (of(lambda g: g.expected("macs")), GateError, "example_inputs=x"),
    "misspelt": (of(lambda g: g.expected({"fc1.wieght": 1.0})), GateError, "fc1.weight"),
    "no samples": (of(lambda g: list(g.sample(0))), GateError, "n ≥ 1, got 0"),
    "no draws": (of(lambda g: g.expected_loss(lambda: 0, 0)), GateError, "1 sample or more"),
}  # fmt: skip


@each("mistake", MISTAKES)
def test_mistakes(mistake: tuple[Callable[[], Any], type[Exception], str]) -> None:
    act, error, message = mistake
    with pytest.raises(error, match=message):
        act()


def test_expected_loss_is_a_mean_over_draws() -> None:
    net, x, groups = CASES["channels"]()
    gates = gated(net, {groups: L0(1.0)})
    net.train()
    torch.manual_seed(1)
    found = gates.expected_loss(lambda: net(x).square().mean(), samples=3)
    torch.manual_seed(1)
    expected = sum(net(x).square().mean() for _ in range(3)) / 3
    torch.testing.assert_close(found, expected)


def test_drop_rates_and_param_groups() -> None:
    net, _x, _ = CASES["channels"]()
    first, second = kernels(net), columns(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = AdamW(net.parameters(), 0.1, weight_decay=1e-4)
    gates = gate(optimizer, net, {first: L0(1.0), second: L0(1.0)}, init=[0.2, 0.9])
    a, b = gates.log_alpha.detach().split([len(first), len(second)])
    for part, p in ((a, 0.2), (b, 0.9)):
        mean = torch.log(torch.tensor((1 - p) / p))
        assert abs(float(part.mean() - mean)) < 0.01 and 0 < float(part.std()) < 0.03
    factor = 1 / LAW.mean(b)
    torch.testing.assert_close(net.head.weight, before["head.weight"] * factor)
    torch.testing.assert_close(net.head.bias, before["head.bias"])
    weight_group, gate_group = optimizer.param_groups
    assert gate_group["params"] == [gates.log_alpha] and gate_group["lr"] == 1.0
    assert gate_group["weight_decay"] == 0 and weight_group["weight_decay"] == 1e-4
    assert {id(p) for p in weight_group["params"]} | {id(gates.log_alpha)} == {
        id(p) for p in net.parameters()
    }
    assert "channels" not in str(gates) and "total" in str(gates) and "gates on Cnn" in repr(gates)
    net, _, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.1)
    gate(optimizer, net, {groups: L0(1.0)}, gate_lr=0.03)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.03]


def test_a_scheduler_that_is_made_afterwards() -> None:
    """It has a rate for log α too, and goes on when gates are gone."""
    net, x, groups = CASES["neurons"]()
    optimizer = SGD(net.parameters(), 0.01)
    gates = gate(optimizer, net, {groups: L0(0.1)}, finalize_at=2)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    for n in range(1, 5):
        train(net, gates, optimizer, x, 1)
        scheduler.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.01 / 2**n, 0.1 / 2**n])
    assert gates.finalized_at == 2


def test_a_part_of_the_model_called_on_its_own() -> None:
    """A layer called directly draws as well, and is clean afterwards."""
    net, x, groups = CASES["columns"]()
    gates = gated(net, {groups: L0(1.0)})
    net.train()
    assert not torch.equal(net.fc1(x), net.fc1(x))
    assert_clean(net)
    z = draw(gates, 3)[0]
    torch.testing.assert_close(called(net.fc1, x, 3), F.linear(x, net.fc1.weight * z, net.fc1.bias))


@pytest.mark.parametrize("how", ["close_dead_gates", "warm_start"])
def test_gates_of_zero_groups_can_be_closed(how: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[1] = 0
    gates = gated(net, {neurons(net, torch.rand(2, 4)): L0(0.1)}, init=0.1)
    before = gates.log_alpha.detach().clone()
    if how == "warm_start":
        gates.warm_start({"state": {}, "param_groups": []})  # of the training before: unusable
    else:
        close_dead_gates(gates)
    assert (gates.log_alpha == torch.tensor([before[0], -10, before[2]])).all()
    gates.finalize()
    assert net[0].weight[1].count_nonzero() == 0 and net[0].weight[0].all()


class Branches(nn.Module):
    """Two branches beside a stream, of which one is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(10, 8), nn.Linear(8, 2)
        self.wide = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 8))
        self.narrow = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.wide(x)
        return self.head(x + self.narrow(x))


@pytest.mark.parametrize("cost", ["macs", "weights"])
def test_a_budget_counts_the_unit_that_stays_of_an_empty_family(cost: str) -> None:
    """No tensor can be empty, so that `shrink` leaves one unit of it."""
    torch.manual_seed(0)
    net, x = Branches(), torch.randn(2, 10)
    units, whole = neurons(net, x), getattr(lissom.measure(net, x), cost)
    gates = gated(net, {units: L0(0.0)}, budget=Budget(**{cost: 0.25}), example_inputs=x)
    sizes = [norms.numel() for norms in units.norms()]
    with torch.no_grad():
        ramps = [torch.full((4,), -5.0) if n == 4 else torch.linspace(1, 5, n) for n in sizes]
        gates.log_alpha.copy_(torch.cat(ramps))
    small = lissom.shrink(delivered(gates), x)
    assert small.narrow[0].out_features == 1
    assert 0.7 * 0.25 * whole < getattr(lissom.measure(small, x), cost) <= 0.25 * whole


@pytest.mark.parametrize("options", [{"seed": 0}, {"seed": 0, "noise": "pooled"}], ids=str)
def test_compiled_with_a_seed_it_is_not_compiled_at_each_step(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    net, x = drawn(Mlp()).train(), numbers(4, 6)
    opt = SGD(net.parameters(), lr=0.1)
    gates = lissom.gate(opt, net, {columns(net): L0(1e-3)}, **options)
    counter = CompileCounterWithBackend("eager")
    fast, losses = torch.compile(net, backend=counter), []
    for _ in range(6):
        opt.zero_grad()
        loss = fast(x).square().mean() + gates.penalty()
        loss.backward()
        losses.append(float(loss))
    assert counter.frame_count <= 3  # a pool is made in the first call
    assert len(set(losses)) == 6  # another draw at each call
