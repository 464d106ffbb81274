"""What a training loop is told besides model, optimizer and data, checked once."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from lissom.errors import RunError
from lissom.schedules import Schedule
from lissom.training.augment import Augment


@dataclass(frozen=True)
class Options:
    """How a `Trainer` trains; see there."""

    epochs: int
    batch_size: int = 128
    lr_factor: Schedule | None = None
    augment: Augment | None = None
    harden_at: int | None = None
    l_steps: tuple[int, ...] | None = None
    restart: bool = False
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
        for name, first in (("patience_from", 0), ("average_from", 0), ("harden_at", 1)):
            epoch = getattr(self, name)
            if epoch is not None and (
                not isinstance(epoch, int) or not first <= epoch < self.epochs
            ):
                raise RunError(
                    f"{name} is an epoch from {first} to {self.epochs - 1}, before the last of "
                    f"epochs={self.epochs}; got {epoch!r}"
                )
        steps = self.l_steps
        if steps is not None and (
            not all(isinstance(epoch, int) and epoch >= 0 for epoch in steps)
            or any(last >= next_ for last, next_ in pairwise(steps))
        ):
            raise RunError(
                "l_steps are numbers of epochs in ascending order, such as (10, 12, 14), of which "
                f"the last ends the last step; got {steps!r}"
            )
        if not 0 <= self.average_decay < 1:
            raise RunError(f"average_decay is in [0, 1), got {self.average_decay!r}")
        if not isinstance(self.seed, int):
            raise RunError(f"a seed is a whole number, got {self.seed!r}")
        if self.augment is not None and not isinstance(self.augment, Augment):
            raise RunError(f"augment is made by Augment(pad=4, flip=True), got {self.augment!r}")
        self._check_healing()
        usable_device(self.device)

    def _check_healing(self) -> None:
        """What is chosen or averaged has one and the same form: it is all gated, or all plain."""
        if self.harden_at is None:
            return
        if self.average_from is not None and self.average_from < self.harden_at:
            raise RunError(
                f"weights are averaged from epoch {self.average_from} on, but gates are hardened "
                f"after {self.harden_at}: an average of gated and plain weights is neither. Set "
                f"average_from={self.harden_at} or later"
            )
        if self.patience is not None and self.patience_from < self.harden_at:
            raise RunError(
                f"patience counts from epoch {self.patience_from} on, but gates are hardened after "
                f"{self.harden_at}, so an epoch that was not healed could be chosen. Set "
                f"patience_from={self.harden_at} or later"
            )


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
