"""[[prices]] in a recipe: which groups, which penalties, and numbers that change by epoch."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from lissom.budgets import L1Ball, TopK
from lissom.errors import RecipeError
from lissom.learning_compression import Additive, Compression
from lissom.penalties import L0, L1, L2, Penalty, Threshold
from lissom.recipes.lc import CompressionsSpec
from lissom.recipes.strict import Spec, complaint
from lissom.schedules import Schedule, cosine, cubic, exponential, linear

SHAPES: Mapping[str, Callable[[float, float, int], Schedule]] = {
    "linear": linear,
    "cubic": cubic,
    "exponential": exponential,
    "cosine": cosine,
}

Amount = Annotated[float, Field(ge=0)]
Drop = Annotated[float, Field(gt=0, lt=1)]


class RampSpec(Spec):
    """One piece of a schedule: from `start` (or where the last piece ended) to `end`."""

    shape: Literal["linear", "cubic", "exponential", "cosine"] = "linear"
    start: Amount | None = None
    end: Amount
    epochs: Amount


def number(spec: float | list[RampSpec], epoch: float) -> float | Schedule:
    """The number of a penalty, or its schedule by steps.

    Args:
        spec: as the recipe has it, in epochs.
        epoch: steps in an epoch.

    Raises:
        LissomError: for pieces that do not follow one another.
    """
    if not isinstance(spec, list):
        return float(spec)
    pieces: list[Schedule] = []
    for ramp in spec:
        start = ramp.start if ramp.start is not None or not pieces else pieces[-1].end
        if start is None:
            raise RecipeError("the first piece of a schedule needs a start, as in start = 1.0")
        pieces.append(SHAPES[ramp.shape](start, ramp.end, round(ramp.epochs * epoch)))
    total = pieces[-1]
    for piece in reversed(pieces[:-1]):
        total = piece.then(total)
    return total


def _possible(ramps: list[RampSpec]) -> list[RampSpec]:
    number(ramps, 1)
    return ramps


Ramps = Annotated[list[RampSpec], Field(min_length=1), AfterValidator(_possible)]
NumberSpec = Annotated[
    Annotated[Amount, Tag("number")] | Annotated[Ramps, Tag("schedule")],
    Discriminator(lambda given: "schedule" if isinstance(given, list | dict) else "number"),
]


class TopKSpec(Spec):
    """TopK = { fraction = … } or { count = … }."""

    count: NumberSpec | None = None
    fraction: NumberSpec | None = None
    per_layer: bool = False

    @model_validator(mode="after")
    def _a_count_or_a_part(self) -> Self:
        if (self.count is None) == (self.fraction is None):
            raise complaint("TopK needs either a count or a fraction")
        for i, ramp in enumerate(self.fraction if isinstance(self.fraction, list) else []):
            for key, end in (("start", ramp.start), ("end", ramp.end)):
                if end is not None and end > 1:
                    what = f"a fraction lies between 0 and 1, got {end:g}"
                    raise complaint(what, "fraction", i, key)
        return self

    def penalty(self, epoch: float) -> Penalty:
        """The budget, with schedules by steps."""
        count = None if self.count is None else number(self.count, epoch)
        fraction = None if self.fraction is None else number(self.fraction, epoch)
        whole = int(count) if isinstance(count, float) and count.is_integer() else count
        return TopK(whole, fraction=fraction, per_layer=self.per_layer)  # type: ignore[arg-type]


class L1BallSpec(Spec):
    """L1Ball = { radius = … }."""

    radius: NumberSpec
    per_layer: bool = False

    def penalty(self, epoch: float) -> Penalty:
        """The budget, with schedules by steps."""
        return L1Ball(number(self.radius, epoch), per_layer=self.per_layer)


class PriceSpec(CompressionsSpec):
    """[[prices]]: groups, and the penalties on them, which are added.

    `init` is the drop rate that gates on these groups start with, if it is not that of [gates].
    """

    groups: Literal["weights", "kernels", "columns", "channels", "neurons", "heads", "units"] = (
        "weights"
    )
    biases: bool = False
    inputs: bool = False
    only: list[str] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)
    init: Drop | None = None
    l0: NumberSpec | None = Field(None, alias="L0")
    l1: NumberSpec | None = Field(None, alias="L1")
    l2: NumberSpec | None = Field(None, alias="L2")
    top_k: TopKSpec | None = Field(None, alias="TopK")
    l1_ball: L1BallSpec | None = Field(None, alias="L1Ball")
    threshold: NumberSpec | None = Field(None, alias="Threshold")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.biases and self.groups != "weights":
            what = f"biases = true goes with groups = 'weights', not {self.groups!r}"
            raise complaint(what, "biases")
        if self.inputs and self.groups in ("weights", "kernels", "columns"):
            what = f"inputs = true goes with units, such as 'neurons', not with {self.groups!r}"
            raise complaint(what, "inputs")
        self.compression(1)
        return self

    def compression(self, epoch: float) -> Compression | Penalty:
        """The sum of the penalties and of the compressions of learning–compression.

        Args:
            epoch: steps, of training or of learning–compression, in an epoch.

        Raises:
            LissomError: for impossible numbers or sums, or if there is none.
        """
        terms: list[Compression | Penalty] = [*self.compressions()]
        if not terms or self._penalties(epoch):
            terms.insert(0, self.penalty(epoch))
        return terms[0] if len(terms) == 1 else Additive(tuple(terms))

    def penalty(self, epoch: float) -> Penalty:
        """The sum of the penalties; one without a closed form is refused by `+`.

        Args:
            epoch: steps in an epoch.

        Raises:
            LissomError: for impossible numbers or sums, or if there is none.
        """
        terms = self._penalties(epoch)
        if not terms:
            raise RecipeError("a price needs a penalty: L0, L1, L2, TopK, L1Ball or Threshold")
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _penalties(self, epoch: float) -> list[Penalty]:
        singles = (
            (L0, self.l0),
            (L1, self.l1),
            (L2, self.l2),
            (Threshold, self.threshold),
        )
        terms: list[Penalty] = [
            make(number(price, epoch)) for make, price in singles if price is not None
        ]
        terms += [
            budget.penalty(epoch) for budget in (self.top_k, self.l1_ball) if budget is not None
        ]
        return terms
