"""What is known of a network after an epoch: loss and error by part of the data, and non-zeros.

In files an evaluation is one JSON object:

    {"event": "evaluation", "epoch": 20,
     "train": {"loss": 0.01, "error": 0.002, "scores": {}}, "valid": {…}, "test": {…},
     "nonzeros": {"fc1.weight": {"weights": 19200, "nonzeros": 300}, …, "total": {…}},
     "method": {"name": "gates", …}, "seconds": {"train": 9.1, "evaluate": 0.2}}
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, fits, misfit, shown
from lissom.data import Dataset, Loaders
from lissom.data.loaders import PARTS, drawing_apart, epoch_of, moved, split_batch, told
from lissom.errors import LissomError, RunError
from lissom.groups.making import WHOLE_NUMBERS
from lissom.measuring import measure
from lissom.running import Inputs, evaluating, run
from lissom.training.task import Task

EVALUATION = "evaluation"  # what its "event" says
AT_ONCE = 2000  # examples in memory that are evaluated together
CLASSES = Task()


@dataclass(frozen=True)
class Part:
    """How well a network does on the training, validation or test examples.

    Attributes:
        loss: the mean of the task's loss; of cross-entropy, in nats.
        error: what the task judges by, a number of which less is better; the fraction that is
            classified wrongly.
        scores: the task's score as it is, and other numbers, by name.
    """

    loss: float
    error: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Count:
    """How many weights a variable has, and how many of them are not zero."""

    weights: int
    nonzeros: int


@dataclass(frozen=True)
class Evaluation:
    """What is known of a network after an epoch.

    Attributes:
        epoch: how many were done.
        train: on the training examples.
        test: on the test examples, by which nothing is chosen.
        nonzeros: by variable, and their sum as "total".
        valid: on the held-out examples; None without any.
        more: what else is known, by name: how the method stands, as "method".
        seconds: spent on training so far, and on this evaluation.
    """

    epoch: int
    train: Part
    test: Part
    nonzeros: Mapping[str, Count]
    valid: Part | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; "valid" is left out where nothing was held out."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {
            "event": EVALUATION,
            "epoch": self.epoch,
            **{name: asdict(part) for name, part in parts.items() if part is not None},
            "nonzeros": {name: asdict(count) for name, count in self.nonzeros.items()},
            **self.more,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """What `to_dict` made; what it does not know goes to `more`, as a run's title does.

        Raises:
            RunError: if it is no evaluation.
        """
        given = dict(kept)
        try:
            if (event := given.pop("event")) != EVALUATION:
                raise ValueError(f"its event is {event!r}")
            parts = {n: Part(**given.pop(n)) for n in ("train", "valid", "test") if n in given}
            counts = {name: Count(**count) for name, count in given.pop("nonzeros").items()}
            epoch, seconds = given.pop("epoch"), given.pop("seconds", {})
            return cls(epoch, nonzeros=counts, more=given, seconds=seconds, **parts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"this is not the record of an evaluation as this lissom writes it: {error!r}"
            ) from error


class Tally:
    """Sees a part of the data batch after batch, and then says how well a network did.

    Args:
        task: by which it judges.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._loss, self._score = task, task.terms(), task.judged_by
        self._sums: Tensor | None = None
        self._answers: list[tuple[Any, Any]] = []
        if self._score is not None and self._score.is_metric:
            self._score.of.reset()  # type: ignore[attr-defined]

    @torch.no_grad()
    def add(self, outputs: Any, targets: Any) -> None:
        """See a batch; nothing waits for the device here."""
        terms = [torch.as_tensor(term) for term in self._loss.sums(outputs, targets)]
        device = terms[0].device
        exact = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.stack([term.to(device, exact) for term in terms])
        self._sums = sums if self._sums is None else self._sums + sums
        if self._score is None:
            return
        outputs, targets = self._loss.answers(outputs, targets)
        if self._score.is_metric:
            metric: Any = self._score.of
            if isinstance(metric, nn.Module):
                metric.to(device)
            metric.update(outputs, targets)
        else:
            self._answers.append((_apart(outputs), _apart(targets)))

    def part(self) -> Part:
        """What is known now.

        Raises:
            RunError: if there was nothing to see, or a score is no number.
        """
        if self._sums is None:
            raise RunError("there was no batch to evaluate")
        loss, of, errors, answers = self._sums.tolist()
        if not answers:
            raise RunError("no target counted: all of them are to be ignored")
        loss, error = (loss / of if of else 0.0), errors / answers
        if self._score is None:
            return Part(loss, error**0.5 if self._loss.root else error)
        if self._score.is_metric:
            value = self._score.of.compute()  # type: ignore[attr-defined]
        else:
            outputs, targets = (_joined(several) for several in zip(*self._answers, strict=True))
            value = self._called(outputs, targets)
        if not isinstance(value, Tensor | float | int) or torch.as_tensor(value).numel() != 1:
            raise RunError(
                f"the score {self._task.score_name} is to be a number, got {shown(value)}"
            )
        value = float(value)
        return Part(loss, self._score.error(value), {self._task.score_name: value})

    def _called(self, outputs: Any, targets: Any) -> Any:
        assert self._score is not None
        try:
            return self._score.of(outputs, targets)
        except Exception as error:  # a score may raise anything
            raise RunError(
                f"the score {self._task.score_name} fails on outputs {told(outputs)} and targets "
                f"{told(targets)}: {error}"
            ) from error


def _apart(answers: Any) -> Any:
    return answers.detach().cpu() if isinstance(answers, Tensor) else answers


def _joined(several: tuple[Any, ...]) -> Any:
    """The answers to all batches as one tensor, or as a list where they are none."""
    if not all(isinstance(one, Tensor) for one in several):
        return list(several)
    if len({one.shape[1:] for one in several}) > 1:
        shapes = ", ".join(str(list(one.shape)) for one in several[:3])
        raise RunError(
            f"batches of different shapes, {shapes}, cannot be given to a score at once: use a "
            "torchmetrics Metric, which sees one after the other"
        )
    return torch.cat(several)


@as_annotated(RunError)
@torch.no_grad()
def evaluate(
    model: nn.Module, data: Dataset | Loaders, task: Task = CLASSES, part: str = "test"
) -> Part:
    """How well a network does on a part of the data, in evaluation mode.

    Args:
        model: as it would be delivered, anywhere.
        data: whose part is asked.
        task: by which it is judged.
        part: "train", "valid" or "test".

    Raises:
        RunError: if there is no such part, or it is empty.
    """
    tally = Tally(task)
    with evaluating(model), drawing_apart():
        for batch in _batches(data, part):
            judged(model, batch, task, tally, f"a {part} batch of {data.name!r}")
    return tally.part()


def judged(model: nn.Module, batch: Any, task: Task, tally: Tally, where: str) -> tuple[Any, Any]:
    """Outputs and targets of a batch, which the tally has seen then.

    Raises:
        RunError: quoting the batch, and what the model, the loss or the score says of it.
    """
    try:
        outputs, targets = task.call(model, moved(batch, model))
    except LissomError as error:
        raise RunError(f"{where}, {told(batch)}: {error}") from error
    except Exception as error:  # a model may raise anything
        raise RunError(
            f"{type(model).__name__} cannot be called with {where}, {told(batch)}: {error}. "
            f"{_on_whole_numbers(task, batch)}Task(forward=lambda model, batch: (model(…), "
            "target)) calls it in another way"
        ) from error
    try:
        tally.add(_as_float(outputs), targets)
    except LissomError as error:
        raise RunError(f"{where}, {told(batch)}: {error}") from error
    except Exception as error:  # so may a loss, or a score
        raise RunError(
            f"the loss or the score fails on {where}, {told(batch)}, for outputs {told(outputs)}: "
            f"{error}"
        ) from error
    return outputs, targets


def _on_whole_numbers(task: Task, batch: Any) -> str:
    """What may be wrong with inputs of whole numbers, if a batch has some."""
    if task.forward is not None:
        return ""
    inputs, _ = split_batch(batch)
    given = (*inputs.args, *inputs.kwargs.values())
    whole = [x for x in given if isinstance(x, Tensor) and x.dtype in WHOLE_NUMBERS and x.numel()]
    if not whole:
        return ""
    low, high = min(int(x.min()) for x in whole), max(int(x.max()) for x in whole)
    return (
        f"Its whole numbers, from {low} to {high}, are given as they are, as tokens: sound and "
        "other measurements are to be floats. "
    )


def _batches(data: Dataset | Loaders, part: str) -> Iterable[Any]:
    if isinstance(data, Loaders):
        loader = getattr(data, part, None) if part in PARTS else None
        found = None if loader is None else epoch_of(loader, 0, 0)
    else:
        x, y = (getattr(data, f"{part}_{column}", None) for column in "xy")
        found = None if x is None or y is None else _parts(x, y)
    if found is None:
        raise RunError(f"{data!r} has no part {part!r}")
    return found


def _parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of data in memory, whose inputs are copies, into which a model may write."""
    return zip(map(torch.clone, x.split(AT_ONCE)), y.split(AT_ONCE), strict=True)


def _as_float(outputs: Any) -> Any:
    """Answers of half precision as float32, so that their sums are exact."""
    half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
    return outputs.float() if half else outputs


def evaluate_all(
    model: nn.Module,
    data: Dataset | Loaders,
    epoch: int,
    task: Task = CLASSES,
    train: Part | None = None,
) -> Evaluation:
    """Evaluate a network of plain weights, after an epoch, on all parts of the data.

    Args:
        model: with plain weights.
        data: all of it.
        epoch: how many were done.
        task: by which it is judged.
        train: what is known of the training examples already.
    """
    held = data.valid_x if isinstance(data, Dataset) else data.valid
    train = train or evaluate(model, data, task, "train")
    test = evaluate(model, data, task, "test")
    valid = None if held is None else evaluate(model, data, task, "valid")
    return Evaluation(epoch, train, test, count(model), valid)


def count(model: nn.Module) -> dict[str, Count]:
    """The weights of each variable that are not zero, and their sum as "total"."""
    counted = measure(model)
    counts = {v.name: Count(v.weights, v.nonzeros) for v in counted.variables}
    return {**counts, "total": Count(counted.weights, counted.nonzeros)}


def loss_and_error(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = AT_ONCE
) -> tuple[float, float]:
    """Mean cross-entropy in nats and the fraction of wrong answers, in evaluation mode."""
    logits = logits_of(model, x, batch_size)
    if logits.ndim != 2 or not len(y) or int(y.max()) >= logits.shape[1]:
        raise LissomError(
            f"{type(model).__name__} is to answer with logits [n, classes], got "
            f"{list(logits.shape)} for {len(y)} labels up to {int(y.max()) if len(y) else None}"
        )
    tally = Tally(CLASSES)
    for part, labels in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        tally.add(part, labels)
    found = tally.part()
    return found.loss, found.error


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int = AT_ONCE) -> Tensor:
    """What a model answers to x in evaluation mode, [n, classes] in float32."""
    with evaluating(model):
        answers = [run(model, Inputs((inputs,))) for inputs in x.split(batch_size)]
    if not all(isinstance(answer, Tensor) for answer in answers):
        what = f"{type(model).__name__} is to answer with logits [n, classes]"
        raise LissomError(f"{what}, got {shown(answers[0])}")
    return torch.cat([answer.float() for answer in answers])


def check_labelled(x: Tensor, y: Tensor, error: type[LissomError] = LissomError) -> None:
    """See that each input has a label, and that there are some.

    Raises:
        LissomError: quoting the shapes.
    """
    for name, given in (("x", x), ("y", y)):
        if not fits(given, Tensor):
            raise error(misfit(name, Tensor, given))
    if y.ndim != 1 or not x.ndim or len(x) != len(y) or not len(y) or y.dtype not in WHOLE_NUMBERS:
        raise error(
            f"x holds n ≥ 1 inputs and y their n labels, got x{list(x.shape)} and y{list(y.shape)} "
            f"of {y.dtype}"
        )
