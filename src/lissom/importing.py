"""What users wrote themselves, named by its import path, such as "my.methods:Pruning".

To import is to run code, so a file that was not made here may not name any: see recipes/trust.py.
"""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from lissom.errors import LissomError, machine_failed, nearest

Kind = TypeVar("Kind")


def is_import_path(text: str) -> bool:
    """Whether `imported` would import what has this name."""
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), name))


def imported(
    path: str,
    base: type[Kind],
    *,
    what: str,
    called: str,
    error: type[LissomError],
    field: str | None = None,
) -> type[Kind]:
    """The class with this import path.

    Args:
        path: "module:Class".
        base: of which it must be a subclass.
        what: it is, in messages: "method".
        called: what users call `base`: "lissom.methods.Method".
        error: the class of what is raised.
        field: the option that has the path.

    Raises:
        LissomError: of that class, if there is none.
    """
    found = _found(path, lambda value: _is_a(value, base), what, error, field)
    if not _is_a(found, base):
        raise error(f"{path!r} is no subclass of {called}", field=field)
    made: type[Kind] = found
    return made


def imported_function(
    path: str, *, what: str, error: type[LissomError], field: str | None = None
) -> Callable[..., Any]:
    """The function, class or other object that can be called, with this import path.

    Args:
        path: "module:function".
        what: it is, in messages: "model".
        error: the class of what is raised.
        field: the option that has the path.

    Raises:
        LissomError: of that class, if there is none.
    """
    found: Callable[..., Any] = _found(path, callable, what, error, field)
    if not callable(found):
        raise error(f"{path!r} is no function and no class, but {found!r}", field=field)
    return found


def already_imported(path: str) -> object | None:
    """What has this import path, if its module is imported; None else, and nothing is imported."""
    module, _, name = path.partition(":")
    return getattr(sys.modules.get(module), name, None)


def called_with(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    who: str,
    error: type[LissomError],
    before: tuple[Any, ...] = (),
) -> Any:
    """What a function of the user's makes; its exceptions become lissom's, with the cause kept.

    Args:
        function: of the user's.
        arguments: by name, as a recipe has them.
        who: the function is, in messages: "model 'kws:ds_cnn'".
        error: the class of what is raised.
        before: arguments by position.

    Raises:
        LissomError: of that class, for arguments that it has not, or what it raises itself.
    """
    parameters, open_ended = parameters_in(function)
    for name in arguments:
        if name not in parameters and not open_ended:
            what = (
                f"{who} has no argument {name!r}.{nearest(name, list(parameters)[len(before) :])}"
            )
            raise error(what, field=name)
    for name, parameter in list(parameters.items())[len(before) :]:
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if by_name and parameter.default is parameter.empty and name not in arguments:
            raise error(f"{who} needs the argument {name!r}: write {name} = …", field=name)
    try:
        return function(*before, **arguments)
    except Exception as cause:
        if isinstance(cause, LissomError) or machine_failed(cause):
            raise
        raise error(f"{who} failed with {type(cause).__name__}: {cause}") from cause


def _found(
    path: str,
    wanted: Callable[[object], bool],
    what: str,
    error: type[LissomError],
    field: str | None,
) -> Any:
    """What stands under a name in a module."""
    if not is_import_path(path):
        raise error(f"{path!r} is no import path, such as 'my.{what}:Own'", field=field)
    module, _, name = path.partition(":")
    try:
        there = import_module(module)
    except Exception as cause:  # a module of the user's may raise anything
        said = f"{what} {path!r} cannot be imported: {cause}"
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing and missing.split(".")[0] == module.split(".")[0]:
            said += f". It is looked for in {os.getcwd()} and among what is installed"
        elif not isinstance(cause, ImportError):
            said = f"{what} {path!r} cannot be imported, {type(cause).__name__}: {cause}"
        raise error(said, field=field) from cause
    if not hasattr(there, name):
        own = vars(there).items()
        known = [key for key, value in own if wanted(value) and not key.startswith("_")]
        raise error(f"module {module!r} has no {name!r}.{nearest(name, known)}", field=field)
    return getattr(there, name)


def subclasses_in(module: ModuleType, base: type[Kind]) -> dict[str, type[Kind]]:
    """The classes of a module that are made from a base, by name; without the base itself."""
    found = vars(module).items()
    return {name: kind for name, kind in found if _is_a(kind, base) and kind is not base}


def parameters_in(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters of a function or class, and whether it takes any others by name.

    Some builtins do not tell; they may take any.
    """
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}, True
    return parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _is_a(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
