"""[method] in a recipe: the name of a method, and its options with times in epochs.

There is no table of keys here: they are the fields of the method's own options, and the rules about
them are checked where those are made. So a method of one's own is named by its import path, and its
options are keys at once.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lissom.errors import LissomError, MethodError, RecipeError, nearest
from lissom.methods import Method, Options, make_options, method_named
from lissom.methods.options import STEPS
from lissom.recipes.numbers import RampSpec, schedule
from lissom.recipes.strict import refusals, said
from lissom.schedules import Schedule

FINE = 10_000  # steps in an epoch while a recipe is checked: times in steps are short beside it


class MethodSpec(BaseModel):
    """[method]: `name`, and the options of that method.

    A time is a number of epochs, or of steps where it says so: every = "8 steps".
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    name: str

    @property
    def type(self) -> type[Method]:
        """The class of the method."""
        return method_named(self.name)

    def options(self, epoch: int) -> Options:
        """The options of the method.

        Args:
            epoch: steps in an epoch; 1 leaves times in epochs.

        Raises:
            LissomError: for options that the method has not, or that cannot be.
        """
        given, kind = self.model_extra or {}, self.type.options_type
        known = [field.name for field in fields(kind)]
        for name in given:
            if name not in known:
                what = f"method {self.name!r} has no option {name!r}.{nearest(name, known)}"
                raise MethodError(what, field=name)
        made: Options = _options(kind, given, epoch)
        return made

    def counts_steps(self) -> bool:
        """Whether it begins or ends at a number of steps, whatever an epoch is."""
        few, many = self.options(FINE), self.options(2 * FINE)
        return (2 * few.start, 2 * (few.end or 0)) != (many.start, many.end or 0)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        """All options written out, so that a record does not depend on later defaults."""
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            return given
        with refusals():
            kind = method_named(given["name"]).options_type
        hints = get_type_hints(kind, include_extras=True)
        defaults = {}
        for field in fields(kind):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            if default is not MISSING and default is not None:
                defaults[field.name] = _written(default, hints[field.name])
        return {"name": given["name"], **defaults, **given}

    @model_validator(mode="after")
    def _possible(self) -> "MethodSpec":
        with refusals():
            try:
                self.options(FINE)
            except LissomError:
                self.options(1)  # says the same in epochs
                raise
        return self


def _options(kind: Any, table: Mapping[str, Any], epoch: int) -> Any:
    """An options dataclass from a table of a recipe."""
    hints = get_type_hints(kind, include_extras=True)
    values = {
        name: _value(value, hints[name], name, epoch) if name in hints else value
        for name, value in table.items()
    }
    return make_options(kind, values)


def _value(value: Any, hint: Any, name: str, epoch: int) -> Any:
    """A value of a recipe as an option takes it."""
    kinds = list(_kinds(hint))
    if _counts_steps(hint):
        return _steps(value, name, epoch)
    nested = next((kind for kind in kinds if is_dataclass(kind) and kind is not Schedule), None)
    if isinstance(value, Mapping):
        if nested is None:
            kind = "a schedule is a list of tables, in [ ]"
            what = kind if Schedule in kinds else f"{name} is no table"
            raise RecipeError(f"{what}; got {dict(value)!r}", field=name)
        try:
            return _options(nested, value, epoch)
        except LissomError as error:
            inner = f"{name}.{error.field}" if error.field else name
            raise type(error)(str(error), field=inner) from error
    if isinstance(value, list) and Schedule in kinds and all(isinstance(v, Mapping) for v in value):
        ramps = [_ramp(ramp, f"{name}.{i}") for i, ramp in enumerate(value)]
        try:
            return schedule(ramps, epoch)
        except LissomError as error:
            raise RecipeError(str(error), field=name) from error
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


def _steps(value: Any, name: str, epoch: int) -> Any:
    """A time in optimizer steps; how large it may be is left to the rules of the options."""
    if isinstance(value, list):
        return [_steps(one, name, epoch) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value * epoch
    number, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if number.isdecimal() and unit in ("step", "steps"):
        return int(number)
    what = f'{name} is a whole number of epochs, or of steps, as "8 steps" is; got {value!r}'
    raise RecipeError(what, field=name)


def _written(default: Any, hint: Any) -> Any:
    """A default as a recipe would have it."""
    if _counts_steps(hint) and default:
        return "1 step" if default == 1 else f"{default} steps"
    if is_dataclass(default) and not isinstance(default, type):
        return {name: value for name, value in asdict(default).items() if value is not None}
    return list(default) if isinstance(default, tuple) else default


def _counts_steps(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return STEPS in hint.__metadata__
    return any(_counts_steps(inner) for inner in get_args(hint))


def _kinds(hint: Any) -> Any:
    """The classes that a type hint is a union of."""
    if get_origin(hint) in (Union, UnionType):
        for inner in get_args(hint):
            yield from _kinds(inner)
    else:
        yield hint
