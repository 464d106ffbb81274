"""[[penalties]] in a recipe: which groups, and what is asked of them.

There is no table of keys here: a penalty or a compression is named by its class, one's own by its
import path, and its numbers are the fields of that class.

    L0 = 1e-4                                            # the first field
    TopK = { fraction = 0.02, per = "layer" }
    "my.penalties:MCP" = { strength = 1e-3, gamma = 3.0 }
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from operator import add
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from lissom import compressions, penalties
from lissom.arguments import is_number
from lissom.compressions import Additive, Compression
from lissom.errors import LissomError, RecipeError, nearest
from lissom.importing import imported
from lissom.penalties import Abilities, Penalty
from lissom.recipes.options import defaults_of, options_of
from lissom.recipes.strict import Spec, Whole, complaint, keys
from lissom.strength import Strength

NAMED: Mapping[str, type[Abilities]] = {
    cls.__name__: cls
    for cls in (
        penalties.L0,
        penalties.L1,
        penalties.L2,
        penalties.TopK,
        penalties.L1Ball,
        penalties.Threshold,
        penalties.MCP,
        penalties.Lq,
        penalties.NonNegative,
        compressions.Codebook,
        compressions.Binary,
        compressions.ScaledBinary,
        compressions.ScaledTernary,
        compressions.LowRank,
        compressions.RankSelection,
    )
}


def class_named(name: str) -> type[Abilities]:
    """A penalty or compression by its name, or a user's own by its import path.

    Raises:
        RecipeError: if there is none.
    """
    if name in NAMED:
        return NAMED[name]
    known = "lissom.penalties.Penalty or lissom.compressions.Compression"
    found = imported(name, Abilities, what="penalty", called=known, error=RecipeError)
    if not is_dataclass(found):
        raise RecipeError(f"{name!r} is no dataclass, whose fields could be set in a recipe")
    return found


class PenaltySpec(Spec):
    """[[penalties]]: groups, and the penalties and compressions on them, which are added."""

    model_config = ConfigDict(extra="allow")

    groups: Literal[
        "weights", "kernels", "columns", "tiles", "blocks", "channels", "neurons", "heads", "units"
    ] = "weights"
    biases: bool = False
    tile: Annotated[list[Whole], Field(min_length=2, max_length=2)] | None = None
    run: Whole | None = None
    inputs: bool = False
    only: list[str] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)

    def penalty(self, epoch: float) -> Compression | Penalty:
        """The sum of what is named.

        Args:
            epoch: steps in an epoch.

        Raises:
            LissomError: for impossible numbers or sums, or if there is none.
        """
        made = [_made(name, value, epoch) for name, value in (self.model_extra or {}).items()]
        if not made:
            raise RecipeError(
                f"say what is asked of the groups: {', '.join(NAMED)}, or a class of one's own by "
                "its import path"
            )
        one = [term for term in made if isinstance(term, Penalty)]
        if one:  # a sum without a closed form is refused
            one = [reduce(add, one)]
        terms = (*one, *(term for term in made if not isinstance(term, Penalty)))
        return terms[0] if len(terms) == 1 else Additive(terms)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        """All fields written out, so that a record does not depend on later defaults."""
        if not isinstance(given, Mapping):
            return given
        known = [*cls.model_fields, *NAMED]
        table = dict(given)
        for key, value in given.items():
            if key in cls.model_fields:
                continue
            if key not in NAMED and ":" not in str(key):
                raise complaint(f"unknown key '{key}'.{nearest(str(key), known)}", key)
            try:
                kind = class_named(key)
                _made(key, value, 1)
            except LissomError as error:
                raise complaint(str(error), key, *keys(error.field)) from error
            if isinstance(value, Mapping):
                table[key] = {**defaults_of(kind), **value}
        return table

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.biases and self.groups != "weights":
            what = f"biases = true goes with groups = 'weights', not {self.groups!r}"
            raise complaint(what, "biases")
        for groups, key, example in (("tiles", "tile", "[4, 4]"), ("blocks", "run", "32")):
            if (self.groups == groups) != (getattr(self, key) is not None):
                what = f"groups = '{groups}' and {key}, as {key} = {example}, go together"
                raise complaint(what, key)
        if self.inputs and self.groups in ("weights", "kernels", "columns", "tiles", "blocks"):
            what = f"inputs = true goes with units, such as 'neurons', not with {self.groups!r}"
            raise complaint(what, "inputs")
        try:
            self.penalty(1)
        except LissomError as error:
            raise complaint(str(error)) from error
        return self


def strength_named(dotted: str) -> Strength:
    """What a curve goes along, by its key in an entry: "L0", "TopK.fraction", "my:MCP.strength"."""
    module, colon, rest = dotted.rpartition(":")  # an import path has dots before its colon
    name, _, field = rest.partition(".")
    kind = class_named(f"{module}{colon}{name}")
    field = field or fields(kind)[0].name  # type: ignore[arg-type]
    return kind.strengths.get(field, Strength(dotted.rpartition(".")[2]))


def _made(name: str, value: Any, epoch: float) -> Any:
    """The penalty or compression of one key; a value that is no table is that of its first field.

    Raises:
        LissomError: with the path below the key as its field.
    """
    kind = class_named(name)
    first = [field.name for field in fields(kind) if not field.kw_only][:1]  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        table = value
    elif first:
        table = {first[0]: value}
    else:
        raise RecipeError(f"{name} has no number: write {name} = {{}}; got {value!r}")
    try:
        _check_ends(kind, table, name)
        made = options_of(kind, table, epoch, who=name)
    except LissomError as error:
        at = error.field if table is value else (error.field or "").partition(".")[2]
        raise type(error)(str(error), field=at or None) from error
    except (TypeError, ValueError) as error:  # of a class that does not check its own fields
        raise RecipeError(f"{name} refuses {value!r}: {error}") from error
    return made


def _check_ends(kind: type[Any], table: Mapping[str, Any], name: str) -> None:
    """Refuse a schedule that leaves the range of its number, at the end where it does.

    Where all ends are refused, it is something else that is wrong.
    """
    wrong: list[LissomError] = []
    ends = 0
    for field, pieces in table.items():
        if not isinstance(pieces, list) or not all(isinstance(x, Mapping) for x in pieces):
            continue
        for i, piece in enumerate(pieces):
            for key in ("start", "end"):
                if not is_number(end := piece.get(key)):
                    continue
                ends += 1
                try:
                    options_of(kind, {**table, field: end}, 1, who=name)
                except LissomError as error:
                    wrong.append(type(error)(str(error), field=f"{field}.{i}.{key}"))
    if wrong and len(wrong) < ends:
        raise wrong[0]
