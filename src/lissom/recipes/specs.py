"""What a recipe may say: every key of its TOML file, its type, and what cannot go together."""

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import nearest
from lissom.recipes.prices import PriceSpec
from lissom.recipes.strict import Spec, complaint


class DataSpec(Spec):
    """[data]: which data set, and how many training examples to hold out for validation."""

    name: Literal["digits", "mnist"]
    validation: Annotated[int, Field(ge=0)] = 0


class ModelSpec(Spec):
    """[model]: one of the papers' networks."""

    name: Literal["cnn", "henrikson", "lenet300", "lenet5"]
    input_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        if self.name in ("cnn", "lenet5") and self.input_dropout is not None:
            raise complaint(f"model {self.name!r} has no dropout of its inputs", "input_dropout")
        return self


class OptimizerSpec(Spec):
    """[optimizer]: a torch optimizer and its arguments; beta1 and beta2 are its `betas`."""

    name: Literal["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"]
    lr: Annotated[float, Field(gt=0)]
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    alpha: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    initial_accumulator_value: float | None = None

    def make(self, parameters: Iterable[Tensor]) -> Optimizer:
        """The optimizer of these parameters."""
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


class TrainSpec(Spec):
    """[train]: how long, in which batches, and which epoch's weights are kept."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    cosine_from: Annotated[int, Field(ge=0)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    patience_from: Annotated[int, Field(ge=0)] = 0
    average_from: Annotated[int, Field(ge=0)] | None = None
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    evaluate_every: Annotated[int, Field(ge=1)] = 1
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


class ProximalSpec(Spec):
    """[proximal]: when the prox acts and in which metric; `start` and `freeze` are epochs."""

    metric: Literal["euclidean", "adaptive"] = "euclidean"
    every: Annotated[int, Field(ge=1)] | Literal["epoch"] = 1
    start: Annotated[int, Field(ge=0)] = 0
    freeze: Annotated[int, Field(ge=1)] | None = None


class Recipe(Spec):
    """An experiment: data, model, optimizer, training, and what may vanish at which price."""

    title: str
    source: str = ""
    data: DataSpec
    model: ModelSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    method: Literal["proximal", "subgradient"] = "proximal"
    proximal: ProximalSpec = ProximalSpec()
    prices: list[PriceSpec] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        train, proximal = self.train, self.proximal
        if train.patience is not None and not self.data.validation:
            raise complaint(
                "it needs validation data: set data.validation = 5000, say", "train", "patience"
            )
        if self.method == "subgradient":
            self._check_subgradient()
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
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    classes: Annotated[int, Field(ge=1)]

    def to_json(self) -> dict[str, Any]:
        """What the file says."""
        return self.model_dump(by_alias=True, exclude_none=True)
