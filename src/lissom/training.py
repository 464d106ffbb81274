"""A plain training loop for people who have none: seeds, events, checkpoints, early stopping."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lissom.checkpoints import append_event, keep_events, load_state, save_state
from lissom.data import Dataset
from lissom.errors import RunError
from lissom.groups import Groups
from lissom.measure import measure
from lissom.penalties import Penalty
from lissom.proximal import Proximal, penalty_loss
from lissom.schedules import Schedule

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """How a `Trainer` trains; see there."""

    epochs: int
    batch_size: int = 128
    lr_factor: Schedule | None = None
    patience: int | None = None
    patience_from: int = 0
    average_from: int | None = None
    average_decay: float = 0.999
    evaluate_every: int = 1
    bf16: bool = False
    channels_last: bool = False
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "patience"):
            number = getattr(self, name)
            if number is None and name == "patience":
                continue
            if not isinstance(number, int) or number < 1:
                raise RunError(f"{name} is a whole number ≥ 1, got {number!r}")
        for name in ("patience_from", "average_from"):
            epoch = getattr(self, name)
            if epoch is not None and (not isinstance(epoch, int) or not 0 <= epoch < self.epochs):
                raise RunError(
                    f"{name} is an epoch from 0 to {self.epochs - 1}, before the last of "
                    f"epochs={self.epochs}; got {epoch!r}"
                )
        if not 0 <= self.average_decay < 1:
            raise RunError(f"average_decay is in [0, 1), got {self.average_decay!r}")
        if not isinstance(self.seed, int):
            raise RunError(f"a seed is a whole number, got {self.seed!r}")
        usable_device(self.device)


class Trainer:
    """Trains a classifier by cross-entropy on a data set in memory, the same way every time.

    Each epoch's shuffling and dropout depend on (seed, epoch) alone, so a run that was killed and
    resumed ends in the same weights as one that was not. An event is written after every
    evaluation, then a checkpoint; a kill between the two only repeats the epochs since the last.

    Args:
        model: gives logits [n, classes] for inputs [n, …]; trained in place.
        optimizer: of the model's parameters.
        data: training examples, and test examples that nothing is chosen by.
        epochs: passes over the training examples.
        proximal: the handle of `lissom.proximal` on this optimizer, kept in the checkpoints.
        penalties: {groups: penalty} added to the loss (`penalty_loss`), the subgradient baseline.
        out: directory for events.jsonl and checkpoint.pt, made if it is not there; None keeps
            nothing.
        report: called with every event, after it is written, and with a short
            {"event": "progress", "epoch", "step", "steps", "loss"} now and then.
        options: batch_size; lr_factor, a schedule by step that multiplies every learning rate;
            patience, evaluations without a better validation error after which to stop and take
            the best one's weights, counted from epoch patience_from; average_from, the epoch after
            which the weights are averaged (exponentially, average_decay) for evaluation and the
            final result; evaluate_every, in epochs; bf16 autocast; channels_last, a faster layout
            for convolutions; device; seed.

    Raises:
        RunError: impossible options, or a loss that is no longer finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Dataset,
        *,
        epochs: int,
        proximal: Proximal | None = None,
        penalties: Mapping[Groups, Penalty] | None = None,
        out: Path | str | None = None,
        report: Report | None = None,
        **options: Any,
    ) -> None:
        self.options = Options(epochs=epochs, **options)
        self.model = model.to(self.options.device)
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.proximal, self.penalties = optimizer, proximal, penalties
        self.data = data.to(self.options.device)
        self.out = None if out is None else Path(out)
        self.report = report or (lambda event: None)
        self.steps_per_epoch = steps_per_epoch(data, self.options.batch_size)
        self.epoch = 0
        self.seconds = 0.0
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._average: AveragedModel | None = None
        self._best: dict[str, Any] | None = None
        self._last_event: dict[str, Any] = {}
        self._check()

    @property
    def averaged(self) -> nn.Module:
        """The model as it is evaluated and delivered: its weights' average once there is one."""
        return self.model if self._average is None else self._average.module

    def fit(self) -> dict[str, Any]:
        """Train to the end, or go on to it after `resume`, and load the chosen weights.

        Returns:
            The event of the epoch whose weights the model now has: the last one, or with patience
            the best on validation data.
        """
        if self.out is not None:  # events after the last checkpoint come again
            self.out.mkdir(parents=True, exist_ok=True)
            keep_events(lambda event: event["epochAfter"] <= self.epoch, self.out / "events.jsonl")
        while self.epoch < self.options.epochs and not self._out_of_patience():
            started = time.perf_counter()
            self._train_epoch()
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            if self.epoch % self.options.evaluate_every == 0 or self.epoch == self.options.epochs:
                self._after_epoch()
        if self._best is not None:
            self.model.load_state_dict(self._best["model"])
            return dict(self._best["event"])
        self.model.load_state_dict(self.averaged.state_dict())
        return self._last_event

    def resume(self) -> None:
        """Load the last checkpoint of the `out` directory; `fit` then goes on from it.

        Raises:
            RunError: if there is none, it cannot be read, or it is of another model or optimizer.
        """
        if self.out is None:
            raise RunError("a trainer without an out directory has nothing to resume from")
        path = self.out / "checkpoint.pt"
        state = load_state(path)
        try:
            self._load(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"{path} is of another model or optimizer: {error}") from error

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if (self.proximal is None) != (state["proximal"] is None):
            raise RunError("only one of the two has a proximal step")
        if self.proximal is not None:
            self.proximal.load_state_dict(state["proximal"])
        if state["average"] is not None:
            self._start_average()
            assert self._average is not None
            self._average.load_state_dict(state["average"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self._best, self._last_event = state["best"], state["event"]

    def _train_epoch(self) -> None:
        options, x, y = self.options, self.data.train_x, self.data.train_y
        self.model.train()
        generator = torch.Generator().manual_seed(_mix(options.seed, self.epoch))
        order = torch.randperm(len(y), generator=generator).to(y.device)
        torch.manual_seed(_mix(options.seed, self.epoch))  # dropout draws from the global state
        if self.epoch == options.average_from:
            self._start_average()
        total = torch.zeros((), device=y.device)
        for i, batch in enumerate(order.split(options.batch_size)):
            self._set_rates(self.epoch * self.steps_per_epoch + i)
            with torch.autocast(y.device.type, torch.bfloat16, enabled=options.bf16):
                inputs = x[batch]
                if options.channels_last:
                    inputs = inputs.to(memory_format=torch.channels_last)
                logits = self.model(inputs)
                loss = F.cross_entropy(logits, y[batch])
            if self.penalties is not None:
                loss = loss + penalty_loss(self.penalties, self.epoch * self.steps_per_epoch + i)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self._average is not None:
                self._average.update_parameters(self.model)
            total += loss.detach()
            if i % 50 == 0:
                self._progress(i, loss)
        self._check_finite(float(total) / self.steps_per_epoch, self.epoch + 1)

    def _after_epoch(self) -> None:
        event = self._evaluate()
        self._check_finite(event["ent_train"], self.epoch)
        if self.options.patience is not None and self.epoch > self.options.patience_from:
            key = [event["inacc_valid"], event["ent_valid"]]
            if self._best is None or key < self._best["key"]:
                model = copy.deepcopy(self.averaged.state_dict())
                self._best = {"key": key, "event": event, "model": model, "waited": 0}
            else:
                self._best["waited"] += 1
        self._last_event = event
        if self.out is not None:
            append_event(event, self.out / "events.jsonl")
            save_state(self._state(), self.out / "checkpoint.pt")
        self.report(event)

    def _evaluate(self) -> dict[str, Any]:
        """Henrikson's fields: entropy and inaccuracy by part, non-zeros by variable."""
        started = time.perf_counter()
        model, data = self.averaged, self.data
        parts = {"train": (data.train_x, data.train_y), "test": (data.test_x, data.test_y)}
        if data.valid_x is not None and data.valid_y is not None:
            parts["valid"] = (data.valid_x, data.valid_y)
        event: dict[str, Any] = {"event": "measure_test", "epochAfter": self.epoch}
        for name, (x, y) in parts.items():
            event[f"ent_{name}"], event[f"inacc_{name}"] = entropy_and_inaccuracy(model, x, y)
        counted = measure(model)
        nonzero = {v.name: {"num": v.weights, "numNz": v.nonzeros} for v in counted.variables}
        nonzero["total"] = {"num": counted.weights, "numNz": counted.nonzeros}
        seconds = {"train": self.seconds, "evaluate": time.perf_counter() - started}
        return {**event, "num_nonzero": nonzero, "seconds": seconds}

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "proximal": None if self.proximal is None else self.proximal.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": self._best,
            "event": self._last_event,
        }

    def _start_average(self) -> None:
        average = get_ema_multi_avg_fn(self.options.average_decay)
        self._average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def _set_rates(self, step: int) -> None:
        if self.options.lr_factor is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self.options.lr_factor(step)

    def _progress(self, step: int, loss: Tensor) -> None:
        self.report(
            {
                "event": "progress",
                "epoch": self.epoch,
                "step": step,
                "steps": self.steps_per_epoch,
                "loss": float(loss.detach()),
            }
        )

    def _out_of_patience(self) -> bool:
        patience, best = self.options.patience, self._best
        return patience is not None and best is not None and best["waited"] >= patience

    def _check_finite(self, loss: float, epoch: int) -> None:
        """Stop before a checkpoint of weights that are not numbers replaces a good one."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss was {loss:g} in epoch {epoch}: training diverged. A smaller learning "
                "rate or a later start of the penalty usually helps"
            )

    def _check(self) -> None:
        options = self.options
        if options.channels_last and self.data.train_x.ndim != 4:
            raise RunError(
                "channels_last is a layout of images [n, channels, height, width], but examples "
                f"here are {list(self.data.train_x.shape)}"
            )
        if self.penalties is not None:
            penalty_loss(self.penalties)  # refuses now what has no gradient
        if options.patience is not None and self.data.valid_y is None:
            raise RunError(
                f"patience={options.patience} chooses an epoch by validation data, and there are "
                "none: hold some out with data.hold_out(5000, seed=0)"
            )
        if options.average_from is not None and self.proximal and not self.proximal.frozen:
            first, frozen = options.average_from * self.steps_per_epoch, self.proximal.freeze_at
            if frozen is None or frozen > first:
                when = "never frozen" if frozen is None else f"frozen at step {frozen}"
                raise RunError(
                    f"weights are averaged from step {first} on, but zeros are {when}: an average "
                    f"over weights that come and go has no zeros. Set freeze_at={first} or earlier"
                )


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Batches in one pass over the training examples; the last one may be smaller."""
    return math.ceil(len(data.train_y) / batch_size)


def usable_device(name: str) -> torch.device:
    """The device of that name, if it can hold a number.

    Raises:
        RunError: quoting torch's reason.
    """
    try:
        torch.zeros((), device=name).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise RunError(f"device {name!r} cannot be used here: {reason}") from error
    return torch.device(name)


@torch.no_grad()
def entropy_and_inaccuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 2000
) -> tuple[float, float]:
    """Mean cross-entropy in nats and the part of wrong answers, in evaluation mode."""
    training = model.training
    model.eval()
    entropy, wrong = 0.0, 0
    for inputs, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        logits = model(inputs).float()
        entropy += float(F.cross_entropy(logits, labels, reduction="sum"))
        wrong += int((logits.argmax(1) != labels).sum())
    model.train(training)
    return entropy / len(y), wrong / len(y)


def _mix(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch)."""
    return (seed * 1_000_003 + epoch) % 2**63
