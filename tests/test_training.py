"""The training loop: it learns, repeats itself bit by bit, and goes on where it was killed."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
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

import lissom
from lissom import L0, L1, L1Ball, Threshold, TopK, Trainer, weights
from lissom.data import Dataset, load_digits
from lissom.errors import PenaltyError, RunError
from lissom.models import henrikson
from lissom.schedules import cubic, linear
from lissom.training import Count, Evaluation, Part, loss_and_error


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
@pytest.mark.parametrize("more", [{}, {"gates": {"left": {"fc1": 3}}}])
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


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("patience_from", [0, 1, 2, 6])
@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("evaluate_every", [1, 2])
def test_patience_counts_evaluations_from_an_epoch_on(
    upside_down: bool, patience_from: int, patience: int, evaluate_every: int
) -> None:
    data = blobs(noise=1.5, valid=30)
    assert data.valid_y is not None
    if upside_down:  # what is learnt makes it worse
        data = replace(data, valid_y=(data.valid_y + 1) % CLASSES)
    _, everything, _ = early(data, epochs=40, evaluate_every=evaluate_every)

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
    given = {"start": 1, "freeze_at": 2 * STEPS, **options}
    budget = TopK(fraction=cubic(1, 0.5, steps=STEPS))
    return optimizer, lissom.proximal(optimizer, {weights(net): budget}, **given)


def test_an_average_after_the_freeze_keeps_exact_zeros() -> None:
    net = dense()
    optimizer, step = pruned(net)
    made = trainer(
        net, optimizer=optimizer, proximal=step, epochs=5, average_from=2, average_decay=0.9
    )
    event = made.fit()
    counts = event.nonzeros
    assert counts["0.weight"].nonzeros + counts["3.weight"].nonzeros == (48 + 36) / 2
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            alive = step.state_dict()["alive"][0 if name[0] == "0" else 1]
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
    for freeze_at, told in ((None, "never frozen"), (2 * STEPS + 1, "frozen at step 9")):
        net = dense()
        optimizer, step = pruned(net, freeze_at=freeze_at)
        with pytest.raises(RunError, match=rf"from step 8 on, but zeros are {told}.*freeze_at=8"):
            trainer(net, optimizer=optimizer, proximal=step, average_from=2)
    net = dense()
    optimizer, step = pruned(net, freeze_at=None)
    step.freeze()
    trainer(net, optimizer=optimizer, proximal=step, average_from=2)


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


def test_the_price_in_the_loss_is_subgradient_descent() -> None:
    net, reference, data = dense(), dense(), blobs()
    price, lr = 0.01, 0.1
    trainer(
        net, data, optimizer=SGD(net.parameters(), lr=lr), epochs=2, batch_size=EXAMPLES,
        penalties={weights(net): L1(linear(price, 3 * price, steps=1))},
    ).fit()  # fmt: skip
    for step_price in (price, 3 * price):
        loss = F.cross_entropy(reference(data.train_x), data.train_y)
        loss = loss + step_price * sum(p.abs().sum() for p in reference.parameters() if p.ndim > 1)
        grads = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(reference.parameters(), grads, strict=True):
                parameter -= lr * grad
    for parameter, expected in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    assert lissom.measure(net).sparsity == 0


@pytest.mark.parametrize("penalty", [L0(1e-3), TopK(5), L1Ball(3.0), Threshold(0.1)], ids=str)
def test_a_price_without_a_gradient_is_refused_at_once(penalty: lissom.penalties.Penalty) -> None:
    net = dense()
    with pytest.raises(PenaltyError, match="no gradient"):
        trainer(net, penalties={weights(net): penalty})


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
        trainer(net, bf16=bf16, epochs=10) for net, bf16 in zip(nets, (False, True), strict=True)
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
    with pytest.raises(RunError, match=r"channels_last .* images .* but examples here are \[64, 4"):
        trainer(channels_last=True)


def test_evaluates_every_few_epochs_and_after_the_last(tmp_path: Path) -> None:
    trainer(epochs=5, evaluate_every=2, out=tmp_path).fit()
    assert [event["epoch"] for event in events_in(tmp_path)] == [2, 4, 5]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs is a whole number ≥ 1, got 0"),
        ({"epochs": 1.5}, r"epochs is a whole number ≥ 1, got 1\.5"),
        ({"batch_size": 0}, r"batch_size is a whole number ≥ 1, got 0"),
        ({"evaluate_every": -1}, r"evaluate_every is a whole number ≥ 1, got -1"),
        ({"patience": 0}, r"patience is a whole number ≥ 1, got 0"),
        ({"patience": "3"}, r"patience is a whole number ≥ 1, got '3'"),
        ({"patience": 3}, r"patience=3 chooses an epoch by validation data.*hold_out\(5000"),
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


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="patients"):
        trainer(patients=3)


def diverging(net: nn.Module, out: Path, at: int, epochs: int = 4) -> Trainer:
    """A run whose learning rate explodes at a step."""
    factor = linear(1, 1, at).then(linear(1e38, 1e38, 1))
    optimizer = SGD(net.parameters(), lr=0.1)
    return trainer(net, optimizer=optimizer, epochs=epochs, out=out, lr_factor=factor)


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
    """A run with all that has a state: dropout, a prox with a schedule, a freeze, an average."""
    net = dense(dropout=0.4)
    optimizer, step = pruned(net, OPTIMIZERS[name](net.parameters()), metric=metric, every=2)
    given: dict[str, Any] = {"epochs": 5, "average_from": 2, "average_decay": 0.9, **options}
    factor = linear(1, 1, 2 * STEPS).then(linear(1, 0.1, 3 * STEPS))
    return trainer(
        net, blobs(noise=1.5, valid=30), optimizer=optimizer, proximal=step, out=out, report=report,
        lr_factor=factor, **given,
    )  # fmt: skip


@pytest.mark.parametrize("moment", ["progress", "evaluation"])
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, name: str, metric: str, moment: str
) -> None:
    whole = full(tmp_path / "whole", name, metric)
    expected = whole.fit()
    for epoch in (1, 2, 3, 4):  # pruning, freezing, averaging
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
        assert ends[0]["average"] is not None and ends[0]["proximal"]["alive"] is not None
        assert same(*ends)
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))


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


def test_resuming_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    whole = full(tmp_path, "Adam", "adaptive")
    event = whole.fit()
    kept = events_in(tmp_path)
    again = full(tmp_path, "Adam", "adaptive")
    again.resume()
    assert again.fit() == event
    assert same(state(again.model), state(whole.model))
    assert events_in(tmp_path) == kept


def test_a_checkpoint_holds_tensors_and_plain_values(tmp_path: Path) -> None:
    full(tmp_path, "Adam", "adaptive", patience=3).fit()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept.keys() == {
        "epoch", "seconds", "model", "optimizer", "proximal", "method", "stage", "zeros",
        "average", "best", "event",
    }  # fmt: skip
    assert kept["best"]["model"].keys() == kept["model"].keys()


def test_a_new_run_does_not_add_to_the_events_of_an_old_one(tmp_path: Path) -> None:
    trainer(out=tmp_path, epochs=3).fit()
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
    with pytest.raises(RunError, match=r"checkpoint\.pt is of another model or optimizer"):
        trainer(net, out=tmp_path).resume()
    with pytest.raises(RunError, match=r"another model or optimizer"):
        net = dense()
        two = Adam([{"params": net[0].parameters()}, {"params": net[3].parameters()}])
        trainer(net, optimizer=two, out=tmp_path).resume()
    with pytest.raises(RunError, match=r"only one of the two has a proximal step"):
        net = dense()
        optimizer, step = pruned(net)
        trainer(net, optimizer=optimizer, proximal=step, out=tmp_path).resume()

    content = checkpoint.read_bytes()
    for damaged in (b"", b"not a checkpoint", content[: len(content) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(RunError, match=r"checkpoint\.pt is not a readable checkpoint"):
            trainer(out=tmp_path).resume()
    torch.save([1, 2], checkpoint)
    with pytest.raises(RunError, match=r"another model or optimizer"):
        trainer(out=tmp_path).resume()


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"epoch": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="not a readable checkpoint"):
        trainer(out=tmp_path).resume()
    assert not (tmp_path / "sprung").exists()


def test_masks_of_other_groups_are_refused(tmp_path: Path) -> None:
    net = dense()
    optimizer, step = pruned(net)
    trainer(net, optimizer=optimizer, proximal=step, out=tmp_path).fit()
    net = dense()
    optimizer = Adam(net.parameters(), lr=0.01)
    step = lissom.proximal(optimizer, {weights(net).only("0"): TopK(5)})
    with pytest.raises(RunError, match=r"masks of .* was it saved with other groups"):
        trainer(net, optimizer=optimizer, proximal=step, out=tmp_path).resume()


@pytest.mark.gpu
def test_trains_and_resumes_on_a_gpu(tmp_path: Path) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        net = dense(dropout=0.4).cuda()
        optimizer, step = pruned(net, metric="adaptive")
        return trainer(
            net, optimizer=optimizer, proximal=step, out=out, report=report, device="cuda",
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
