"""[[penalties]] in a recipe: which groups, and what is asked of them."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lissom.budgets import L1Ball, TopK
from lissom.compressions import (
    Additive,
    Binary,
    Codebook,
    Compression,
    LowRank,
    RankSelection,
    ScaledBinary,
    ScaledTernary,
)
from lissom.errors import RecipeError
from lissom.methods import Strength
from lissom.penalties import L0, L1, L2, Penalty, Threshold
from lissom.recipes.numbers import NumberSpec, number
from lissom.recipes.strict import Positive, Spec, Whole, complaint, refusals

# The numbers that a curve may go along, by their key in an entry of [[penalties]].
STRENGTHS: Mapping[str, Strength] = {
    "L0": Strength("λ"),
    "L1": Strength("λ"),
    "L2": Strength("λ"),
    "Threshold": Strength("θ"),
    "TopK.fraction": Strength("fraction kept", ramps=True, dense=1.0),
    "TopK.count": Strength("groups kept", ramps=True),
    "L1Ball.radius": Strength("ν", ramps=True),
}


class TopKSpec(Spec):
    """TopK = { fraction = … } or { count = … }."""

    count: NumberSpec | None = None
    fraction: NumberSpec | None = None
    per_layer: bool = False

    def penalty(self, epoch: float) -> Penalty:
        """The budget, with schedules by steps."""
        count = None if self.count is None else number(self.count, epoch)
        fraction = None if self.fraction is None else number(self.fraction, epoch)
        whole = int(count) if isinstance(count, float) and count.is_integer() else count
        return TopK(whole, fraction=fraction, per_layer=self.per_layer)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for i, ramp in enumerate(self.fraction if isinstance(self.fraction, list) else []):
            for key, end in (("start", ramp.start), ("end", ramp.end)):
                if end is not None and end > 1:
                    what = f"a fraction lies between 0 and 1, got {end:g}"
                    raise complaint(what, "fraction", i, key)
        with refusals():
            self.penalty(1)
        return self


class L1BallSpec(Spec):
    """L1Ball = { radius = … }."""

    radius: NumberSpec
    per_layer: bool = False

    def penalty(self, epoch: float) -> Penalty:
        """The budget, with schedules by steps."""
        return L1Ball(number(self.radius, epoch), per_layer=self.per_layer)


class CodebookSpec(Spec):
    """Codebook = { k = 2 }."""

    k: Whole
    per_layer: bool = False


class LowRankSpec(Spec):
    """LowRank = { rank = 10 }."""

    rank: Annotated[int, Field(ge=0)]


class RankSelectionSpec(Spec):
    """RankSelection = { alpha = 1e-6 }."""

    alpha: Positive


class QuantizerSpec(Spec):
    """Binary, ScaledBinary and ScaledTernary = { per_layer = true }."""

    per_layer: bool = False


class PenaltySpec(Spec):
    """[[penalties]]: groups, and the penalties and compressions on them, which are added."""

    groups: Literal["weights", "kernels", "columns", "channels", "neurons", "heads", "units"] = (
        "weights"
    )
    biases: bool = False
    inputs: bool = False
    only: list[str] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)
    l0: NumberSpec | None = Field(None, alias="L0")
    l1: NumberSpec | None = Field(None, alias="L1")
    l2: NumberSpec | None = Field(None, alias="L2")
    top_k: TopKSpec | None = Field(None, alias="TopK")
    l1_ball: L1BallSpec | None = Field(None, alias="L1Ball")
    threshold: NumberSpec | None = Field(None, alias="Threshold")
    codebook: CodebookSpec | None = Field(None, alias="Codebook")
    binary: QuantizerSpec | None = Field(None, alias="Binary")
    scaled_binary: QuantizerSpec | None = Field(None, alias="ScaledBinary")
    scaled_ternary: QuantizerSpec | None = Field(None, alias="ScaledTernary")
    low_rank: LowRankSpec | None = Field(None, alias="LowRank")
    rank_selection: RankSelectionSpec | None = Field(None, alias="RankSelection")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.biases and self.groups != "weights":
            what = f"biases = true goes with groups = 'weights', not {self.groups!r}"
            raise complaint(what, "biases")
        if self.inputs and self.groups in ("weights", "kernels", "columns"):
            what = f"inputs = true goes with units, such as 'neurons', not with {self.groups!r}"
            raise complaint(what, "inputs")
        with refusals():
            self.penalty(1)
        return self

    def penalty(self, epoch: float) -> Compression | Penalty:
        """The sum of what is named.

        Args:
            epoch: steps in an epoch.

        Raises:
            LissomError: for impossible numbers or sums, or if there is none.
        """
        compressions, penalties = self._compressions(), self._penalties(epoch)
        if not penalties and not compressions:
            raise RecipeError(
                "say what is asked of the groups: L0, L1, L2, TopK, L1Ball or Threshold, or a "
                "compression, such as Codebook"
            )
        terms: list[Compression | Penalty] = [*compressions]
        if penalties:
            total = penalties[0]
            for penalty in penalties[1:]:
                total = total + penalty  # a sum without a closed form is refused
            terms.insert(0, total)
        return terms[0] if len(terms) == 1 else Additive(tuple(terms))

    def _penalties(self, epoch: float) -> list[Penalty]:
        singles = ((L0, self.l0), (L1, self.l1), (L2, self.l2), (Threshold, self.threshold))
        terms: list[Penalty] = [
            make(number(given, epoch)) for make, given in singles if given is not None
        ]
        budgets = (self.top_k, self.l1_ball)
        return terms + [budget.penalty(epoch) for budget in budgets if budget is not None]

    def _compressions(self) -> list[Compression]:
        kinds = {
            "codebook": Codebook,
            "binary": Binary,
            "scaled_binary": ScaledBinary,
            "scaled_ternary": ScaledTernary,
            "low_rank": LowRank,
            "rank_selection": RankSelection,
        }
        given = {name: getattr(self, name) for name in kinds}
        return [kinds[n](**spec.model_dump()) for n, spec in given.items() if spec is not None]
