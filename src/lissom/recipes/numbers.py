"""Numbers of a recipe that change by epoch: the pieces of a schedule."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from lissom.errors import RecipeError
from lissom.recipes.strict import Spec
from lissom.schedules import Schedule, cosine, cubic, exponential, linear

SHAPES: Mapping[str, Callable[[float, float, int], Schedule]] = {
    "linear": linear,
    "cubic": cubic,
    "exponential": exponential,
    "cosine": cosine,
}

Amount = Annotated[float, Field(ge=0)]


class RampSpec(Spec):
    """One piece of a schedule: from `start` (or where the last piece ended) to `end`."""

    shape: Literal["linear", "cubic", "exponential", "cosine"] = "linear"
    start: Amount | None = None
    end: Amount
    epochs: Amount


def schedule(ramps: list[RampSpec], epoch: float) -> Schedule:
    """The pieces, one after another."""
    pieces: list[Schedule] = []
    for ramp in ramps:
        start = ramp.start if ramp.start is not None or not pieces else pieces[-1].end
        if start is None:
            raise RecipeError("the first piece of a schedule needs a start, as in start = 1.0")
        pieces.append(SHAPES[ramp.shape](start, ramp.end, round(ramp.epochs * epoch)))
    if not pieces:
        raise RecipeError("a schedule has one piece at least")
    total = pieces[-1]
    for piece in reversed(pieces[:-1]):
        total = piece.then(total)
    return total
