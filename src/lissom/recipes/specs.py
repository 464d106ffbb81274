"""What a recipe may say: every key of its TOML file, its type, and what cannot go together."""

import inspect
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import nearest
from lissom.recipes.data import DataSpec
from lissom.recipes.gates import GatesSpec, gated
from lissom.recipes.lc import LCSpec
from lissom.recipes.models import ModelSpec
from lissom.recipes.paths import PathSpec, check_path
from lissom.recipes.prices import PriceSpec
from lissom.recipes.strict import Positive, Spec, Whole, complaint


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

    pad: Annotated[int, Field(ge=0)] = 0
    flip: bool = False

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.pad and not self.flip:
            raise complaint("augmentation needs crops or flips: augment = { pad = 4, flip = true }")
        return self


class TrainSpec(Spec):
    """[train]: how long, in which batches, and which epoch's weights are kept."""

    epochs: Whole
    batch_size: Whole = 128
    cosine_from: Annotated[int, Field(ge=0)] | None = None
    milestones: Annotated[list[Whole], Field(min_length=1)] | None = None
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: AugmentSpec | None = None
    patience: Whole | None = None
    patience_from: Annotated[int, Field(ge=0)] = 0
    average_from: Annotated[int, Field(ge=0)] | None = None
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    evaluate_every: Whole = 1
    bf16: bool = False
    channels_last: bool = False

    @model_validator(mode="after")
    def _within_the_run(self) -> Self:
        for name in ("cosine_from", "average_from", "patience_from"):
            epoch = getattr(self, name)
            if epoch is not None and epoch >= self.epochs:
                what = f"{epoch} is not before the end of training, epochs = {self.epochs}"
                raise complaint(what, name)
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
        if any(first >= last for first, last in pairwise(self.milestones)):
            what = f"milestones are epochs in ascending order, got {self.milestones}"
            raise complaint(what, "milestones")
        return self


class ProximalSpec(Spec):
    """[proximal]: when the prox acts and in which metric; `start` and `freeze` are epochs."""

    metric: Literal["euclidean", "adaptive"] = "euclidean"
    every: Whole | Literal["epoch"] = 1
    start: Annotated[int, Field(ge=0)] = 0
    freeze: Whole | None = None


class TeacherSpec(Spec):
    """[teacher]: a recipe whose network is trained first, on the same examples.

    Its answers are then learnt beside the labels. `recipe` is a name or a path where it is read,
    and the whole recipe from then on, so that the record of a run needs no other file.
    """

    recipe: "Recipe"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    temperature: Positive = 4.0

    @model_validator(mode="before")
    @classmethod
    def _names_a_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe", {}) if isinstance(given, Mapping) else {}
        if not isinstance(recipe, Mapping | Recipe):
            what = f"this is the name of a recipe or the path of a .toml file, got {recipe!r}"
            raise complaint(what, "recipe")
        return given


class Recipe(Spec):
    """An experiment: data, model, optimizer, training, and what may vanish at which price.

    `log` makes `lissom train` write the evaluations in another form too: see recipes/henrikson.py.
    """

    title: str
    source: str = ""
    log: Literal["henrikson"] | None = None
    data: DataSpec
    model: ModelSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    method: Literal["proximal", "subgradient", "gates", "lc"] = "proximal"
    proximal: ProximalSpec = ProximalSpec()
    gates: GatesSpec | None = None
    lc: LCSpec | None = None
    prices: list[PriceSpec] = Field(default_factory=list)
    teacher: TeacherSpec | None = None
    path: PathSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _table_of_the_method(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("method") in ("gates", "lc"):
            return {given["method"]: {}, **given}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        train, proximal = self.train, self.proximal
        if train.patience is not None and not self.data.validation:
            raise complaint(
                "it needs validation data: set data.validation = 5000, say", "train", "patience"
            )
        if train.augment is not None and self.data.name == "modrec":
            what = (
                "crops and flips are of images, and 'modrec' has vectors of I and Q: leave it out"
            )
            raise complaint(what, "train", "augment")
        if self.method == "subgradient":
            self._check_subgradient()
        if self.method != "lc":
            self._check_no_lc()
        if self.method == "gates":
            self._check_gates()
        else:
            self._check_no_gates()
        if self.lc is not None:
            self._check_lc(self.lc)
        if self.teacher is not None:
            self._check_teacher(self.teacher.recipe)
        if proximal.start >= train.epochs:
            what = f"{proximal.start} is not before the end of training, epochs = {train.epochs}"
            raise complaint(what, "proximal", "start")
        if proximal.freeze is not None and not proximal.start < proximal.freeze <= train.epochs:
            raise complaint(
                f"{proximal.freeze} must lie after proximal.start = {proximal.start} and within "
                f"train.epochs = {train.epochs}",
                "proximal",
                "freeze",
            )
        if self.prices and self.method == "proximal":
            self._check_zeros_last()
        if self.path is not None:
            check_path(self)
        return self

    def _check_subgradient(self) -> None:
        if self.proximal != ProximalSpec():
            what = "method = 'subgradient' has no [proximal] step: remove one of the two"
            raise complaint(what, "method")
        if not self.prices:
            raise complaint("'subgradient' needs [[prices]] to add to the loss", "method")
        for i, price in enumerate(self.prices):
            if not price.penalty(1).differentiable:
                what = (
                    f"method = 'subgradient' needs a gradient, and {price.penalty(1)} has none: "
                    "L1 and L2 have"
                )
                raise complaint(what, "prices", i)

    def _check_gates(self) -> None:
        train, gates = self.train, self.gates
        assert gates is not None
        if self.proximal != ProximalSpec():
            what = "method = 'gates' has no [proximal] step: remove one of the two"
            raise complaint(what, "method")
        if not self.prices:
            what = "'gates' needs [[prices]], which say what is gated; without them: 'proximal'"
            raise complaint(what, "method")
        for i, price in enumerate(self.prices):
            if not gated(price.penalty(1)):
                what = f"gates know L0, L2 and both, but not {price.penalty(1)}"
                raise complaint(what, "prices", i)
        if gates.harden is None:
            return
        if gates.harden >= train.epochs:
            what = f"{gates.harden} is not before the end of training, epochs = {train.epochs}"
            raise complaint(what, "gates", "harden")
        if train.average_from is not None and train.average_from < gates.harden:
            what = (
                f"an average from epoch {train.average_from} on would mix gated and plain weights, "
                f"since gates are hardened after {gates.harden}: set it to that or more"
            )
            raise complaint(what, "train", "average_from")
        if train.patience is not None and train.patience_from < gates.harden:
            what = (
                f"an epoch before the gates are hardened, at {gates.harden}, could be chosen: set "
                f"it to {gates.harden} or more"
            )
            raise complaint(what, "train", "patience_from")

    def _check_lc(self, lc: LCSpec) -> None:
        train, end = self.train, lc.begins[-1]
        if self.proximal != ProximalSpec():
            what = "method = 'lc' has no [proximal] step: remove one of the two"
            raise complaint(what, "method")
        if not self.prices:
            raise complaint("'lc' needs [[prices]], which say what is compressed", "method")
        if end > train.epochs:
            what = (
                f"its {lc.steps} L steps end after epoch {end}, and train.epochs = {train.epochs}"
            )
            raise complaint(what, "lc", "steps")
        strange = [i for i, price in enumerate(self.prices) if price.compressions()]
        if strange and end < train.epochs:
            what = (
                "zeros can stay after the last L step, and this form could not: set train.epochs = "
                f"{end}, where it ends"
            )
            raise complaint(what, "prices", strange[0])
        for name, epoch in (
            ("average_from", train.average_from),
            ("patience_from", None if train.patience is None else train.patience_from),
        ):
            if epoch is not None and epoch < end:
                what = f"the L steps end after epoch {end}: set it to that or more, not {epoch}"
                raise complaint(what, "train", name)
        scheduled = train.cosine_from is not None or train.milestones is not None
        if lc.rate_decay is not None and scheduled:
            what = "the learning rate has a schedule in [train] already: leave out one of the two"
            raise complaint(what, "lc", "rate_decay")

    def _check_no_lc(self) -> None:
        if self.lc is not None:
            raise complaint(f"[lc] needs method = 'lc', but method is {self.method!r}", "lc")
        for i, price in enumerate(self.prices):
            for compression in price.compressions():
                what = f"{compression!r} needs method = 'lc', but method is {self.method!r}"
                raise complaint(what, "prices", i)

    def _check_no_gates(self) -> None:
        if self.gates is not None:
            what = f"[gates] needs method = 'gates', but method is {self.method!r}"
            raise complaint(what, "gates")
        for i, price in enumerate(self.prices):
            if price.init is not None:
                what = f"only gates start with a drop rate, but method is {self.method!r}"
                raise complaint(what, "prices", i, "init")

    def _check_teacher(self, teacher: "Recipe") -> None:
        if self.train.augment is not None:
            what = (
                "a teacher answers once to each training example, and augment shows other images "
                "in every epoch: leave out one of the two"
            )
            raise complaint(what, "train", "augment")
        if teacher.data.name != self.data.name:
            what = f"it learns {teacher.data.name!r}, but the student learns {self.data.name!r}"
            raise complaint(what, "teacher", "recipe")
        if teacher.train.patience is not None and not self.data.validation:
            what = (
                "it has train.patience and shares the student's examples, of which none are held "
                "out: set data.validation = 5000, say"
            )
            raise complaint(what, "teacher", "recipe")

    def _check_zeros_last(self) -> None:
        first, freeze = self.train.average_from, self.proximal.freeze
        if first is not None and (freeze is None or freeze > first):
            frozen = "they are never frozen" if freeze is None else f"they are frozen at {freeze}"
            what = f"an average from epoch {first} on needs zeros that stay, and {frozen}: set "
            raise complaint(f"{what}proximal.freeze ≤ {first}", "train", "average_from")
        if self.train.patience is not None and self.train.patience_from < (freeze or 0):
            what = f"an epoch before the zeros are frozen, at {freeze}, could be chosen: set it to "
            raise complaint(f"{what}{freeze} or more", "train", "patience_from")
        if self.proximal.metric == "adaptive" and self.optimizer.name != "SGD":
            for i, price in enumerate(self.prices):
                if not price.penalty(1).has_metric:
                    what = f"{price.penalty(1)} knows no metric; use L0, or metric = 'euclidean'"
                    raise complaint(what, "prices", i)


TeacherSpec.model_rebuild()


class Record(Spec):
    """recipe.json of a run: all that its network and its training follow from.

    Attributes:
        recipe: with every default written out.
        seed: of the initialisation, the order and the dropout.
        shape: of one example, so that the network can be made without the data.
        classes: of the data.
    """

    recipe: Recipe
    seed: Annotated[int, Field(ge=0)]
    shape: Annotated[list[Whole], Field(min_length=1)]
    classes: Whole

    def to_json(self) -> dict[str, Any]:
        """What the file says."""
        return self.model_dump(by_alias=True, exclude_none=True)
