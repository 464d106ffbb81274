"""The loop itself: epochs, steps, and a state that survives a kill."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lissom.arguments import as_annotated
from lissom.data import Dataset, Loaders
from lissom.data.loaders import moved
from lissom.errors import LissomError, RunError, machine_failed, warn
from lissom.methods import Method, make_options
from lissom.methods.options import takes
from lissom.methods.statistics import keeps_statistics, renew_statistics
from lissom.running import holding, named_tensors
from lissom.shrinking import SmallTraining
from lissom.storage import alone_in, append_event, keep_events, save_events
from lissom.training.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    optimized,
    save_checkpoint,
    scheduled,
)
from lissom.training.checks import (
    check_batch,
    check_callbacks,
    check_last_batch,
    check_method,
    check_optimizer,
)
from lissom.training.devices import devices_for
from lissom.training.evaluation import CLASSES, Evaluation, Tally, count, evaluate_all
from lissom.training.feeding import Batch, Feed
from lissom.training.options import TrainOptions
from lissom.training.small import check_small, go_small, small_again, small_state
from lissom.training.subnormals import flush_subnormals
from lissom.training.task import Task
from lissom.training.teacher import Teacher, check_teacher, ready

Report = Callable[[dict[str, Any]], None]

ENOUGH = 100  # batches that BatchNorm's statistics are the means of
AT_STAKE = 60.0  # seconds of training after which a checkpoint is due, evaluation or not


@takes(TrainOptions)
class Trainer:
    """Trains a network for any task, the same way every time.

    Each epoch's shuffling, dropout and gates depend on (seed, epoch) alone, so a run that was
    killed and resumed ends in the same weights as one that was not. An event is written after every
    evaluation, then a checkpoint; a kill between the two only repeats the epochs since the last.

    The network is evaluated as the method would deliver it, and after `fit` the method is
    finalized: plain weights, exact zeros. Of `Loaders` the training part is told as it was trained
    on, with dropout and gates, instead of going through it a second time.

    Once zeros are final, training goes on with what lives where that is faster: `model` is small
    until `fit` ends, also for callbacks. Dropout draws for the small network then.

    Device, precision, several processes and loggers are Lightning Fabric's.

    Attributes:
        outcome: after `fit`, what the method made besides the weights, such as codebooks; or None.

    Args:
        model: called with batches as the task says; trained in place.
        optimizer: of the model's parameters.
        data: training examples, and test examples that nothing is chosen by.
        task: the loss, and what the network is judged by; without, classes by cross-entropy.
        method: on this optimizer, such as `lissom.proximal(optimizer, {groups: penalty})`; its
            penalty is added to the loss, and its state is kept in the checkpoints.
        teacher: whose answers are learnt beside the labels, or a function that makes it, which is
            called when training starts; with augmentation it is a network.
        out: directory for events.jsonl and checkpoint.pt, made if it is not there, and locked while
            `fit` runs; None keeps nothing.
        report: called with every event, after it is written, and with a short
            {"event": "progress", "epoch", "step", "steps", "loss"} now and then.
        callbacks: objects with any of on_fit_start(trainer), on_step_end(trainer, loss),
            on_epoch_end(trainer, evaluation), where the evaluation is None in epochs without, and
            on_fit_end(trainer, evaluation). What they remember is no part of a checkpoint.
        loggers: Lightning's, for TensorBoard, CSV, W&B or MLflow, or any object with
            log_metrics(metrics, step).
        **options: those of `TrainOptions`.

    Raises:
        RunError: impossible options or combinations, a batch that does not fit the model or the
            loss, or a loss that is no longer finite.
    """

    @as_annotated(RunError, "method", "teacher")
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Dataset | Loaders,
        task: Task = CLASSES,
        *,
        method: Method | None = None,
        teacher: Teacher | Callable[[], Teacher] | None = None,
        out: Path | str | None = None,
        report: Report | None = None,
        callbacks: Sequence[Any] = (),
        loggers: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self.options = make_options(TrainOptions, options, RunError)
        check_callbacks(callbacks, loggers)
        self.task, self.callbacks = task, tuple(callbacks)
        self._devices = devices_for(self.options, loggers)
        self.model = model.to(self._devices.device)
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.method, self.teacher = optimizer, method, teacher
        self.data = self._devices.placed(data)
        self.out = None if out is None else Path(out)
        self.report = report or (lambda event: None)
        self._feed = Feed(self.data, self.options, self._devices.rank, self._devices.world)
        self.steps_per_epoch = self._feed.steps
        self.epoch = 0
        self.seconds = 0.0
        self.outcome: Any = None
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._average: AveragedModel | None = None
        self._best: dict[str, Any] | None = None
        self._last: Evaluation | None = None
        self._saved = 0.0  # seconds of training that a kill would leave
        self._taught = False  # whether the teacher is there, and was asked what it can be before
        self._small: SmallTraining | None = None
        self._asked = False  # whether it could be
        self._check()
        self._wrap()

    def fit(self) -> Evaluation:
        """Train to the end, or go on to it after `resume`, and load the chosen weights.

        Returns:
            The evaluation of the epoch whose weights the model now has: the last one, or with
            patience the best on validation data.
        """
        kept = self._kept
        with self._devices.logging(), nullcontext() if kept is None else alone_in(kept):
            return self._fit()

    @property
    def rank(self) -> int:
        """The number of this process among those that share each step; the first writes."""
        return self._devices.rank

    @property
    def _kept(self) -> Path | None:
        """Where this process keeps files, if it does."""
        return self.out if self._devices.rank == 0 else None

    def _fit(self) -> Evaluation:
        if self._kept is not None:
            events = self._kept / "events.jsonl"
            if self.epoch:  # those after the last checkpoint come again
                keep_events(lambda event: event["epoch"] <= self.epoch, events)
            else:
                save_events([], events)
        if self._goes_on():
            self._call_teacher()
        self._call("on_fit_start")
        try:
            while self._goes_on():
                started = time.perf_counter()
                seen = self._train_epoch()
                flush_subnormals(self.optimizer)
                self.epoch += 1
                self.seconds += time.perf_counter() - started
                now = self.epoch % self.options.evaluate_every == 0 or not self._epochs_left()
                found = self._after_epoch(seen) if now else None
                if self.seconds - self._saved >= AT_STAKE:
                    self._save()
                self._call("on_epoch_end", found)
        finally:  # nobody is left with a small network by an interrupt
            self._restore()
        self.deliver()
        chosen = self._last if self._best is None else Evaluation.from_dict(self._best["event"])
        assert chosen is not None  # the last epoch is always evaluated
        if self._best is not None and self._best["key"][0] == math.inf:
            warn(
                f"{self.task.error_name} on the held-out examples was NaN after every epoch, so "
                f"that patience had nothing to choose by: the network is that of epoch "
                f"{chosen.epoch}"
            )
        self._call("on_fit_end", chosen)
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
        self._restore()
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
                renew = self._renews()
                stack.enter_context(self.method.deployed())
                if renew:
                    buffers = list(self.model.buffers())
                    stack.enter_context(holding(buffers, [b.clone() for b in buffers]))
                    self._renew_statistics()
            yield self.model

    def _check(self) -> None:
        """Refuse what does not go together."""
        options, data, method = self.options, self.data, self.method
        if isinstance(data, Dataset):
            shape = data.train_x.shape[1:]
            options.check_data(validation=data.valid_y is not None, shape=shape)
        else:
            options.check_data(validation=data.valid is not None, in_memory=False)
        check_method(method, self.optimizer, self.model)
        check_optimizer(self.optimizer, self.model)
        options.check_scheduler(self.optimizer)
        check_batch(self.model, data, self.task)
        if isinstance(data, Dataset):
            check_last_batch(self.model, data.train_x, options.batch_size)
        if method is not None and not method.finalized:
            penalties = method.penalties.values()
            options.check_method(
                type(method), method.options, penalties, self.steps_per_epoch, method.step
            )
        if self.teacher is not None:
            labels = isinstance(data, Dataset) and data.classes is not None
            labels = labels and self.task.loss == "cross_entropy" and self.task.forward is None
            check_teacher(self.teacher, labels=labels, changed=options.augment is not None)

    def _wrap(self) -> None:
        """Have the model called as the devices need it; anew when its parameters are others."""
        self._network = self._devices.setup(self.model)
        self._wrapped = len(list(self.model.parameters()))

    def _load(self, state: dict[str, Any]) -> None:
        last = None if state["event"] is None else Evaluation.from_dict(state["event"])
        check_checkpoint(state, self.model, self.optimizer, self.method, self.options.scheduler)
        check_small(state["small"], self.model, self.data, self.task)
        if self.method is not None:
            self.method.load_state_dict(state["method"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.options.scheduler is not None:
            self.options.scheduler.load_state_dict(state["scheduler"]["state"])
        self._devices.load_state_dict(state["precision"])
        if state["average"] is not None:
            self._start_average()
            assert self._average is not None
            self._average.load_state_dict(state["average"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self._best, self._last, self._saved = state["best"], last, self.seconds
        self._small = small_again(state["small"], self.model, self.optimizer)
        if self._small is not None and self._average is not None:
            self._small.join(self._average.module)

    def _train_epoch(self) -> Tally | None:
        """One pass; what was seen on the way of data that are not gone through again."""
        self.model.train()
        self._go_small(steps_done=0)
        if self.epoch == self.options.average_from:
            self._start_average()
        again = isinstance(self.data, Dataset) and self.options.evaluate_train
        seen = None if again else Tally(self.task)
        total = torch.zeros((), device=self._devices.device)
        scheduler, by = self.options.scheduler, self.options.scheduler_by
        for i, batches in enumerate(self._feed.epoch(self.epoch)):
            self._go_small(steps_done=i)
            self._set_rates(self.epoch * self.steps_per_epoch + i)
            loss = self._step(batches, seen)
            if scheduler is not None and by == "step":
                self._step_scheduler()
            if self._average is not None:
                self._average.update_parameters(self.model)
            total += loss
            if i % 50 == 0:
                self._progress(i, loss)
            self._call("on_step_end", loss)
            if self._complete():
                break
        total = self._devices.mean(total)
        self._check_finite(float(total) / self.steps_per_epoch, self.epoch + 1)
        plateau = isinstance(scheduler, ReduceLROnPlateau)  # it steps by what an evaluation says
        if scheduler is not None and by == "epoch" and not plateau:
            self._step_scheduler()
        return seen

    def _step(self, batches: Sequence[Batch], seen: Tally | None) -> Tensor:
        """One step of the optimizer, by the mean gradient of some batches; their mean loss."""
        losses = []
        for i, (batch, rows) in enumerate(batches):
            last = i == len(batches) - 1
            with self._devices.reducing(self._network, now=last):
                here = moved(batch, self.model)
                outputs, targets = self.task.call(self._network, here)
                loss = self._loss(outputs, targets, here, rows)
                if len(batches) > 1:
                    loss = loss / len(batches)
                if last and self.method is not None and self.method.has_loss_term:
                    loss = loss + self.method.penalty()
                if i == 0:
                    self.optimizer.zero_grad()
                self._devices.backward(loss)
            losses.append(loss.detach())
            if seen is not None:
                seen.add(outputs, targets)
        if self.options.clip_norm is not None:
            self._devices.clip(self._network, self.optimizer, self.options.clip_norm)
        self._devices.step(self.optimizer)
        if self._devices.world > 1 and self._wrapped != len(list(self.model.parameters())):
            self._wrap()  # the method ended, and took parameters of its own with it
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _loss(self, outputs: Any, targets: Any, batch: Any, rows: Tensor | None) -> Tensor:
        own = self.task.mean_loss(outputs, targets)
        if isinstance(self.teacher, Teacher) and rows is not None:
            return self.teacher.loss(outputs, own, rows, batch[0])
        return own

    def _after_epoch(self, seen: Tally | None) -> Evaluation:
        self._devices.share_buffers(self.model)
        with self.deployed() as model:
            found = self._last = self._evaluate(model, seen)
            event = found.to_dict()
            self._check_finite(found.train.loss, self.epoch)
            if self.options.patience is not None and self.epoch > self.options.patience_from:
                with self._large():
                    self._note_if_best(found, event)
        if isinstance(self.options.scheduler, ReduceLROnPlateau):
            self._step_scheduler((found.valid or found.train).loss)
        if self._kept is not None:
            append_event(event, self._kept / "events.jsonl")
        self._save()
        self._devices.log(self._metrics(found), self.epoch * self.steps_per_epoch)
        if self._devices.rank == 0:
            self.report(event)
        return found

    def _note_if_best(self, found: Evaluation, event: dict[str, Any]) -> None:
        assert found.valid is not None  # checked before
        judged = (found.valid.error, found.valid.loss)
        key = [math.inf if math.isnan(x) else x for x in judged]  # NaN would be below nothing
        if self._best is None or key < self._best["key"]:
            model = copy.deepcopy(self.model.state_dict())
            self._best = {"key": key, "event": event, "model": model, "waited": 0}
        else:
            self._best["waited"] += 1

    def _evaluate(self, model: nn.Module, seen: Tally | None) -> Evaluation:
        return Evaluation.from_dict(
            self._devices.from_first(lambda: self._judge(model, seen).to_dict())
        )

    def _judge(self, model: nn.Module, seen: Tally | None) -> Evaluation:
        started = time.perf_counter()
        train = None if seen is None else seen.part()
        found = evaluate_all(model, self.data, self.epoch, self.task, train)
        if self._small is not None:
            with self._large():
                found = replace(found, nonzeros=count(model))
        more: dict[str, Any] = {}
        if self.task.error_name != "error":
            more["judged_by"] = {"name": self.task.error_name, "unit": self.task.error_unit}
        if self.method is not None and not self.method.finalized:
            more["method"] = {"name": self.method.name, **self.method.event()}
        seconds = {"train": self.seconds, "evaluate": time.perf_counter() - started}
        return replace(found, more=more, seconds=seconds)

    def _metrics(self, found: Evaluation) -> dict[str, float]:
        """What loggers are told of an evaluation."""
        told: dict[str, float] = {"nonzeros": found.nonzeros["total"].nonzeros}
        told["lr"] = self.optimizer.param_groups[0]["lr"]
        for name in ("train", "valid", "test"):
            if (part := getattr(found, name)) is not None:
                scores = {"loss": part.loss, self.task.error_name: part.error, **part.scores}
                told |= {f"{name}/{score}": value for score, value in scores.items()}
        return told

    def _call(self, hook: str, *given: Any) -> None:
        for callback in self.callbacks:
            if (called := getattr(callback, hook, None)) is not None:
                called(self, *given)

    def deliver(self) -> None:
        """Give the model the chosen weights, plain; `fit` does so at its end."""
        if self._best is None and self._average is not None:
            own, average = dict(named_tensors(self.model)), named_tensors(self._average.module)
            with torch.no_grad():
                for name, tensor in average:
                    own[name].copy_(tensor)
        self._average = None
        if self.method is not None:
            renew = self._renews()
            self.method.finalize()
            if renew:
                self._renew_statistics()
            self.outcome = self.method.outcome(self.model)
        if self._best is not None:
            self.model.load_state_dict(self._best["model"])
            if self.method is not None:
                self.method.note_zeros()
        self._devices.share_buffers(self.model)

    def _renews(self) -> bool:
        """Whether what is delivered now needs statistics of its own."""
        method = self.method
        if method is None or method.finalized or not keeps_statistics(self.model):
            return False
        return method.cuts or self.options.renew_statistics

    def _renew_statistics(self) -> None:
        """Make BatchNorm's running statistics those of the model as it is now."""
        steps = islice(self._feed.epoch(self.epoch), ENOUGH)
        batches = (batch for step in steps for batch, _ in step)
        inputs = (moved(batch, self.model) for batch in batches)
        renew_statistics(self.model, (partial(self.task.call, self.model, x) for x in inputs))

    def _save(self) -> None:
        """Keep a checkpoint, if this process keeps any."""
        self._saved = self.seconds
        if self._kept is not None:
            with self._large():
                save_checkpoint(self._state(), self._kept / "checkpoint.pt")

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "steps_per_epoch": self.steps_per_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimized": optimized(self.optimizer),
            "method": None if self.method is None else self.method.state_dict(),
            "scheduler": scheduled(self.options.scheduler),
            "precision": self._devices.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": self._best,
            "event": None if self._last is None else self._last.to_dict(),
            "small": small_state(self._small),
        }

    def _call_teacher(self) -> None:
        """Have the teacher, on this device, once and for all."""
        if self.teacher is None or self._taught:
            return
        options, data = self.options, self.data
        assert isinstance(data, Dataset)  # checked before
        assert data.classes is not None
        self.teacher = ready(
            self.teacher, data.train_x, data.classes, augment=options.augment, epochs=options.epochs
        )
        self._taught = True

    def _go_small(self, steps_done: int) -> None:
        """Go on with what lives, as soon as zeros are final; asked before every step."""
        method = self.method
        if self._asked or method is None or not method.finalized or self._complete():
            return
        self._asked = True
        alone = self._devices.world == 1 and self._average is None  # which has no zeros yet
        if self._small is None and self.options.shrink is not False and alone:
            left = (self.options.epochs - self.epoch) * self.steps_per_epoch - steps_done
            self._small = go_small(
                self.model, self.optimizer, self.data, self.task, self.options, left
            )

    def _large(self) -> AbstractContextManager[Any]:
        """Model, average and optimizer at full size for a while."""
        return nullcontext() if self._small is None else self._small.large()

    def _restore(self) -> None:
        """Model, average and optimizer at full size for good."""
        if self._small is not None:
            self._small.restore()
        self._small, self._asked = None, False

    def _start_average(self) -> None:
        average = get_ema_multi_avg_fn(self.options.average_decay)
        with self._large():
            self._average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        if self._small is not None:
            self._small.join(self._average.module)

    def _set_rates(self, step: int) -> None:
        if self.options.lr_factor is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self.options.lr_factor(step)

    def _step_scheduler(self, *loss: float) -> None:
        """One step of torch's scheduler, or one's own, which may raise anything."""
        scheduler: Any = self.options.scheduler
        try:
            scheduler.step(*loss)
        except Exception as error:
            if isinstance(error, LissomError) or machine_failed(error):
                raise
            epochs, steps = self.options.epochs, self.options.epochs * self.steps_per_epoch
            raise RunError(
                f"{type(scheduler).__name__} failed in epoch {self.epoch + 1}: {error}. This "
                f"training has {epochs:,} epochs, {steps:,} steps, and its scheduler steps after "
                f"each {self.options.scheduler_by}: its own times are to fit that",
                field="scheduler",
            ) from error

    def _progress(self, step: int, loss: Tensor) -> None:
        if self._devices.rank:
            return
        self.report(
            {
                "event": "progress",
                "epoch": self.epoch,
                "step": step,
                "steps": self.steps_per_epoch,
                "loss": float(loss),
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
