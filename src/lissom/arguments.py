"""What a function is given, compared with its annotations before it begins.

    @as_annotated(GroupError)
    def tiles(model: nn.Module, shape: tuple[int, int] = (4, 4)) -> Groups: …

    tiles(net, "4x4")  # GroupError: tiles: shape is 2 whole numbers, got '4x4'

An annotation says what kind of thing is meant, and is written anyway; so the kind is checked, and
put into words, here and nowhere else. What a number may be, or a text, the function knows. It is
given Python's numbers where the caller has NumPy's.
"""

import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)  # fmt: skip

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.errors import LissomError

Function = TypeVar("Function", bound=Callable[..., Any])


def as_annotated(error: type[LissomError], *own: str) -> Callable[[Function], Function]:
    """Let a function refuse what is not of the kind that its annotations name.

    Args:
        error: what is raised.
        own: arguments that the function looks at itself, since it can say more about them.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        owner = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

        @wraps(function)
        def checking(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # the tracer warns of what is cached here
                return function(*args, **kwargs)
            args = tuple(map(as_python, args))
            kwargs = {name: as_python(value) for name, value in kwargs.items()}
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # one too many or too few; Python says which
                return function(*args, **kwargs)
            for name, hint in hints_of(function).items():
                if name in given and name not in own:
                    if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                        continue
                    several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
                    for value in given[name] if several else (given[name],):
                        if not fits(value, hint):
                            raise error(f"{owner}: {misfit(name, hint, value)}")
            return function(*args, **kwargs)

        return cast(Function, checking)

    return decorate


def as_python(value: Any) -> Any:
    """A NumPy number as Python's, which torch and JSON take everywhere; all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_fields(made: Any, error: type[LissomError], of: type[Any] | None = None) -> None:
    """Refuse a dataclass with fields, or fields of a base, that do not fit their annotations."""
    hints = hints_of(of or type(made))
    for field in fields(of or made):
        value, hint = getattr(made, field.name), hints[field.name]
        if not fits(value, hint):
            raise error(misfit(field.name, hint, value), field=field.name)


def first_misfit(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """What is said of the first value that is missing or of another kind; None if all fit."""
    for name, kind in kinds.items():
        if name not in values:
            return f"it has no {name}"
        if not fits(values[name], kind):
            return misfit(name, kind, values[name])
    return None


def hints_of(of: Any) -> dict[str, Any]:
    """The annotations of arguments or fields, read once, when all names are known."""
    return {name: hint for name, hint in _hints(of).items() if name != "return"}


_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def misfit(name: str, hint: Any, value: object) -> str:
    """What is said about an argument of another kind."""
    remedy = ": take torch.from_numpy of it" if isinstance(value, np.ndarray) else ""
    return f"{name} is {words(hint)}, got {shown(value)}{remedy}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation names; where that is not clear, it is."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return fits(value, inner[0])
    if origin in (Union, UnionType):
        return any(fits(value, kind) for kind in inner)
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return abs(value) <= sys.float_info.max if whole else _is_real(value)
    if hint is str:
        return isinstance(value, str)
    if origin is os.PathLike:
        return isinstance(value, os.PathLike) and "\0" not in str(value)
    if hint is Optimizer:
        return hasattr(value, "param_groups")  # it may be behind a wrapper
    if hint is Tensor:
        return isinstance(value, Tensor) and why_odd(value) is None
    if origin is type:
        return isinstance(value, type)
    if origin is Callable:
        return callable(value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, inner[0]) and fits(v, inner[1]) for key, v in value.items()
        )
    if origin is tuple and Ellipsis not in inner:
        long = isinstance(value, tuple | list) and len(value) == len(inner)
        return long and all(map(fits, value, inner))
    if origin in (tuple, list, Sequence):
        return _is_listed(value) and all(fits(item, inner[0]) for item in value)
    if origin is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes)
    kind = NoneType if hint is None else origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)  # a Protocol is runtime_checkable


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number within a float's range, or NaN or infinite."""
    return fits(value, float)


def whole(value: object, *, least: int) -> bool:
    """Whether a value is a whole number, `least` or more."""
    return is_number(value) and fits(value, int) and value >= least


def positive(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and 0 < value <= sys.float_info.max


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_listed(value: object) -> bool:
    """Whether it has a length and an order, as NumPy's arrays and ranges have."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def words(hint: Any, *, many: bool = False) -> str:
    """An annotation in words: `int | None` is "a whole number or None"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return words(inner[0], many=many)
    if origin in (Union, UnionType, Literal):
        each: list[str] = []
        for kind in (hint,) if origin is Literal else inner:
            literal = get_origin(kind) is Literal
            each += map(repr, get_args(kind)) if literal else [words(kind, many=many)]
        *first, last = dict.fromkeys(each)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Mapping:
        one, other = (words(kind, many=True) for kind in inner)
        return f"{'mappings' if many else 'a mapping'} {{{one}: {other}}}"
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} {words(inner[0], many=True)}"
    if origin in (tuple, list, Sequence, Iterable):
        return f"{'lists' if many else 'a list'} of {words(inner[0], many=True)}"
    one, several = NAMES.get(origin or hint, ("", ""))
    if not one:
        name = getattr(hint, "__name__", str(hint))
        one, several = f"a {name}", f"{name}s"
    return several if many and several else one


NAMES: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    os.PathLike: ("a path", "paths"),
    Tensor: ("a tensor", "tensors"),
    Optimizer: ("a torch.optim.Optimizer", "optimizers"),
    nn.Module: ("a torch.nn.Module", "torch.nn.Modules"),
    nn.Parameter: ("a parameter", "parameters"),
    Callable: ("a function", "functions"),
    type: ("a class", "classes"),
    NoneType: ("None", "None"),
    Any: ("anything", "anything"),
}


def shown(value: object) -> str:
    """What the user gave, in a line that is not too long."""
    if isinstance(value, Tensor):
        odd = why_odd(value)
        if value.is_nested:
            return f"a tensor {odd}"
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} {list(value.shape)}" + (f" {odd}" if odd else "")
    if isinstance(value, np.ndarray):
        return f"a NumPy array of {value.dtype} {list(value.shape)}"
    if isinstance(value, nn.Module):
        return f"a network, {type(value).__name__}"
    try:
        found = _SHORT.repr(value)
    except Exception:  # a class of the user's may not be able to
        return f"a {type(value).__name__}"
    if "\n" not in found:
        return found
    inside = [type(item).__name__ for item in value[:4]] if isinstance(value, list | tuple) else []
    return f"a {type(value).__name__}" + (f" of {', '.join(inside)}" if inside else "")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 3


def why_odd(tensor: Tensor) -> str | None:
    """Why a tensor has no plain numbers in memory, and what gives it some; None if it has."""
    if tensor.is_meta:
        return "on the device meta, which has shapes and no numbers"
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        return f"whose layout is {layout}: take its to_dense()"
    if tensor.is_quantized:
        return "that is quantised: take its dequantize()"
    return None
