"""The training loop: it learns, repeats itself bit by bit, and goes on where it was killed."""

import copy
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from products import pairwise, sampled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from training_cases import (
    CLASSES,
    EXAMPLES,
    STEPS,
    Killed,
    blobs,
    conv,
    dense,
    events_in,
    kill,
    same,
    state,
    timeless,
    trainer,
)
from wrong_combinations import EPOCHS as WRONG_EPOCHS
from wrong_combinations import WRONG, Wrong

import lissom
from lissom import L0, L1, L2, L1Ball, Threshold, TopK, Trainer, weights
from lissom.compressions import Codebook
from lissom.data import Dataset, load_digits
from lissom.errors import LissomError, MethodError, RunError
from lissom.groups import columns
from lissom.methods import Method, Options, methods_on
from lissom.models import henrikson
from lissom.schedules import cubic, linear
from lissom.training import Augment, Count, Evaluation, Part, Score, Task, loss_and_error


def test_learns_the_digits() -> None:
    data = load_digits()
    torch.manual_seed(0)
    net = henrikson(64)
    before = loss_and_error(net, data.test_x, data.test_y)
    event = Trainer(net, Adam(net.parameters(), lr=3e-3), data, epochs=8, batch_size=64).fit()
    assert before[1] > 0.7
    assert event.test.error < 0.06
    assert event.epoch == 8


def test_events_are_evaluations(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    net, data = dense(), blobs()
    last = trainer(net, data, out=tmp_path, report=told.append).fit()
    events = [event for event in told if event["event"] != "progress"]
    assert events_in(tmp_path) == events
    assert last.to_dict() == events[-1]
    for epoch, event in enumerate(events, start=1):
        assert list(event) == ["event", "epoch", "train", "test", "nonzeros", "seconds"]
        assert all(event[part].keys() == {"loss", "error", "scores"} for part in ("train", "test"))
        assert (event["event"], event["epoch"]) == ("evaluation", epoch)
        counts = event["nonzeros"]
        assert counts.keys() == {"0.weight", "0.bias", "3.weight", "3.bias", "total"}
        assert all(count.keys() == {"weights", "nonzeros"} for count in counts.values())
        assert counts["0.weight"]["weights"] == 48
        variables = [count for name, count in counts.items() if name != "total"]
        for key in ("weights", "nonzeros"):
            assert counts["total"][key] == sum(count[key] for count in variables)


def test_events_tell_the_truth() -> None:
    net, data = dense(), blobs(valid=12)
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[0] = 0  # a dead unit gets no gradient
        net[3].weight[:, 0] = 0
    event = trainer(net, data).fit()
    net.eval()
    assert data.valid_x is not None and data.valid_y is not None
    for part, x, y in (
        ("train", data.train_x, data.train_y),
        ("test", data.test_x, data.test_y),
        ("valid", data.valid_x, data.valid_y),
    ):
        logits = net(x)
        found = getattr(event, part)
        assert found.loss == pytest.approx(float(F.cross_entropy(logits, y).detach()), rel=1e-6)
        wrong = (logits.argmax(1) != y).double().mean()
        assert found.error == pytest.approx(float(wrong))
    assert event.nonzeros["0.weight"] == Count(48, nonzeros=44)
    assert event.nonzeros["3.weight"] == Count(36, nonzeros=33)


@pytest.mark.parametrize("valid", [None, Part(0.5, 0.25, {"f1": 0.75})])
@pytest.mark.parametrize(
    "more", [{}, {"method": {"name": "gates", "curves": {"open gates": {"fc1": 3}}}}]
)
def test_an_evaluation_survives_json(valid: Part | None, more: dict[str, Any]) -> None:
    counts = {"total": Count(weights=9, nonzeros=4)}
    made = Evaluation(3, Part(0.1, 0.0), Part(0.2, 0.1), counts, valid, more, {"train": 1.5})
    kept = json.loads(json.dumps(made.to_dict()))
    assert kept == made.to_dict() and ("valid" in kept) == (valid is not None)
    assert Evaluation.from_dict(kept) == made


@pytest.mark.parametrize(
    "harm",
    [
        {"event": "measure_test"},
        {"train": {"loss": 0.1}},
        {"test": 0.1},
        {"nonzeros": {"total": {"num": 9, "numNz": 4}}},
        {"nonzeros": None},
    ],
)
def test_what_is_no_evaluation_is_refused(harm: dict[str, Any]) -> None:
    counts = {"total": Count(weights=9, nonzeros=4)}
    kept = Evaluation(3, Part(0.1, 0.0), Part(0.2, 0.1), counts).to_dict()
    with pytest.raises(RunError, match="not the record of an evaluation"):
        Evaluation.from_dict({**kept, **harm})
    with pytest.raises(RunError, match="'epoch'"):
        Evaluation.from_dict({key: value for key, value in kept.items() if key != "epoch"})


def test_evaluation_in_batches_is_evaluation() -> None:
    net, data = dense(dropout=0.5), blobs()
    net.train()
    whole = loss_and_error(net, data.train_x, data.train_y)
    parts = loss_and_error(net, data.train_x, data.train_y, batch_size=7)
    assert whole == pytest.approx(parts)
    assert net.training


def test_evaluation_leaves_the_data_as_they_were() -> None:
    data = blobs()
    before = data.test_x.clone()
    net = nn.Sequential(nn.Hardtanh(0.0, 0.1, inplace=True), dense())
    first = lissom.training.evaluate(net, data)
    assert lissom.training.evaluate(net, data) == first
    loss_and_error(net, data.test_x, data.test_y)
    assert torch.equal(data.test_x, before)


def test_progress_comes_at_the_start_of_every_epoch() -> None:
    told: list[dict[str, Any]] = []
    trainer(report=told.append, epochs=2).fit()
    progress = [event for event in told if event["event"] == "progress"]
    assert [(p["epoch"], p["step"], p["steps"]) for p in progress] == [(0, 0, STEPS), (1, 0, STEPS)]
    assert all(math.isfinite(p["loss"]) for p in progress)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_seed_decides_everything(dropout: float) -> None:
    def run(seed: int, noise: int) -> dict[str, Tensor]:
        net = dense(dropout=dropout)
        made = trainer(net, seed=seed)
        torch.manual_seed(noise)  # whatever happened before does not matter
        made.fit()
        return state(net)

    first = run(seed=1, noise=0)
    assert same(first, run(seed=1, noise=99))
    assert not same(first, run(seed=2, noise=0))


def test_a_model_in_evaluation_mode_is_trained_with_dropout() -> None:
    nets = [dense(dropout=0.5), dense(dropout=0.5).eval()]
    for net in nets:
        trainer(net).fit()
    assert same(state(nets[0]), state(nets[1]))


def test_every_example_once_an_epoch_in_an_order_of_its_own() -> None:
    data = blobs()
    seen: list[list[int]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense()

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append([int((data.train_x == row).all(1).nonzero()) for row in x])
            return self.net(x)

    trainer(Watched(), data, epochs=2, batch_size=24).fit()
    assert [len(batch) for batch in seen] == [24, 24, 16] * 2
    first, second = ([row for batch in part for row in batch] for part in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(EXAMPLES))
    assert first != second != list(range(EXAMPLES))


def early(data: Dataset, **options: Any) -> tuple[Evaluation, list[dict[str, Any]], Trainer]:
    told: list[dict[str, Any]] = []
    net = dense()
    made = trainer(
        net, data, optimizer=SGD(net.parameters(), lr=0.3), report=told.append, **options
    )
    event = made.fit()
    return event, [e for e in told if e["event"] != "progress"], made


def test_early_stopping_takes_the_best_on_validation_data() -> None:
    data = blobs(noise=1.5, valid=30)
    assert data.valid_x is not None and data.valid_y is not None
    chosen, events, made = early(data, epochs=60, patience=4)
    keys = [(event["valid"]["error"], event["valid"]["loss"]) for event in events]
    best = keys.index(min(keys))
    assert 0 < best < len(keys) - 1, "the data must make the best epoch an inner one"
    assert chosen.to_dict() == events[best]
    assert len(events) == best + 1 + 4 < 60
    entropy, wrong = loss_and_error(made.model, data.valid_x, data.valid_y)
    assert (wrong, entropy) == keys[best]


def test_a_score_that_is_no_number_at_first_is_none_to_be_beaten() -> None:
    """As precision is where nothing is found yet."""
    scores = iter([float("nan"), float("nan"), 0.4, 0.2, 0.3, 0.3, 0.3, 0.1])
    data = blobs(noise=1.5, valid=30)
    assert data.valid_y is not None
    held_out = len(data.valid_y)

    def score(outputs: Tensor, targets: Tensor) -> float:
        return next(scores) if len(targets) == held_out else 0.5

    task = Task(score=Score(score))
    chosen, events, _ = early(data, epochs=8, patience=3, task=task)
    assert (chosen.epoch, len(events)) == (4, 7)
    never = Task(score=Score(lambda outputs, targets: float("nan"), name="recall"))
    with pytest.warns(UserWarning, match="recall on the held-out examples was NaN after every"):
        early(data, epochs=3, patience=3, task=never)


def test_the_test_set_decides_nothing() -> None:
    data = blobs(noise=1.5, valid=30)
    generator = torch.Generator().manual_seed(5)
    permuted = replace(data, test_y=data.test_y[torch.randperm(40, generator=generator)])
    wrong = replace(data, test_y=(data.test_y + 1) % CLASSES)
    chosen, events, made = early(data, epochs=60, patience=4)
    for other in (permuted, wrong):
        its, its_events, its_made = early(other, epochs=60, patience=4)
        assert its.test.error != chosen.test.error
        assert its.epoch == chosen.epoch
        assert len(its_events) == len(events)
        assert same(state(its_made.model), state(made.model))


@cache
def without_patience(upside_down: bool, evaluate_every: int) -> tuple[Dataset, list[Any]]:
    data = blobs(noise=1.5, valid=30)
    assert data.valid_y is not None
    if upside_down:  # what is learnt makes it worse
        data = replace(data, valid_y=(data.valid_y + 1) % CLASSES)
    return data, early(data, epochs=40, evaluate_every=evaluate_every)[1]


@sampled(4)
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("patience_from", [0, 1, 2, 6])
@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("evaluate_every", [1, 2])
def test_patience_counts_evaluations_from_an_epoch_on(
    upside_down: bool, patience_from: int, patience: int, evaluate_every: int
) -> None:
    data, everything = without_patience(upside_down, evaluate_every)
    best, waited, seen = everything[-1], -1, 0
    for event in everything:
        seen += 1
        if event["epoch"] <= patience_from:
            continue
        key, least = ((e["valid"]["error"], e["valid"]["loss"]) for e in (event, best))
        best, waited = (event, 0) if waited < 0 or key < least else (best, waited + 1)
        if waited == patience:
            break

    chosen, events, _ = early(
        data,
        epochs=40,
        patience=patience,
        patience_from=patience_from,
        evaluate_every=evaluate_every,
    )
    assert timeless([chosen]) == timeless([best])
    assert len(events) == seen
    if upside_down and (evaluate_every, patience_from) == (1, 1):
        assert chosen.epoch != 1
        first, second = everything[:2]
        assert first["valid"]["loss"] < second["valid"]["loss"], "epoch 1 must be tempting"


def test_without_patience_the_last_epoch_is_taken() -> None:
    chosen, events, _ = early(blobs(noise=1.5, valid=30), epochs=12)
    assert chosen.to_dict() == events[-1] and len(events) == 12


def pruned(net: nn.Module, optimizer: Optimizer | None = None, **options: Any) -> Any:
    optimizer = optimizer or Adam(net.parameters(), lr=0.01)
    given = {"start": 1, "finalize_at": 2 * STEPS, **options}
    budget = TopK(fraction=cubic(1, 0.5, steps=STEPS))
    return optimizer, lissom.proximal(optimizer, {weights(net): budget}, **given)


class Shrinking(Method):
    """One of a user's own: a pull to zero in the loss, and at the end what is small goes."""

    name = "test_training:Shrinking"

    def __init__(self, *given: Any) -> None:
        self.seen = 0
        super().__init__(*given)

    def loss_term(self) -> Tensor:
        squares = [norms.square().sum() for groups in self.penalties for norms in groups.norms()]
        return self.seen * 1e-3 * torch.stack(squares).sum()

    def after_step(self) -> None:
        self.seen += 1

    def write_(self) -> None:
        for block in self.blocks():
            norms = block.norms()
            block.scale_((norms > norms.median()).to(norms.dtype))

    def own_state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_own_state(self, state: Any) -> None:
        self.seen = state["seen"]


Attach = Callable[[Optimizer, nn.Module], Method | None]


def _gate(optimizer: Optimizer, net: nn.Module, **options: Any) -> Method:
    example = torch.zeros(2, 4) if "budget" in options else None  # for MACs; to trace takes long
    penalties = {columns(net): L0(0.02) + L2(1e-4)}
    return lissom.gate(optimizer, net, penalties, example_inputs=example, init=0.3, **options)


# Each with what it has a state for; times in steps, of which there are 5 epochs of 4.
METHODS: dict[str, Attach] = {
    "none": lambda o, net: None,
    "proximal": lambda o, net: pruned(net, o)[1],
    "proximal now and then": lambda o, net: lissom.proximal(
        o, {weights(net): L1(0.02)}, every=3, metric="adaptive"
    ),
    "gates": lambda o, net: _gate(o, net, start=STEPS),
    "gates that end": lambda o, net: _gate(o, net, finalize_at=2 * STEPS + 2, seed=3),
    "gates with a budget": lambda o, net: _gate(
        o, net, budget=lissom.Budget(weights=0.4, macs=0.5, rate=0.1), noise="pooled", seed=3
    ),
    "gates of examples": lambda o, net: _gate(o, net, draws="example", test="median"),
    "lc": lambda o, net: lissom.lc(
        o, {weights(net): TopK(fraction=0.4)}, every=3, first=5, c_steps=3, start=STEPS
    ),
    "lc of steps": lambda o, net: lissom.lc(
        o, {weights(net): Codebook(2)}, every=[3, 9, 20], mu=[0.1, 0.3, 1.0], metric="adaptive"
    ),
    "lc anew": lambda o, net: lissom.lc(
        o, {weights(net): TopK(fraction=cubic(1, 0.4, steps=8))}, every=STEPS, c_steps=5,
        mu=0.1, mu_factor=2.0, algorithm="quadratic", restart=True,
    ),
    "nested": lambda o, net: lissom.nested(
        o, net, {weights(net): TopK(fraction=0.4)}, smallest=0.2, falls=STEPS, start=2
    ),
    "subgradient": lambda o, net: lissom.subgradient(
        o, {weights(net): L1(linear(0.01, 0.1, 9))}, start=2, finalize_at=4 * STEPS
    ),
    "my own": lambda o, net: Shrinking(o, {weights(net): L2(1)}, Options(finalize_at=14)),
}  # fmt: skip


METHODS_ALONE = [(name, None) for name in METHODS]
AVERAGED = [  # from the epoch on from which their weights may be averaged
    ("none", 0), ("gates", 0), ("gates with a budget", 0), ("gates of examples", 1),
    ("proximal", 2), ("gates that end", 3), ("lc", 4), ("nested", 1), ("subgradient", 4),
    ("my own", 4),
]  # fmt: skip


def with_method(name: str, **options: Any) -> Trainer:
    """A run of any method with dropout, a schedule of its rate, and moments."""
    net = dense(dropout=0.3)
    optimizer = AdamW(net.parameters(), lr=0.01)
    method = METHODS[name](optimizer, net)
    factor = linear(1, 1, 2 * STEPS).then(linear(1, 0.1, 3 * STEPS))
    return trainer(
        net, blobs(noise=1.5), optimizer=optimizer, method=method, epochs=5, lr_factor=factor,
        **options,
    )  # fmt: skip


def test_an_average_after_the_end_of_a_method_keeps_exact_zeros() -> None:
    net = dense()
    optimizer, method = pruned(net)
    made = trainer(
        net, optimizer=optimizer, method=method, epochs=5, average_from=2, average_decay=0.9
    )
    event = made.fit()
    counts = event.nonzeros
    assert counts["0.weight"].nonzeros + counts["3.weight"].nonzeros == (48 + 36) / 2
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            alive = method.state_dict()["alive"][0 if name[0] == "0" else 1]
            assert torch.equal(parameter != 0, alive)


@pytest.mark.parametrize("average_from", [0, 2])
def test_the_average_is_exponential_and_starts_with_the_first_weights(average_from: int) -> None:
    net = dense()
    optimizer = SGD(net.parameters(), lr=0.1)
    path: list[Tensor] = []
    optimizer.register_step_post_hook(lambda *_: path.append(net[0].weight.detach().clone()))
    made = trainer(net, optimizer=optimizer, epochs=4, average_from=average_from, average_decay=0.8)
    made.fit()
    expected, *rest = path[average_from * STEPS :]
    for weight in rest:
        expected = 0.8 * expected + 0.2 * weight
    torch.testing.assert_close(net[0].weight.detach(), expected)
    assert not torch.equal(net[0].weight, path[-1])


def test_events_are_about_the_average() -> None:
    net, data = dense(), blobs()
    event = trainer(net, data, epochs=4, average_from=1, average_decay=0.99).fit()
    assert event.test.loss == loss_and_error(net, data.test_x, data.test_y)[0]


def test_an_average_of_weights_that_come_and_go_is_refused() -> None:
    for finalize_at, told in (
        (None, r"weights come and go until it is finalized.*set finalize_at to 2 epochs"),
        (2 * STEPS + 1, r"before method 'proximal' ends, after 2\.25.*set average_from=3 or later"),
    ):
        net = dense()
        optimizer, method = pruned(net, finalize_at=finalize_at)
        with pytest.raises(RunError, match=rf"averaged from epoch 2 on.*{told}"):
            trainer(net, optimizer=optimizer, method=method, average_from=2, epochs=4)
    net = dense()
    optimizer, method = pruned(net, finalize_at=None)
    method.finalize()
    trainer(net, optimizer=optimizer, method=method, average_from=2)


def test_no_two_epochs_of_any_seeds_have_one_order() -> None:
    def orders(seed: int) -> list[Tensor]:
        net, seen = dense(), list[Tensor]()
        net.register_forward_pre_hook(lambda m, x: seen.append(x[0]) if m.training else None)
        trainer(net, seed=seed, epochs=2).fit()
        return list(torch.cat(seen).split(EXAMPLES))

    one, other = orders(0), orders(1)
    assert all(same(a, b) for a, b in zip(one, orders(0), strict=True))
    assert not any(same(a, b) for a, b in itertools.combinations([*one, *other], 2))


def test_learning_rates_follow_the_factor() -> None:
    net = dense()
    optimizer = SGD([{"params": net[0].parameters(), "lr": 0.1}, {"params": net[3].parameters()}],
                    lr=0.01)  # fmt: skip
    rates: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    factor = linear(1, 1, STEPS).then(linear(1, 0, 2 * STEPS))
    trainer(net, optimizer=optimizer, epochs=3, lr_factor=factor).fit()
    assert rates == [[0.1 * factor(n), 0.01 * factor(n)] for n in range(3 * STEPS)]


def test_the_penalty_in_the_loss_is_subgradient_descent() -> None:
    net, reference, data = dense(), dense(), blobs()
    strength, lr = 0.01, 0.1
    optimizer = SGD(net.parameters(), lr=lr)
    penalties = {weights(net): L1(linear(strength, 3 * strength, steps=1))}
    method = lissom.subgradient(optimizer, penalties)
    trainer(
        net, data, optimizer=optimizer, epochs=2, batch_size=EXAMPLES, method=method
    ).fit()  # fmt: skip
    for now in (strength, 3 * strength):
        loss = F.cross_entropy(reference(data.train_x), data.train_y)
        loss = loss + now * sum(p.abs().sum() for p in reference.parameters() if p.ndim > 1)
        grads = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(reference.parameters(), grads, strict=True):
                parameter -= lr * grad
    for parameter, expected in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    assert lissom.measure(net).sparsity == 0


@pytest.mark.parametrize("penalty", [L0(1e-3), TopK(5), L1Ball(3.0), Threshold(0.1)], ids=str)
def test_a_penalty_without_a_gradient_is_refused_at_once(penalty: lissom.penalties.Penalty) -> None:
    net = dense()
    optimizer = SGD(net.parameters(), lr=0.1)
    with pytest.raises(MethodError, match=r"'subgradient' takes penalties with a gradient: L1, L2"):
        lissom.subgradient(optimizer, {weights(net): penalty})


def test_moments_of_what_is_dead_do_not_become_subnormal() -> None:
    net = henrikson(inputs=64)
    optimizer = Adam(net.parameters(), betas=(0.9, 0.99))
    first: nn.Linear = net.fc1  # type: ignore[assignment]
    with torch.no_grad():
        first.weight[0].zero_()
        first.bias[0] = -1  # behind a ReLU: no gradient
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for kept in optimizer.state.values():
        kept["exp_avg_sq"].fill_(1.2e-38)
    Trainer(net, optimizer, load_digits(), epochs=1).fit()
    moments = optimizer.state[first.weight]["exp_avg_sq"]
    assert moments[0].count_nonzero() == 0 and moments[1].count_nonzero() > 0
    assert float(optimizer.state[first.weight]["step"]) > 1  # only moments are touched


def test_bf16_trains_float32_weights() -> None:
    nets = [dense(), dense()]
    plain, half = (
        trainer(net, precision=precision, epochs=10)
        for net, precision in zip(nets, ("32-true", "bf16-mixed"), strict=True)
    )
    assert half.fit().train.error < 0.1
    plain.fit()
    assert all(parameter.dtype == torch.float32 for parameter in nets[1].parameters())
    assert not same(state(nets[0]), state(nets[1]))
    assert (nets[0][0].weight - nets[1][0].weight).abs().mean() < 0.05


def test_channels_last_is_a_layout_only() -> None:
    data, nets = blobs(image=8), [conv(), conv()]
    for net, channels_last in zip(nets, (False, True), strict=True):
        trainer(net, data, channels_last=channels_last).fit()
    assert nets[1][3].weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_channels_last_needs_images() -> None:
    with pytest.raises(RunError, match=r"channels_last .* images .* but examples here are \[4\]"):
        trainer(channels_last=True)


def test_evaluates_every_few_epochs_and_after_the_last(tmp_path: Path) -> None:
    trainer(epochs=5, evaluate_every=2, out=tmp_path).fit()
    assert [event["epoch"] for event in events_in(tmp_path)] == [2, 4, 5]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 5


def test_training_figures_are_those_seen_in_training_where_asked() -> None:
    """The examples are gone through once: as a loader's, the figures are of weights that change."""
    called = Counting()
    nets = {again: copy.deepcopy(dense()) for again in (True, False)}
    found = {}
    for again, net in nets.items():
        hook = net.register_forward_hook(called)
        called.examples = 0
        found[again] = trainer(net, epochs=1, evaluate_train=again).fit(), called.examples
        hook.remove()
    same(nets[True].state_dict(), nets[False].state_dict())
    (after, all_of_them), (seen, once) = found[True], found[False]
    assert all_of_them - once == EXAMPLES
    assert seen.test == after.test and seen.train.loss > after.train.loss


@pytest.mark.parametrize("patience", [None, 3])
def test_statistics_are_those_of_the_weights_that_are_delivered(patience: int | None) -> None:
    """L1 shrinks all weights after an epoch, and only statistics that were made anew know it."""
    torch.manual_seed(0)
    data = blobs(valid=16)
    off = {}
    for renew in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = SGD(net.parameters(), lr=0.1)
        method = lissom.proximal(optimizer, {weights(net): L1(1.0)}, every=STEPS)
        given: dict[str, Any] = {"patience": patience, "renew_statistics": renew}
        Trainer(net, optimizer, data, method=method, epochs=4, batch_size=16, **given).fit()
        inputs, norm = net[0](data.train_x).detach(), net[1]
        assert isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None
        true = inputs.var(0)
        off[renew] = float((norm.running_var - true).abs().max() / true.max())
    assert off[True] < 0.2 < off[False]


class Counting:
    """A hook that counts the examples that a network sees."""

    examples = 0

    def __call__(self, net: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        self.examples += len(inputs[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs is a whole number ≥ 1, got 0"),
        ({"epochs": 1.5}, r"epochs is a whole number ≥ 1, got 1\.5"),
        ({"batch_size": 0}, r"batch_size is a whole number ≥ 1, got 0"),
        ({"evaluate_every": -1}, r"evaluate_every is a whole number ≥ 1, got -1"),
        ({"patience": 0}, r"patience is a whole number ≥ 1, got 0"),
        ({"patience": "3"}, r"patience is a whole number ≥ 1, got '3'"),
        ({"patience": 3}, r"patience=3 chooses an epoch by validation data.*hold some out"),
        ({"patience_from": 3}, r"patience_from is an epoch from 0 to 2, .* got 3"),
        ({"average_from": 3}, r"average_from is an epoch from 0 to 2, .* got 3"),
        ({"average_from": -1}, r"average_from is an epoch from 0 to 2, .* got -1"),
        ({"average_decay": 1}, r"average_decay is in \[0, 1\), got 1"),
        ({"average_decay": math.nan}, r"average_decay is in \[0, 1\), got nan"),
        ({"seed": 0.5}, r"a seed is a whole number, got 0\.5"),
        ({"device": "gpu"}, r"device 'gpu' cannot be used here: Expected one of cpu"),
        ({"device": "meta"}, r"device 'meta' cannot be used here"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used here"),
    ],
)
def test_impossible_options_are_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        trainer(**options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bach_size", "unknown option 'bach_size'. Did you mean 'batch_size'?"),
        ("patients", "unknown option 'patients'. Did you mean 'patience' or 'patience_from' or "
         "'augment'?"),
        ("proximal", "unknown option 'proximal'. Known: accumulate, augment, average_decay, "
         "average_from, batch_size, channels_last, clip_norm, device, devices, epochs, "
         "evaluate_every, evaluate_train, lr_factor, patience, patience_from, precision, "
         "renew_statistics, scheduler, scheduler_by, seed, shrink, steps_per_epoch, strategy."),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        trainer(**{name: 3})


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_combinations_are_refused_at_once(wrong: Wrong, tmp_path: Path) -> None:
    data, net = blobs(image=8, valid=12 if wrong.validation else 0), conv()
    before, optimizer = state(net), Adam(net.parameters(), lr=0.01)
    given: dict[str, Any] = {"epochs": WRONG_EPOCHS, **wrong.train, "out": tmp_path / "run"}
    if wrong.pad is not None:
        given["augment"] = Augment(wrong.pad)
    with pytest.raises(LissomError) as caught:
        method = wrong.attach(optimizer, net, STEPS)
        trainer(net, data, optimizer=optimizer, method=method, **given)
    said = str(caught.value)
    assert (
        said.partition(" Methods that take it: ")[0] == wrong.words
        if wrong.others
        else said == wrong.words
    )
    assert not wrong.others or "Methods that take it: '" in said
    table, _, key = wrong.at.partition(".")
    assert not key or table == "penalties" or caught.value.field == key
    if table == "penalties":
        assert not methods_on(optimizer)
    assert methods_on(optimizer) or same(state(net), before)


SCHEDULE = "lr_factor is a schedule by step, such as lissom.schedules.linear(1, 0, steps), got 0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": True}, "epochs is a whole number ≥ 1, got True"),
        ({"epochs": "3"}, "epochs is a whole number ≥ 1, got '3'"),
        ({"batch_size": 16.0}, "batch_size is a whole number ≥ 1, got 16.0"),
        ({"batch_size": None}, "batch_size is a whole number ≥ 1, got None"),
        ({"evaluate_every": "2"}, "evaluate_every is a whole number ≥ 1, got '2'"),
        ({"patience": 2.5}, "patience is a whole number ≥ 1, got 2.5"),
        ({"patience_from": None},
         "patience_from is an epoch from 0 to 2, before the last of epochs=3; got None"),
        ({"average_from": "1"},
         "average_from is an epoch from 0 to 2, before the last of epochs=3; got '1'"),
        ({"average_decay": "0.9"}, "average_decay is in [0, 1), got '0.9'"),
        ({"average_decay": False}, "average_decay is in [0, 1), got False"),
        ({"lr_factor": 0.5}, SCHEDULE),
        ({"augment": 4}, "augment is made by Augment(pad=4, flip=True), got 4"),
        ({"precision": "bf16"}, "precision is '32-true', 'bf16-mixed', '16-mixed', 'bf16-true', "
         "'16-true' or '64-true', got 'bf16'"),
        ({"channels_last": 1}, "channels_last is true or false, got 1"),
        ({"device": 0}, "device is a name, such as 'cpu' or 'cuda', got 0"),
        ({"device": None}, "device is a name, such as 'cpu' or 'cuda', got None"),
        ({"seed": "1"}, "a seed is a whole number, got '1'"),
        ({"seed": True}, "a seed is a whole number, got True"),
        ({"method": "proximal"}, "a method is what lissom.proximal, gate, lc or a subclass of "
         "lissom.methods.Method makes, got 'proximal'"),
        ({"teacher": 3}, "a teacher cannot be 3 (int): it is a lissom.training.Teacher, or a "
         "function without arguments that returns one. A network becomes one by its answers, "
         "Teacher(logits_of(net, data.train_x)), or is asked in every step as Teacher(net)"),
    ],
    ids=str,
)  # fmt: skip
def test_an_option_of_a_wrong_type_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=f"^{re.escape(message)}$") as caught:
        trainer(**options)
    assert caught.value.field in (*options, None)


def test_objects_that_do_not_belong_together_are_refused() -> None:
    net, other = dense(), dense()
    optimizer, elsewhere = Adam(net.parameters()), Adam(other.parameters())
    told = (
        "the optimizer holds no parameter of this Sequential, which would not be trained: make it "
        "of model.parameters()"
    )
    with pytest.raises(RunError, match=f"^{re.escape(told)}$"):
        trainer(net, optimizer=elsewhere)
    method = lissom.proximal(optimizer, {weights(net): L1(1e-3)})
    for given, of, told in (
        ({}, net, f"{method!r} follows this optimizer too, and the trainer would not keep its "
         "state: give it as method=…, or take it off by .remove()"),
        ({"method": lissom.proximal(optimizer, {weights(net, biases=True).only("*.bias"): L1(1)})},
         net,
         f"{method!r} follows this optimizer too, and the trainer would not keep its state: give "
         "it as method=…, or take it off by .remove()"),
        ({"method": method, "optimizer": Adam(net.parameters())}, net,
         f"{method!r} follows another optimizer than the one that is given"),
        ({"method": method}, other, f"0.weight, 3.weight of {method!r} is no parameter of this "
         "Sequential: make the groups from the model that is to be trained"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=f"^{re.escape(told)}$"):
            trainer(of, **{"optimizer": optimizer, **given})
        for one in methods_on(optimizer):
            if one is not method:
                one.remove()
    method.finalize()
    with pytest.raises(RunError, match="follows this optimizer too"):  # it still keeps zeros
        trainer(net, optimizer=optimizer)
    method.remove()
    trainer(net, optimizer=optimizer).fit()


def test_an_optimizer_of_before_a_layer_was_replaced_is_refused() -> None:
    net = dense()
    optimizer = Adam(net.parameters())
    last = len(net) - 1
    net[last] = nn.Linear(net[last].in_features, net[last].out_features)
    told = rf"does not hold {last}\.weight, {last}\.bias of this Sequential, and holds"
    with pytest.raises(RunError, match=told):
        trainer(net, optimizer=optimizer)
    net[last].requires_grad_(False)  # as for features alone
    trainer(net, optimizer=optimizer)
    other = dense()
    trainer(other, optimizer=Adam([*other.parameters(), *net.parameters()]))  # two at once


@pytest.mark.parametrize(
    ("n", "batch_size", "better"),
    [(9, 8, 9), (9, 4, 5), (9, 2, 3), (9, 1, 3), (9, 3, 0), (9, 9, 0)],
)
def test_a_last_batch_of_one_under_batchnorm_is_named(n: int, batch_size: int, better: int) -> None:
    x, y = torch.randn(n, 4), torch.arange(n) % 2
    data = Dataset("nine", x, y, x, y, classes=2)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = copy.deepcopy(net.state_dict())
    optimizer = Adam(net.parameters())
    if better:
        with pytest.raises(RunError, match=f"last batch of {n} examples has one, .*{better}$") as e:
            Trainer(net, optimizer, data, epochs=1, batch_size=batch_size)
        assert e.value.field == "batch_size"
        Trainer(net, optimizer, data, epochs=1, batch_size=better).fit()
    else:
        Trainer(net, optimizer, data, epochs=1, batch_size=batch_size)
        assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())
    maps = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    Trainer(maps, Adam(maps.parameters()), data, epochs=1, batch_size=batch_size).fit()


def test_gates_that_were_not_given_are_told() -> None:
    net = dense()
    optimizer = Adam(net.parameters(), lr=0.01)
    method = lissom.gate(optimizer, net, {weights(net): L0(1e-3)})
    with pytest.raises(RunError, match="follows this optimizer too"):
        trainer(net, optimizer=optimizer)
    told = (
        "a Trainer without method=… needs plain weights, and a method is still at work on this "
        "Sequential: call method.finalize(), or do it within `with method.deployed():`"
    )
    with pytest.raises(MethodError, match=f"^{re.escape(told)}$"):
        trainer(net, optimizer=Adam(net.parameters()))
    with method.deployed():
        trainer(net, optimizer=Adam(net.parameters()))
    method.finalize()
    trainer(net, optimizer=Adam(net.parameters()))


@sampled(8)
@pytest.mark.parametrize(("name", "average_from"), [*METHODS_ALONE, *AVERAGED])
def test_deployed_puts_everything_back(name: str, average_from: int | None) -> None:
    made = with_method(name, average_from=average_from)
    found: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def hooks() -> list[int]:
        kinds = [(m._forward_pre_hooks, m._forward_hooks) for m in made.model.modules()]
        return [id(hook) for pair in kinds for kind in pair for hook in kind.values()]

    def all_there_is() -> Any:
        named = [(n, id(p), p._version) for n, p in made.model.named_parameters()]
        kept = copy.deepcopy((state(made.model), made.optimizer.state_dict(), made._state()))
        return named, hooks(), kept, [m.training for m in made.model.modules()]

    def look(event: dict[str, Any]) -> None:
        before = all_there_is()
        with made.deployed() as model:
            first = state(model)
        with pytest.raises(ZeroDivisionError), made.deployed() as model:
            found.append((first, state(model)))
            if made.method is not None and not made.method.finalized:
                for block in made.method.blocks():
                    block.scale_(torch.zeros_like(block.norms()))
            raise ZeroDivisionError
        after = all_there_is()
        assert before[:2] == after[:2] and before[3] == after[3] and same(before[2], after[2])

    made.report = look
    made.fit()
    assert len(found) == 2 * made.epoch  # at the start of each epoch and after its evaluation
    assert all(same(first, second) for first, second in found)
    plain = {n for n, _ in dense().named_parameters()}
    assert all(first.keys() == plain for first, _ in found)
    if made.options.average_from is None:
        assert same(found[-1][0], state(made.model)), "deployed is what is delivered"


@sampled(4)
@pytest.mark.parametrize("name", METHODS)
def test_events_speak_of_a_method_until_its_end(name: str, tmp_path: Path) -> None:
    made = with_method(name, out=tmp_path)
    made.fit()
    events, method = events_in(tmp_path), made.method
    if method is None:
        assert not any("method" in event for event in events)
        return
    ends = math.inf if method.options.end is None else method.finalized_at
    assert ends is not None
    for event in events:
        assert ("method" in event) == (event["epoch"] * STEPS < ends)
        assert event.get("method", {}).get("name", method.name) == method.name
    assert any("method" in event for event in events)
    before, at = state(made.model), method.finalized_at
    method.finalize()
    assert method.finalized_at == at and same(state(made.model), before)


def diverging(net: nn.Module, out: Path, at: int, epochs: int = 4) -> Trainer:
    """A run whose learning rate explodes at a step."""
    factor = linear(1, 1, at).then(linear(1e38, 1e38, 1))
    optimizer = SGD(net.parameters(), lr=0.1)
    return trainer(net, optimizer=optimizer, epochs=epochs, out=out, lr_factor=factor)


NUMPY: dict[str, Callable[[nn.Module], tuple[Optimizer, dict[str, Any]]]] = {
    "learning rate": lambda net: (SGD(net.parameters(), lr=np.logspace(-1, 0, 3)[0]), {}),
    "in 32 bits": lambda net: (SGD(net.parameters(), lr=np.float32(0.1)), {}),
    "betas": lambda net: (Adam(net.parameters(), betas=(np.float64(0.8), np.float64(0.9))), {}),
    "schedule": lambda net: (
        SGD(net.parameters(), lr=0.1),
        {"lr_factor": linear(np.float64(1), np.float64(0.1), 3 * STEPS)},
    ),
    "epochs": lambda net: (
        SGD(net.parameters(), lr=0.1),
        {"epochs": np.int64(3), "batch_size": np.int64(16), "patience": np.int64(3)},
    ),
}


@pytest.mark.parametrize("name", NUMPY)
def test_a_run_with_numbers_of_numpy_can_be_resumed(tmp_path: Path, name: str) -> None:
    """A checkpoint with NumPy's numbers is one that torch would not read."""

    def made(out: Path | None, **more: Any) -> tuple[nn.Module, Trainer]:
        net = dense()
        optimizer, options = NUMPY[name](net)
        data = blobs(valid=8)
        return net, trainer(net, data, optimizer=optimizer, out=out, **{**options, **more})

    straight, one = made(None)
    one.fit()
    _, first = made(tmp_path, report=kill("evaluation", 2))
    with pytest.raises(Killed):
        first.fit()
    resumed, again = made(tmp_path)
    again.resume()
    again.fit()
    assert same(state(resumed), state(straight))


def test_what_no_checkpoint_can_keep_is_told_at_the_first(tmp_path: Path) -> None:
    net = dense()
    optimizer = SGD([{"params": net.parameters(), "owner": Own()}], lr=0.1)
    with pytest.raises(RunError, match=r"cannot be read again \(.*Own\): a state is made of"):
        trainer(net, optimizer=optimizer, out=tmp_path).fit()
    assert not (tmp_path / "checkpoint.pt").exists()


class Own:
    """What somebody keeps beside the options of an optimizer."""


@pytest.mark.parametrize("at", [2 * STEPS, 3 * STEPS - 1], ids=["first step", "last step"])
def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path: Path, at: int) -> None:
    net = dense()
    with pytest.raises(RunError, match=r"loss was (nan|inf) in epoch 3.*smaller learning rate"):
        diverging(net, tmp_path, at).fit()
    assert [event["epoch"] for event in events_in(tmp_path)] == [1, 2]
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())

    again = dense()
    resumed = trainer(again, optimizer=SGD(again.parameters(), lr=0.1), epochs=4, out=tmp_path)
    resumed.resume()
    assert resumed.fit().epoch == 4
    straight = dense()
    trainer(straight, optimizer=SGD(straight.parameters(), lr=0.1), epochs=4).fit()
    assert same(state(again), state(straight))


def test_a_run_that_diverges_with_its_last_step_is_not_a_result(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="training diverged"):
        diverging(dense(), tmp_path, at=3 * STEPS - 1, epochs=3).fit()


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adagrad": lambda p: Adagrad(p, lr=0.05, initial_accumulator_value=1e-3),
    "RMSprop": lambda p: RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
}


def full(out: Path, name: str, metric: str, report: Any = None, **options: Any) -> Trainer:
    """A run with all that has a state: dropout, a prox with a schedule, its end, an average."""
    net = dense(dropout=0.4)
    optimizer, method = pruned(net, OPTIMIZERS[name](net.parameters()), metric=metric, every=2)
    given: dict[str, Any] = {"epochs": 5, "average_from": 2, "average_decay": 0.9, **options}
    factor = linear(1, 1, 2 * STEPS).then(linear(1, 0.1, 3 * STEPS))
    return trainer(
        net, blobs(noise=1.5, valid=30), optimizer=optimizer, method=method, out=out,
        report=report, lr_factor=factor, **given,
    )  # fmt: skip


@sampled(2)
@pairwise
@pytest.mark.parametrize("moment", ["progress", "evaluation"])
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, name: str, metric: str, moment: str
) -> None:
    whole = full(tmp_path / "whole", name, metric)
    expected = whole.fit()
    for epoch in (1, 2, 3, 4):  # pruning, its end, averaging
        out = tmp_path / str(epoch)
        with pytest.raises(Killed):
            full(out, name, metric, report=kill(moment, epoch)).fit()
        resumed = full(out, name, metric)
        resumed.resume()
        assert resumed.epoch == epoch
        event = resumed.fit()
        assert timeless([event]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))
        ends = [torch.load(end / "checkpoint.pt", weights_only=True) for end in (out, whole.out)]
        for end in ends:
            del end["seconds"], end["event"]
        assert ends[0]["average"] is not None and ends[0]["method"]["alive"] is not None
        assert same(*ends)
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))


@sampled(4)
@pairwise
@pytest.mark.parametrize("moment", ["progress", "evaluation"])
@pytest.mark.parametrize(("name", "average_from"), [*METHODS_ALONE, *AVERAGED])
def test_under_every_method_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, name: str, average_from: int | None, moment: str
) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        return with_method(name, out=out, report=report, average_from=average_from)

    def keep(told: dict[str, Any]) -> None:
        """What a kill at this moment would leave."""
        if told["event"] == moment and told["epoch"] > 0:
            shutil.copytree(tmp_path / "whole", tmp_path / str(told["epoch"]))

    whole = run(tmp_path / "whole", keep)
    expected = whole.fit()
    kept = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    for epoch in range(1, whole.epoch + (moment == "evaluation")):
        out = tmp_path / str(epoch)
        resumed = run(out)
        resumed.resume()
        assert resumed.epoch == epoch
        assert timeless([resumed.fit()]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))
        assert (resumed.outcome is None) == (whole.outcome is None)
        if whole.outcome is not None:
            forms = [made.outcome.forms for made in (resumed, whole)]
            assert same(*({n: form.value() for n, form in made.items()} for made in forms))
        end = torch.load(out / "checkpoint.pt", weights_only=True)
        assert same(*({**one, "seconds": 0, "event": 0} for one in (end, kept)))
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))


@sampled(4)
@pytest.mark.parametrize("name", METHODS)
def test_long_epochs_are_kept_before_they_are_evaluated(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        return with_method(name, out=out, report=report, evaluate_every=100)

    whole = run(tmp_path / "whole")
    expected = whole.fit()
    assert whole.epoch > 3
    for seconds, found in ((1e9, False), (0.0, True)):
        monkeypatch.setattr("lissom.training.trainer.AT_STAKE", seconds)
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill("progress", 3)).fit()
        assert (tmp_path / "killed" / "checkpoint.pt").exists() == found
    resumed = run(tmp_path / "killed")
    resumed.resume()
    assert resumed.epoch == 3
    assert timeless([resumed.fit()]) == timeless([expected])
    assert same(state(resumed.model), state(whole.model))
    assert timeless(events_in(resumed.out)) == timeless(events_in(whole.out))


def test_a_codebook_that_ends_within_an_epoch_ends_the_training_there() -> None:
    net = dense()
    optimizer = SGD(net.parameters(), lr=0.05)
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    method = lissom.lc(optimizer, {weights(net): Codebook(2)}, every=3, c_steps=3, mu=1.0)
    made = trainer(net, optimizer=optimizer, method=method, epochs=3)
    made.fit()
    assert (made.epoch, len(steps), method.finalized_at) == (3, 9, 9)
    assert all(len(p.unique()) == 2 for p in net.parameters() if p.ndim > 1)
    assert made.outcome is not None


@sampled(2)
@pytest.mark.parametrize("epoch", [1, 3, 6, 8])
def test_patience_goes_on_where_it_was(tmp_path: Path, epoch: int) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        return full(out, "momentum", "euclidean", report, epochs=40, patience=4, patience_from=2)

    whole = run(tmp_path / "whole")
    expected = whole.fit()
    assert epoch < whole.epoch < 40
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill("evaluation", epoch)).fit()
    resumed = run(tmp_path / "killed")
    resumed.resume()
    assert timeless([resumed.fit()]) == timeless([expected])
    assert resumed.epoch == whole.epoch
    assert same(state(resumed.model), state(whole.model))


def test_resuming_a_run_that_ended_gives_its_result_again(tmp_path: Path) -> None:
    whole = full(tmp_path, "Adam", "adaptive")
    event = whole.fit()
    kept = events_in(tmp_path)
    again = full(tmp_path, "Adam", "adaptive")
    again.resume()
    assert again.fit() == event
    assert same(state(again.model), state(whole.model))
    assert events_in(tmp_path) == kept


def test_who_reads_a_checkpoint_has_the_whole_of_it(tmp_path: Path) -> None:
    """A new one takes its place and is not written into it: a kill leaves the one or the other."""
    path = tmp_path / "checkpoint.pt"
    with ExitStack() as stack:
        seen: list[tuple[Any, bytes]] = []

        def read(event: dict[str, Any]) -> None:
            if event["event"] == "evaluation":
                file = stack.enter_context(path.open("rb"))
                seen.append((file, path.read_bytes()))

        trainer(out=tmp_path, epochs=3, report=read).fit()
        assert len({os.fstat(file.fileno()).st_ino for file, _ in seen}) == len(seen) == 3
        for file, content in seen:
            assert file.read() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "events.jsonl"]


def test_a_checkpoint_holds_tensors_and_plain_values(tmp_path: Path) -> None:
    full(tmp_path, "Adam", "adaptive", patience=3, patience_from=2).fit()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept.keys() == {
        "epoch", "steps_per_epoch", "seconds", "model", "optimizer", "method", "average", "best",
        "event", "format", "optimized", "scheduler", "precision", "small",
    }  # fmt: skip
    assert kept["best"]["model"].keys() == kept["model"].keys()


def test_a_new_run_does_not_add_to_the_events_of_an_old_one(tmp_path: Path) -> None:
    trainer(out=tmp_path, epochs=3).fit()
    with (tmp_path / "events.jsonl").open("a") as file:  # as version 0.1.0 wrote them
        file.write('{"event": "measure_test", "epochAfter": 1}\n')
    trainer(out=tmp_path, epochs=2).fit()
    assert [event["epoch"] for event in events_in(tmp_path)] == [1, 2]


def test_the_directory_is_made(tmp_path: Path) -> None:
    trainer(out=str(tmp_path / "a" / "b")).fit()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "checkpoint.pt",
        "events.jsonl",
    ]


def test_without_a_directory_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = trainer()
    made.fit()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="without an out directory"):
        made.resume()


def test_what_cannot_be_resumed_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"empty has no checkpoint\.pt"):
        trainer(out=tmp_path / "empty").resume()
    trainer(out=tmp_path).fit()
    checkpoint = tmp_path / "checkpoint.pt"

    net = nn.Sequential(nn.Linear(4, CLASSES))
    with pytest.raises(RunError, match=r"checkpoint\.pt is of another model, optimizer or method"):
        trainer(net, out=tmp_path).resume()
    with pytest.raises(RunError, match=r"another model, optimizer or method"):
        net = dense()
        two = Adam([{"params": net[0].parameters()}, {"params": net[3].parameters()}])
        trainer(net, optimizer=two, out=tmp_path).resume()
    with pytest.raises(RunError, match=r"trained with no method, and this trainer has 'proximal'"):
        net = dense()
        optimizer, method = pruned(net)
        trainer(net, optimizer=optimizer, method=method, out=tmp_path).resume()

    content = checkpoint.read_bytes()
    for damaged in (b"", b"not a checkpoint", content[: len(content) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(RunError, match=r"checkpoint\.pt is not a readable checkpoint"):
            trainer(out=tmp_path).resume()
    torch.save([1, 2], checkpoint)
    with pytest.raises(RunError, match=r"none that this version of lissom wrote"):
        trainer(out=tmp_path).resume()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"epoch": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        trainer(out=tmp_path).resume()
    assert not (tmp_path / "sprung").exists()


def test_a_state_of_other_groups_or_of_another_method_is_refused(tmp_path: Path) -> None:
    net = dense()
    optimizer, method = pruned(net)
    trainer(net, optimizer=optimizer, method=method, out=tmp_path).fit()
    for told, make in (
        (r"trained with 'proximal', and this trainer has none", lambda o, w: None),
        (r"the state is of method 'proximal', this is 'subgradient'",
         lambda o, w: lissom.subgradient(o, {w: L1(1e-3)})),
        (r"the state is of groups shaped \[\[12, 4\], \[3, 12\]\], and those here are "
         r"\[\[12, 4\]\]: was it saved with others\?",
         lambda o, w: lissom.proximal(o, {w.only("0"): TopK(5)})),
    ):  # fmt: skip
        net = dense()
        optimizer = Adam(net.parameters(), lr=0.01)
        made = trainer(net, optimizer=optimizer, method=make(optimizer, weights(net)), out=tmp_path)
        with pytest.raises(RunError, match=rf"of another model, optimizer or method: .*{told}"):
            made.resume()


@pytest.mark.gpu
def test_trains_and_resumes_on_a_gpu(tmp_path: Path) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        net = dense(dropout=0.4).cuda()
        optimizer, method = pruned(net, metric="adaptive")
        return trainer(
            net, optimizer=optimizer, method=method, out=out, report=report, device="cuda",
            epochs=5, average_from=2,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    whole.fit()
    assert all(parameter.is_cuda for parameter in whole.model.parameters())
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill("evaluation", 3)).fit()
    resumed = run(tmp_path / "killed")
    resumed.resume()
    resumed.fit()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a == 0, b == 0)


def test_zeros_of_the_chosen_epoch_stay_and_not_those_of_the_last() -> None:
    """A proximal method that never ends, and patience: the best epoch's weights come back."""
    net = dense()
    optimizer = Adam(net.parameters(), 0.05)
    falling = TopK(fraction=linear(0.6, 0.05, steps=10 * STEPS))
    method = lissom.proximal(optimizer, {weights(net): falling})
    made = trainer(net, blobs(valid=30), optimizer=optimizer, method=method, epochs=10, patience=9)
    found = made.fit()
    assert found.epoch < 10
    dead = [p == 0 for p in net.parameters()]
    F.cross_entropy(net(torch.rand(8, 4)), torch.arange(8) % CLASSES).backward()
    optimizer.step()
    for zeros, p in zip(dead, net.parameters(), strict=True):
        if p.ndim > 1:
            assert torch.equal(p == 0, zeros)


def test_a_method_that_has_trained_before_is_looked_at_from_there() -> None:
    net = dense()
    optimizer = Adam(net.parameters(), 0.01)
    method = lissom.proximal(optimizer, {weights(net): TopK(30)}, finalize_at=4 * STEPS)
    trainer(net, optimizer=optimizer, method=method, epochs=4).fit()
    method = lissom.proximal(optimizer, {weights(net): TopK(20)}, finalize_at=4 * STEPS)
    x, y = blobs().train_x, blobs().train_y
    for _ in range(3 * STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    with pytest.raises(RunError, match=r"follows this optimizer too"):
        trainer(net, optimizer=optimizer, method=method, epochs=2)
    for other in methods_on(optimizer):
        if other is not method:
            other.remove()
    trainer(net, optimizer=optimizer, method=method, epochs=2).fit()
    assert method.finalized_at == 4 * STEPS
