"""[path] in a recipe: which number is the strength, and the recipe of each point of a curve."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from lissom.curves.checks import check_strengths
from lissom.errors import RecipeError, nearest
from lissom.measuring.runtimes import RUNTIMES
from lissom.recipes.penalties import strength_named
from lissom.recipes.strict import Positive, Spec, Whole, complaint, refusals
from lissom.strength import Strength

if TYPE_CHECKING:
    from lissom.recipes.specs import Recipe


class PathSpec(Spec):
    """[path]: for `lissom path`.

    `strength` is the key of the number that changes from point to point, such as
    "penalties.0.TopK.fraction" or "method.budget.macs"; `strengths` are its values from dense to
    empty, an interval, or a guess. The dense network is trained for `dense` epochs, and each
    further point goes on for `epochs`. In the last `fine_tune` epochs zeros stay zero, and the
    learning rate falls along a cosine; a network trained for `dense` epochs is fine-tuned for as
    large a fraction of them. Where a method trains all sizes at once, as `nested` does, in the
    `dense` epochs, a point is a cut of that network and `fine_tune` epochs, which may be 0: then
    there are no `epochs`. `round_to` and `inputs` are those of `lissom.shrink`; `latency` times
    the networks too, in torch (true) or in the runtime that it names.
    """

    strength: str
    strengths: Annotated[list[Positive], Field(min_length=1)]
    points: Annotated[int, Field(ge=2)] = 12
    seeds: Whole = 3
    dense: Whole
    epochs: Whole | None = None
    fine_tune: Annotated[int, Field(ge=0)]
    round_to: Whole = 1
    inputs: bool = False
    latency: bool | str = False

    @field_validator("latency")
    @classmethod
    def _known_runtime(cls, given: bool | str) -> bool | str:
        if not isinstance(given, bool) and given not in RUNTIMES:
            known = ", ".join(map(repr, RUNTIMES))
            raise complaint(
                f"true, false or one of {known}, got {given!r}.{nearest(given, RUNTIMES)}"
            )
        return given

    @property
    def each(self) -> int:
        """Epochs of a point beyond the dense one."""
        return self.fine_tune if self.epochs is None else self.epochs

    @model_validator(mode="after")
    def _fine_tunes_at_the_end(self) -> Self:
        if self.epochs is not None and not 1 <= self.fine_tune < self.epochs:
            what = f"all {self.epochs} epochs would fine-tune: fine_tune is less than epochs"
            if self.fine_tune == 0:
                what = "zeros settle while a point is fine-tuned: give at least 1 epoch"
            raise complaint(what, "fine_tune")
        if self.dense < 2:
            raise complaint("1 epoch cannot learn and fine-tune: give at least 2", "dense")
        return self


def check_path(recipe: "Recipe") -> None:
    """See that the recipe has points: a strength, a method that knows it, and data to choose by."""
    spec = path_of(recipe)
    if recipe.method is None:
        what = "a path needs a [method] and [[penalties]], which make networks sparse"
        raise complaint(what, "path")
    if not recipe.data.brings_validation:
        what = "points of a path are chosen by held-out examples: set data.validation = 5000, say"
        raise complaint(what, "path")
    if recipe.data.bootstrap:
        what = "all seeds of a path have the same examples: bootstrap single runs, by lissom train"
        raise complaint(what, "data", "bootstrap")
    if recipe.train.patience is not None:
        what = "each point of a path is trained for all its epochs: remove train.patience"
        raise complaint(what, "path")
    if not recipe.method.type.exact:
        what = f"a curve goes to ever more zeros, and method {recipe.method.type.name!r} makes none"
        raise complaint(what, "path")
    cuts = recipe.method.type.cuts
    if cuts != (spec.epochs is None):
        what = f"under method {recipe.method.type.name!r} a point is " + (
            "a cut with fine_tune epochs: leave out epochs"
            if cuts
            else "trained for some epochs, the last fine_tune of them with zeros: set epochs = 16"
        )
        raise complaint(what, "path", "epochs")
    if not spec.strength.startswith(("penalties.", "method.")):
        what = "the strength is a number of penalties or method, as penalties.0.L0 is, not "
        raise complaint(f"{what}{spec.strength!r}", "path", "strength")
    table = recipe.model_dump(exclude_none=True)
    known = [*_numbers(table["penalties"], "penalties"), *_numbers(table["method"], "method")]
    if spec.strength not in known:
        what = f"there is no number {spec.strength!r} in this recipe."
        raise complaint(what + nearest(spec.strength, known), "path", "strength")
    if cuts and strength_of(recipe).dense is None:
        what = "points are cuts of all groups, so that the strength is a fraction of them, not "
        raise complaint(f"{what}{spec.strength!r}", "path", "strength")
    with refusals("path", "strengths"):
        check_strengths(spec.strengths, spec.points)
    _check_direction(spec, strength_of(recipe))
    for i, strength in enumerate(spec.strengths):
        if reason := why_no_point(recipe, strength):
            raise complaint(reason, "path", "strengths", i)


def _check_direction(spec: PathSpec, kind: Strength) -> None:
    """See that strengths go from dense to empty, since each point goes on from the one before."""
    first, last = spec.strengths[0], spec.strengths[-1]
    called = f"{spec.strength} ({kind.label})"
    if kind.ramps and len(spec.strengths) == 1:
        what = (
            f"{called} is no λ, for which a guess is enough: give an interval from dense to empty"
        )
        raise complaint(what, "path", "strengths")
    if (kind.ramps and first < last) or (kind.grows and first > last):
        what = (
            f"strengths go from dense to empty, and {called} {'falls' if kind.ramps else 'grows'} "
            f"there: from {last:g} to {first:g}, and not from {first:g} to {last:g}"
        )
        raise complaint(what, "path", "strengths")


def strength_of(recipe: "Recipe") -> Strength:
    """What changes from point to point: a number of the penalties, or of the method's options."""
    key = path_of(recipe).strength
    if key.startswith("penalties."):
        return strength_named(key.removeprefix("penalties.").partition(".")[2])
    assert recipe.method is not None  # checked before
    other = Strength(key.rpartition(".")[2])
    return recipe.method.type.strengths.get(key.removeprefix("method."), other)


def why_no_point(recipe: "Recipe", strength: float) -> str | None:
    """Why the recipe has no point at this strength; None if it has one."""
    try:
        point_recipe(recipe, strength, None)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        return f"{path_of(recipe).strength} = {strength:g}: {what}"
    return None


def path_of(recipe: "Recipe") -> PathSpec:
    """Its [path].

    Raises:
        RecipeError: if it has none.
    """
    if recipe.path is None:
        raise RecipeError(
            f"the recipe {recipe.title!r} has no [path], which says which of its numbers is the "
            "strength; 'digits-path' has one"
        )
    return recipe.path


def point_recipe(
    recipe: "Recipe", strength: float | None, before: float | None, *, untrained: bool = False
) -> "Recipe":
    """The recipe of one point.

    Args:
        recipe: with a [path].
        strength: of the point; None for the dense network.
        before: the strength of the point it goes on from; None for the dense network.
        untrained: whether it begins with an untrained network, and so has the dense one's epochs.
    """
    spec = path_of(recipe)
    assert recipe.method is not None  # checked before
    method, kind = recipe.method.type, strength_of(recipe)
    whole = strength is None or untrained
    epochs = spec.dense if whole else max(1, spec.each)
    falls = _falls(spec, epochs, cut=not whole if method.cuts else None)
    table: dict[str, Any] = recipe.model_dump(exclude_none=True, exclude={"path"})
    train = table["train"]
    for unused in ("milestones", "gamma", "scheduler", *(() if whole else ("warmup",))):
        train.pop(unused, None)
    train |= {"epochs": epochs, "cosine_from": falls, "evaluate_every": epochs}
    if whole:
        train["warmup"] = min(train["warmup"], float(falls))
    if "average_from" in train:
        train["average_from"] = falls
    if strength is None and not method.cuts:
        table |= {"penalties": []}
        table.pop("method")
        return type(recipe).model_validate(table)
    options = {**table["method"], **method.options_type.over(epochs if method.cuts else falls)}
    table["method"] = {name: value for name, value in options.items() if value is not None}
    holder, key = _held(table, spec.strength)
    if strength is None:
        holder[key] = kind.dense
    elif method.cuts:
        holder[key] = strength
    else:
        holder[key] = _number(kind, strength, before, method.settles * falls)
    return type(recipe).model_validate(table)


def _falls(spec: PathSpec, epochs: int, *, cut: bool | None) -> int:
    """The epoch of a point from which its learning rate falls.

    Args:
        spec: of the path.
        epochs: of the point.
        cut: whether all of them fine-tune a cut, or train all sizes; None where the method acts
            until the rate falls, and zeros stay from then on.
    """
    if cut is not None:
        return 0 if cut else epochs // 2
    fine_tune = round(spec.fine_tune * epochs / spec.each)
    return epochs - min(max(1, fine_tune), epochs - 1)


def _number(kind: Strength, strength: float, before: float | None, epochs: float) -> Any:
    """A λ at once; a size by and by, from that of the point before."""
    start = kind.dense if before is None else before
    if not kind.ramps or start is None:
        return strength
    ramp = max(1, round(epochs))
    return [{"shape": "exponential", "start": start, "end": strength, "epochs": ramp}]


def _held(table: Any, dotted: str) -> tuple[Any, str | int]:
    """The table or list that a dotted key stands in, and its last part.

    A part may have dots of its own, as an import path has.
    """
    if isinstance(table, list):
        number, _, rest = dotted.partition(".")
        return _held(table[int(number)], rest) if rest else (table, int(number))
    if dotted in table:
        return table, dotted
    part = next(key for key in table if dotted.startswith(f"{key}."))
    return _held(table[part], dotted.removeprefix(f"{part}."))


def _numbers(value: Any, dotted: str) -> Iterator[str]:
    """The dotted keys of all numbers, of which a schedule is one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{dotted}.{key}")
    elif isinstance(value, list) and dotted == "penalties":
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{dotted}.{i}")
    elif isinstance(value, list):
        if value and all(isinstance(inner, Mapping) for inner in value):
            yield dotted
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield dotted
