"""What can be known of a recipe before hours are spent on it: everything but the training."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lissom.curves.placing import Plan
from lissom.errors import RunError
from lissom.measuring import Measurement, measure
from lissom.methods import Method
from lissom.penalties import Penalty, TopK
from lissom.recipes.examples import make_example, shape_of
from lissom.recipes.fitting import RecipePath
from lissom.recipes.making import make_data, make_task
from lissom.recipes.specs import Recipe
from lissom.recipes.trainers import make_trainer
from lissom.rescaling import rescale
from lissom.training import Trainer

STEPS, SECONDS = 20, 2.0  # of the trial, at most
LAST = 2**62  # a step by which every schedule has ended


@dataclass(frozen=True)
class Checked:
    """What came of a check.

    Attributes:
        data: in words.
        model: in words.
        size: of the network as it is.
        loss: of the first batch.
        error_name: what the network is judged by.
        groups: a table for each choice of groups.
        expected: a line for each of them about what stays.
        steps: in an epoch.
        step_seconds: of a step, the mean of some.
        epochs: of the whole training, or of all points and seeds of the curve.
        of: in words, what these are.
    """

    data: str
    model: str
    size: Measurement
    loss: float
    error_name: str
    groups: tuple[str, ...]
    expected: tuple[str, ...]
    steps: int
    step_seconds: float
    epochs: int
    of: str

    @property
    def seconds(self) -> float:
        """Of an epoch, without its evaluation."""
        return self.steps * self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "size": self.size.to_dict(), "seconds": self.seconds}

    def __str__(self) -> str:
        size = f"{self.size.weights:,} weights, {self.size.dense_bytes:,} bytes"
        if self.size.macs is not None:
            size += f", {self.size.macs:,} MACs for one example"
        return "\n".join(
            (
                self.data,
                f"{self.model}: {size}",
                f"one batch, forward and backward: loss {self.loss:.4g}; judged by "
                f"{self.error_name}",
                *(f"\n{table}" for table in self.groups),
                *self.expected,
                f"{self.seconds:.3g} s an epoch of {self.steps:,} steps, without evaluation; about "
                f"{_long(self.seconds * self.epochs)} for {self.of}",
            )
        )


class _Enough(Exception):  # noqa: N818
    pass


class _Trial:
    """A callback that ends a training after some steps, and looks at the first."""

    def __init__(self) -> None:
        self.first_loss = float("nan")
        self.untouched: list[str] = []
        self.times: list[float] = []

    def on_step_end(self, trainer: Trainer, loss: Tensor) -> None:
        if not self.times:
            self.first_loss = float(loss)
            named = trainer.model.named_parameters()
            self.untouched = [n for n, p in named if p.requires_grad and p.grad is None]
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS or self.times[-1] - self.times[0] > SECONDS:
            raise _Enough

    def on_epoch_end(self, trainer: Trainer, found: Any) -> None:
        raise _Enough


def check_recipe(recipe: Recipe, data_dir: Path | None, device: str) -> Checked:
    """Do everything that training a recipe, or its curve, does, but for the training.

    Data are read, and the network is made and trained for at most 20 steps, whose time is taken;
    nothing is written.

    Raises:
        LissomError: for all that training would refuse.
    """
    task = make_task(recipe)
    # A curve has checks of its own, and the same examples for all seeds.
    path = None if recipe.path is None else RecipePath(recipe, Path(), device=device)
    data = make_data(recipe, data_dir)
    if path is not None:
        path.check()
        path.check_data(data)
    trial = _Trial()
    alone = recipe.model_copy(update={"teacher": None})  # which would be trained first
    trainer = make_trainer(alone, data, device=device, callbacks=[trial])
    example = make_example(trainer.model, shape_of(data, task), 1)
    with _plain(trainer):
        size = measure(trainer.model, example)
    groups = tuple(_tables(trainer.method))
    started = time.perf_counter()
    with suppress(_Enough):
        trainer.fit()
    if trial.untouched:
        raise RunError(
            f"no gradient arrives at {', '.join(trial.untouched[:8])} of model "
            f"{recipe.model.called!r}: the loss does not depend on them. Use them in forward, or "
            "set requires_grad_(False)"
        )
    expected = tuple(_expected(trainer, example))
    times = trial.times
    warm = times[-1] - times[0]  # the first step is slower
    seconds = warm / (len(times) - 1) if len(times) > 1 else times[0] - started
    epochs, of = recipe.train.epochs, f"{recipe.train.epochs} epochs"
    if recipe.path is not None:
        spec = recipe.path
        points = Plan.of(spec.strengths, spec.points).points
        epochs = spec.seeds * (spec.dense + (points - 1) * spec.each)
        of = f"the {epochs:,} epochs of a curve, {points} points × {spec.seeds}"
    return Checked(
        repr(data), recipe.model.called, size, trial.first_loss, task.error_name, groups, expected,
        trainer.steps_per_epoch, seconds, epochs, of,
    )  # fmt: skip


def _plain(trainer: Trainer) -> AbstractContextManager[None]:
    """While it is open, the network computes with its own weights, without gates or masks."""
    return nullcontext() if trainer.method is None else trainer.method.aside()


def _tables(method: Method | None) -> Iterator[str]:
    for groups, penalty in () if method is None else method.penalties.items():
        yield f"{penalty}\n{groups}"


def _expected(trainer: Trainer, example: Any) -> Iterator[str]:
    """The size that is known beforehand: what the budgets leave of these weights at their end.

    The network of the trainer is not trained further; its smallest groups are zeroed.
    """
    method = trainer.method
    if method is None:
        yield "no [method]: all weights stay"
        return
    known = True
    for groups, penalty in method.penalties.items():
        last = penalty.at(LAST) if isinstance(penalty, Penalty) else None
        if isinstance(last, TopK):
            rescale(last, list(groups), lambda block: 1.0, lambda block: None)
        else:
            known = False
            yield f"{penalty}: what it leaves is seen after training"
    if known:
        with _plain(trainer):
            size = measure(trainer.model, example)
        shrunk = f", {size.shrunk_weights:,} when shrunk" if size.shrunk_weights else ""
        yield (
            f"expected: about {size.nonzeros:,} of {size.weights:,} weights are not zero{shrunk}"
        )


def _long(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
