"""[train] in a recipe: how long, in which batches, and how the learning rate goes."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lissom.errors import RecipeError, nearest
from lissom.importing import called_with, imported, subclasses_in
from lissom.recipes.strict import OpenSpec, Spec, Whole, complaint, refusals
from lissom.schedules import Schedule, cosine, linear, multistep
from lissom.training import Augment, TrainOptions
from lissom.training.options import Precision

TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
SCHEDULERS = subclasses_in(lr_scheduler, LRScheduler)


class AugmentSpec(Spec):
    """[train.augment]: random crops of images padded by `pad` pixels, and flips left to right."""

    pad: int = 0
    flip: bool = False

    def make(self) -> Augment:
        """The augmentation that is described."""
        return Augment(**self.model_dump())

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        with refusals():
            self.make()
        return self


class SchedulerSpec(OpenSpec):
    """scheduler = { name = "CosineAnnealingLR", T_max = 60 }: any of torch's, or one's own.

    `by` says whether it steps after each "epoch" or each "step"; the other keys are arguments.
    """

    name: str
    by: Literal["epoch", "step"] = "epoch"

    def make(self, optimizer: Optimizer) -> LRScheduler:
        """The scheduler of an optimizer.

        Raises:
            RecipeError: if there is none of that name, or it refuses the arguments.
        """
        if ":" in self.name:
            kind = imported(
                self.name, LRScheduler, what="scheduler", error=RecipeError, field="name",
                called="torch.optim.lr_scheduler.LRScheduler",
            )  # fmt: skip
        elif self.name in SCHEDULERS:
            kind = SCHEDULERS[self.name]
        else:
            what = f"torch.optim.lr_scheduler has no scheduler, got {self.name!r}."
            raise RecipeError(what + nearest(self.name, SCHEDULERS), field="name")
        made: LRScheduler = called_with(
            kind,
            self.arguments,
            who=f"scheduler {self.name!r}",
            error=RecipeError,
            before=(optimizer,),
        )
        return made

    @model_validator(mode="after")
    def _possible(self) -> Self:
        with refusals():
            self.make(torch.optim.SGD([torch.zeros(1)], lr=1.0))
        return self


class MilestonesSpec(Spec):
    """milestones = { first = 40, every = 20 }: epochs 40, 60, 80, …."""

    first: Whole
    every: Whole


Milestones = Annotated[
    Annotated[list[Whole], Field(min_length=1), Tag("list")]
    | Annotated[MilestonesSpec, Tag("table")],
    Discriminator(lambda given: "table" if isinstance(given, Mapping | BaseModel) else "list"),
]


class TrainSpec(Spec):
    """[train]: how long, in which batches, and which epoch's weights are kept.

    Most keys are those of `lissom.training.TrainOptions`, whose rules they have to meet.
    """

    epochs: int
    batch_size: int = 128
    accumulate: int = 1
    steps_per_epoch: int | None = None
    clip_norm: float | None = None
    warmup: Annotated[float, Field(ge=0)] = 0.0
    scheduler: SchedulerSpec | None = None
    cosine_from: Annotated[int, Field(ge=0)] | None = None
    milestones: Milestones | None = None
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: AugmentSpec | None = None
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

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the weights, where `precision` says another than the network's own."""
        return TRUE.get(self.precision)

    def arguments(self) -> dict[str, Any]:
        """The options of a `Trainer`, but for the schedule of its learning rate."""
        rates = {"cosine_from", "gamma", "milestones", "warmup", "scheduler"}
        given = self.model_dump(exclude={"augment", *rates})
        if self.scheduler is not None:
            given["scheduler_by"] = self.scheduler.by
        return {**given, "augment": None if self.augment is None else self.augment.make()}

    def options(self) -> TrainOptions:
        """The same as an object that knows the rules."""
        return TrainOptions(**self.arguments())

    def lr_factor(self, epoch: int) -> Schedule | None:
        """The factor of the learning rates by step, if there is one; it rises in a warm-up first.

        Args:
            epoch: steps in an epoch.
        """
        warm = round(self.warmup * epoch)
        rising = linear(1 / warm, 1, warm) if warm else None
        falling: Schedule | None = linear(1, 1, 0) if warm else None
        if self.gamma is not None and (milestones := self._milestones()):
            falling = multistep(1, self.gamma, [m * epoch - warm for m in milestones])
        if self.cosine_from is not None:
            flat = linear(1, 1, self.cosine_from * epoch - warm)
            falling = flat.then(cosine(1, 0, (self.epochs - self.cosine_from) * epoch))
        return rising.then(falling) if rising and falling else falling

    def _milestones(self) -> list[int]:
        if isinstance(self.milestones, MilestonesSpec):
            return list(range(self.milestones.first, self.epochs, self.milestones.every))
        return self.milestones or []

    @model_validator(mode="after")
    def _possible(self) -> Self:
        with refusals():
            self.options()
        if self.cosine_from is not None and self.cosine_from >= self.epochs:
            what = f"{self.cosine_from} is not before the end of training, epochs = {self.epochs}"
            raise complaint(what, "cosine_from")
        falls = [self.epochs, *self._milestones()[:1]]
        falls += [] if self.cosine_from is None else [self.cosine_from]
        if self.warmup > min(falls):
            what = f"a warm-up of {self.warmup:g} epochs ends after the rate falls or training ends"
            raise complaint(f"{what}, in epoch {min(falls)}: take a shorter one", "warmup")
        own = self.warmup or self.gamma or self.cosine_from is not None
        if self.scheduler is not None and own:
            what = "the learning rate goes by scheduler, or by cosine_from, milestones and warmup"
            raise complaint(f"{what}: choose one", "scheduler")
        return self

    @model_validator(mode="after")
    def _one_decay(self) -> Self:
        if self.milestones is None:
            if self.gamma is not None:
                what = "gamma is the factor at milestones: set milestones = [60, 120, 160], say"
                raise complaint(what, "gamma")
            return self
        if self.cosine_from is not None:
            what = f"the learning rate falls along a cosine from epoch {self.cosine_from} on"
            raise complaint(f"{what}, or at milestones: remove one of the two", "milestones")
        if self.gamma is None:
            what = "milestones need the factor of the learning rate at each of them: gamma = 0.2"
            raise complaint(what, "milestones")
        if any(first >= last for first, last in pairwise(self._milestones())):
            what = f"milestones are epochs in ascending order, got {self.milestones}"
            raise complaint(what, "milestones")
        return self
