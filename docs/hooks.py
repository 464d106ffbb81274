"""Before each build: draw what is drawn from the code, and check the documented interface."""

import re
import runpy
from collections.abc import Iterator, Mapping
from functools import cached_property, singledispatchmethod
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mkdocs.exceptions import PluginError

MEMBERS = (
    FunctionType,
    classmethod,
    staticmethod,
    property,
    cached_property,
    singledispatchmethod,
)


def on_pre_build(config: Mapping[str, Any]) -> None:
    """Called by mkdocs before each build."""
    import lissom

    runpy.run_path(str(Path(__file__).with_name("draw_hard_concrete.py")))["draw"]()
    found = problems(lissom, (Path(config["docs_dir"]) / "api.md").read_text(encoding="utf-8"))
    if found:
        raise PluginError("\n  ".join(["the public interface is not fully documented:", *found]))


def problems(package: ModuleType, api: str) -> list[str]:
    """One sentence for each public name that is undocumented, unlisted in `api`, or not there.

    A public module is listed by its own public names. The page may list more than is public: the
    classes of what a public function returns.
    """
    public = dict(_public(package))
    entries = {_entry(name, thing): name for name, thing in public.items()}
    listed = re.findall(r"^::: *(\S+)", api, flags=re.MULTILINE)
    more = {entry: _found(entry) for entry in listed if entry not in entries}
    shown = {**public, **{entry: thing for entry, thing in more.items() if thing is not None}}
    return [
        *(f"{name} has no docstring" for name in undocumented(shown, package.__name__)),
        *(
            f"{name} has no entry '::: {entry}' in docs/api.md"
            for entry, name in entries.items()
            if entry not in listed
        ),
        *(f"docs/api.md names {e}, which does not exist" for e, thing in more.items() if not thing),
    ]


def _public(package: ModuleType) -> Iterator[tuple[str, object]]:
    for name in package.__all__:
        thing = getattr(package, name)
        if isinstance(thing, ModuleType):
            yield from _public(thing)
        else:
            yield f"{package.__name__}.{name}", thing


def _found(entry: str) -> object:
    """What a dotted name of a room, not of the package itself, stands for."""
    room, _, name = entry.rpartition(".")
    if not room.count("."):
        return None
    try:
        return getattr(import_module(room), name, None)
    except ModuleNotFoundError:
        return None


def undocumented(public: Mapping[str, object], package: str) -> Iterator[str]:
    """The names without a docstring, and the public members of their classes without one."""
    for name, thing in public.items():
        if not _documented(thing):
            yield name
        if isinstance(thing, type):
            yield from (f"{name}.{m}" for m in _members(thing, package) if not _explained(thing, m))


def _entry(name: str, thing: object) -> str:
    """How mkdocstrings finds it: `lissom.shrink` would be the module that the function is in."""
    in_namesake = getattr(thing, "__module__", None) == name
    return f"{name}.{name.rpartition('.')[2]}" if in_namesake else name


def _documented(thing: object) -> bool:
    if not isinstance(thing, type):
        # A plain value shows the docstring of its type, which says nothing about it.
        return bool(thing.__doc__) and thing.__doc__ != type(thing).__doc__
    doc = vars(thing).get("__doc__") or ""
    return bool(doc) and not doc.startswith(f"{thing.__name__}(")  # @dataclass writes that


def _members(cls: type, package: str) -> list[str]:
    """Public methods and properties of `cls` that the package itself defines."""
    ours = [base for base in cls.__mro__ if base.__module__.split(".")[0] == package]
    found = (n for base in ours for n, thing in vars(base).items() if isinstance(thing, MEMBERS))
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def _explained(cls: type, name: str) -> bool:
    """Whether the member has a docstring, its own or that of the member it overrides."""
    layers = (vars(base).get(name) for base in cls.__mro__)
    return any(thing.__doc__ for thing in layers if isinstance(thing, MEMBERS))
