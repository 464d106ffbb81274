"""[path] in a recipe: which number is the strength, and the recipe of each point of a curve."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from lissom.errors import RecipeError
from lissom.recipes.strict import Positive, Spec, Whole, complaint

if TYPE_CHECKING:
    from lissom.recipes.specs import Recipe

METHODS = ("proximal", "gates", "lc")
FRACTIONS = {  # 1 for the dense network
    "fraction": "fraction kept",
    "weights": "fraction of the weights",
    "macs": "fraction of the MACs",
    "bytes": "fraction of the bytes",
}
BUDGETS = {**FRACTIONS, "count": "groups kept", "radius": "ν"}  # the smaller, the sparser


class PathSpec(Spec):
    """[path]: for `lissom path`.

    `strength` is the key of the number that changes from point to point, such as "prices.0.L0" or
    "prices.0.TopK.fraction"; `strengths` are its values from dense to empty, an interval, or a
    guess. The dense network is trained for `dense` epochs, and each further point goes on for
    `epochs`. In the last `fine_tune` epochs zeros stay zero, and the learning rate falls along a
    cosine; a network trained for `dense` epochs is fine-tuned for as large a fraction of them.
    `latency` measures the seconds of a forward pass at each point, too.
    """

    strength: str
    strengths: Annotated[list[Positive], Field(min_length=1)]
    points: Annotated[int, Field(ge=2)] = 12
    seeds: Whole = 3
    dense: Whole
    epochs: Whole
    fine_tune: Whole
    latency: bool = False

    @model_validator(mode="after")
    def _fine_tunes_at_the_end(self) -> Self:
        if self.fine_tune >= self.epochs:
            what = f"all {self.epochs} epochs would fine-tune: fine_tune is less than epochs"
            raise complaint(what, "fine_tune")
        if self.dense < 2:
            raise complaint("1 epoch cannot learn and fine-tune: give at least 2", "dense")
        return self


def check_path(recipe: "Recipe") -> None:
    """See that the recipe has points: a strength, a method that knows it, and data to choose by."""
    spec = path_of(recipe)
    if recipe.method not in METHODS:
        what = f"a path needs method = 'proximal', 'gates' or 'lc', not {recipe.method!r}"
        raise complaint(what, "path")
    if not recipe.data.validation:
        what = "points of a path are chosen by held-out examples: set data.validation = 5000, say"
        raise complaint(what, "path")
    if recipe.data.bootstrap:
        what = "all seeds of a path have the same examples: bootstrap single runs, by lissom train"
        raise complaint(what, "data", "bootstrap")
    if recipe.train.patience is not None:
        what = "each point of a path is trained for all its epochs: remove train.patience"
        raise complaint(what, "path")
    if not spec.strength.startswith(("prices.", "gates.budget.")):
        what = "the strength stands in prices or gates.budget, as prices.0.L0 does, not "
        raise complaint(f"{what}{spec.strength!r}", "path", "strength")
    try:
        _held(recipe.model_dump(by_alias=True, exclude_none=True), spec.strength)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        what = f"there is no number {spec.strength!r} in this recipe; prices.0.L0 would be one"
        raise complaint(what, "path", "strength") from error
    for i, strength in enumerate(spec.strengths):
        if reason := why_no_point(recipe, strength):
            raise complaint(reason, "path", "strengths", i)


def strength_name(spec: PathSpec) -> str:
    """What the strength is, for tables and pages."""
    key = spec.strength.rpartition(".")[2]
    return {"L0": "λ", "L1": "λ", "L2": "λ", **BUDGETS}.get(key, key)


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
    epochs = spec.dense if strength is None or untrained else spec.epochs
    fine_tune = round(spec.fine_tune * epochs / spec.epochs)
    sparse = epochs - min(max(1, fine_tune), epochs - 1)
    table: dict[str, Any] = recipe.model_dump(by_alias=True, exclude_none=True, exclude={"path"})
    train = table["train"]
    for unused in ("milestones", "gamma"):
        train.pop(unused, None)
    train |= {"epochs": epochs, "cosine_from": sparse, "evaluate_every": epochs}
    if "average_from" in train:
        train["average_from"] = sparse
    if strength is None:
        table |= {"method": "proximal", "prices": [], "proximal": {}}
        for unused in ("lc", "gates"):
            table.pop(unused, None)
        return type(recipe).model_validate(table)
    if recipe.method == "lc":
        table["lc"] |= {"start": 0, "each": 1, "steps": sparse}
        for unused in ("first", "rate_decay"):
            table["lc"].pop(unused, None)
    elif recipe.method == "gates":
        table["gates"]["harden"] = sparse
    else:
        table["proximal"] |= {"start": 0, "freeze": sparse}
    holder, key = _held(table, spec.strength)
    # Multipliers, of gates and of LC, need a while to settle at a target that stands still.
    ramp = sparse if recipe.method == "proximal" else max(1, round(0.6 * sparse))
    holder[key] = _number(key, strength, before, ramp)
    return type(recipe).model_validate(table)


def _number(key: str | int, strength: float, before: float | None, epochs: int) -> Any:
    """A λ at once; a budget by and by, from that of the point before."""
    start = 1.0 if before is None and key in FRACTIONS else before
    if key not in BUDGETS or start is None:
        return strength
    return [{"shape": "exponential", "start": start, "end": strength, "epochs": epochs}]


def _held(table: Any, dotted: str) -> tuple[Any, str | int]:
    """The table or list that a dotted key stands in, and its last part."""
    keys: list[str | int] = [int(k) if k.isdecimal() else k for k in dotted.split(".")]
    for key in keys[:-1]:
        table = table[key]
    if isinstance(table[keys[-1]], Mapping | str | bool):
        raise TypeError(dotted)
    return table, keys[-1]
