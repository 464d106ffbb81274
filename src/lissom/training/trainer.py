"""The loop itself: epochs, steps, and a state that survives a kill."""

import copy
import math
import time
from collections.abc import Callable, Mapping
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
from lissom.gates import Gates, gates_of, refuse_gated
from lissom.groups import Groups
from lissom.penalties import Penalty
from lissom.proximal import Proximal, penalty_loss
from lissom.training.evaluation import evaluation, gates_event
from lissom.training.options import Options
from lissom.training.teacher import Teacher

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains a classifier by cross-entropy on a data set in memory, the same way every time.

    Each epoch's shuffling, dropout and gates depend on (seed, epoch) alone, so a run that was
    killed and resumed ends in the same weights as one that was not. An event is written after every
    evaluation, then a checkpoint; a kill between the two only repeats the epochs since the last.

    Gates are evaluated as the plain network that they would leave, and gone after `fit`.

    Args:
        model: gives logits [n, classes] for inputs [n, …]; trained in place.
        optimizer: of the model's parameters.
        data: training examples, and test examples that nothing is chosen by.
        epochs: passes over the training examples.
        proximal: the handle of `lissom.proximal` on this optimizer, kept in the checkpoints.
        penalties: {groups: penalty} added to the loss (`penalty_loss`), the subgradient baseline.
        gates: of `lissom.gate` on this model; their penalty is added to the loss. The optimizer has
            their log α too: `gates.param_groups(lr)`.
        teacher: whose answers are learnt beside the labels, or a function that makes it, which is
            called when training starts.
        out: directory for events.jsonl and checkpoint.pt, made if it is not there; None keeps
            nothing.
        report: called with every event, after it is written, and with a short
            {"event": "progress", "epoch", "step", "steps", "loss"} now and then.
        options: batch_size; lr_factor, a schedule by step that multiplies every learning rate;
            harden_at, the epoch after which gates become plain weights, whose zeros stay and whose
            survivors are trained without a price (the end if not given); patience, evaluations
            without a better validation error after which to stop and take the best one's weights,
            counted from epoch patience_from; average_from, the epoch after which the weights are
            averaged (exponentially, average_decay) for evaluation and the final result;
            evaluate_every, in epochs; bf16 autocast; channels_last, a faster layout for
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
        self.gates, self.teacher = gates, teacher
        self.data = data.to(self.options.device)
        self.out = None if out is None else Path(out)
        self.report = report or (lambda event: None)
        self.steps_per_epoch = steps_per_epoch(data, self.options.batch_size)
        self.epoch = 0
        self.seconds = 0.0
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._zeros: Proximal | None = None  # keeps what gates have removed
        self._average: AveragedModel | None = None
        self._best: dict[str, Any] | None = None
        self._last_event: dict[str, Any] = {}
        self._check()

    @property
    def averaged(self) -> nn.Module:
        """The model, or its weights' average once there is one."""
        return self.model if self._average is None else self._average.module

    @property
    def plain(self) -> nn.Module:
        """The network as it is evaluated and delivered: averaged, and a copy without gates."""
        if self.gates is None:
            return self.averaged
        mine = gates_of(self.averaged)
        mine.load_state_dict(self.gates.state_dict())  # the steps of an average stand still
        return mine.hardened()

    def fit(self) -> dict[str, Any]:
        """Train to the end, or go on to it after `resume`, and load the chosen weights.

        Returns:
            The event of the epoch whose weights the model now has: the last one, or with patience
            the best on validation data.
        """
        if self.out is not None:  # events after the last checkpoint come again
            self.out.mkdir(parents=True, exist_ok=True)
            keep_events(lambda event: event["epochAfter"] <= self.epoch, self.out / "events.jsonl")
        if self._goes_on():
            self._call_teacher()
        while self._goes_on():
            started = time.perf_counter()
            self._train_epoch()
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            if self.epoch % self.options.evaluate_every == 0 or self.epoch == self.options.epochs:
                self._after_epoch()
        best = self._best
        chosen = self.plain.state_dict() if best is None else best["model"]
        if self.gates is not None:
            self._harden()
            self._average = None  # of gated weights
        self.model.load_state_dict(chosen)
        return self._last_event if best is None else dict(best["event"])

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
        gated, hardened = state.get("gates"), state.get("zeros")
        if (self.gates is None) != (gated is None and hardened is None):
            raise RunError("only one of the two has gates")
        if hardened is not None:
            self._harden()
            assert self._zeros is not None
            self._zeros.load_state_dict(hardened)
        elif gated is not None:
            assert self.gates is not None
            self.gates.load_state_dict(gated)
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
        torch.manual_seed(_mix(options.seed, self.epoch))  # for dropout and gates
        if self.epoch == options.harden_at:
            self._harden()
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
                loss = self._loss(logits, y[batch], batch)
            if self.gates is not None:
                loss = loss + self.gates.penalty()
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

    def _loss(self, logits: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
        if isinstance(self.teacher, Teacher):
            return self.teacher.loss(logits, labels, batch)
        return F.cross_entropy(logits, labels)

    def _after_epoch(self) -> None:
        plain = self.plain
        event = self._evaluate(plain)
        self._check_finite(event["ent_train"], self.epoch)
        if self.options.patience is not None and self.epoch > self.options.patience_from:
            key = [event["inacc_valid"], event["ent_valid"]]
            if self._best is None or key < self._best["key"]:
                model = copy.deepcopy(plain.state_dict())
                self._best = {"key": key, "event": event, "model": model, "waited": 0}
            else:
                self._best["waited"] += 1
        self._last_event = event
        if self.out is not None:
            append_event(event, self.out / "events.jsonl")
            save_state(self._state(), self.out / "checkpoint.pt")
        self.report(event)

    def _evaluate(self, plain: nn.Module) -> dict[str, Any]:
        started = time.perf_counter()
        event = {"event": "measure_test", "epochAfter": self.epoch, **evaluation(plain, self.data)}
        if self.gates is not None:
            event["gates"] = gates_event(gates_of(self.averaged))
        seconds = {"train": self.seconds, "evaluate": time.perf_counter() - started}
        return {**event, "seconds": seconds}

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "proximal": None if self.proximal is None else self.proximal.state_dict(),
            "gates": None if self.gates is None else self.gates.state_dict(),
            "zeros": None if self._zeros is None else self._zeros.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": self._best,
            "event": self._last_event,
        }

    def _harden(self) -> None:
        """Make the gates plain weights; zeros stay, and the optimizer forgets log α."""
        gates, self.gates = self.gates, None
        assert gates is not None
        log_alpha = gates.log_alpha
        gates.harden()
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not log_alpha]
        # Moments of before would go on moving what is dead, and belong to weights without gates.
        self.optimizer.state.clear()
        self._zeros = Proximal(self.optimizer, gates.prices)
        self._zeros.freeze()

    def _call_teacher(self) -> None:
        """Have the teacher's answers, on this device."""
        if self.teacher is None:
            return
        given, data = self.teacher, self.data
        made = given if isinstance(given, Teacher) else given()
        expected = [len(data.train_y), data.classes]
        if list(made.logits.shape) != expected:
            raise RunError(
                f"a teacher answers to each training example: {expected} logits are needed, got "
                f"{list(made.logits.shape)}"
            )
        self.teacher = made.to(data.train_y.device)

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
        return self.epoch < self.options.epochs

    def _check_finite(self, loss: float, epoch: int) -> None:
        """Stop before a checkpoint of weights that are not numbers replaces a good one."""
        if not math.isfinite(loss):
            raise RunError(
                f"the loss was {loss:g} in epoch {epoch}: training diverged. A smaller learning "
                "rate or a later start of the penalty usually helps"
            )

    def _check(self) -> None:
        options = self.options
        if self.gates is None:
            refuse_gated(self.model, "a Trainer without gates=…")
        if options.channels_last and self.data.train_x.ndim != 4:
            raise RunError(
                "channels_last is a layout of images [n, channels, height, width], but examples "
                f"here are {list(self.data.train_x.shape)}"
            )
        if self.gates is not None:
            self._check_gates(self.gates)
        elif options.harden_at is not None:
            raise RunError(
                f"harden_at={options.harden_at} makes gates plain weights, but there are no gates: "
                "Trainer(…, gates=lissom.gate(model, prices))"
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

    def _check_gates(self, gates: Gates) -> None:
        if gates.model is not self.model:
            raise RunError(
                f"these gates are on another {type(gates.model).__name__} than the model that is "
                "to be trained"
            )
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if all(p is not gates.log_alpha for p in trained):
            raise RunError(
                "the optimizer does not hold the gates' log α, so they would never move: make it "
                f"after the gates, {type(self.optimizer).__name__}(gates.param_groups(lr))"
            )


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Batches in one pass over the training examples; the last one may be smaller."""
    return math.ceil(len(data.train_y) / batch_size)


def _mix(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch)."""
    return (seed * 1_000_003 + epoch) % 2**63
