"""Numbers of a recipe that may change by epoch: a plain one, or pieces of a schedule."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

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


def number(spec: float | list[RampSpec], epoch: float) -> float | Schedule:
    """A number, or its schedule by steps.

    Args:
        spec: as the recipe has it, in epochs.
        epoch: steps in an epoch.

    Raises:
        LissomError: for pieces that do not follow one another.
    """
    return schedule(spec, epoch) if isinstance(spec, list) else float(spec)


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


def _possible(ramps: list[RampSpec]) -> list[RampSpec]:
    schedule(ramps, 1)
    return ramps


Ramps = Annotated[list[RampSpec], Field(min_length=1), AfterValidator(_possible)]
NumberSpec = Annotated[
    Annotated[Amount, Tag("number")] | Annotated[Ramps, Tag("schedule")],
    Discriminator(lambda given: "schedule" if isinstance(given, list | dict) else "number"),
]
