"""[gates] in a recipe: how gates start, what stands for them in the end, and budgets."""

from typing import Any, Literal, Self

from pydantic import model_validator

from lissom.penalties import Elastic, Penalty
from lissom.recipes.prices import Drop, NumberSpec, number
from lissom.recipes.strict import Positive, Spec, Whole, complaint


class BudgetSpec(Spec):
    """[gates.budget]: parts of the whole network, whose multipliers rise until they are met."""

    weights: NumberSpec | None = None
    macs: NumberSpec | None = None
    bytes: NumberSpec | None = None
    rate: Positive | None = None
    damping: Positive | None = None

    @model_validator(mode="after")
    def _parts_of_something(self) -> Self:
        given = {name: getattr(self, name) for name in ("weights", "macs", "bytes")}
        if all(part is None for part in given.values()):
            raise complaint("a budget needs a part of the weights, macs or bytes: weights = 0.05")
        for name, part in given.items():
            ends: list[tuple[tuple[str | int, ...], float | None]] = []
            if isinstance(part, list):
                for i, ramp in enumerate(part):
                    ends += [((name, i, "start"), ramp.start), ((name, i, "end"), ramp.end)]
            else:
                ends.append(((name,), part))
            for at, end in ends:
                if end is not None and not 0 < end <= 1:
                    raise complaint(f"a part of the whole is in (0, 1], got {end:g}", *at)
        return self

    def targets(self, epoch: int) -> dict[str, Any]:
        """The arguments of `Gates.constrain`, with schedules by steps."""
        parts = {"weights": self.weights, "macs": self.macs, "bytes": self.bytes}
        targets = {n: number(part, epoch) for n, part in parts.items() if part is not None}
        rates = {"rate": self.rate, "damping": self.damping}
        return {**targets, **{name: rate for name, rate in rates.items() if rate is not None}}


class GatesSpec(Spec):
    """[gates]: with method = "gates"; `harden` is an epoch, `lr` that of log α."""

    init: Drop = 0.5
    per: Literal["weight", "group"] = "weight"
    test: Literal["published", "median", "mean", "mode"] = "published"
    draws: Literal["batch", "example"] = "batch"
    lr: Positive | None = None
    harden: Whole | None = None
    budget: BudgetSpec | None = None


def gated(penalty: Penalty) -> bool:
    """Whether gates know this penalty: L0, L2, or both."""
    return isinstance(penalty, Elastic) and penalty.l1 == 0
