"""Every kind of task: trained with a method, killed, resumed with the same bits, and judged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, pairwise, sampled
from task_cases import CASES, Case, N, draw, jaccard, loaders
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset
from training_cases import Killed, blobs, dense, events_in, kill, same, state, timeless, trainer

import lissom
from lissom import L1, TopK, Trainer
from lissom.data import Dataset, Loaders, first_inputs
from lissom.data.loaders import moved
from lissom.errors import DataError, RunError
from lissom.training import Evaluation, Score, Task, evaluate

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def run(case: Case, out: Path | None = None, report: Any = None, **options: Any) -> Trainer:
    torch.manual_seed(0)
    net = case.net()
    optimizer = Adam(net.parameters(), 0.02)
    method = lissom.proximal(optimizer, {lissom.weights(net): TopK(fraction=0.5)})
    given = {"epochs": 3, "batch_size": 8, **case.options, **options}
    return Trainer(
        net, optimizer, case.data(), case.task, method=method, out=out, report=report, **given
    )


@sampled(4)
@every_case
def test_it_is_trained_resumed_and_judged(case: Case, tmp_path: Path) -> None:
    whole = run(case, tmp_path / "whole")
    found = whole.fit()
    losses = [event["train"]["loss"] for event in events_in(tmp_path / "whole")]
    assert losses[-1] < losses[0]
    weights = [p for p in whole.model.parameters() if p.ndim > 1]
    assert any(bool((p == 0).any()) for p in weights)

    for moment in ("progress", "evaluation"):
        out = tmp_path / moment
        with pytest.raises(Killed):
            run(case, out, kill(moment, 2)).fit()
        resumed = run(case, out)
        resumed.resume()
        assert timeless([resumed.fit()]) == timeless([found])
        assert same(state(resumed.model), state(whole.model))

    data, net = whole.data, whole.model.eval()
    for part in ("valid", "test"):
        if isinstance(data, Dataset):
            batches = [(getattr(data, f"{part}_x"), getattr(data, f"{part}_y"))]
        else:
            loader = getattr(data, part)
            batches = [] if loader is None else list(loader)
        told = getattr(found, part)
        assert (told is None) == (not batches)
        if told is None or "tokens" in str(data):
            continue
        with torch.no_grad():
            outputs, targets = zip(*(case.task.call(net, b) for b in batches), strict=True)
        loss, error = case.by_hand(torch.cat(outputs), torch.cat(targets))
        assert told.loss == pytest.approx(float(loss), rel=1e-5)
        assert told.error == pytest.approx(float(error), rel=1e-5)


def test_tokens_that_do_not_count_are_left_out() -> None:
    case = CASES["tokens in dicts"]
    torch.manual_seed(0)
    net, wrong, counted, nats = case.net(), 0, 0, 0.0
    data: Any = case.data()
    for batch in data.test:
        logits = net(batch["input_ids"], batch["attention_mask"]).logits
        for row, labels in zip(logits.log_softmax(-1), batch["labels"], strict=True):
            for answer, label in zip(row, labels, strict=True):
                if label != -100:
                    wrong, counted = wrong + int(answer.argmax() != label), counted + 1
                    nats -= float(answer[label])
    found = evaluate(net, data, case.task)
    assert counted and found.error == wrong / counted
    assert found.loss == pytest.approx(nats / counted, rel=1e-5)


def test_smoothed_labels_are_trained_on_and_not_judged_by() -> None:
    logits, labels = torch.randn(7, 3), torch.arange(7) % 3
    task, plain = Task(label_smoothing=0.3), Task()
    shared = -logits.log_softmax(1).mean(1).mean()
    by_hand = 0.7 * plain.mean_loss(logits, labels) + 0.3 * shared
    torch.testing.assert_close(task.mean_loss(logits, labels), by_hand)
    data, net = blobs(), dense()
    assert evaluate(net, data, task) == evaluate(net, data, plain)
    weighted = Task(label_smoothing=0.3, weight=[1.0, 2.0, 3.0]).mean_loss(logits, labels)
    wanted = F.cross_entropy(logits, labels, torch.tensor([1.0, 2, 3]), label_smoothing=0.3)
    assert torch.equal(weighted, wanted)


def test_what_is_judged_by_is_told() -> None:
    assert (Task().error_name, Task().error_unit) == ("error", "fraction")
    told = CASES["regression"].task
    assert (told.error_name, told.error_unit) == ("RMSE", "°C")
    told = CASES["segmentation"].task
    assert (told.error_name, told.error_unit) == ("1 − mIoU", "")
    assert (Task(jaccard).error_name, Task("mse", name="dose").error_name) == ("loss", "dose")
    event = run(CASES["segmentation"], epochs=1).fit()
    assert event.test.scores["mIoU"] == pytest.approx(1 - event.test.error)
    assert event.to_dict()["judged_by"] == {"name": "1 − mIoU", "unit": ""}
    assert Evaluation.from_dict(event.to_dict()) == event
    assert "judged_by" not in run(CASES["one logit"], epochs=1).fit().to_dict()


class Accuracy:
    """What torchmetrics have: it sees batches, and says which way is up."""

    higher_is_better, plot_upper_bound = True, 1.0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.n = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right, self.n = (
            self.right + int((outputs.argmax(1) == targets).sum()),
            self.n + len(targets),
        )

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.n)

    __call__ = compute


def test_a_metric_says_itself_which_way_is_up() -> None:
    data, net = blobs(valid=12), dense()
    task = Task(score=Accuracy())
    assert task.error_name == "1 − Accuracy"
    found = trainer(net, data, task=task).fit()
    assert found.valid is not None
    assert found.valid.error == pytest.approx(evaluate(net, data, Task(), "valid").error)
    assert found.test.scores["Accuracy"] == pytest.approx(1 - found.test.error)
    unknown = type("Unknown", (Accuracy,), {"higher_is_better": None})
    with pytest.raises(RunError, match=r"Unknown does not say whether larger is better: wrap"):
        Task(score=unknown())
    boundless = type("Boundless", (Accuracy,), {"plot_upper_bound": None})
    with pytest.raises(RunError, match=r"Boundless does not say its best: wrap"):
        Task(score=boundless())


@exhaustive
def test_torchmetrics_say_themselves_which_way_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = pytest.importorskip("torchmetrics", exc_type=Exception)
    data, net = blobs(), dense()
    accuracy = metrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    found = trainer(net, data, task=Task(score=accuracy)).fit()
    assert found.test.error == pytest.approx(evaluate(net, data, Task()).error)
    f1 = metrics.classification.BinaryF1Score()
    case = CASES["one logit"]
    net = case.net()
    found = evaluate(net, case.data(), Task("bce_with_logits", f1))
    outputs, targets = zip(*((net.eval()(x)[:, 0], y) for x, y in case.data().test), strict=True)
    assert found.scores["BinaryF1Score"] == pytest.approx(
        f1(torch.cat(outputs), torch.cat(targets))
    )
    assert Task("mse", metrics.MeanAbsoluteError()).error_name == "MeanAbsoluteError"


def test_patience_goes_by_the_score(tmp_path: Path) -> None:
    worst = Score(lambda o, t: float(o.abs().mean()), name="size", best=1e3, larger_is_better=True)
    made = run(CASES["segmentation"], tmp_path, epochs=6, patience=6)
    kept = Trainer(
        made.model, made.optimizer, made.data, Task(score=worst), method=made.method, epochs=6,
        patience=6, out=tmp_path,
    )  # fmt: skip
    found = kept.fit()
    errors = [event["valid"]["error"] for event in events_in(tmp_path)]
    assert found.valid is not None and found.valid.error == min(errors)


def test_accumulated_batches_are_one_batch() -> None:
    data, nets = blobs(), [dense(), dense()]
    for net, size, accumulate in zip(nets, (32, 8), (1, 4), strict=True):
        made = trainer(
            net, data, optimizer=SGD(net.parameters(), 0.1, momentum=0.9), batch_size=size,
            accumulate=accumulate, epochs=2,
        )  # fmt: skip
        assert made.steps_per_epoch == 2
        made.fit()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_penalty_counts_once_in_accumulated_batches() -> None:
    data, nets = blobs(), [dense(), dense()]
    for net, size, accumulate in zip(nets, (32, 8), (1, 4), strict=True):
        optimizer = SGD(net.parameters(), 0.1)
        method = lissom.subgradient(optimizer, {lissom.weights(net): L1(0.01)})
        trainer(
            net, data, optimizer=optimizer, method=method, batch_size=size, accumulate=accumulate
        ).fit()
        assert method.step == 6
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_is_no_longer_than_it_may_be() -> None:
    net, norms = dense(), list[float]()
    optimizer = SGD(net.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(nn.utils.get_total_norm([p.grad for p in net.parameters()])))
    )
    trainer(net, optimizer=optimizer, clip_norm=0.05).fit()
    assert max(norms) == pytest.approx(0.05, rel=1e-3)


SCHEDULERS: dict[str, Any] = {
    "epoch": lambda o: MultiStepLR(o, [1, 3], gamma=0.1),
    "step": lambda o: OneCycleLR(o, 0.1, total_steps=20),
    "plateau": lambda o: ReduceLROnPlateau(o, patience=0, threshold=10.0, threshold_mode="abs"),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_scheduler_of_torch_sets_the_rate_and_is_resumed(kind: str, tmp_path: Path) -> None:
    def made(out: Path, rates: list[float], report: Any = None) -> Trainer:
        net = dense()
        optimizer = SGD(net.parameters(), lr=0.1)
        scheduler: LRScheduler = SCHEDULERS[kind](optimizer)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return trainer(
            net, optimizer=optimizer, scheduler=scheduler, epochs=5, out=out, report=report,
            scheduler_by="step" if kind == "step" else "epoch",
        )  # fmt: skip

    rates: list[float] = []
    whole = made(tmp_path / "whole", rates)
    whole.fit()
    if kind == "epoch":
        assert rates == pytest.approx([0.1] * 4 + [0.01] * 8 + [0.001] * 8)
    elif kind == "step":
        optimizer = SGD(dense().parameters(), lr=0.1)
        scheduler, expected = SCHEDULERS[kind](optimizer), []
        for _ in range(20):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx(expected)
    else:
        assert rates == pytest.approx([0.1] * 8 + [0.01] * 4 + [1e-3] * 4 + [1e-4] * 4)

    again: list[float] = []
    with pytest.raises(Killed):
        made(tmp_path / "killed", again, kill("evaluation", 3)).fit()
    resumed = made(tmp_path / "killed", again)
    resumed.resume()
    resumed.fit()
    assert again == rates and same(state(resumed.model), state(whole.model))
    with pytest.raises(RunError, match=r"trained with scheduler=\w+, this trainer has None"):
        trainer(out=tmp_path / "killed").resume()


def test_callbacks_are_called_and_loggers_told() -> None:
    class Seen:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def on_fit_start(self, trainer: Trainer) -> None:
            self.calls.append(("start", trainer.epoch))

        def on_step_end(self, trainer: Trainer, loss: Tensor) -> None:
            self.calls.append(("step", math.isfinite(float(loss))))

        def on_epoch_end(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
            self.calls.append(("epoch", trainer.epoch, evaluation and evaluation.epoch))

        def on_fit_end(self, trainer: Trainer, evaluation: Evaluation) -> None:
            self.calls.append(("end", evaluation.epoch))

    class Logged:
        def __init__(self) -> None:
            self.told: list[tuple[int, dict[str, float]]] = []
            self.status = ""

        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            self.told.append((step, metrics))

        def finalize(self, status: str) -> None:
            self.status = status

    seen, logged = Seen(), Logged()
    found = trainer(callbacks=[seen], loggers=[logged], epochs=2, evaluate_every=2).fit()
    steps = [("step", True)] * 4
    assert seen.calls == [
        ("start", 0), *steps, ("epoch", 1, None), *steps, ("epoch", 2, 2), ("end", 2),
    ]  # fmt: skip
    [(step, told)] = logged.told
    assert (step, logged.status) == (8, "success")
    assert told["test/error"] == found.test.error and told["nonzeros"] == 99


def test_lightnings_own_logger_writes_a_table(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning_fabric.loggers")
    trainer(loggers=[loggers.CSVLogger(tmp_path)], epochs=2).fit()
    [table] = tmp_path.rglob("metrics.csv")
    header, *rows = table.read_text().splitlines()
    assert "test/error" in header and len(rows) == 2


def test_what_a_loader_draws_follows_the_seed_and_the_epoch() -> None:
    def orders(seed: int, generator: torch.Generator | None = None) -> list[Tensor]:
        seen: list[Tensor] = []
        data = TensorDataset(torch.arange(N).float()[:, None].repeat(1, 4), torch.zeros(N).long())
        loader = DataLoader(data, 8, shuffle=True, generator=generator)
        net = dense()
        net.register_forward_pre_hook(lambda m, x: seen.append(x[0][:, 0]) if m.training else None)
        torch.manual_seed(torch.seed() % 2**31)  # what was before does not matter
        trainer(net, Loaders(loader, loader), epochs=2, seed=seed).fit()
        return list(torch.cat(seen).split(N))

    first = orders(0)
    assert same(first, orders(0)) and not torch.equal(*first)
    assert not same(first, orders(1))
    own = orders(0, torch.Generator().manual_seed(3))
    assert same(own, orders(0, torch.Generator().manual_seed(4)))
    assert all(same(order.sort().values, torch.arange(N).float()) for order in [*first, *own])


def test_what_is_tried_first_leaves_no_trace() -> None:
    """Buffers, random numbers and the mode of the model are as they were."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    before, random = state(net), torch.get_rng_state()
    trainer(net)
    assert same(state(net), before) and torch.equal(torch.get_rng_state(), random) and net.training


def test_example_inputs_of_any_data() -> None:
    assert first_inputs(blobs()).shape == (2, 4)  # type: ignore[union-attr]
    for name, shape in (("one logit", (3, 4)), ("a stream", (3, 4))):
        assert first_inputs(CASES[name].data(), CASES[name].task, 3).shape == shape  # type: ignore
    case = CASES["several inputs and outputs"]
    found: Any = first_inputs(case.data(), case.task)
    assert [list(x.shape) for x in found] == [[2, 4], [2, 6]]
    case = CASES["tokens in dicts"]
    found = first_inputs(case.data(), case.task)
    assert {name: len(x) for name, x in found.items()} == {"input_ids": 2, "attention_mask": 2}
    assert case.net()(**found).logits.shape[0] == 2
    with pytest.raises(DataError, match=r"does not call model.*give example_inputs"):
        first_inputs(
            loaders(lambda n: draw(n, n, 4), lambda n: draw(n, n)),
            Task("mse", forward=lambda model, batch: (model.encode(batch[0]), batch[1])),
        )


def test_floats_come_in_the_precision_of_the_model() -> None:
    batch = {"x": torch.ones(2).double(), "ids": torch.ones(2).long(), "z": [torch.ones(1), "a"]}
    found = moved(batch, dense())
    assert found["x"].dtype == torch.float32 and found["ids"].dtype == torch.int64
    assert moved(batch, dense().double())["z"][0].dtype == torch.float64
    x, y = draw(0, N, 4).double(), torch.arange(N) % 3
    trainer(dense(), Dataset("doubles", x, y, x, y, classes=3), epochs=1).fit()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions_train_and_are_judged(precision: str) -> None:
    net = dense()
    found = trainer(net, precision=precision, epochs=8).fit()
    assert found.train.error < 0.2
    kind = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert {p.dtype for p in net.parameters()} == {kind}


FIRST_DAY: dict[str, tuple[Any, str]] = {
    "a loss that gives no scalar": (
        lambda: trainer(task=Task(nn.CrossEntropyLoss(reduction="none"))),
        r"the loss CrossEntropyLoss is to give a scalar tensor.*got float32 \[2\]; take its \.mean",
    ),
    "a loss of several terms": (
        lambda: trainer(task=Task(lambda z, y: {"a": z.mean(), "b": z.norm()})),
        r"the loss <lambda> is to give a scalar tensor.* got .*; add its terms up",
    ),
    "targets of the wrong type": (
        lambda: Trainer(
            dense(), SGD(dense().parameters(), 1),
            loaders(lambda n: draw(n, n, 4), lambda n: draw(n, n)), epochs=1,
        ),
        r"optimizer holds no parameter",
    ),
    "numbers for classes": (
        lambda: trainer(data=loaders(lambda n: draw(n, n, 4), lambda n: draw(n, n))),
        r"'cross_entropy' takes outputs \[n, classes, …\] and whole-numbered .* float32 \[8\]",
    ),
    "outputs of another shape": (
        lambda: trainer(task=Task("mse")),
        r"'mse' takes .* one shape.*got float32 \[2, 3\] and int64 \[2\]",
    ),
    "classes in the last dim": (
        lambda: trainer(
            nn.Linear(4, 3), loaders(lambda n: draw(n, n, 5, 4), lambda n: torch.ones(n, 5).long())
        ),
        r"got float32 \[8, 5, 3\] and int64 \[8, 5\]; outputs\.movedim\(-1, 1\) has the classes",
    ),
    "classes from 1": (
        lambda: trainer(data=Dataset("one", draw(0, 9, 4), torch.arange(9) % 3 + 1, draw(0, 9, 4),
                                     torch.arange(9) % 3 + 1, classes=4)),
        r"train_y of 'one' holds class 3, but the network has outputs for 3 classes, 0 to 2",
    ),
    "classes from 1 in a loader": (
        lambda: trainer(data=loaders(lambda n: draw(n, n, 4), lambda n: torch.full((n,), 3))),
        r"targets go up to 3 and down to 3, but the network has outputs for classes 0 to 2",
    ),
    "masks of bytes": (
        lambda: trainer(nn.Linear(4, 1), Dataset("m", *2 * (draw(0, 9, 4), 255 * torch.eye(9, 1))),
                        task=Task("bce_with_logits")),
        r"train_y of 'm' holds targets from 0 to 255, and those of 'bce_with_logits' go from 0",
    ),
    "labels of -1 and 1 in the test part": (
        lambda: trainer(nn.Linear(4, 1), Dataset("m", draw(0, 9, 4), torch.ones(9), draw(0, 9, 4),
                                                 torch.arange(9.0) % 2 * 2 - 1),
                        task=Task("bce_with_logits")),
        r"test_y of 'm' holds targets from -1 to 1, and",
    ),
    "labels of 1 and 2 in a loader": (
        lambda: trainer(nn.Linear(4, 1), loaders(lambda n: draw(n, n, 4),
                                                 lambda n: torch.arange(n) % 2 + 1),
                        task=Task("bce_with_logits")),
        r"the train batch of 'data' holds targets from 1 to 2, and",
    ),
    "samples that are whole numbers": (
        lambda: trainer(data=loaders(lambda n: torch.ones(n, 4).long(), lambda n: torch.ones(n))),
        r"dtype.*\. Its whole numbers, from 1 to 1, are given as they are, as tokens: .* floats",
    ),
    "more tokens than the embedding has": (
        lambda: trainer(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 3)),
                        loaders(lambda n: torch.arange(4 * n).view(n, 4) % 9, torch.ones)),
        r"index out of range.*\. Its whole numbers, from 0 to 8, are given as they are",
    ),
    "a batch that is a tensor": (
        lambda: trainer(data=Loaders(DataLoader(draw(0, 8, 4), 4), [1])),  # type: ignore[arg-type]
        r"a batch is a tuple \(inputs, target\).*got a tensor of float32 \[4, 4\].*Task\(forward=",
    ),
    "a dict without a target": (
        lambda: trainer(data=Loaders([{"x": draw(0, 8, 4)}], [1])),
        r"its target as labels, label, targets, target or y; this one has 'x'",
    ),
    "a model called with the wrong inputs": (
        lambda: trainer(data=loaders(*[lambda n: draw(n, n, 4)] * 2, lambda n: torch.ones(n))),
        r"Sequential cannot be called with the train batch of 'data', "
        r"\(float32 \[8, 4\], float32 \[8, 4\], .*"
        r"positional argument.*Task\(forward=",
    ),
    "a generator": (
        lambda: Loaders(((draw(0, 8, 4), draw(0, 8)) for _ in range(3)), []),
        r"train is exhausted after one epoch, as generators are",
    ),
    "a tensor for a loader": (
        lambda: Loaders(draw(0, 8, 4), []),
        r"train gives batches, as a torch\.utils\.data\.DataLoader does, got a tensor",
    ),
    "no length": (
        lambda: trainer(nn.Linear(4, 2), data=CASES["a stream"].data()),
        r"does not know how many training batches there are: give steps_per_epoch",
    ),
    "more steps than there are": (
        lambda: trainer(steps_per_epoch=5),
        r"has 4 steps in an epoch, fewer than steps_per_epoch=5",
    ),
    "a function for a score": (
        lambda: Task(score=jaccard),
        r"of <function jaccard .* not known whether larger is better: .*Score\(function, name=",
    ),
    "a score without its best": (
        lambda: Score(jaccard, larger_is_better=True),
        r"needs the best it can be, such as best=1\.0: jaccard",
    ),
    "a loss by another name": (
        lambda: Task("crossentropy"),
        r"loss is 'cross_entropy', 'mse', 'bce_with_logits' or a function .* got 'crossentropy'",
    ),
    "weights of too few classes": (
        lambda: trainer(task=Task(weight=[1.0, 2.0])),
        r"weight has a number for each class: 3 classes, got \[2\]",
    ),
    "more smoothing than there is": (
        lambda: Task(label_smoothing=1.0),
        r"label_smoothing is 0 ≤ ε < 1 of each target of 'cross_entropy', got 1\.0",
    ),
    "smoothed numbers": (
        lambda: Task("mse", label_smoothing=0.1),
        r"label_smoothing is .* of 'cross_entropy', got 0\.1 for loss 'mse'",
    ),
    "what loaders never do": (
        lambda: trainer(data=CASES["one logit"].data(), evaluate_train=False),
        r"evaluate_train=False is for a Dataset in memory",
    ),
    "a callback that is never called": (
        lambda: trainer(callbacks=[type("Mine", (), {"on_epoch_ends": 1})()]),
        r"a callback is an object with any of on_fit_start.*Did you mean 'on_epoch_end'",
    ),
    "a class for a logger": (
        lambda: trainer(loggers=[dict]),
        r"or any object with log_metrics\(metrics, step\); got <class 'dict'>",
    ),
    "another's scheduler": (
        lambda: trainer(scheduler=MultiStepLR(SGD(dense().parameters(), 1), [1])),
        r"scheduler is of another optimizer",
    ),
    "two that set the rate": (
        lambda: trainer(scheduler=MultiStepLR(SGD(dense().parameters(), 1), [1]),
                        lr_factor=lissom.schedules.linear(1, 0, 5)),
        r"lr_factor and scheduler both set the learning rate",
    ),
    "augmented loaders": (
        lambda: trainer(data=CASES["one logit"].data(), augment=lissom.training.Augment(1)),
        r"augment is for a Dataset in memory",
    ),
    "a precision that Fabric does not know": (
        lambda: trainer(strategy="dpd"),
        r"Lightning Fabric cannot train with device='cpu'.*strategy='dpd'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_DAY)
def test_a_mistake_of_the_first_day_is_told_before_training(name: str) -> None:
    wrong, message = FIRST_DAY[name]
    with pytest.raises((DataError, RunError), match=message):
        wrong()


@pairwise
@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits"])
@pytest.mark.parametrize("kind", [list, torch.tensor])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -2.0, 1.0], r"weight holds finite numbers ≥ 0, got -2 in \[1\.0, -2\.0, 1\.0\]"),
        ([1.0, math.nan], r"weight holds finite numbers ≥ 0, got nan in \[1\.0, nan\]"),
        ([math.inf, 1.0], r"weight holds finite numbers ≥ 0, got inf in \[inf, 1\.0\]"),
        ([0.0, 0.0], r"weight is above 0 for at least one class, got \[0\.0, 0\.0\]"),
        ([], r"weight is above 0 for at least one class, got \[\]"),
    ],
)
def test_weights_of_classes_make_sense(
    loss: str, kind: Any, weight: list[float], message: str
) -> None:
    with pytest.raises(RunError, match=message) as caught:
        Task(loss, weight=kind(weight))
    assert caught.value.field == "weight"


def test_a_class_may_have_the_weight_0() -> None:
    assert Task(weight=[0.0, 1.0]).weight == [0.0, 1.0]


def test_a_loader_that_is_exhausted_later_is_told() -> None:
    class Once:
        def __init__(self) -> None:
            self.left = iter([(draw(i, 8, 4), torch.ones(8).long()) for i in range(4)])

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            return iter(list(self.left))

    test = loaders(lambda n: draw(n, n, 4), lambda n: torch.zeros(n).long()).test
    with pytest.raises(RunError, match=r"gave batches for 0 steps in epoch 1, and 3 were expected"):
        trainer(data=Loaders(Once(), test)).fit()
