"""The attributes of modules that hold sizes, and their values after surgery.

An attribute is named as a program would: "heads", "widths[1]", "config.dim", "sizes['hidden']".
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, fx, nn

from lissom.coupling.coupler import Coupler
from lissom.coupling.ops import call, has_sizes, shape
from lissom.coupling.records import asked
from lissom.coupling.resizing import Counts, left

Sizes = dict[str, int]

KEYS = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]|\['([^'\]]*)'\]")
DEPTH, ENTRIES = 3, 64  # how far containers and configurations are searched
OPAQUE = (nn.Module, Tensor, type, FunctionType, MethodType, ModuleType)
NOT_THEIRS = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Attribute:
    """An integer in modules of one class that equals the size of a dim that changes in them.

    Attributes:
        name: of it.
        new: what that size becomes.
        paths: the modules.
    """

    name: str
    new: int
    paths: tuple[str, ...]


def known_sizes(model: nn.Module, coupler: Coupler, times: Counts) -> dict[str, Sizes]:
    """{path of a module: {attribute: new value}} for what the records of operators know.

    Two different new values for one attribute leave it as it is.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, dict[str, set[int]]] = {}

    def now(node: fx.Node) -> tuple[int, ...]:
        return left(coupler, times, node)

    for node in coupler.trace.nodes:
        module = modules.get(coupler.trace.module(node)[0])
        if node.op != "call_function" or module is None:
            continue
        op = call(node)
        was: Sizes = asked("sizes", op, op, shape)
        for name, size in asked("sizes", op, op, now).items() if was else ():
            if getattr(module, name, None) == was[name]:
                sizes = found.setdefault(coupler.trace.module(node)[0], {})
                sizes.setdefault(name, set()).add(size)
    clear = {
        path: {name: new.pop() for name, new in sizes.items() if len(new) == 1}
        for path, sizes in found.items()
    }
    return {
        path: changed
        for path, sizes in clear.items()
        if (changed := {n: v for n, v in sizes.items() if getattr(modules[path], n) != v})
    }


def likely_sizes(model: nn.Module, coupler: Coupler, times: Counts) -> list[Attribute]:
    """Integers of the user's modules that may be sizes, since such a size changes within them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    own: dict[str, list[tuple[str, int]]] = {}
    found: dict[tuple[type, str, int, int], dict[str, None]] = {}
    for node in coupler.trace.nodes:
        if node.op != "call_function":
            continue
        changes = set(_changes(coupler, times, node))
        for path in reversed(coupler.trace.modules(node)) if changes else ():
            module = modules.get(path)
            if module is None or is_torchs(module):
                continue
            if path not in own:
                own[path] = list(integers(module))
            for name, value in own[path]:
                for old, new in changes:
                    if value == old:
                        found.setdefault((type(module), name, old, new), {})[path] = None
    return [Attribute(name, new, tuple(paths)) for (_, name, _, new), paths in found.items()]


def is_torchs(module: nn.Module) -> bool:
    """Whether its code is torch's own, whose sizes the records know."""
    return type(module).forward.__module__.partition(".")[0] == "torch"


def integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Whole numbers among the attributes of a module, also in containers and configurations."""
    kinds = type(module).__mro__
    theirs = kinds[: kinds.index(nn.Module)]
    names = dict.fromkeys(name for name in vars(module) if name not in NOT_THEIRS)
    names |= dict.fromkeys(
        name
        for kind in theirs
        for name, value in vars(kind).items()
        if type(value) is int or type(value).__name__ == "member_descriptor"  # a slot
    )
    for name in names:
        if not name.startswith("__"):
            yield from _integers(name, getattr(module, name, None), DEPTH)


def _integers(name: str, value: Any, depth: int) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
        return
    inner: list[tuple[str, Any]] = []
    if isinstance(value, OPAQUE) or depth == 0:
        return
    if isinstance(value, dict):
        inner = [
            (f"{name}[{key!r}]", item)
            for key, item in value.items()
            if (type(key) is int and key >= 0)
            or (type(key) is str and KEYS.fullmatch(f"['{key}']"))
        ]
    elif isinstance(value, list | tuple):
        inner = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    elif hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] != "torch":
        inner = [(f"{name}.{key}", item) for key, item in vars(value).items() if key[:2] != "__"]
    for key, item in inner[:ENTRIES]:
        yield from _integers(key, item, depth - 1)


def get_size(module: nn.Module, name: str) -> Any:
    """The value of an attribute, None where there is none."""
    value: Any = module
    try:
        for key in _keys(name):
            inside = isinstance(value, dict | list | tuple)
            value = value[key] if inside else getattr(value, str(key))
    except (AttributeError, LookupError, TypeError):
        return None
    return value


def set_size(module: nn.Module, name: str, size: int) -> None:
    """Give an attribute another value; what it lies in is copied, for others may hold it too."""
    first, *keys = _keys(name)
    assert isinstance(first, str)
    setattr(module, first, _with(getattr(module, first, None), keys, size))


def _with(value: Any, keys: list[str | int], size: int) -> Any:
    if not keys:
        return size
    key, *others = keys
    if isinstance(value, list | tuple):
        items = list(value)
        items[key] = _with(items[key], others, size)  # type: ignore[index]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    twin = copy.copy(value)
    if isinstance(twin, dict):
        twin[key] = _with(twin[key], others, size)
    else:
        object.__setattr__(twin, str(key), _with(getattr(twin, str(key)), others, size))
    return twin


def _keys(name: str) -> list[str | int]:
    """The attribute and what to look up in it: "widths[1]" as ["widths", 1].

    Raises:
        ValueError: for what is no name of an attribute.
    """
    matches = list(KEYS.finditer(name))
    if "".join(m[0] for m in matches) != name or not matches or matches[0][1] is None:
        raise ValueError(f"{name!r} is no attribute")
    return [int(m[2]) if m[2] is not None else m[1] or m[3] for m in matches]


def _changes(coupler: Coupler, times: Counts, node: fx.Node) -> Iterator[tuple[int, int]]:
    value = node.meta.get("val")
    values: list[tuple[int | None, Any]] = [(None, value)]
    if isinstance(value, list | tuple):
        values = list(enumerate(value))
    for output, one in values:
        if isinstance(one, Tensor) and has_sizes(one):
            for before, after in zip(shape(one), left(coupler, times, node, output), strict=True):
                if before != after:
                    yield before, after
