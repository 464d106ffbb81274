"""What a recipe may say: every key of its TOML file, its type, and what cannot go together."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from lissom.errors import nearest


class Spec(BaseModel):
    """A table of a recipe; keys it does not know are named together with the nearest it does."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in given:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'.{help}",
                        {"key": key, "help": nearest(str(key), known)},
                    )
        return given


class RampSpec(Spec):
    """One piece of a schedule: from `start` (or where the last piece ended) to `end`."""

    shape: Literal["linear", "cubic", "exponential", "cosine"] = "linear"
    start: float | None = None
    end: float
    epochs: Annotated[float, Field(ge=0)]


NumberSpec = Annotated[
    Annotated[float, Tag("number")]
    | Annotated[list[RampSpec], Tag("schedule"), Field(min_length=1)],
    Discriminator(lambda given: "schedule" if isinstance(given, list) else "number"),
]


class DataSpec(Spec):
    """[data]: which data set, and how many training examples to hold out for validation."""

    name: Literal["digits", "mnist"]
    validation: Annotated[int, Field(ge=0)] = 0


class ModelSpec(Spec):
    """[model]: one of the papers' networks."""

    name: Literal["henrikson", "lenet300", "lenet5"]
    input_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None


class OptimizerSpec(Spec):
    """[optimizer]: a torch optimizer and its arguments."""

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
                raise PydanticCustomError(
                    "combination",
                    "{name} = {epoch} is not before the end of training, epochs = {epochs}",
                    {"name": name, "epoch": epoch, "epochs": self.epochs, "key": name},
                )
        return self


class ProximalSpec(Spec):
    """[proximal]: when the prox acts and in which metric; `start` and `freeze` are epochs."""

    metric: Literal["euclidean", "adaptive"] = "euclidean"
    every: Annotated[int, Field(ge=1)] | Literal["epoch"] = 1
    start: Annotated[int, Field(ge=0)] = 0
    freeze: Annotated[int, Field(ge=1)] | None = None


class TopKSpec(Spec):
    """TopK = { fraction = … } or { count = … }."""

    count: NumberSpec | None = None
    fraction: NumberSpec | None = None
    per_layer: bool = False


class L1BallSpec(Spec):
    """L1Ball = { radius = … }."""

    radius: NumberSpec
    per_layer: bool = False


class PriceSpec(Spec):
    """[[prices]]: groups, and the penalties on them, which are added."""

    groups: Literal["weights", "kernels"] = "weights"
    biases: bool = False
    only: list[str] = []
    without: list[str] = []
    l0: NumberSpec | None = Field(None, alias="L0")
    l1: NumberSpec | None = Field(None, alias="L1")
    l2: NumberSpec | None = Field(None, alias="L2")
    top_k: TopKSpec | None = Field(None, alias="TopK")
    l1_ball: L1BallSpec | None = Field(None, alias="L1Ball")
    threshold: NumberSpec | None = Field(None, alias="Threshold")

    @model_validator(mode="after")
    def _some_penalty(self) -> Self:
        penalties = (self.l0, self.l1, self.l2, self.top_k, self.l1_ball, self.threshold)
        if all(penalty is None for penalty in penalties):
            raise PydanticCustomError(
                "combination",
                "a price needs a penalty: L0, L1, L2, TopK, L1Ball or Threshold",
                {},
            )
        if self.biases and self.groups == "kernels":
            raise PydanticCustomError(
                "combination", "biases = true goes with groups = 'weights', not 'kernels'", {}
            )
        return self


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
    prices: list[PriceSpec] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        train, proximal = self.train, self.proximal
        complaint = ""
        if "proximal" in self.model_fields_set and self.method == "subgradient":
            complaint = "method = 'subgradient' has no [proximal] step: remove one of the two"
        elif self.method == "subgradient" and not self.prices:
            complaint = "method = 'subgradient' needs [[prices]] to add to the loss"
        elif train.patience is not None and not self.data.validation:
            complaint = "train.patience needs validation data: set data.validation = 5000, say"
        elif proximal.freeze is not None and not proximal.start < proximal.freeze <= train.epochs:
            complaint = (
                f"proximal.freeze = {proximal.freeze} must lie after proximal.start = "
                f"{proximal.start} and within train.epochs = {train.epochs}"
            )
        elif proximal.start >= train.epochs:
            complaint = f"proximal.start = {proximal.start} is after the last of the epochs"
        if complaint:
            raise PydanticCustomError("combination", "{complaint}", {"complaint": complaint})
        return self
