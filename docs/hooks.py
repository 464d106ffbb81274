"""Before each build: draw what is drawn from the code, and check the documented interface."""

import re
import runpy
from collections.abc import Iterator, Mapping
from functools import cached_property, singledispatchmethod
from operator import attrgetter
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

    A public module is listed by its own public names. The page may list more than is public: names
    that are found in a room.
    """
    public = dict(_public(package))
    listed = re.findall(r"^::: *(\S+)", api, flags=re.MULTILINE)
    found = {name: _found(package, name) for name in listed}
    shown = {**public, **{name: thing for name, thing in found.items() if thing is not None}}
    return [
        *(f"{name} has no docstring" for name in undocumented(shown, package.__name__)),
        *(
            f"{name} has no entry '::: {name}' in docs/api.md"
            for name in public
            if name not in listed
        ),
        *(
            f"docs/api.md names {n}, which does not exist"
            for n, thing in found.items()
            if not thing
        ),
    ]


def _public(package: ModuleType) -> Iterator[tuple[str, object]]:
    for name in package.__all__:
        thing = getattr(package, name)
        if isinstance(thing, ModuleType):
            yield from _public(thing)
        else:
            yield f"{package.__name__}.{name}", thing


def _found(package: ModuleType, name: str) -> object:
    """What a dotted name stands for, as it is typed after an import of the package alone."""
    try:
        return attrgetter(name.removeprefix(f"{package.__name__}."))(package)
    except AttributeError:
        return None


def undocumented(public: Mapping[str, object], package: str) -> Iterator[str]:
    """The names without a docstring, and the public members of their classes without one."""
    for name, thing in public.items():
        if not _documented(thing):
            yield name
        if isinstance(thing, type):
            yield from (f"{name}.{m}" for m in _members(thing, package) if not _explained(thing, m))


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
