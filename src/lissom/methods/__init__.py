"""Methods: what decides, while a network trains, which groups of its weights vanish.

`method.py` is the protocol and all that methods have in common; each method has a file or a folder
of its own. Nothing outside of it asks which one it is.
"""

from importlib import import_module

from lissom.errors import MethodError, nearest
from lissom.methods.gates import Budget, GateOptions, Gates, close_dead_gates, gates_of
from lissom.methods.lc import LC, LCOptions
from lissom.methods.method import Method, methods_on
from lissom.methods.options import Options, Steps, make_options
from lissom.methods.plain import require_plain
from lissom.methods.proximal import Proximal, ProximalOptions
from lissom.methods.strength import Strength
from lissom.methods.subgradient import Subgradient

__all__ = [
    "LC",
    "Budget",
    "GateOptions",
    "Gates",
    "LCOptions",
    "Method",
    "Options",
    "Proximal",
    "ProximalOptions",
    "Steps",
    "Strength",
    "Subgradient",
    "close_dead_gates",
    "gates_of",
    "make_options",
    "method_named",
    "methods_on",
    "require_plain",
]

NAMED = {method.name: method for method in (Proximal, Gates, LC, Subgradient)}


def method_named(name: str) -> type[Method]:
    """A method by its name, or a user's own by its import path, such as "my.methods:Pruning".

    Raises:
        MethodError: if there is none.
    """
    if name in NAMED:
        return NAMED[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise MethodError(
            f"there is no method {name!r}.{nearest(name, NAMED)} A class of your own is named by "
            "its import path, such as 'my.methods:Pruning'",
            field="name",
        )
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        what = f"{name!r} is no import path, such as 'my.methods:Pruning'"
        raise MethodError(what, field="name")
    try:
        there = import_module(module)
    except ImportError as error:
        what = f"method {name!r} cannot be imported: {error}"
        raise MethodError(what, field="name") from error
    if not hasattr(there, attribute):
        known = [key for key, value in vars(there).items() if _is_method(value)]
        what = f"module {module!r} has no {attribute!r}.{nearest(attribute, known)}"
        raise MethodError(what, field="name")
    found = getattr(there, attribute)
    if not _is_method(found):
        raise MethodError(f"{name!r} is no subclass of lissom.methods.Method", field="name")
    if not isinstance(getattr(found, "name", None), str):
        what = f"{name!r} has no name: give the class one, such as name = 'pruning'"
        raise MethodError(what, field="name")
    made: type[Method] = found
    return made


def _is_method(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Method)
