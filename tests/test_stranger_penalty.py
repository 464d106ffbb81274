"""Penalties in a user's own file: every method, sums, schedules, recipes and the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from proximal_cases import LR, METRICS, assert_same, each, loss_of, network, nonzeros, step, train
from stranger_penalty import Ball, Counted, Firm
from torch.optim import SGD, Adam
from typer.testing import CliRunner

import lissom
from lissom import L0, L1, L2, MCP, NonNegative, TopK
from lissom.cli import app
from lissom.errors import MethodError, PenaltyError, RecipeError
from lissom.penalties import Part, Penalty
from lissom.recipes import RecipePath, make_data, make_trainer, read_recipe
from lissom.schedules import linear

GROUPS = {"weights": lissom.weights, "kernels": lissom.kernels}


@each("groups", GROUPS)
@each("metric", {m: m for m in METRICS})
@each(
    "pair",
    {
        "alone": (Firm(4.0), MCP(4.0)),
        "with L2": (Firm(4.0) + L2(0.5), MCP(4.0) + L2(0.5)),
        "with L1 and L2": (L1(0.5) + Firm(4.0) + L2(0.5), MCP(4.0) + L1(0.5) + L2(0.5)),
        "scheduled": (Firm(linear(0, 6.0, 3)), MCP(linear(0, 6.0, 3))),
    },
)
def test_it_is_what_the_house_has(pair: tuple[Penalty, Penalty], metric: Any, groups: Any) -> None:
    nets = [network(), network()]
    for net, penalty in zip(nets, pair, strict=True):
        opt = Adam(net.parameters(), LR)
        method = lissom.proximal(opt, {groups(net): penalty}, metric=metric)
        for n in range(5):
            step(opt, n)
        method.finalize()
    assert_same(*nets)
    assert 0 < nonzeros(groups(nets[0])) < len(groups(nets[0]))


@pytest.mark.parametrize("fused", [False, True])
def test_a_budget_of_ones_own_is_met_jointly_and_takes_l1_and_l2(fused: bool) -> None:
    net = network()
    groups = lissom.weights(net)
    opt = SGD(net.parameters(), LR)
    lissom.proximal(opt, {groups: Ball(0.5) + L1(1.0) + L2(1.0)}, fused=fused)
    train(net, opt, range(1))
    norms = torch.cat([n.flatten() for n in groups.norms()]).detach()
    assert norms.norm() == pytest.approx(0.5)
    assert 0 < norms.count_nonzero() < len(norms)


def test_half_precision_is_not_lost_by_a_plain_prox() -> None:
    # In bfloat16 itself, 1 − 1e-4 is 1.
    values = torch.tensor([1.0, -1.0, 1e-3], dtype=torch.bfloat16)
    seen = []

    class Seeing(Firm):
        def prox(self, norms: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append(norms.dtype)
            return super().prox(norms, *rest)

    Seeing(1.0).prox_([Part(values, 1e-2)])
    assert seen == [torch.float32]
    assert values.tolist() == pytest.approx([0.99335, -0.99335, 0], abs=2e-3)


def test_learning_compression_by_it() -> None:
    net = network()
    groups = lissom.weights(net)
    opt = SGD(net.parameters(), LR)
    method = lissom.lc(opt, {groups: Firm(0.05) + L2(0.01)}, every=3, c_steps=4, mu=1.0)
    for n in range(12):
        opt.zero_grad()
        (loss_of(net, n) + method.penalty()).backward()
        opt.step()
    assert method.finalized
    assert 0 < nonzeros(groups) < len(groups)
    with pytest.raises(lissom.LissomError, match=r"Firm\(.*which is weighed against μ"):
        lissom.lc(opt, {groups: Firm(0.05)}, every=3)


def test_its_gradient() -> None:
    net = network()
    groups = lissom.weights(net)
    method = lissom.subgradient(SGD(net.parameters(), LR), {groups: Firm(0.5) + L1(0.1)})
    expected = sum((MCP(0.5) + L1(0.1)).value(norms) for norms in groups.norms())
    torch.testing.assert_close(method.penalty(), expected)


def test_a_count_of_ones_own_under_gates() -> None:
    terms = []
    for penalty in (Counted(0.3), L0(0.3) + L2(0.15)):
        net = network()
        opt = SGD(net.parameters(), LR)
        gates = lissom.gate(opt, net, {lissom.kernels(net): penalty})
        terms.append(gates.penalty())
    torch.testing.assert_close(*terms, rtol=1e-3, atol=0)  # log α starts at random
    with pytest.raises(MethodError, match=r"takes L0, L2 .*; got Firm\(.*no expectation under it"):
        lissom.gate(opt, network(), {lissom.kernels(network()): Firm(0.1)})


def test_what_it_declares_is_what_it_gets() -> None:
    net = network()
    opt = Adam(net.parameters(), LR)
    with pytest.raises(PenaltyError, match=r"takes what follows a metric.*; got Ball\(radius=1"):
        lissom.proximal(opt, {lissom.weights(net): Ball(1.0)}, metric="adaptive")
    for other in (MCP(0.1), TopK(5), L0(0.1), Ball(1.0)):
        with pytest.raises(PenaltyError, match=r"has no prox in closed form; L1, L2 and NonNegat"):
            Firm(0.1) + other
    assert repr(Firm(0.1) + NonNegative() + L2(1)) == (
        "Firm(strength=0.1, gamma=3.0) + L2(1) + NonNegative()"
    )


class Plain(Penalty):
    """No dataclass: it has neither schedules nor tensors."""

    differentiable = True

    def __init__(self, strength: float, x: Any = None, value: Any = None) -> None:
        self.strength, self.x, self.made = strength, x, value

    def value(self, norms: torch.Tensor) -> torch.Tensor:
        return self.strength * norms.sum() if self.made is None else self.made(norms)

    def prox(self, norms: torch.Tensor, t: Any = 1.0, metric: Any = None) -> torch.Tensor:
        return (norms - t * self.strength).clamp(min=0) if self.x is None else self.x(norms)


@pytest.mark.parametrize("fused", [False, True])
def test_a_plain_class_is_enough(fused: bool) -> None:
    nets = [network(), network()]
    for net, penalty in zip(nets, (Plain(4.0) + L2(0.5), L1(4.0) + L2(0.5)), strict=True):
        opt = SGD(net.parameters(), LR)
        lissom.proximal(opt, {lissom.kernels(net): penalty}, fused=fused)
        step(opt, 0)
    assert_same(*nets)


@each("groups", GROUPS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (lambda r: r.flatten()[:1], r"norms of shape \[.*\] and gave shape \[1\]"),
        (lambda r: r.mean(), r"and gave shape \[\]: it gives a tensor of the same shape"),
        (lambda r: 0.5, r"and gave 0\.5: it gives a tensor"),
        (lambda r: r - 100, r"gave a norm of -.*: norms are ≥ 0"),
    ],
)
def test_a_prox_that_is_none_is_told(x: Any, words: str, fused: bool, groups: Any) -> None:
    net = network()
    method = lissom.proximal(SGD(net.parameters(), LR), {groups(net): Plain(1.0, x)}, fused=fused)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(PenaltyError, match=words):
        method.apply()
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_a_value_that_is_none_is_told() -> None:
    net = network()
    for value, words in ((lambda r: r, r"got shape \[4, 2, 3, 3\]"), (lambda r: 3.0, "got 3")):
        penalty = Plain(1.0, value=value)
        method = lissom.subgradient(SGD(net.parameters(), LR), {lissom.weights(net): penalty})
        with pytest.raises(PenaltyError, match=r"a tensor of no dimension, a sum; " + words):
            method.penalty()


RECIPE = """
title = "Digits with a penalty of one's own"

[data]
name = "digits"
validation = 300

[model]
name = "henrikson"

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 3

[method]
name = "proximal"
start = 1

[[penalties]]
L2 = 1e-4
"stranger_penalty:Firm" = { strength = [{ start = 0, end = 0.05, epochs = 1 }], gamma = 4 }

[path]
strength = "penalties.0.stranger_penalty:Firm.strength"
strengths = [0.01, 0.1]
points = 3
seeds = 1
dense = 2
epochs = 2
fine_tune = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "stranger.toml"
    path.write_text(RECIPE)
    return path


def test_named_in_a_recipe(recipe: Path) -> None:
    read = read_recipe(str(recipe))
    trainer = make_trainer(read, make_data(read))
    steps = trainer.steps_per_epoch
    assert trainer.method is not None
    [(groups, penalty)] = trainer.method.penalties.items()
    assert repr(penalty.at(steps)) == "Firm(strength=0.05, gamma=4.0) + L2(0.0001)"
    trainer.fit()
    trainer.method.finalize()
    assert 0 < nonzeros(groups) < len(groups)
    kept = json.loads(json.dumps(read.model_dump(exclude_none=True)))
    assert type(read).model_validate(kept) == read


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("= 1e-3", None),
        ("= [{ start = 0, end = 1e-3, epochs = 2 }]", None),
        ("= { strength = 1e-3, gama = 2 }", "line 24: .*Firm.gama: .*Did you mean 'gamma'"),
        ("= { gamma = 2 }", "line 24: .*Firm.strength: option 'strength' has to be given"),
        ("= { strength = [{ end = 1, epochs = 1 }] }", "line 24: .*Firm.strength: the first piece"),
    ],
)
def test_its_numbers_in_a_recipe(recipe: Path, entry: str, words: str | None) -> None:
    old = "= { strength = [{ start = 0, end = 0.05, epochs = 1 }], gamma = 4 }"
    recipe.write_text(RECIPE.replace(old, entry).partition("[path]")[0])
    if words is None:
        [spec] = read_recipe(str(recipe)).penalties
        assert isinstance(spec.penalty(1), Penalty)
    else:
        with pytest.raises(RecipeError, match=words):
            read_recipe(str(recipe))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("stranger_penalty:Frim", "has no 'Frim'. Did you mean 'Firm'"),
        ("no_such_file:Firm", "penalty 'no_such_file:Firm' cannot be imported"),
        ("json:JSONDecoder", "is no subclass of lissom.penalties.Penalty or"),
        ("Firm", "unknown key 'Firm'"),
    ],
)
def test_names_that_are_none(recipe: Path, key: str, words: str) -> None:
    recipe.write_text(RECIPE.replace("stranger_penalty:Firm", key).partition("[path]")[0])
    with pytest.raises(RecipeError, match=f"line 24: penalties.0.{key}: .*{words}"):
        read_recipe(str(recipe))


def test_a_curve_along_its_strength(recipe: Path, tmp_path: Path) -> None:
    curve = RecipePath(read_recipe(str(recipe)), tmp_path / "curve").run()
    assert not curve.failed
    assert curve.strength_name == "λ of a stranger"
    dense, *points = sorted(curve.points, key=lambda point: -point.sizes["nonzeros"])
    assert dense.strength is None and len(points) == 2


def test_trained_from_the_command_line(recipe: Path, tmp_path: Path) -> None:
    change = "penalties.0.stranger_penalty:Firm.gamma=5"
    words = ["train", str(recipe), "--out", str(tmp_path / "run"), "--set", change]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["recipe"]["penalties"][0]["stranger_penalty:Firm"]["gamma"] == 5
