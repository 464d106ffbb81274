"""Methods: what decides, while a network trains, which groups of its weights vanish.

`method.py` is the protocol and all that methods have in common; each method has a file or a folder
of its own. Nothing outside of it asks which one it is.
"""

from lissom.arguments import as_annotated
from lissom.errors import MethodError, nearest
from lissom.importing import imported
from lissom.methods.gates import Budget, GateOptions, Gates, close_dead_gates, gates_of
from lissom.methods.lc import LC, LCOptions
from lissom.methods.method import Method, methods_on
from lissom.methods.nested import Nested, NestedOptions
from lissom.methods.options import Options, Steps, make_options
from lissom.methods.plain import require_plain
from lissom.methods.proximal import Proximal, ProximalOptions
from lissom.methods.subgradient import Subgradient
from lissom.strength import Strength

__all__ = [
    "LC",
    "Budget",
    "GateOptions",
    "Gates",
    "LCOptions",
    "Method",
    "Nested",
    "NestedOptions",
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

NAMED = {method.name: method for method in (Proximal, Gates, LC, Nested, Subgradient)}


@as_annotated(MethodError)
def method_named(name: str) -> type[Method]:
    """A method by its name, or a user's own by its import path, such as "my.methods:Pruning".

    Raises:
        MethodError: if there is none.
    """
    if name in NAMED:
        return NAMED[name]
    if ":" not in name:
        raise MethodError(
            f"there is no method {name!r}.{nearest(name, NAMED)} A class of your own is named by "
            "its import path, such as 'my.methods:Pruning'",
            field="name",
        )
    found = imported(
        name,
        Method,
        what="method",
        called="lissom.methods.Method",
        error=MethodError,
        field="name",
    )
    if not isinstance(getattr(found, "name", None), str):
        what = f"{name!r} has no name: give the class one, such as name = 'pruning'"
        raise MethodError(what, field="name")
    return found
