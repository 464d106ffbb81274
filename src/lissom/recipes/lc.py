"""[lc] in a recipe: how long L steps are, how μ grows, and compressions that are no penalties."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lissom.learning_compression import (
    Binary,
    Codebook,
    Compression,
    LowRank,
    RankSelection,
    ScaledBinary,
    ScaledTernary,
)
from lissom.recipes.strict import Positive, Spec, Whole
from lissom.schedules import geometric


class MuSpec(Spec):
    """mu = { start = 9e-5, factor = 1.1 }: start·factorⁿ in the n-th L step."""

    start: Positive
    factor: Positive = 1.0


class LCSpec(Spec):
    """[lc]: with method = "lc"; `start`, `first` and `each` count epochs.

    Training is plain up to `start`; the first L step takes `first` epochs, and each of the others
    `each`. Without `mu` it is found on the way. `rate_decay` multiplies the learning rate after
    each L step. What follows the last one heals.
    """

    steps: Whole = 40
    start: Annotated[int, Field(ge=0)] = 0
    each: Whole = 1
    first: Whole | None = None
    mu: MuSpec | None = None
    method: Literal["augmented", "quadratic"] = "augmented"
    metric: Literal["euclidean", "adaptive"] = "euclidean"
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    rate_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    restart: bool = False

    @property
    def begins(self) -> list[int]:
        """How many epochs are done when each L step begins, and when the last one is over."""
        first = self.each if self.first is None else self.first
        return [self.start, *(self.start + first + n * self.each for n in range(self.steps))]

    def arguments(self) -> dict[str, Any]:
        """The arguments of `lissom.lc` besides model, compressions and optimizer."""
        mu = None if self.mu is None else geometric(self.mu.start, self.mu.factor, self.steps)
        return {
            "mu": mu,
            "method": self.method,
            "metric": self.metric,
            "steps": self.steps,
            "tolerance": self.tolerance,
        }


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


class CompressionsSpec(Spec):
    """What a price may hold besides penalties, with method = "lc"."""

    codebook: CodebookSpec | None = Field(None, alias="Codebook")
    binary: QuantizerSpec | None = Field(None, alias="Binary")
    scaled_binary: QuantizerSpec | None = Field(None, alias="ScaledBinary")
    scaled_ternary: QuantizerSpec | None = Field(None, alias="ScaledTernary")
    low_rank: LowRankSpec | None = Field(None, alias="LowRank")
    rank_selection: RankSelectionSpec | None = Field(None, alias="RankSelection")

    def compressions(self) -> list[Compression]:
        """Those that were named."""
        kinds = {
            "codebook": Codebook,
            "binary": Binary,
            "scaled_binary": ScaledBinary,
            "scaled_ternary": ScaledTernary,
            "low_rank": LowRank,
            "rank_selection": RankSelection,
        }
        found = {name: getattr(self, name) for name in kinds}
        return [kinds[n](**spec.model_dump()) for n, spec in found.items() if spec is not None]
