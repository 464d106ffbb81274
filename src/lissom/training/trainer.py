"""The loop itself: epochs, steps, and a state that survives a kill."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from lissom.gates import Gates
from lissom.groups import Groups
from lissom.learning_compression import LC, Compressed
from lissom.penalties import Penalty
from lissom.proximal import Proximal, penalty_loss
from lissom.training.checks import check
from lissom.training.evaluation import Evaluation, evaluate
from lissom.training.options import Options
from lissom.training.stages import Compressing, Gated, Stage
from lissom.training.subnormals import flush_subnormals
from lissom.training.teacher import Teacher, asked

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains a classifier by cross-entropy on a data set in memory, the same way every time.

    Each epoch's shuffling, dropout and gates depend on (seed, epoch) alone, so a run that was
    killed and resumed ends in the same weights as one that was not. An event is written after every
    evaluation, then a checkpoint; a kill between the two only repeats the epochs since the last.

    Gates are evaluated as the plain network that they would leave, and gone after `fit`.

    Attributes:
        compressed: after `fit`, the forms of lc's tensors, unless healing has changed them since.

    Args:
        model: gives logits [n, classes] for inputs [n, …]; trained in place.
        optimizer: of the model's parameters.
        data: training examples, and test examples that nothing is chosen by.
        epochs: passes over the training examples; fewer if learning–compression has found a form
            that further training would undo, such as a codebook.
        proximal: the handle of `lissom.proximal` on this optimizer, kept in the checkpoints.
        penalties: {groups: penalty} added to the loss (`penalty_loss`), the subgradient baseline.
        gates: of `lissom.gate` on this model; their penalty is added to the loss. The optimizer has
            their log α too: `gates.param_groups(lr)`.
        lc: of `lissom.lc` on this model; its penalty is added to the loss in the L steps, whose
            epochs are the option l_steps, and a C step ends each.
        teacher: whose answers are learnt beside the labels, or a function that makes it, which is
            called when training starts.
        out: directory for events.jsonl and checkpoint.pt, made if it is not there; None keeps
            nothing.
        report: called with every event, after it is written, and with a short
            {"event": "progress", "epoch", "step", "steps", "loss"} now and then.
        options: batch_size; lr_factor, a schedule by step that multiplies every learning rate;
            augment, `lissom.training.Augment`, how images are changed anew in every epoch;
            harden_at, the epoch after which gates become plain weights, whose zeros stay and whose
            survivors are trained without a price (the end if not given); patience, evaluations
            without a better validation error after which to stop and take the best one's weights,
            counted from epoch patience_from; average_from, the epoch after which the weights are
            averaged (exponentially, average_decay) for evaluation and the final result;
            l_steps, how many epochs are done when each L step begins, and when the last is over;
            restart, whether the optimizer starts each of them anew; evaluate_every, in epochs;
            bf16 autocast; channels_last, a faster layout for
            convolutions; device; seed.

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
        gates: Gates | None = None,
        lc: LC | None = None,
        teacher: Teacher | Callable[[], Teacher] | None = None,
        out: Path | str | None = None,
        report: Report | None = None,
        **options: Any,
    ) -> None:
        self.options = Options(epochs=epochs, **options)
        self.model = model.to(self.options.device)
        if self.options.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.proximal, self.penalties = optimizer, proximal, penalties
        self.gates, self.lc, self.teacher = gates, lc, teacher
        self.data = data.to(self.options.device)
        self.out = None if out is None else Path(out)
        self.report = report or (lambda event: None)
        self.steps_per_epoch = steps_per_epoch(data, self.options.batch_size)
        self.epoch = 0
        self.seconds = 0.0
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        check(
            self.model,
            optimizer,
            data,
            self.options,
            proximal=proximal,
            penalties=penalties,
            gates=gates,
            lc=lc,
            teacher=teacher,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.compressed: Compressed | None = None
        self._stage = self._first_stage()
        self._method = None if self._stage is None else self._stage.name
        self._zeros: Proximal | None = None  # keeps what a stage has removed
        self._average: AveragedModel | None = None
        self._best: dict[str, Any] | None = None
        self._last: Evaluation | None = None

    @property
    def averaged(self) -> nn.Module:
        """The model, or its weights' average once there is one."""
        return self.model if self._average is None else self._average.module

    @property
    def plain(self) -> nn.Module:
        """The network as it is evaluated and delivered: averaged, without gates, compressed."""
        return self.averaged if self._stage is None else self._stage.plain(self.averaged)

    def fit(self) -> Evaluation:
        """Train to the end, or go on to it after `resume`, and load the chosen weights.

        Returns:
            The evaluation of the epoch whose weights the model now has: the last one, or with
            patience the best on validation data.
        """
        if self.out is not None:  # events after the last checkpoint come again
            self.out.mkdir(parents=True, exist_ok=True)
            keep_events(lambda event: event["epoch"] <= self.epoch, self.out / "events.jsonl")
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
        best = self._best
        chosen = self.plain.state_dict() if best is None else best["model"]
        if (stage := self._stage) is not None:
            self._end_stage(stage)
            self._average = None  # of gated weights
            self.compressed = stage.lc.result if isinstance(stage, Compressing) else None
        self.model.load_state_dict(chosen)
        chosen_at = self._last if best is None else Evaluation.from_dict(best["event"])
        assert chosen_at is not None  # the last epoch is always evaluated
        return chosen_at

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
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"{path} is of another model or optimizer: {error}") from error

    def _load(self, state: dict[str, Any]) -> None:
        if state["method"] != self._method:
            there, here = (
                name or "neither gates nor lc" for name in (state["method"], self._method)
            )
            raise RunError(f"it was trained with {there}, and this trainer has {here}")
        if self._stage is not None:
            if state["stage"] is not None:
                self._stage.load_state_dict(state["stage"])
            else:
                self._end_stage(self._stage)
        if self._zeros is not None:
            self._zeros.load_state_dict(state["zeros"])
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
        self._best, self._last = state["best"], Evaluation.from_dict(state["event"])

    def _train_epoch(self) -> None:
        options, y = self.options, self.data.train_y
        self.model.train()
        generator = torch.Generator().manual_seed(_mix(options.seed, self.epoch))
        order = torch.randperm(len(y), generator=generator).to(y.device)
        torch.manual_seed(_mix(options.seed, self.epoch))  # for dropout and gates
        if self._stage is not None:
            if self._stage.over(self.epoch):
                self._end_stage(self._stage)
            else:
                self._stage.begin_epoch(self.epoch)
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
            if self._stage is not None and (penalty := self._stage.penalty()) is not None:
                loss = loss + penalty
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
        if self._stage is not None:
            self._stage.end_epoch(self.epoch + 1)

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
        plain = self.plain
        found = self._last = self._evaluate(plain)
        event = found.to_dict()
        self._check_finite(found.train.loss, self.epoch)
        if self.options.patience is not None and self.epoch > self.options.patience_from:
            assert found.valid is not None  # checked before
            key = [found.valid.error, found.valid.loss]
            if self._best is None or key < self._best["key"]:
                model = copy.deepcopy(plain.state_dict())
                self._best = {"key": key, "event": event, "model": model, "waited": 0}
            else:
                self._best["waited"] += 1
        if self.out is not None:
            append_event(event, self.out / "events.jsonl")
            save_state(self._state(), self.out / "checkpoint.pt")
        self.report(event)

    def _evaluate(self, plain: nn.Module) -> Evaluation:
        started = time.perf_counter()
        found = evaluate(plain, self.data, self.epoch)
        stage = self._stage
        more = {} if stage is None else {stage.name: stage.event(self.averaged)}
        seconds = {"train": self.seconds, "evaluate": time.perf_counter() - started}
        return replace(found, more=more, seconds=seconds)

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "proximal": None if self.proximal is None else self.proximal.state_dict(),
            "method": self._method,
            "stage": None if self._stage is None else self._stage.state_dict(),
            "zeros": None if self._zeros is None else self._zeros.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": self._best,
            "event": None if self._last is None else self._last.to_dict(),
        }

    def _end_stage(self, stage: Stage) -> None:
        """Make the model plain; its zeros stay from now on."""
        self._stage = self.gates = self.lc = None
        self._zeros = stage.end()

    def _call_teacher(self) -> None:
        """Have the teacher's answers, on this device."""
        if self.teacher is None:
            return
        labels = self.data.train_y
        self.teacher = asked(self.teacher, len(labels), self.data.classes).to(labels.device)

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
        stage = self._stage
        if stage is not None and not stage.result_lasts and stage.over(self.epoch):
            return False  # further steps would undo its form
        return self.epoch < self.options.epochs

    def _check_finite(self, loss: float, epoch: int) -> None:
        """Stop before a checkpoint of weights that are not numbers replaces a good one."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss was {loss:g} in epoch {epoch}: training diverged. A smaller learning "
                "rate or a later start of the penalty usually helps"
            )

    def _first_stage(self) -> Stage | None:
        options = self.options
        if self.gates is not None:
            return Gated(self.gates, self.optimizer, options.harden_at)
        if self.lc is not None:
            begins = options.l_steps or ()
            return Compressing(self.lc, self.optimizer, begins, restart=options.restart)
        return None


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Batches in one pass over the training examples; the last one may be smaller."""
    return math.ceil(len(data.train_y) / batch_size)


def _mix(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch)."""
    return (seed * 1_000_003 + epoch) % 2**63
