"""What a network is trained for and judged by: its loss, and a score.

Inside lissom everything is judged by an *error*, a number ≥ 0 of which less is better: the score
itself, or best − score where a larger score is better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lissom.arguments import check_fields, shown
from lissom.data.loaders import split_batch, told
from lissom.errors import RunError
from lissom.training.losses import LOSSES, CrossEntropy, Loss, Own

SCORES = (
    "a score is a torchmetrics Metric, or lissom.training.Score(function, name=…, best=…, "
    "larger_is_better=…) of a function (outputs, targets) → number"
)


@dataclass(frozen=True, eq=False)
class Score:
    """A number that a network is judged by, with which way is up.

    Attributes:
        of: a function (outputs, targets), of all examples of a part, that gives a number; or a
            torchmetrics Metric, which sees batch after batch and keeps less in memory.
        name: what it is called in tables and on axes.
        best: the largest number that there can be, where larger is better.
        larger_is_better: as for an accuracy; False for distances and errors.

    Raises:
        RunError: for what is neither, or a larger-is-better score without its best.
    """

    of: Callable[..., Any]
    name: str | None = None
    best: float | None = None
    larger_is_better: bool = False

    def __post_init__(self) -> None:
        check_fields(self, RunError, Score)
        if self.larger_is_better and self.best is None:
            raise RunError(
                f"a score that grows needs the best it can be, such as best=1.0: {self.called} is "
                "told as the distance from there"
            )

    @property
    def called(self) -> str:
        """Its name: the one given, or that of the function."""
        return self.name or str(getattr(self.of, "__name__", type(self.of).__name__))

    @property
    def is_metric(self) -> bool:
        """Whether it sees batch after batch, as torchmetrics do."""
        return all(hasattr(self.of, name) for name in ("update", "compute", "reset"))

    def error(self, value: float) -> float:
        """How far a value is from the best."""
        return value if self.best is None or not self.larger_is_better else self.best - value


def as_score(given: object) -> Score | None:
    """What `Task(score=…)` was given, with its direction read from a torchmetrics Metric.

    Raises:
        RunError: for what has no direction.
    """
    if given is None or isinstance(given, Score):
        return given
    score = Score(given) if callable(given) and not isinstance(given, type) else None
    if score is None or not score.is_metric:
        raise RunError(f"of {shown(given)} it is not known whether larger is better: {SCORES}")
    larger, best = (getattr(given, n, None) for n in ("higher_is_better", "plot_upper_bound"))
    if larger is None or (larger and best is None):
        raise RunError(
            f"{score.called} does not say {'its best' if larger else 'whether larger is better'}: "
            "wrap it in lissom.training.Score(metric, best=…, larger_is_better=…)"
        )
    return Score(given, None, float(best) if larger else None, bool(larger))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Task:
    """Says what your network is for, so that training, curves and reports can work with it.

        Task()                                              # classes: cross-entropy, fraction wrong
        Task("mse", unit="°C")                              # regression: RMSE
        Task("bce_with_logits", weight=[4.0, 9.0])          # one logit, or several labels each
        Task(focal, score=MulticlassF1Score(num_classes=5))
        Task(forward=lambda model, batch: (model(batch["x"], batch["mask"]), batch["y"]))

    Shapes: outputs [n, classes] or [n, classes, …] and targets [n] or [n, …] for "cross_entropy",
    with −100 for targets that do not count; outputs and targets of one shape for the others, where
    outputs may have one dim of 1 more, as a single logit [n, 1] for targets [n].

    Attributes:
        loss: "cross_entropy", "mse", "bce_with_logits", or a function (outputs, targets) that gives
            the mean loss of a batch.
        score: what the network is judged by: a torchmetrics Metric, or a `Score`. None goes by the
            loss: the fraction of wrong answers; the root of the mean squared error; the mean loss
            of a function.
        weight: of each class in "cross_entropy", or of the positive answers in "bce_with_logits".
        label_smoothing: the part of each target that all classes share, 0 ≤ ε < 1, in the
            "cross_entropy" that is trained on (Szegedy et al. 2016, section 7); evaluations go by
            the targets as they are.
        forward: (model, batch) → (outputs, targets). None calls model(*inputs) for batches
            (inputs …, target), and model(**rest) for dicts, where the target is under "labels",
            "label", "targets", "target" or "y"; of outputs with `logits`, as those of transformers,
            it takes these, and of tokens [n, length, classes] moves the classes to dim 1.
        name: of what is judged by, in tables and on axes.
        unit: in which it is measured, such as "°C".

    Raises:
        RunError: for a loss that is not known, a score without a direction, or weights that are
            negative, not finite or all 0.
    """

    loss: str | Callable[..., Any] = "cross_entropy"
    score: Any = None
    weight: Tensor | Sequence[float] | None = field(default=None, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)
    forward: Callable[..., Any] | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    unit: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self, RunError, Task)
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise RunError(
                f"loss is {', '.join(map(repr, LOSSES))} or a function (outputs, targets) that "
                f"gives the mean loss, got {self.loss!r}",
                field="loss",
            )
        if self.weight is not None and self.loss not in ("cross_entropy", "bce_with_logits"):
            raise RunError(
                "weight is of classes in 'cross_entropy', or of positive answers in "
                f"'bce_with_logits', and loss is {shown(self.loss)}",
                field="weight",
            )
        if self.weight is not None:
            _check_weight(torch.as_tensor(self.weight, dtype=torch.float32))
        smoothing = self.label_smoothing
        if not 0 <= smoothing < 1 or (smoothing and self.loss != "cross_entropy"):
            raise RunError(
                "label_smoothing is 0 ≤ ε < 1 of each target of 'cross_entropy', got "
                f"{smoothing!r} for loss {shown(self.loss)}",
                field="label_smoothing",
            )
        as_score(self.score)

    @property
    def judged_by(self) -> Score | None:
        """The score; None where the error goes by the loss."""
        return as_score(self.score)

    @property
    def score_name(self) -> str:
        """What the network is judged by: "error", "RMSE", "mIoU"."""
        score = self.judged_by
        return self.name or (self.terms().error if score is None else score.called)

    @property
    def error_name(self) -> str:
        """What the error is called: "error", "RMSE", "1 − mIoU"."""
        score, name = self.judged_by, self.score_name
        if score is None:
            return name
        return f"{score.best:g} − {name}" if score.larger_is_better else name

    @property
    def error_unit(self) -> str:
        """In which the error is measured: "fraction", which is shown in percent, "°C", or ""."""
        return self.unit or ("fraction" if self.error_name == "error" else "")

    def call(self, model: Callable[..., Any], batch: Any) -> tuple[Any, Any]:
        """Outputs of a model, and the targets, of a batch that lies where the model does."""
        if self.forward is not None:
            made = self.forward(model, batch)
            if not isinstance(made, tuple | list) or len(made) != 2:
                raise RunError(f"forward gives (outputs, targets), got {told(made)}")
            return made[0], made[1]
        inputs, targets = split_batch(batch)
        return logits_in(model(*inputs.args, **inputs.kwargs)), targets

    def mean_loss(self, outputs: Any, targets: Any) -> Tensor:
        """What is trained on, a scalar.

        Raises:
            RunError: for outputs and targets that do not fit the loss.
        """
        return self.terms().mean(outputs, targets)

    def terms(self) -> Loss:
        """The loss with its weights."""
        if not isinstance(self.loss, str):
            return Own(self.loss)
        weight = None if self.weight is None else torch.as_tensor(self.weight, dtype=torch.float32)
        if self.label_smoothing:
            return CrossEntropy(weight, self.label_smoothing)
        return LOSSES[self.loss](weight)


def _check_weight(weight: Tensor) -> None:
    """Refuse weights with which a loss would not be a mean."""
    wrong = weight[~(weight.isfinite() & (weight >= 0))]
    if len(wrong):
        raise RunError(
            f"weight holds finite numbers ≥ 0, got {wrong[0]:g} in {shown(weight.tolist())}",
            field="weight",
        )
    if not weight.any():
        raise RunError(
            f"weight is above 0 for at least one class, got {shown(weight.tolist())}",
            field="weight",
        )


def logits_in(outputs: Any) -> Any:
    """The logits of an object or dict that has some, with the classes of tokens in dim 1."""
    if isinstance(outputs, Tensor):
        return outputs
    named = isinstance(outputs, dict) and "logits" in outputs
    logits = outputs["logits"] if named else getattr(outputs, "logits", outputs)
    return logits.transpose(1, 2) if isinstance(logits, Tensor) and logits.ndim == 3 else logits
