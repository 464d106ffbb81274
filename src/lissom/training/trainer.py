"""The loop itself: epochs, steps, and a state that survives a kill."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lissom.arguments import as_annotated
from lissom.data import Dataset
from lissom.errors import RunError
from lissom.methods import Method, make_options
from lissom.methods.options import takes
from lissom.running import holding, named_tensors
from lissom.storage import alone_in, append_event, keep_events, save_events
from lissom.training.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    optimized,
    save_checkpoint,
)
from lissom.training.checks import check_last_batch, check_method, check_optimizer
from lissom.training.evaluation import Evaluation, evaluate
from lissom.training.options import TrainOptions
from lissom.training.subnormals import flush_subnormals
from lissom.training.teacher import Teacher, check_teacher, make_answers

Report = Callable[[dict[str, Any]], None]


@takes(TrainOptions)
class Trainer:
    """Trains a classifier by cross-entropy on a data set in memory, the same way every time.

    Each epoch's shuffling, dropout and gates depend on (seed, epoch) alone, so a run that was
    killed and resumed ends in the same weights as one that was not. An event is written after every
    evaluation, then a checkpoint; a kill between the two only repeats the epochs since the last.

    The network is evaluated as the method would deliver it, and after `fit` the method is
    finalized: plain weights, exact zeros.

    Attributes:
        outcome: after `fit`, what the method made besides the weights, such as codebooks; or None.

    Args:
        model: gives logits [n, classes] for inputs [n, …]; trained in place.
        optimizer: of the model's parameters.
        data: training examples, and test examples that nothing is chosen by.
        method: on this optimizer, such as `lissom.proximal(optimizer, {groups: penalty})`; its
            penalty is added to the loss, and its state is kept in the checkpoints.
        teacher: whose answers are learnt beside the labels, or a function that makes it, which is
            called when training starts.
        out: directory for events.jsonl and checkpoint.pt, made if it is not there, and locked while
            `fit` runs; None keeps nothing.
        report: called with every event, after it is written, and with a short
            {"event": "progress", "epoch", "step", "steps", "loss"} now and then.
        **options: those of `TrainOptions`.

    Raises:
        RunError: impossible options or combinations, or a loss that is no longer finite.
    """

    @as_annotated(RunError, "method", "teacher")
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Dataset,
        *,
        method: Method | None = None,
        teacher: Teacher | Callable[[], Teacher] | None = None,
        out: Path | str | None = None,
        report: Report | None = None,
        **options: Any,
    ) -> None:
        self.options = make_options(TrainOptions, options, RunError)
        self.model = model.to(self.options.device)
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.method, self.teacher = optimizer, method, teacher
        self.data = data.to(self.options.device)
        self.out = None if out is None else Path(out)
        self.report = report or (lambda event: None)
        self.steps_per_epoch = steps_per_epoch(data, self.options.batch_size)
        self.epoch = 0
        self.seconds = 0.0
        self.outcome: Any = None
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._average: AveragedModel | None = None
        self._best: dict[str, Any] | None = None
        self._last: Evaluation | None = None
        self._check()

    def fit(self) -> Evaluation:
        """Train to the end, or go on to it after `resume`, and load the chosen weights.

        Returns:
            The evaluation of the epoch whose weights the model now has: the last one, or with
            patience the best on validation data.
        """
        with nullcontext() if self.out is None else alone_in(self.out):
            return self._fit()

    def _fit(self) -> Evaluation:
        if self.out is not None:
            events = self.out / "events.jsonl"
            if self.epoch:  # those after the last checkpoint come again
                keep_events(lambda event: event["epoch"] <= self.epoch, events)
            else:
                save_events([], events)
        if self._goes_on():
            self._call_teacher()
        while self._goes_on():
            started = time.perf_counter()
            self._train_epoch()
            flush_subnormals(self.optimizer)
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            if self.epoch % self.options.evaluate_every == 0 or not self._epochs_left():
                self._after_epoch()
        self._deliver()
        chosen = self._last if self._best is None else Evaluation.from_dict(self._best["event"])
        assert chosen is not None  # the last epoch is always evaluated
        return chosen

    def resume(self) -> None:
        """Load the last checkpoint of the `out` directory; `fit` then goes on from it.

        Raises:
            RunError: if there is none, it cannot be read, or it is of another model, optimizer or
                method; nothing is changed then.
        """
        if self.out is None:
            raise RunError("a trainer without an out directory has nothing to resume from")
        path = self.out / "checkpoint.pt"
        state = load_checkpoint(path)
        try:
            self._load(state)
        except Exception as error:  # of any type, where types within it are wrong
            raise RunError(f"{path} is of another model, optimizer or method: {error}") from error

    @contextmanager
    def deployed(self) -> Iterator[nn.Module]:
        """The model for a while as it would be delivered now: averaged, and finalized."""
        with ExitStack() as stack:
            if self._average is not None:
                average = dict(named_tensors(self._average.module))
                # Each tensor once: a tied one has several names.
                own = {id(tensor): (name, tensor) for name, tensor in named_tensors(self.model)}
                pairs = [(tensor, average[name].data) for name, tensor in own.values()]
                stack.enter_context(holding(*zip(*pairs, strict=True)))
            if self.method is not None:
                stack.enter_context(self.method.deployed())
            yield self.model

    def _check(self) -> None:
        """Refuse what does not go together."""
        options, data, method = self.options, self.data, self.method
        options.check_data(validation=data.valid_y is not None, shape=data.train_x.shape[1:])
        check_method(method, self.optimizer, self.model)
        check_optimizer(self.optimizer, self.model)
        check_last_batch(self.model, self.data.train_x, options.batch_size)
        if method is not None and not method.finalized:
            penalties = method.penalties.values()
            options.check_method(
                type(method), method.options, penalties, self.steps_per_epoch, method.step
            )
        if self.teacher is not None:
            check_teacher(self.teacher)
            options.check_teacher()

    def _load(self, state: dict[str, Any]) -> None:
        last = None if state["event"] is None else Evaluation.from_dict(state["event"])
        check_checkpoint(state, self.model, self.optimizer, self.method)
        if self.method is not None:
            self.method.load_state_dict(state["method"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["average"] is not None:
            self._start_average()
            assert self._average is not None
            self._average.load_state_dict(state["average"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self._best, self._last = state["best"], last

    def _train_epoch(self) -> None:
        options, y = self.options, self.data.train_y
        self.model.train()
        generator = torch.Generator().manual_seed(_mix(options.seed, self.epoch))
        order = torch.randperm(len(y), generator=generator).to(y.device)
        torch.manual_seed(_mix(options.seed, self.epoch))  # for dropout and gates
        if self.epoch == options.average_from:
            self._start_average()
        augment = options.augment
        moves = None if augment is None else augment.draw(len(y), generator).to(y.device)
        total = torch.zeros((), device=y.device)
        for i, batch in enumerate(order.split(options.batch_size)):
            self._set_rates(self.epoch * self.steps_per_epoch + i)
            with torch.autocast(y.device.type, torch.bfloat16, enabled=options.bf16):
                logits = self.model(self._inputs(batch, moves))
                loss = self._loss(logits, y[batch], batch)
            if self.method is not None:
                loss = loss + self.method.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self._average is not None:
                self._average.update_parameters(self.model)
            total += loss.detach()
            if i % 50 == 0:
                self._progress(i, loss)
            if self._complete():
                break
        self._check_finite(float(total) / self.steps_per_epoch, self.epoch + 1)

    def _inputs(self, batch: Tensor, moves: Tensor | None) -> Tensor:
        """The examples of a batch, augmented and laid out as the options say."""
        inputs, augment = self.data.train_x[batch], self.options.augment
        if augment is not None and moves is not None:
            inputs = augment(inputs, moves[batch])
        if self.options.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        return inputs

    def _loss(self, logits: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
        if isinstance(self.teacher, Teacher):
            return self.teacher.loss(logits, labels, batch)
        return F.cross_entropy(logits, labels)

    def _after_epoch(self) -> None:
        with self.deployed() as model:
            found = self._last = self._evaluate(model)
            event = found.to_dict()
            self._check_finite(found.train.loss, self.epoch)
            if self.options.patience is not None and self.epoch > self.options.patience_from:
                self._note_if_best(found, event)
        if self.out is not None:
            append_event(event, self.out / "events.jsonl")
            save_checkpoint(self._state(), self.out / "checkpoint.pt")
        self.report(event)

    def _note_if_best(self, found: Evaluation, event: dict[str, Any]) -> None:
        assert found.valid is not None  # checked before
        key = [found.valid.error, found.valid.loss]
        if self._best is None or key < self._best["key"]:
            model = copy.deepcopy(self.model.state_dict())
            self._best = {"key": key, "event": event, "model": model, "waited": 0}
        else:
            self._best["waited"] += 1

    def _evaluate(self, model: nn.Module) -> Evaluation:
        started = time.perf_counter()
        found = evaluate(model, self.data, self.epoch)
        more = {}
        if self.method is not None and not self.method.finalized:
            more = {"method": {"name": self.method.name, **self.method.event()}}
        seconds = {"train": self.seconds, "evaluate": time.perf_counter() - started}
        return replace(found, more=more, seconds=seconds)

    def _deliver(self) -> None:
        """Give the model the chosen weights, plain."""
        if self._best is None and self._average is not None:
            own, average = dict(named_tensors(self.model)), named_tensors(self._average.module)
            with torch.no_grad():
                for name, tensor in average:
                    own[name].copy_(tensor)
        self._average = None
        if self.method is not None:
            self.method.finalize()
            self.outcome = self.method.outcome(self.model)
        if self._best is not None:
            self.model.load_state_dict(self._best["model"])
            if self.method is not None:
                self.method.note_zeros()

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "steps_per_epoch": self.steps_per_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimized": optimized(self.optimizer),
            "method": None if self.method is None else self.method.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": self._best,
            "event": None if self._last is None else self._last.to_dict(),
        }

    def _call_teacher(self) -> None:
        """Have the teacher's answers, on this device."""
        if self.teacher is None:
            return
        labels = self.data.train_y
        answers = make_answers(self.teacher, len(labels), self.data.classes)
        self.teacher = answers.to(labels.device)

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

    def _goes_on(self) -> bool:
        patience, best = self.options.patience, self._best
        if patience is not None and best is not None and best["waited"] >= patience:
            return False
        return self._epochs_left()

    def _epochs_left(self) -> bool:
        return self.epoch < self.options.epochs and not self._complete()

    def _complete(self) -> bool:
        """Whether the method has ended in a form that further steps would undo."""
        method = self.method
        if method is None or not method.finalized:
            return False
        return not method.lasts(method.penalties.values())

    def _check_finite(self, loss: float, epoch: int) -> None:
        """Stop before a checkpoint of weights that are not numbers replaces a good one."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss was {loss:g} in epoch {epoch}: training diverged. A smaller learning "
                "rate or a later start of the penalty usually helps"
            )


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Batches in one pass over the training examples; the last one may be smaller."""
    return math.ceil(len(data.train_y) / batch_size)


def _mix(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch)."""
    return (seed * 1_000_003 + epoch) % 2**63
