"""What can be known of functions, so that two experiments are not mixed in one folder.

A function is its code and what that reads: defaults, closures, globals, attributes of objects, and
in turn the functions and classes of the user's own that are among them. Comments, docstrings, names
of local variables and the place of a definition do not count. Neither do the numbers in tensors,
what the code itself assigns, such as counters, and what says where and not what: devices and
absolute paths. Of what libraries bring, there is only the name.
"""

import dis
import re
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import chain
from os.path import isabs
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType, SimpleNamespace
from typing import Any
from zlib import crc32

CODE, PYTHON = "code ", "python"  # bytecode is compared where Python is the same
PLAIN = (NoneType, bool, int, float, complex, str, bytes)
DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")
CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
NOTHING: frozenset[str] = frozenset()


def fingerprint(**functions: object) -> dict[str, str]:
    """{"fit": "code 1f…", "fit.EPOCHS": "5", …} of functions by their names."""
    found: dict[str, str] = {PYTHON: "{}.{}".format(*sys.version_info)}
    assigned: set[str] = set()
    seen: dict[int, object] = {}  # objects, so that no other gets the number of one of them
    waiting = deque((name, function, NOTHING) for name, function in functions.items())
    while waiting:
        name, value, read = waiting.popleft()
        if _is_plain(value):
            found[name] = _text(value)
        elif id(value) not in seen:
            seen[id(value)] = value
            if not isinstance(value, ModuleType):
                found[name] = _told(value)
            if isinstance(value, FunctionType):
                assigned |= _assigned(value)
            read = read | _names_in(value)
            parts = _parts(value, read)
            waiting.extend((f"{name}.{part}", parts[part], read) for part in sorted(parts))
    for name in list(found):
        if name.rpartition(".")[2] in assigned and not found[name].startswith(CODE):
            del found[name]
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed, in words; what only one of the two has came with the code that reads it."""
    found = []
    for name in sorted((before.keys() & now.keys()) - {PYTHON}):
        was, is_now = before[name], now[name]
        if was == is_now:
            continue
        if not (was.startswith(CODE) and is_now.startswith(CODE)):
            found.append(f"{name} was {was} and is {is_now}")
        elif before.get(PYTHON) == now[PYTHON]:
            found.append(f"the code of {name} is another")
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return type(value) in PLAIN or isinstance(value, Enum)


def _text(value: object) -> str:
    if isinstance(value, str) and (DEVICE.fullmatch(value) or isabs(value)):
        return "a place"
    text = repr(value)
    return text if len(text) < 200 else f"{text[:80]}… ({crc32(text.encode()):08x})"


def _told(value: Any) -> str:
    """A function by its code; everything else by its class, and its shape if it has one."""
    if isinstance(value, FunctionType) and _is_own(value):
        return f"{CODE}{crc32(repr(_tokens(value.__code__)).encode()):08x}"
    kind = value if isinstance(value, type | FunctionType) else type(value)
    shape = getattr(value, "shape", None) if isinstance(getattr(value, "ndim", None), int) else None
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name if shape is None else f"{name} {tuple(shape)}"


def _parts(value: Any, read: frozenset[str]) -> dict[str, Any]:
    """What a value has that may matter, by name; of objects, modules and dicts what is read."""
    if isinstance(value, FunctionType) and _is_own(value):
        return _variables(value)
    if isinstance(value, MethodType):
        return {"function": value.__func__, "self": value.__self__}
    if isinstance(value, partial):
        arguments = {f"args[{i}]": argument for i, argument in enumerate(value.args)}
        return {"func": value.func, **arguments, **value.keywords}
    if isinstance(value, type):
        return _members(value)
    if isinstance(value, dict):
        return {name: value[name] for name in read & value.keys()}
    held = getattr(value, "__dict__", {})
    if isinstance(value, Namespace | SimpleNamespace) or _is_own(value):
        kind = {} if isinstance(value, ModuleType) else {"class": type(value)}
        calls = {name for name, part in held.items() if callable(part) and f"{name}()" in read}
        return kind | {name: held[name] for name in (read & held.keys()) | calls}
    return {name: part for name, part in held.items() if name == "__wrapped__"}


def _variables(function: FunctionType) -> dict[str, Any]:
    """What a function reads besides its arguments: globals, closures and defaults."""
    code, known = function.__code__, function.__globals__
    loaded = {i.argval for i in _instructions(code) if i.opname == "LOAD_GLOBAL"}
    found = {name: known[name] for name in loaded if name in known}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is still empty
            found[name] = cell.cell_contents
    defaults = function.__defaults__ or ()
    last = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    return found | dict(zip(last, defaults, strict=True)) | (function.__kwdefaults__ or {})


def _members(kind: type) -> dict[str, Any]:
    """Methods and plain values of a class of the user's, also of those that it inherits from."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__ if _is_own(kind) else ()):
        for name, member in vars(base).items() if _is_own(base) else ():
            inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(inner, FunctionType) or (_is_plain(inner) and name[:2] != "__"):
                found[name] = inner
    return found


def _names_in(value: Any) -> frozenset[str]:
    """Attributes and keys that the code of a value reads, and methods that it calls: "name()"."""
    if isinstance(value, MethodType):
        return _names_in(value.__func__)
    if not isinstance(value, FunctionType):
        kind = value if isinstance(value, type) else type(value)
        methods = (part for part in _members(kind).values() if isinstance(part, FunctionType))
        return NOTHING.union(*map(_names_in, methods))
    instructions = list(_instructions(value.__code__))
    # Where something is stored by a key, a dict may as well be a log.
    keys = not any(i.opname == "STORE_SUBSCR" for i in instructions)
    found = set()
    for i in instructions:
        if i.opname == "LOAD_METHOD" or (i.opname == "LOAD_ATTR" and "NULL" in i.argrepr):
            found.add(f"{i.argval}()")
        elif i.opname == "LOAD_ATTR" or (
            keys and isinstance(i.argval, str) and "CONST" in i.opname
        ):
            found.add(i.argval)
    return frozenset(found)


def _assigned(function: FunctionType) -> set[str]:
    """Globals, variables of closures and attributes that a function assigns."""
    found = set()
    for code in _codes(function.__code__):
        for i in dis.get_instructions(code):
            attribute = i.opname == "STORE_ATTR" and code.co_name not in CONSTRUCTORS
            free = i.opname == "STORE_DEREF" and i.argval in code.co_freevars
            if attribute or free or i.opname == "STORE_GLOBAL":
                found.add(i.argval)
    return found


def _is_own(value: Any) -> bool:
    """Whether it is the user's: from no library, as far as its module tells."""
    if isinstance(value, FunctionType):
        module = value.__globals__.get("__name__")
    elif isinstance(value, ModuleType):
        module = value.__name__
    else:
        module = (value if isinstance(value, type) else type(value)).__module__
    top = str(module).partition(".")[0]
    if top == "__main__" or top in ("lissom", *sys.stdlib_module_names):
        return top == "__main__"  # whose file is the kernel's where the user has a notebook
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    return chain.from_iterable(map(dis.get_instructions, _codes(code)))


def _tokens(code: CodeType) -> list[Any]:
    """A code without what does not change what it does."""
    found: list[Any] = [code.co_argcount, code.co_kwonlyargcount, code.co_flags]
    for i in dis.get_instructions(code):
        value: Any = i.argval
        if isinstance(value, CodeType):
            value = _tokens(value)
        elif isinstance(value, frozenset):
            value = sorted(map(repr, value))  # their order is another in each process
        elif "FAST" in i.opname or "DEREF" in i.opname or "CLOSURE" in i.opname:
            value = i.arg  # whatever it is called
        found.append((i.opname, value))
    return found
