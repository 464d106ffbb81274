"""Classes of a user's own, named by their import path, such as "my.methods:Pruning"."""

from importlib import import_module
from typing import TypeVar

from lissom.errors import LissomError, nearest

Kind = TypeVar("Kind")


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
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        said = f"{path!r} is no import path, such as 'my.{what}:Own'"
        raise error(said, field=field)
    try:
        there = import_module(module)
    except ImportError as cause:
        raise error(f"{what} {path!r} cannot be imported: {cause}", field=field) from cause
    if not hasattr(there, name):
        known = [key for key, value in vars(there).items() if _is_a(value, base)]
        raise error(f"module {module!r} has no {name!r}.{nearest(name, known)}", field=field)
    found = getattr(there, name)
    if not _is_a(found, base):
        raise error(f"{path!r} is no subclass of {called}", field=field)
    made: type[Kind] = found
    return made


def _is_a(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
