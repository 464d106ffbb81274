"""Options of methods: frozen dataclasses whose rules are written where the option is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lissom.arguments import as_annotated, as_python, fits, hints_of, misfit, shown, whole
from lissom.errors import LissomError, MethodError, nearest

STEPS = "optimizer steps"
Steps = Annotated[int, STEPS]  # in the epochs of a recipe, and in optimizer steps everywhere else

Made = TypeVar("Made")
Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Options:
    """When a method acts. Subclasses add what they need, and its rules to `__post_init__`.

    Attributes:
        start: steps of plain training first; schedules count from there.
        finalize_at: the step after which the method finalizes by itself; None leaves it to the
            caller.

    Raises:
        MethodError: for steps that cannot be.
    """

    start: Steps = 0
    finalize_at: Steps | None = None

    def __post_init__(self) -> None:
        check_words(self)
        if not whole(self.start, least=0):
            raise MethodError(
                f"start counts steps, 0 or more, got {shown(self.start)}", field="start"
            )
        end = self.finalize_at
        if end is not None and not (whole(end, least=1) and end > self.start):
            raise MethodError(
                f"finalize_at must lie after start={self.start}, or nothing can have vanished by "
                f"then; got {shown(end)}",
                field="finalize_at",
            )

    @property
    def end(self) -> int | None:
        """The step after which the method finalizes by itself; None if it does not."""
        return self.finalize_at

    @classmethod
    def over(cls, epochs: int) -> Mapping[str, Any]:
        """What of the options changes where all of a training of so many epochs is the method's.

        As a recipe has them, in epochs. A curve asks for it at each of its points.
        """
        return {"start": 0, "finalize_at": epochs}

    @classmethod
    def scaled(cls, given: Mapping[str, Any], ratio: Fraction) -> dict[str, Any]:
        """What of the options changes where a training is `ratio` times as long.

        Args:
            given: as a recipe has them, in epochs; what is in steps stays.
            ratio: new epochs to old ones.
        """
        hints = get_type_hints(cls, include_extras=True)
        times = {name: value for name, value in given.items() if counts_steps(hints.get(name))}
        least = {name: 0 if name == "start" else 1 for name in times}
        return {
            name: [max(1, int(one * ratio)) for one in value]
            if isinstance(value, list)
            else max(least[name], int(value * ratio))
            for name, value in times.items()
            if _counted(value) or (isinstance(value, list) and all(map(_counted, value)))
        }


@as_annotated(MethodError)
def make_options(
    cls: type[Made],
    given: Mapping[str, Any],
    error: type[LissomError] = MethodError,
    who: str = "",
) -> Made:
    """The options of a dataclass; a name that it does not have is answered by the nearest.

    Args:
        cls: whose fields are the options.
        given: by name.
        error: what is raised for an unknown name.
        who: whose options they are: "method 'gates'".

    Raises:
        LissomError: for an unknown name, or a value that cannot be.
    """
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            what = f"{who} has no option" if who else "unknown option"
            raise error(f"{what} {name!r}.{nearest(name, known)}", field=name)
    for name, field in known.items():
        if name not in given and field.default is field.default_factory is MISSING:
            raise error(f"option {name!r} has to be given", field=name)
    return cls(**{name: as_python(value) for name, value in given.items()})


def check_words(options: Any, error: type[LissomError] = MethodError) -> None:
    """Refuse what an annotation excludes: a `bool` is true or false, a `Literal` one of its words.

    Args:
        options: a dataclass.
        error: what is raised.

    Raises:
        LissomError: listing the words.
    """
    for name, hint in hints_of(type(options)).items():
        value = getattr(options, name, None)
        kinds = (hint, *get_args(hint))
        excludes = any(kind is bool or get_origin(kind) is Literal for kind in kinds)
        if excludes and not fits(value, hint):
            raise error(misfit(name, hint, value), field=name)


def takes(options: type) -> Callable[[Verb], Verb]:
    """Make the `**options` of a function what they are to `help` and `inspect`: fields of a class.

    So an option is spelt, explained and given its default in one place, the class. The line
    `**options` of the docstring is replaced by the attributes that the docstrings of the class and
    its bases explain.
    """

    def complete(function: Verb) -> Verb:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        spelt = inspect.signature(options).parameters.values()
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *spelt]
        )
        if function.__doc__ is None:  # python -OO leaves docstrings out
            return function
        lines = inspect.getdoc(function).splitlines()  # type: ignore[union-attr]
        [at] = [i for i, line in enumerate(lines) if line.strip().startswith("**options")]
        classes = [cls for cls in options.__mro__ if "Attributes:" in (cls.__doc__ or "")]
        lines[at : at + 1] = [line for cls in classes for line in _attributes(cls)]
        function.__doc__ = "\n".join(lines)
        return function

    return complete


def _attributes(cls: type) -> list[str]:
    """The lines on the attributes in the docstring of a class."""
    _, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    return rest.partition("\n\n")[0].splitlines()


def counts_steps(hint: Any) -> bool:
    """Whether an option with this type hint counts optimizer steps."""
    if get_origin(hint) is Annotated:
        return STEPS in hint.__metadata__
    return any(counts_steps(inner) for inner in get_args(hint))


def _counted(value: object) -> bool:
    return whole(value, least=0)
