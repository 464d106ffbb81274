"""Tables of a recipe as dataclasses: their fields are the keys, and their rules those of the class.

So what a user's own class takes, a method's options or a penalty's numbers, are keys at once.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from lissom.arguments import fits
from lissom.errors import LissomError, RecipeError
from lissom.methods import make_options
from lissom.methods.options import counts_steps
from lissom.recipes.numbers import RampSpec, schedule
from lissom.recipes.strict import said
from lissom.schedules import Schedule


def options_of(kind: Any, table: Mapping[str, Any], epoch: float, who: str = "") -> Any:
    """An object of a dataclass from a table of a recipe.

    Args:
        kind: the dataclass.
        table: its fields, times in epochs.
        epoch: steps in an epoch.
        who: has the options, for messages.

    Raises:
        LissomError: for fields that it has not, or that cannot be.
    """
    hints = get_type_hints(kind, include_extras=True)
    values = {
        name: _value(value, hints[name], name, epoch) if name in hints else value
        for name, value in table.items()
    }
    return make_options(kind, values, who=who)


def defaults_of(kind: Any) -> dict[str, Any]:
    """What a dataclass is by default, as a recipe would have it; what is None is left out."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {}
    for field in fields(kind):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if default is not MISSING and default is not None:
            defaults[field.name] = _written(default, hints[field.name])
    return defaults


def _value(value: Any, hint: Any, name: str, epoch: float) -> Any:
    """A value of a recipe as an option takes it."""
    kinds = list(_kinds(hint))
    if counts_steps(hint):
        return _steps(value, name, epoch)
    nested = next((kind for kind in kinds if is_dataclass(kind) and kind is not Schedule), None)
    if isinstance(value, Mapping):
        if nested is None:
            kind = "a schedule is a list of tables, in [ ]"
            what = kind if Schedule in kinds else f"{name} is no table"
            raise RecipeError(f"{what}; got {dict(value)!r}", field=name)
        try:
            return options_of(nested, value, epoch)
        except LissomError as error:
            inner = f"{name}.{error.field}" if error.field else name
            raise type(error)(str(error), field=inner) from error
    if isinstance(value, list) and Schedule in kinds and all(isinstance(v, Mapping) for v in value):
        ramps = [_ramp(ramp, f"{name}.{i}") for i, ramp in enumerate(value)]
        try:
            return schedule(ramps, epoch)
        except LissomError as error:
            raise RecipeError(str(error), field=name) from error
    if fits(value, int) and float in kinds:
        return value if int in kinds else float(value)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if nested is not None and value is not None and set(kinds) <= {nested, type(None)}:
        known = ", ".join(field.name for field in fields(nested))
        raise RecipeError(f"{name} is a table with {known}; got {value!r}", field=name)
    return value


def _ramp(table: Any, name: str) -> RampSpec:
    """A piece of a schedule."""
    try:
        return RampSpec.model_validate(table)
    except ValidationError as error:
        detail: Any = error.errors()[0]
        at = (name, *detail["loc"], *detail.get("ctx", {}).get("at", ()))
        raise RecipeError(said(detail), field=".".join(map(str, at))) from error


def _steps(value: Any, name: str, epoch: float) -> Any:
    """A time in optimizer steps; how large it may be is left to the rules of the options."""
    if isinstance(value, list):
        return [_steps(one, name, epoch) for one in value]
    if fits(value, int):
        return round(value * epoch)
    number, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if number.isdecimal() and unit in ("step", "steps"):
        return int(number)
    what = f'{name} is a whole number of epochs, or of steps, as "8 steps" is; got {value!r}'
    raise RecipeError(what, field=name)


def _written(default: Any, hint: Any) -> Any:
    """A default as a recipe would have it."""
    if counts_steps(hint) and default:
        return "1 step" if default == 1 else f"{default} steps"
    if is_dataclass(default) and not isinstance(default, type):
        return {name: value for name, value in asdict(default).items() if value is not None}
    return list(default) if isinstance(default, tuple) else default


def _kinds(hint: Any) -> Any:
    """The classes that a type hint is a union of."""
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from _kinds(inner)
    else:
        yield hint
