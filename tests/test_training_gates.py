"""Gates and teachers in the training loop: what is told, what is delivered, and resuming."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from gates_cases import delivered
from products import few, pairwise, sampled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, RMSprop
from training_cases import (
    BATCH,
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

import lissom.training.teacher
from lissom import L0, L2, Budget, Trainer, channels, measure, neurons, proximal, weights
from lissom.errors import GateError, MethodError, RunError
from lissom.groups import columns
from lissom.methods.gates import Gates, gate, gates_of
from lissom.methods.gates.placing import LOG_ALPHA
from lissom.models import wide_resnet
from lissom.schedules import linear
from lissom.training import Augment, Task, Teacher, logits_of, loss_and_error

EXAMPLE = torch.zeros(2, 4)


def gated(
    strength: float = 0.05,
    *,
    dropout: float = 0.0,
    optimizer: Any = lambda net: Adam(net.parameters(), 0.01),
    **options: Any,
) -> Gates:
    """4 inputs and 12 neurons with a gate each."""
    net = dense(0, dropout)
    penalties = {neurons(net, EXAMPLE, inputs=True): L0(strength) + L2(1e-4)}
    given: dict[str, Any] = {"gate_lr": 0.3, "init": 0.4, "example_inputs": EXAMPLE, **options}
    return gate(optimizer(net), net, penalties, **given)


def gate_trainer(gates: Gates, **options: Any) -> Trainer:
    data = options.pop("data", None)
    return trainer(gates.model, data, optimizer=gates.optimizer, method=gates, **options)


def steps(epochs: int | None) -> int | None:
    return None if epochs is None else epochs * STEPS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_batch_has_the_precision_of_the_layers_not_of_the_gates(dtype: torch.dtype) -> None:
    net = dense().to(dtype)
    penalties = {neurons(net, EXAMPLE.to(dtype)): L0(0.005)}
    gates = gate(SGD(net.parameters(), 0.01), net, penalties)
    gate_trainer(gates, epochs=1).fit()
    assert {p.dtype for p in net.parameters()} == {dtype}


def test_events_are_about_the_network_that_gates_leave() -> None:
    gates = gated(0.005)
    net, data, told = gates.model, blobs(valid=12), []

    def compare(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            return
        told.append(event)
        plain = delivered(gates)
        for part, x, y in (
            ("test", data.test_x, data.test_y),
            ("valid", data.valid_x, data.valid_y),
        ):
            loss, wrong = loss_and_error(plain, x, y)
            assert (event[part]["loss"], event[part]["error"]) == (loss, wrong)
            in_evaluation_mode = loss_and_error(net, x, y)[0]
            assert in_evaluation_mode == pytest.approx(loss, rel=1e-5)
        counts = event["nonzeros"]
        assert counts["total"] == {"weights": 99, "nonzeros": measure(plain).nonzeros}
        assert LOG_ALPHA not in counts
        method = event["method"]
        assert method["name"] == "gates"
        assert method["curves"]["expected size"] == {
            "weights": pytest.approx(gates.expected("weights").item()),
            "macs": pytest.approx(gates.expected("macs").item()),
        }
        opened = [float(p.detach().sum()) for p in gates.p_nonzero()]
        found = method["curves"]["gates expected to be open"]
        assert list(found.values()) == pytest.approx(opened)
        alive = [int((plain[0].weight != 0).any(0).sum()), int((plain[3].weight != 0).any(0).sum())]
        assert list(method["curves"]["open gates"].values()) == alive
        assert f"gates open {sum(alive)}  expected weights " in method["summary"]
        assert method["multipliers"] == {}

    gate_trainer(gates, data=data, epochs=6, report=compare).fit()
    assert [event["epoch"] for event in told] == [1, 2, 3, 4, 5, 6]
    left = [sum(event["method"]["curves"]["open gates"].values()) for event in told]
    assert left[0] > left[-1] > 0, "λ must close some of the gates and not all"


@sampled(2)
@pytest.mark.parametrize("finalize_at", [None, 3])
@pytest.mark.parametrize("average_from", [None, 3])
def test_the_result_is_plain_weights(finalize_at: int | None, average_from: int | None) -> None:
    gates = gated(finalize_at=steps(finalize_at))
    net, data = gates.model, blobs()
    made = gate_trainer(gates, data=data, epochs=6, average_from=average_from, average_decay=0.8)
    event = made.fit()
    assert state(net).keys() == state(dense()).keys()
    assert gates.finalized and gates.finalized_at == steps(finalize_at or 6)
    assert made.outcome is None, "gates leave nothing besides the weights"
    with pytest.raises(GateError, match="has no gates"):
        gates_of(net)
    assert loss_and_error(net, data.test_x, data.test_y)[0] == event.test.loss
    assert event.nonzeros["total"].nonzeros == measure(net).nonzeros < 99
    assert ("method" in event.more) == (finalize_at is None)
    assert made.fit() == event


def test_the_average_of_gates_is_an_average() -> None:
    """Of weights and log α, whose deterministic gates then have exact zeros."""
    gates = gated()
    net, optimizer = gates.model, gates.optimizer
    path: list[tuple[Tensor, Tensor]] = []
    optimizer.register_step_post_hook(
        lambda *_: path.append((gates.log_alpha.detach().clone(), net[0].weight.detach().clone()))
    )
    made = gate_trainer(gates, epochs=6, average_from=3, average_decay=0.8)
    made.fit()
    (log_alpha, weight), *rest = path[3 * STEPS :]
    for one, other in rest:
        log_alpha, weight = 0.8 * log_alpha + 0.2 * one, 0.8 * weight + 0.2 * other
    z = gates.law.published(log_alpha[:4])
    torch.testing.assert_close(net[0].weight.detach(), (weight * z) * (net[0].bias != 0)[:, None])


@pytest.mark.parametrize("average_from", [None, 2])
def test_the_trainer_puts_back_what_it_deployed(average_from: int | None) -> None:
    """Bit for bit, and the event is about the gates of the average."""
    gates = gated(seed=3)
    net, found = gates.model, []
    made = gate_trainer(gates, epochs=4, average_from=average_from, average_decay=0.8)

    def compare(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            return
        before, order = state(net), list(net.named_parameters())
        rest = copy.deepcopy([gates.state_dict(), made.optimizer.state_dict()])
        with made.deployed() as model:
            assert model is net and LOG_ALPHA not in net.state_dict()
            counted = measure(net).nonzeros
            expected = gates.expected().item()
        assert counted == event["nonzeros"]["total"]["nonzeros"]
        assert event["method"]["curves"]["expected size"]["weights"] == pytest.approx(expected)
        assert same(state(net), before) and list(net.named_parameters()) == order
        assert same([gates.state_dict(), made.optimizer.state_dict()], rest)
        found.append(expected == pytest.approx(gates.expected().item(), abs=1e-9))

    made.report = compare
    made.fit()
    assert found == [True, True, average_from is None, average_from is None]


@pytest.mark.parametrize("average_from", [None, 1])
def test_an_average_meets_the_budget_of_now(average_from: int | None) -> None:
    """Not that of the epoch in which averaging began: the gates of an average take no steps."""
    gates = gated(0.0, budget=Budget(weights=linear(1, 0.3, 5 * STEPS), rate=0.02))
    net, told = gates.model, []

    def compare(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            return
        told.append(event)
        assert gates.step == STEPS * event["epoch"]
        [budget] = gates.constraints
        assert event["method"]["multipliers"] == {"weights": float(budget.multiplier)}
        assert event["nonzeros"]["total"]["nonzeros"] <= budget.limit(gates.step)

    made = gate_trainer(
        gates, epochs=6, average_from=average_from, average_decay=0.9, report=compare
    )
    event = made.fit()
    multipliers = [event["method"]["multipliers"]["weights"] for event in told]
    assert multipliers == sorted(multipliers) and len(set(multipliers[1:])) == 5
    assert 0 < event.nonzeros["total"].nonzeros == measure(net).nonzeros <= 0.3 * 99
    # Expected sizes are those of the gates that the event is about, the average's.
    assert event.more["method"]["curves"]["expected size"]["weights"] > 0.3 * 99, (
        "the budget decides, not the gates"
    )


def sgd(lr: float, **options: Any) -> Any:
    return lambda net: SGD(net.parameters(), lr, **options)


def test_the_penalty_is_in_the_loss() -> None:
    """One step of SGD on all examples, by hand."""
    gates, its = (gated(0.5, optimizer=sgd(0.1), finalize_at=2) for _ in range(2))
    net, twin, data = gates.model, its.model, blobs()
    one = gate_trainer(gates, data=data, epochs=2, batch_size=EXAMPLES, seed=5)
    one._train_epoch()
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(5 * 1_000_003))
    torch.manual_seed(5 * 1_000_003)
    loss = F.cross_entropy(twin(data.train_x[order]), data.train_y[order]) + its.penalty()
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= (0.3 if parameter is its.log_alpha else 0.1) * parameter.grad
    for parameter, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    assert gates.step == 1


def test_fine_tuning_keeps_zeros_and_has_no_penalty() -> None:
    """On single weights: without masks some would come back, and a prox would remove others."""
    net = dense()
    optimizer = SGD(net.parameters(), 0.05, momentum=0.9)
    gates = gate(
        optimizer, net, {weights(net): L0(0.05)}, gate_lr=6.0, init=0.4, finalize_at=3 * STEPS
    )
    log_alpha = gates.log_alpha
    before: list[nn.Module] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "evaluation" and event["epoch"] == 3:
            assert gates.finalized and gates.penalty() == 0
            before.append(copy.deepcopy(net))

    gate_trainer(gates, data=blobs(noise=1.5), epochs=12, report=note).fit()
    [plain] = before
    for (name, old), new in zip(plain.named_parameters(), net.parameters(), strict=True):
        assert torch.equal(old == 0, new == 0), name
        assert not torch.equal(old, new), name
    dead = sum(int((p == 0).sum()) for p in net.parameters())
    assert 10 < dead < 80
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters()}
    assert all(parameter is not log_alpha for parameter in optimizer.state)


OPTIMIZERS = {
    "momentum": (lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True), 1.0),
    "Adam": (lambda p: Adam(p, 0.01, weight_decay=0.01), 0.1),
    "one rate": (lambda p: RMSprop(p, lr=0.02), 0.02),
}


def full(
    out: Path, name: str, report: Any = None, *, finalize_at: int | None = None, **options: Any
) -> Trainer:
    """A run with all that has a state: dropout, gates, a budget, a schedule, an average."""
    net = dense(dropout=0.4)
    make, gate_lr = OPTIMIZERS[name]
    gates = gate(
        make(net.parameters()), net, {columns(net): L0(linear(0, 0.02, 2 * STEPS))}, init=0.4,
        gate_lr=gate_lr, budget=Budget(weights=linear(1, 0.3, 2 * STEPS), rate=0.1),
        finalize_at=steps(finalize_at),
    )  # fmt: skip
    return gate_trainer(
        gates, data=blobs(noise=1.5, valid=30), out=out,
        report=report, lr_factor=linear(1, 0.1, 5 * STEPS),
        **{"epochs": 5, "average_from": 3, "average_decay": 0.9, **options},
    )  # fmt: skip


@sampled(2)
@pairwise
@pytest.mark.parametrize("moment", ["progress", "evaluation"])
@pytest.mark.parametrize("finalize_at", [None, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, name: str, finalize_at: int | None, moment: str
) -> None:
    whole = full(tmp_path / "whole", name, finalize_at=finalize_at)
    expected = whole.fit()
    for epoch in (1, 2, 3, 4):  # gates, their end, fine-tuning
        out = tmp_path / str(epoch)
        with pytest.raises(Killed):
            full(out, name, kill(moment, epoch), finalize_at=finalize_at).fit()
        resumed = full(out, name, finalize_at=finalize_at)
        resumed.resume()
        assert resumed.epoch == epoch
        ended = finalize_at is not None and epoch >= finalize_at
        assert resumed.method.finalized == ended
        assert (LOG_ALPHA in resumed.model.state_dict()) == (not ended)
        assert timeless([resumed.fit()]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))
        ends = [torch.load(end / "checkpoint.pt", weights_only=True) for end in (out, whole.out)]
        for end in ends:
            del end["seconds"], end["event"]
        method = ends[0]["method"]
        assert (method["finalized_at"], method["step"]) == (steps(finalize_at), 5 * STEPS)
        assert (method["alive"] is None) == (finalize_at is None)
        assert same(*ends)
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))
    first, *_, last = [e for e in events_in(tmp_path / "whole") if "method" in e]
    risen = [e["method"]["multipliers"]["weights"] for e in (first, last)]
    assert risen[1] > risen[0] > 0
    resumed = full(tmp_path / "whole", name, finalize_at=finalize_at)
    resumed.resume()
    assert timeless([resumed.fit()]) == timeless([expected])
    assert same(state(resumed.model), state(whole.model))


@pytest.mark.parametrize("epoch", few([1, 3, 5], [3]))
@pytest.mark.parametrize("finalize_at", [None, 2])
def test_patience_chooses_plain_weights_and_goes_on(
    tmp_path: Path, finalize_at: int | None, epoch: int
) -> None:
    def run(out: Path, report: Any = None) -> Trainer:
        return full(
            out, "momentum", report, epochs=40, patience=4, patience_from=2,
            finalize_at=finalize_at, average_from=None,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    expected = whole.fit()
    assert 5 < whole.epoch < 40
    assert 2 < expected.epoch == whole.epoch - 4
    x, y = whole.data.valid_x, whole.data.valid_y
    assert x is not None and y is not None
    assert loss_and_error(whole.model, x, y)[0] == expected.valid.loss
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill("evaluation", epoch)).fit()
    resumed = run(tmp_path / "killed")
    resumed.resume()
    assert timeless([resumed.fit()]) == timeless([expected])
    assert same(state(resumed.model), state(whole.model))


def test_gates_and_a_proximal_step_on_other_weights_go_together() -> None:
    """In a loop of one's own; a trainer keeps the state of one method, and says so."""
    net, data = dense(), blobs()
    optimizer = Adam(net.parameters(), 0.01)
    end = 2 * STEPS
    gates = gate(optimizer, net, {weights(net).only("0"): L0(0.05)}, gate_lr=0.3, finalize_at=end)
    step = proximal(optimizer, {weights(net).only("3"): L0(0.5)}, finalize_at=end)
    with pytest.raises(RunError, match=r"follows this optimizer too.*take it off by"):
        gate_trainer(gates)
    for _ in range(5):
        for x, y in zip(data.train_x.split(BATCH), data.train_y.split(BATCH), strict=True):
            optimizer.zero_grad()
            (F.cross_entropy(net(x), y) + gates.penalty() + step.penalty()).backward()
            optimizer.step()
    assert gates.finalized_at == step.finalized_at == end and gates.step == step.step == 5 * STEPS
    for layer in (net[0], net[3]):
        assert 0 < int((layer.weight == 0).sum()) < layer.weight.numel()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ({"finalize_at": 3 * STEPS}, {}, r"ends after epoch 3, and training ends after epochs=2"),
        ({"start": 2 * STEPS}, {}, r"starts after epoch 2, and training ends after epochs=2"),
        ({"finalize_at": 2 * STEPS}, {"average_from": 1},
         r"averaged from epoch 1 on, before method 'gates' ends, after 2.*longer than epochs=2"),
        ({"finalize_at": 2 * STEPS}, {"patience": 1, "patience_from": 1},
         r"patience counts from epoch 1 on, .*'gates' ends, after 2.*train longer than epochs=2"),
    ],
)  # fmt: skip
def test_impossible_options_are_quoted(
    method: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((RunError, MethodError), match=message):
        gate_trainer(gated(**method), **{"data": blobs(valid=12), "epochs": 2, **options})


def test_gates_that_could_not_be_trained_are_refused() -> None:
    gates = gated()
    with pytest.raises(RunError, match="follows another optimizer than"):
        Trainer(gates.model, Adam(gates.model[0].parameters()), blobs(), epochs=3, method=gates)
    with pytest.raises(RunError, match=r"0\.weight.*is no parameter of this Sequential"):
        trainer(dense(), optimizer=gates.optimizer, method=gates)
    with pytest.raises(RunError, match="follows this optimizer too"):
        trainer(gates.model, optimizer=gates.optimizer)
    with pytest.raises(MethodError, match=r"without method=.* needs plain weights"):
        trainer(gates.model)
    with pytest.raises(RunError, match=r"a method is what lissom\.proximal, gate, .*got 'gates'"):
        trainer(dense(), method="gates")


@pytest.mark.parametrize("finalize_at", [None, 2])
def test_a_run_without_gates_does_not_go_on_with_gates(
    tmp_path: Path, finalize_at: int | None
) -> None:
    gate_trainer(gated(finalize_at=steps(finalize_at)), out=tmp_path / "gates").fit()
    trainer(out=tmp_path / "none").fit()
    with pytest.raises(RunError, match=r"trained with no method, and this trainer has 'gates'"):
        gate_trainer(gated(finalize_at=steps(finalize_at)), out=tmp_path / "none").resume()
    with pytest.raises(RunError, match=r"trained with 'gates', and this trainer has none"):
        trainer(out=tmp_path / "gates").resume()
    other = dense()
    optimizer = Adam(other.parameters(), 0.01)
    step = proximal(optimizer, {weights(other): L0(0.1)})
    with pytest.raises(RunError, match=r"the state is of method 'gates', this is 'proximal'"):
        trainer(other, optimizer=optimizer, method=step, out=tmp_path / "gates").resume()


def teacher_of(data: Any, **numbers: float) -> Teacher:
    generator = torch.Generator().manual_seed(3)
    return Teacher(3 * torch.randn(len(data.train_y), CLASSES, generator=generator), **numbers)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 3.0), (0.3, 1.0), (1.0, 0.5), (0.9, 4.0)])
def test_the_loss_of_a_student_is_hintons(alpha: float, temperature: float) -> None:
    data = blobs()
    teacher = teacher_of(data, alpha=alpha, temperature=temperature)
    batch, own = torch.tensor([5, 0, 63]), torch.randn(3, CLASSES).double().requires_grad_()
    total = 0.0
    for row, i in enumerate(batch.tolist()):
        q = F.softmax(own[row] / temperature, 0)
        p = F.softmax(teacher.logits[i].double() / temperature, 0)
        total = total + alpha * temperature**2 * (p * (p / q).log()).sum()
        total = total - (1 - alpha) * F.log_softmax(own[row], 0)[data.train_y[i]]
    mean = F.cross_entropy(own.float(), data.train_y[batch])
    loss = teacher.loss(own.float(), mean, batch, data.train_x[batch])
    torch.testing.assert_close(loss.double(), total / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("told", [{"label_smoothing": 0.2}, {"weight": [1.0, 5.0, 0.5]}])
def test_a_student_learns_labels_as_the_task_says(told: dict[str, Any]) -> None:
    """A teacher of weight 0 changes nothing, whatever the cross-entropy is."""
    data, task = blobs(), Task(**told)
    nets = [dense(), dense(), dense()]
    trainer(nets[0], data, task=task).fit()
    trainer(nets[1], data, task=task, teacher=teacher_of(data, alpha=0.0)).fit()
    trainer(nets[2], data, teacher=teacher_of(data, alpha=0.0)).fit()
    alone, taught, plainly = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(alone, taught) and not torch.equal(taught, plainly)


def test_a_network_that_is_asked_in_every_step_says_what_it_said_once() -> None:
    data, taught = blobs(), dense(seed=5, dropout=0.5)
    before, modes = state(taught), [module.training for module in taught.modules()]
    nets = [dense(dropout=0.5), dense(dropout=0.5)]
    answers: tuple[Any, ...] = (logits_of(taught, data.train_x), taught)
    for net, known in zip(nets, answers, strict=True):
        trainer(net, data, batch_size=len(data.train_y), teacher=Teacher(known, 0.7, 3.0)).fit()
    first, second = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert same(state(taught), before), "it is left alone"
    assert [module.training for module in taught.modules()] == modes
    assert all(p.grad is None for p in taught.parameters())


class Sees(nn.Module):
    """Remembers what it is shown in training, or otherwise, and passes it on."""

    def __init__(self, in_training: bool) -> None:
        super().__init__()
        self.in_training, self.seen = in_training, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training == self.in_training:
            self.seen.append(x.clone())
        return x


def test_a_network_is_asked_about_what_the_student_sees() -> None:
    data, student, taught = blobs(image=8), Sees(in_training=True), Sees(in_training=False)
    teacher = Teacher(nn.Sequential(taught, conv(1)))
    made = trainer(
        nn.Sequential(student, conv()), data, augment=Augment(pad=2), teacher=lambda: teacher
    )
    made.fit()
    assert isinstance(made.teacher, Teacher) and isinstance(made.teacher.logits, nn.Sequential)
    answered = made.teacher.logits[0]
    assert isinstance(answered, Sees) and not taught.seen, "it was a copy that was asked"
    steps_seen = student.seen[-3 * STEPS :]
    assert len(steps_seen) == 3 * STEPS and same(answered.seen[-3 * STEPS :], steps_seen)
    assert not torch.equal(torch.cat(steps_seen).sum(0), data.train_x.repeat(3, 1, 1, 1).sum(0))


def shifted(out: Path | None = None, **options: Any) -> Trainer:
    """A student of images that are moved in nine ways, and its teacher."""
    teacher = Teacher(conv(1), 0.7, 3.0)
    given = {"augment": Augment(pad=1), "teacher": lambda: teacher, "epochs": 9, **options}
    return trainer(conv(), blobs(image=8), out=out, **given)


def test_a_network_is_asked_beforehand_where_images_are_moved_in_few_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shifted()
    before.fit()
    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.teacher, "MOST", 0)
        anew = shifted()
        anew.fit()
    assert isinstance(before.teacher, Teacher) and isinstance(anew.teacher, Teacher)
    assert isinstance(before.teacher.logits, Tensor) and isinstance(anew.teacher.logits, nn.Module)
    found, expected = (
        torch.cat([p.flatten() for p in t.model.parameters()]) for t in (before, anew)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    fewer = shifted(epochs=8)  # than ways
    fewer.fit()
    assert isinstance(fewer.teacher, Teacher) and isinstance(fewer.teacher.logits, nn.Module)
    with pytest.raises(Killed):
        shifted(tmp_path, report=kill("evaluation", 5)).fit()
    resumed = shifted(tmp_path)
    resumed.resume()
    resumed.fit()
    assert same(state(resumed.model), state(before.model))


def test_training_that_was_interrupted_goes_on_with_the_answers_it_has() -> None:
    interrupted = shifted(report=kill("evaluation", 5))
    with pytest.raises(Killed):
        interrupted.fit()
    interrupted.report = lambda event: None
    interrupted.fit()
    assert interrupted.epoch == 9


@pytest.mark.parametrize("how", ["itself", "made when training starts"])
def test_logits_of_images_that_are_changed_are_refused(how: str) -> None:
    data = blobs(image=8)
    teacher: Any = teacher_of(data)
    with pytest.raises(RunError, match=r"augment shows others in every epoch: .*as Teacher\(net\)"):
        given = teacher if how == "itself" else lambda: teacher
        trainer(conv(), data, augment=Augment(pad=2), teacher=given).fit()


def test_a_network_with_other_classes_is_no_teacher() -> None:
    with pytest.raises(RunError, match=r"answers to an example: \[1, 3\] logits .* got \[1, 2\]"):
        trainer(teacher=Teacher(nn.Linear(4, 2))).fit()


def test_a_student_believes_its_teacher() -> None:
    data = blobs()
    wrong = F.one_hot((data.train_y + 1) % CLASSES, CLASSES) * 20.0
    for alpha, error in ((1.0, 1.0), (0.0, 0.0)):
        net = dense()
        made = trainer(net, data, epochs=30, teacher=Teacher(wrong, alpha, 1.0))
        assert made.fit().train.error == pytest.approx(error, abs=0.05)


def test_without_weight_a_teacher_changes_nothing() -> None:
    data, nets = blobs(), [dense(), dense()]
    trainer(nets[0], data).fit()
    trainer(nets[1], data, teacher=teacher_of(data, alpha=0)).fit()
    assert same(state(nets[0]), state(nets[1]))


def test_a_teacher_that_is_made_when_training_starts(tmp_path: Path) -> None:
    data, calls = blobs(), []

    def make() -> Teacher:
        calls.append(1)
        torch.manual_seed(len(calls))  # whatever it draws does not matter
        return teacher_of(data, alpha=0.5)

    nets = [dense(dropout=0.5), dense(dropout=0.5)]
    trainer(nets[0], data, teacher=teacher_of(data, alpha=0.5)).fit()
    late = trainer(nets[1], data, teacher=make, out=tmp_path)
    assert not calls
    late.fit()
    assert same(state(nets[0]), state(nets[1])) and calls == [1]
    again = trainer(dense(dropout=0.5), data, teacher=make, out=tmp_path)
    again.resume()
    again.fit()
    assert calls == [1], "a finished run needs no teacher"


def test_a_teacher_of_other_examples_is_refused() -> None:
    data = blobs(valid=12)
    for rows, classes in ((EXAMPLES + 12, CLASSES), (EXAMPLES, CLASSES + 1)):
        made = trainer(data=data, teacher=Teacher(torch.zeros(rows, classes)))
        with pytest.raises(
            RunError, match=rf"\[64, 3\] logits are needed, got \[{rows}, {classes}"
        ):
            made.fit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3),), r"logits are a tensor \[n, classes\], or a network .*, got \[3\]"),
        ((None,), r"logits are a tensor \[n, classes\], or a network that gives them, got None"),
        ((torch.zeros(3, 2), 1.5), r"alpha is in \[0, 1\], got 1\.5"),
        ((torch.zeros(3, 2), 0.5, 0.0), r"temperature is above 0, got 0\.0"),
    ],
)
def test_impossible_teachers_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Teacher(*arguments)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (dense(), r"a teacher cannot be a network, Sequential: it is a lissom\.training\.Teacher, "
         r"or a function .*Teacher\(logits_of\(net, data\.train_x\)\)"),
        (3, r"a teacher cannot be 3 \(int\): it is a lissom"),
        ("mnist-teacher", r"a teacher cannot be 'mnist-teacher' \(str\): it is"),
        (Teacher, r"a teacher cannot be the class Teacher: it is"),
    ],
)  # fmt: skip
def test_what_is_no_teacher_is_refused_before_training(teacher: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        trainer(teacher=teacher)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (3, r"returned 3 \(int\): it is a lissom\.training\.Teacher, .*Teacher\(logits_of\("),
        (None, r"returned None: it is"),
        (dense(), r"returned a network, Sequential: it is"),
    ],
)
def test_a_function_that_makes_no_teacher_is_refused(made: Any, message: str) -> None:
    with pytest.raises(RunError, match=f"the function that makes a teacher {message}"):
        trainer(teacher=lambda: made).fit()


def test_logits_are_those_of_evaluation_mode() -> None:
    net, data = dense(dropout=0.5), blobs()
    net.train()
    found = logits_of(net, data.train_x, batch_size=BATCH + 1)
    assert net.training and not found.requires_grad
    torch.testing.assert_close(found, net.eval()(data.train_x).detach())


def test_gates_on_the_inner_channels_of_a_wide_residual_network() -> None:
    net = wide_resnet(depth=10, widen=1, classes=CLASSES, channels=1)
    example = torch.zeros(2, 1, 8, 8)
    inner = channels(net, example).only("stage*.conv1")
    assert len(inner) == 16 + 32 + 64
    optimizer = Adam(net.parameters(), 0.01)
    penalties = {inner: L0(1e-3)}
    gates = gate(optimizer, net, penalties, gate_lr=0.3, init=0.3, example_inputs=example)
    made = gate_trainer(gates, data=blobs(image=8), epochs=1)
    event = made.fit()
    curves = event.more["method"]["curves"]
    assert sum(curves["open gates"].values()) == 112
    assert curves["expected size"]["macs"] > 0 and gates.finalized
