"""What is known of a network after an epoch: loss and error by part of the data, and non-zeros.

In files an evaluation is one JSON object:

    {"event": "evaluation", "epoch": 20,
     "train": {"loss": 0.01, "error": 0.002, "scores": {}}, "valid": {…}, "test": {…},
     "nonzeros": {"fc1.weight": {"weights": 19200, "nonzeros": 300}, …, "total": {…}},
     "method": {"name": "gates", …}, "seconds": {"train": 9.1, "evaluate": 0.2}}
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.arguments import fits, misfit, shown
from lissom.data import Dataset
from lissom.errors import LissomError, RunError
from lissom.groups.making import WHOLE_NUMBERS
from lissom.measuring import measure
from lissom.running import Inputs, evaluating, run

EVALUATION = "evaluation"  # what its "event" says


@dataclass(frozen=True)
class Part:
    """How well a network does on the training, validation or test examples.

    Attributes:
        loss: the mean cross-entropy, in nats.
        error: the fraction that is classified wrongly.
        scores: other numbers, by name.
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


def evaluate(model: nn.Module, data: Dataset, epoch: int) -> Evaluation:
    """Evaluate a network of plain weights, after an epoch, on all parts of the data."""
    train = Part(*loss_and_error(model, data.train_x, data.train_y))
    test = Part(*loss_and_error(model, data.test_x, data.test_y))
    valid = None
    if data.valid_x is not None and data.valid_y is not None:
        valid = Part(*loss_and_error(model, data.valid_x, data.valid_y))
    counted = measure(model)
    counts = {v.name: Count(v.weights, v.nonzeros) for v in counted.variables}
    counts["total"] = Count(counted.weights, counted.nonzeros)
    return Evaluation(epoch, train, test, counts, valid)


@torch.no_grad()
def loss_and_error(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 2000
) -> tuple[float, float]:
    """Mean cross-entropy in nats and the fraction of wrong answers, in evaluation mode."""
    logits = logits_of(model, x, batch_size)
    if logits.ndim != 2 or not len(y) or int(y.max()) >= logits.shape[1]:
        raise LissomError(
            f"{type(model).__name__} is to answer with logits [n, classes], got "
            f"{list(logits.shape)} for {len(y)} labels up to {int(y.max()) if len(y) else None}"
        )
    loss, wrong = 0.0, 0
    for part, labels in zip(logits.split(batch_size), y.split(batch_size), strict=True):
        loss += float(F.cross_entropy(part, labels, reduction="sum"))
        wrong += int((part.argmax(1) != labels).sum())
    return loss / len(y), wrong / len(y)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, batch_size: int = 2000) -> Tensor:
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
