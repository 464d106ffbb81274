"""What a recipe may say: every key of its TOML file, its type, and what cannot go together."""

import inspect
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import LissomError, MethodError, RunError, nearest
from lissom.methods import NAMED, Method, Options
from lissom.recipes.data import DataSpec
from lissom.recipes.methods import FINE, MethodSpec
from lissom.recipes.models import ModelSpec
from lissom.recipes.paths import PathSpec, check_path
from lissom.recipes.penalties import PenaltySpec
from lissom.recipes.strict import Positive, Spec, Whole, complaint, keys, refusals
from lissom.schedules import Schedule, cosine, linear, multistep
from lissom.training import Augment, TrainOptions
from lissom.training.options import Precision
from lissom.training.teacher import check_distillation


class OptimizerSpec(Spec):
    """[optimizer]: a torch optimizer and its arguments; beta1 and beta2 are its `betas`."""

    name: Literal["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
    lr: Positive
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    alpha: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    initial_accumulator_value: float | None = None

    def make(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimizer of these parameters or param groups."""
        arguments = self.model_dump(exclude_none=True, exclude={"name", "beta1", "beta2"})
        if self.beta1 is not None or self.beta2 is not None:
            beta1 = 0.9 if self.beta1 is None else self.beta1
            beta2 = 0.999 if self.beta2 is None else self.beta2
            arguments["betas"] = (beta1, beta2)
        made: Optimizer = getattr(torch.optim, self.name)(parameters, **arguments)
        return made

    @model_validator(mode="after")
    def _taken_by_torch(self) -> Self:
        parameters = inspect.signature(getattr(torch.optim, self.name)).parameters
        fields = [key for key in type(self).model_fields if key != "name"]
        takes = [key for key in fields if ("betas" if "beta" in key else key) in parameters]
        for key in fields:
            if getattr(self, key) is not None and key not in takes:
                what = f"not an argument of torch.optim.{self.name}.{nearest(key, takes)}"
                raise complaint(what, key)
        try:
            self.make([torch.zeros(1)])
        except (TypeError, ValueError) as error:
            raise complaint(f"torch.optim.{self.name} refuses this: {error}") from error
        return self


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
    cosine_from: Annotated[int, Field(ge=0)] | None = None
    milestones: Milestones | None = None
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: AugmentSpec | None = None
    patience: int | None = None
    patience_from: int = 0
    average_from: int | None = None
    average_decay: float = 0.999
    evaluate_every: int = 1
    precision: Precision = "32-true"
    channels_last: bool = False

    def arguments(self) -> dict[str, Any]:
        """The options of a `Trainer`, but for the schedule of its learning rate."""
        given = self.model_dump(exclude={"augment", "cosine_from", "gamma", "milestones"})
        return {**given, "augment": None if self.augment is None else self.augment.make()}

    def options(self) -> TrainOptions:
        """The same as an object that knows the rules."""
        return TrainOptions(**self.arguments())

    def lr_factor(self, epoch: int) -> Schedule | None:
        """The factor of the learning rates by step, if there is one.

        Args:
            epoch: steps in an epoch.
        """
        if self.gamma is not None:
            milestones = self._milestones()
            return multistep(1, self.gamma, [m * epoch for m in milestones]) if milestones else None
        if self.cosine_from is not None:
            flat = linear(1, 1, self.cosine_from * epoch)
            return flat.then(cosine(1, 0, (self.epochs - self.cosine_from) * epoch))
        return None

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


class TeacherSpec(Spec):
    """[teacher]: a recipe whose network is trained first, on the same examples.

    Its answers are then learnt beside the labels. `recipe` is a name or a path where it is read,
    and the whole recipe from then on, so that the record of a run needs no other file.
    """

    recipe: "Recipe"
    alpha: float = 0.9
    temperature: float = 4.0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        with refusals():
            check_distillation(self.alpha, self.temperature)
        return self

    @model_validator(mode="before")
    @classmethod
    def _names_a_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe", {}) if isinstance(given, Mapping) else {}
        if not isinstance(recipe, Mapping | Recipe):
            what = f"this is the name of a recipe or the path of a .toml file, got {recipe!r}"
            raise complaint(what, "recipe")
        return given


class Recipe(Spec):
    """An experiment: data, model, optimizer, training, and which groups may vanish, and how.

    `log` makes `lissom train` write the evaluations in another form too: see recipes/henrikson.py.
    """

    title: str
    source: str = ""
    log: Literal["henrikson"] | None = None
    data: DataSpec
    model: ModelSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    method: MethodSpec | None = None
    penalties: list[PenaltySpec] = Field(default_factory=list)
    teacher: TeacherSpec | None = None
    path: PathSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_its_method(cls, given: Any) -> Any:
        named = [key for key in given if key in NAMED] if isinstance(given, Mapping) else []
        if named:
            what = f'a method stands in [method]: name = "{named[0]}", then its options'
            raise complaint(what, named[0])
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with refusals("train"):
            self.train.options().check_data(validation=bool(self.data.validation))
        if self.train.augment is not None and self.data.name == "modrec":
            what = (
                "crops and flips are of images, and 'modrec' has vectors of I and Q: leave it out"
            )
            raise complaint(what, "train", "augment")
        if (self.method is None) != (not self.penalties):
            what, at = (
                ('[[penalties]] need a [method] as well: name = "proximal", say', "penalties")
                if self.method is None
                else ("[method] needs [[penalties]] as well: L0 = 1e-4, say", "method")
            )
            raise complaint(what, at)
        if self.method is not None:
            self._check_method(self.method)
        if self.teacher is not None:
            self._check_teacher(self.teacher.recipe)
        if self.path is not None:
            check_path(self)
        return self

    def _check_method(self, method: MethodSpec) -> None:
        """What a `Trainer` would refuse, in the same words."""
        kind, options = method.type, method.options(FINE)
        penalties = [spec.penalty(1) for spec in self.penalties]
        try:
            kind.check(penalties, options)
        except LissomError as error:
            if error.field not in (None, "penalties"):
                raise complaint(str(error), "method", *keys(error.field)) from error
            refused = [i for i, one in enumerate(penalties) if _refuses(kind, options, one)]
            raise complaint(str(error), "penalties", *refused[:1]) from error
        if method.counts_steps():
            return  # it begins or ends by a number of steps: a `Trainer` knows in which epoch
        try:
            self.train.options().check_method(kind, options, penalties, FINE)
        except MethodError as error:
            raise complaint(str(error), "method", *filter(None, [error.field])) from error
        except RunError as error:
            raise complaint(str(error), "train", *filter(None, [error.field])) from error

    def _check_teacher(self, teacher: "Recipe") -> None:
        with refusals("train"):
            self.train.options().check_teacher()
        if teacher.data.name != self.data.name:
            what = f"it learns {teacher.data.name!r}, but the student learns {self.data.name!r}"
            raise complaint(what, "teacher", "recipe")
        if teacher.train.patience is not None and not self.data.validation:
            what = (
                "it has train.patience and shares the student's examples, of which none are held "
                "out: set data.validation = 5000, say"
            )
            raise complaint(what, "teacher", "recipe")


def _refuses(kind: type[Method], options: Options, penalty: Any) -> bool:
    """Whether it is this penalty that the method cannot train with."""
    try:
        kind.check([penalty], options)
    except LissomError as error:
        return error.field in (None, "penalties")
    return False


TeacherSpec.model_rebuild()


class Record(Spec):
    """recipe.json of a run: all that its network and its training follow from.

    Attributes:
        recipe: with every default written out.
        seed: of the initialisation, of the order of the examples, and of dropout.
        shape: of one example, so that the network can be made without the data.
        classes: of the data.
    """

    recipe: Recipe
    seed: Annotated[int, Field(ge=0)]
    shape: Annotated[list[Whole], Field(min_length=1)]
    classes: Whole | None

    def to_json(self) -> dict[str, Any]:
        """What the file says."""
        return self.model_dump(by_alias=True, exclude_none=True)
