"""What a training loop is given besides model, optimizer and data; every rule about it is here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lissom.arguments import is_number, positive, whole
from lissom.errors import MethodError, RunError
from lissom.methods import Method, Options
from lissom.methods.optimizers import stepping_optimizer
from lissom.methods.options import check_words
from lissom.schedules import Schedule
from lissom.training.augment import Augment

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a `Trainer` trains.

    Attributes:
        epochs: passes over the training examples; fewer, to the step, if the method has ended in a
            form of the weights that further training would undo, such as a codebook.
        batch_size: examples in a batch of a `Dataset`; the last of an epoch may have fewer. Loaders
            have their own.
        accumulate: batches whose gradients make a step together, as one batch of all would.
        steps_per_epoch: where a loader does not know its length; otherwise to end epochs earlier.
        clip_norm: the largest norm that the gradient of all parameters together may have.
        lr_factor: a schedule by step that multiplies every learning rate; for a warm-up,
            lissom.schedules.linear(0.01, 1, steps).then(…).
        scheduler: one of torch's, of the same optimizer, instead of `lr_factor`.
        scheduler_by: whether it steps after each "epoch" or each "step".
        augment: how images of a `Dataset` are changed anew in every epoch.
        patience: evaluations without a better validation error, after which to stop and take the
            weights of the best.
        patience_from: the epoch from which they are counted.
        average_from: the epoch after which the weights are averaged exponentially, for evaluation
            and the final result.
        average_decay: of that average, each step.
        evaluate_every: so many epochs.
        evaluate_train: whether the examples of a `Dataset` that are trained on are gone through
            again at each evaluation; otherwise their loss and error are those seen in training, as
            they always are with loaders.
        renew_statistics: whether BatchNorm's running statistics are made anew on training examples
            for each evaluation, and for the weights that are kept, until the method has ended:
            those of a prox that acts once an epoch are of the weights before it.
        shrink: whether training goes on with what lives, once zeros are final, as by
            `lissom.train_small`: True, False, or None for where it is faster. The model has its own
            size again at the end of `fit`.
        precision: "32-true", or "bf16-mixed" and others, as Lightning Fabric has them.
        channels_last: a layout of images in which convolutions are faster.
        device: to train on: "cpu", "cuda", "cuda:1", "mps".
        devices: how many of them share each step, one process each; or which. A batch of a
            `Dataset` is divided among them, a `DataLoader` gives each of them batches of its own.
        strategy: how they do, as Lightning Fabric has it: "ddp"; "auto" chooses.
        seed: of shuffling, dropout, augmentation and gates.

    Raises:
        RunError: for numbers that cannot be.
    """

    epochs: int
    batch_size: int = 128
    accumulate: int = 1
    steps_per_epoch: int | None = None
    clip_norm: float | None = None
    lr_factor: Schedule | None = None
    scheduler: LRScheduler | None = None
    scheduler_by: Literal["epoch", "step"] = "epoch"
    augment: Augment | None = None
    patience: int | None = None
    patience_from: int = 0
    average_from: int | None = None
    average_decay: float = 0.999
    evaluate_every: int = 1
    evaluate_train: bool = True
    renew_statistics: bool = False
    shrink: bool | None = None
    precision: Precision = "32-true"
    channels_last: bool = False
    device: str = "cpu"
    devices: int | Sequence[int] = 1
    strategy: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_words(self, RunError)
        optional = ("patience", "steps_per_epoch")
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every", *optional):
            number = getattr(self, name)
            if not whole(number, least=1) and not (name in optional and number is None):
                raise RunError(f"{name} is a whole number ≥ 1, got {number!r}", field=name)
        if self.clip_norm is not None and not positive(self.clip_norm):
            what = f"clip_norm is a norm above 0, got {self.clip_norm!r}"
            raise RunError(what, field="clip_norm")
        for name in ("patience_from", "average_from"):
            epoch = getattr(self, name)
            if epoch is None and name == "average_from":
                continue
            if not (whole(epoch, least=0) and epoch < self.epochs):
                raise RunError(
                    f"{name} is an epoch from 0 to {self.epochs - 1}, before the last of "
                    f"epochs={self.epochs}; got {epoch!r}",
                    field=name,
                )
        decay = self.average_decay
        if not is_number(decay) or not 0 <= decay < 1:
            what = f"average_decay is in [0, 1), got {self.average_decay!r}"
            raise RunError(what, field="average_decay")
        if self.lr_factor is not None and not callable(self.lr_factor):
            raise RunError(
                "lr_factor is a schedule by step, such as lissom.schedules.linear(1, 0, steps), "
                f"got {self.lr_factor!r}",
                field="lr_factor",
            )
        if self.scheduler is not None and not isinstance(self.scheduler, LRScheduler):
            raise RunError(
                "scheduler is one of torch.optim.lr_scheduler, made with the optimizer, got "
                f"{self.scheduler!r}",
                field="scheduler",
            )
        if self.scheduler is not None and self.lr_factor is not None:
            what = "lr_factor and scheduler both set the learning rate: leave out one of the two"
            raise RunError(what, field="scheduler")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise RunError(f"a seed is a whole number, got {self.seed!r}", field="seed")
        if self.augment is not None and not isinstance(self.augment, Augment):
            what = f"augment is made by Augment(pad=4, flip=True), got {self.augment!r}"
            raise RunError(what, field="augment")
        usable_device(self.device)
        several = self.devices if isinstance(self.devices, list | tuple) else None
        if not whole(self.devices, least=1) and not (
            several and all(whole(n, least=0) for n in several)
        ):
            raise RunError(
                f"devices is how many there are, or a list of their numbers, got {self.devices!r}",
                field="devices",
            )

    def check_method(
        self,
        method: type[Method],
        options: Options,
        penalties: Iterable[Any],
        steps_per_epoch: int = 1,
        done: int = 0,
    ) -> None:
        """Refuse a method that does not fit into this training.

        Args:
            method: its class.
            options: of the method.
            penalties: of the method.
            steps_per_epoch: the steps that its options count, in an epoch; 1 where they count
                epochs.
            done: steps that the method has seen before.

        Raises:
            MethodError: for a method that begins or ends after the training.
            RunError: for an average or a choice of epochs before the zeros stay.
        """
        start, end = (options.start - done) / steps_per_epoch, options.end
        ends = None if end is None else (end - done) / steps_per_epoch
        if start >= self.epochs:
            raise MethodError(
                f"method {method.name!r} starts after epoch {start:g}, and training ends after "
                f"epochs={self.epochs}",
                field="start",
            )
        if ends is not None and ends > self.epochs:
            raise MethodError(
                f"method {method.name!r} ends after epoch {ends:g}, and training ends after "
                f"epochs={self.epochs}: train longer, or let it end earlier",
                field=None if options.finalize_at is None else "finalize_at",
            )
        if ends is not None and math.ceil(ends) < self.epochs and not method.lasts(penalties):
            raise RunError(
                f"zeros stay after method {method.name!r} has ended, but other forms of the "
                "weights, such as codebooks, would not: end training there, with "
                f"epochs={math.ceil(ends)}",
                field="epochs",
            )
        if self.average_from is not None:
            self._check_average(method, ends)
        if self.patience is not None and ends is not None and self.patience_from < ends:
            raise RunError(
                f"patience counts from epoch {self.patience_from} on, and an epoch before method "
                f"{method.name!r} ends, after {ends:g}, could be chosen: "
                f"{self._later('patience_from', ends)}",
                field="patience_from",
            )

    def _check_average(self, method: type[Method], ends: float | None) -> None:
        first = self.average_from
        assert first is not None
        if ends is None and not method.averages:
            raise RunError(
                f"weights are averaged from epoch {first} on, and under method {method.name!r} "
                "weights come and go until it is finalized, so that an average has no zeros: set "
                f"finalize_at to {max(1, first)} epochs or earlier",
                field="average_from",
            )
        if ends is not None and first < ends:
            raise RunError(
                f"weights are averaged from epoch {first} on, before method {method.name!r} ends, "
                f"after {ends:g}: an average must start after the zeros stay, so "
                f"{self._later('average_from', ends)}",
                field="average_from",
            )

    def _later(self, name: str, ends: float) -> str:
        """What would work where an option names an epoch before a method ends."""
        if math.ceil(ends) < self.epochs:
            return f"set {name}={math.ceil(ends)} or later"
        return f"train longer than epochs={self.epochs}, or let the method end earlier"

    def check_data(
        self, *, validation: bool, shape: Sequence[int] | None = None, in_memory: bool = True
    ) -> None:
        """Refuse data that these options cannot be applied to.

        Args:
            validation: whether examples are held out.
            shape: of one example, if it is known.
            in_memory: whether they are a `Dataset`.

        Raises:
            RunError: saying what would work.
        """
        if self.patience is not None and not validation:
            raise RunError(
                f"patience={self.patience} chooses an epoch by validation data, and there are "
                "none: hold some out, 5000 say",
                field="patience",
            )
        if not in_memory and not self.evaluate_train:
            raise RunError(
                "evaluate_train=False is for a Dataset in memory: loaders are never gone through "
                "again; leave it out",
                field="evaluate_train",
            )
        if not in_memory and self.augment is not None:
            raise RunError(
                "augment is for a Dataset in memory: in loaders, images are changed by the data "
                "set's own transform",
                field="augment",
            )
        if shape is None or len(shape) == 3:
            return
        for name in ("channels_last", "augment"):
            if getattr(self, name):
                raise RunError(
                    f"{name} is for images [channels, height, width], but examples here are "
                    f"{list(shape)}",
                    field=name,
                )

    def check_scheduler(self, optimizer: Optimizer) -> None:
        """Refuse a scheduler of another optimizer.

        Raises:
            RunError: saying so.
        """
        own = getattr(self.scheduler, "optimizer", optimizer)
        if own is not optimizer and own is not stepping_optimizer(optimizer):
            raise RunError(
                "scheduler is of another optimizer, whose learning rate it would change: make it "
                "of this one",
                field="scheduler",
            )


def usable_device(name: str) -> torch.device:
    """The device of that name, if it can hold a number.

    Raises:
        RunError: quoting torch's reason.
    """
    if not isinstance(name, str | torch.device):
        what = f"device is a name, such as 'cpu' or 'cuda', got {name!r}"
        raise RunError(what, field="device")
    try:
        torch.zeros((), device=name).item()
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise RunError(f"device {name!r} cannot be used here: {reason}", field="device") from error
    return torch.device(name)
