"""A catalogue of what people give by mistake, chosen by what belongs there, and by a seed."""

import io
import os
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Users(Exception):  # noqa: N818
    """What a function of the user's raises; it passes through as it is."""


def raises(*_: Any, **__: Any) -> Any:
    raise Users("a mistake in the user's own function")


class Broken(nn.Module):
    """A network whose forward pass does not work."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.answer = answer

    def forward(self, *_: Any) -> Any:
        return raises() if self.answer is None else self.answer


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


# Each makes its value anew: some are used up, and none is to be shared by two calls.
ANYTHING: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a word": lambda: "x",
    "an empty text": lambda: "",
    "a number as text": lambda: "0.5",
    "a long text": lambda: "ü" * 10_000,
    "text with a zero": lambda: "a\0b",
    "text with a lone surrogate": lambda: os.fsdecode(b"\xff\xfe"),
    "bytes": lambda: b"x",
    "NaN": lambda: float("nan"),
    "∞": lambda: float("inf"),
    "-∞": lambda: -float("inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "1.5": lambda: 1.5,
    "-0.5": lambda: -0.5,
    "2⁶³": lambda: 2**63,
    "10⁴⁰⁰": lambda: 10**400,
    "tiny": lambda: 1e-320,
    "huge": lambda: 1e308,
    "1j": lambda: 1j,
    "a Fraction": lambda: Fraction(1, 3),
    "a Decimal": lambda: Decimal("0.1"),
    "NumPy's float": lambda: np.float32(0.5),
    "NumPy's int": lambda: np.int64(2),
    "NumPy's NaN": lambda: np.float64("nan"),
    "NumPy's array": lambda: np.zeros((2, 2), np.float32),
    "NumPy's array of objects": lambda: np.array([None, "x"], dtype=object),
    "a list": lambda: [],
    "a tuple": lambda: (),
    "a dict": lambda: {},
    "a set": lambda: {1, 2},
    "a list of None": lambda: [None],
    "a list of words": lambda: ["x", "y"],
    "a list of NaN": lambda: [float("nan")],
    "a dict of words": lambda: {"x": "y"},
    "a dict of numbers": lambda: {1: 2},
    "lists in lists": lambda: nested(5000),
    "a list in itself": itself,
    "a generator": lambda: (i for i in range(3)),
    "a range": lambda: range(2),
    "an object": object,
    "a class": lambda: int,
    "a class of modules": lambda: nn.Linear,
    "a module": lambda: nn.Linear(3, 2),
    "a module without weights": nn.ReLU,
    "an optimizer": lambda: torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1),
    "a function": lambda: lambda: None,
    "a function that raises": lambda: raises,
    "an empty tensor": lambda: torch.tensor([]),
    "a tensor of NaN": lambda: torch.full((2, 2), float("nan")),
    "a scalar tensor": lambda: torch.tensor(0.5),
    "a tensor of ints": lambda: torch.arange(4),
    "a tensor on meta": lambda: torch.ones(2, 2, device="meta"),
    "a dtype": lambda: torch.float32,
    "a device": lambda: torch.device("meta"),
    "a device that is not there": lambda: "cuda:99",
    "no device": lambda: "warp:0",
    "an exception": lambda: ValueError("x"),
    "a file": lambda: io.BytesIO(b"x"),
}

TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "one dim more": lambda x: x[None],
    "one dim less": lambda x: x.flatten(),
    "a scalar": lambda x: x.sum(),
    "no examples": lambda x: x[:0],
    "no entries": lambda x: x[..., :0],
    "one example": lambda x: x[:1],
    "longer": lambda x: torch.cat([x, x], -1),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float8": lambda x: x.float().to(torch.float8_e4m3fn),
    "int64": lambda x: x.long(),
    "uint8": lambda x: x.to(torch.uint8),
    "uint16": lambda x: x.to(torch.uint16),
    "bool": lambda x: x != 0,
    "complex": lambda x: x.to(torch.complex64),
    "conjugated": lambda x: x.to(torch.complex64).conj(),
    "sparse": lambda x: x.to_sparse(),
    "compressed rows": lambda x: x.reshape(len(x), -1).to_sparse_csr(),
    "blocked": lambda x: x.reshape(len(x), -1).float().to_mkldnn(),
    "on meta": lambda x: x.to("meta"),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "expanded": lambda x: x[:1].expand(x.shape),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "nested": lambda x: torch.nested.nested_tensor([x.float(), x.float()[:1]]),
    "NaN": lambda x: x.float() * float("nan"),
    "∞": lambda x: x.float() + float("inf"),
    "huge": lambda x: x.float() * 1e38 * 10,
    "negative": lambda x: -x - 1,
    "with a graph": lambda x: x.float().requires_grad_() * 2,
    "of inference": lambda x: _inference(x),
}


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def odd_weight(form: str, weight: Tensor) -> nn.Parameter | Tensor:
    odd = TENSORS[form](weight.detach())
    odd = odd.detach() if not odd.is_inference() else odd
    return nn.Parameter(odd, requires_grad=odd.is_floating_point() or odd.is_complex())


def with_weight(model: nn.Module, form: str) -> nn.Module:
    """The first weight of a network in another form."""
    for module in model.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            odd = odd_weight(form, module.weight)
            module._parameters["weight"] = odd  # type: ignore[assignment]
            return model
    return model


def with_weights(model: nn.Module, change: Callable[[nn.Parameter], Any]) -> nn.Module:
    for parameter in model.parameters():
        change(parameter)
    return model


def _without_weight(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if "weight" in module._parameters:
            module._parameters["weight"] = None
            break
    return model


MODELS: dict[str, Callable[[nn.Module], Any]] = {
    **{f"a weight {form}": (lambda m, f=form: with_weight(m, f)) for form in TENSORS},
    "without a weight": _without_weight,
    "frozen": lambda m: m.requires_grad_(False),
    "on meta": lambda m: m.to("meta"),
    "in float64": lambda m: m.double(),
    "in float16": lambda m: m.half(),
    "weights of NaN": lambda m: with_weights(m, lambda p: p.data.fill_(float("nan"))),
    "weights of 0": lambda m: with_weights(m, lambda p: p.data.zero_()),
    "its class": type,
    "its function": lambda m: m.forward,
    "its weights": lambda m: m.state_dict(),
    "a list of it": lambda m: [m],
    "two of it": lambda m: nn.Sequential(m, m),
    "wrapped": lambda m: nn.DataParallel(m),
    "with hooks": lambda m: (m.register_forward_hook(raises), m)[1],
    "that raises": lambda m: Broken(),
    "that says a word": lambda m: Broken("word"),
    "that says nothing": lambda m: Broken([]),
    "lazy": lambda m: nn.LazyLinear(3),
    "empty": lambda m: nn.Sequential(),
}

FUNCTIONS: dict[str, Any] = {
    "of nothing": lambda: None,
    "of twelve": lambda a, b, c, d, e, f, g, h, i, j, k, l: None,  # noqa: E741
    "that raises": raises,
    "that says None": lambda *_, **__: None,
    "that says NaN": lambda *_, **__: float("nan"),
    "that says a word": lambda *_, **__: "word",
    "that says a tensor": lambda *_, **__: torch.ones(2, 3),
    "that says 1j": lambda *_, **__: 1j,
    "that says a class": lambda *_, **__: nn.Linear,
    "that says a module": lambda *_, **__: nn.Linear(3, 3),
}


def paths(folder: Path) -> dict[str, Any]:
    """Where nothing can be written, or read."""
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "locked").mkdir(exist_ok=True, mode=0o500)
    (folder / "text").write_text("no file of lissom's\n")
    (folder / "empty").touch()
    return {
        "a folder": folder / "sub",
        "missing": folder / "no" / "x.bin",
        "in a file": folder / "text" / "x.bin",
        "locked": folder / "locked" / "x.bin",
        "a text": folder / "text",
        "an empty file": folder / "empty",
        "a device": "/dev/full",
        "no UTF-8": folder / os.fsdecode(b"\xff.bin"),
        "bytes": os.fsencode(folder / "x.bin"),
        "too long": folder / ("x" * 300),
        "with a zero": str(folder) + "/a\0b",
        "nothing": "",
        "here": Path(),
        "a number": 3,  # an open file of the process
        "a .pt2": folder / "x.pt2",
    }


def wrong(value: Any, random: Random, folder: Path) -> tuple[str, Any]:
    """Something else in place of a value: odd for its kind, or out of place altogether."""
    kinds: list[Callable[[], tuple[str, Any]]] = []

    def choose(table: Mapping[str, Any], make: Callable[[Any], Any]) -> None:
        def chosen() -> tuple[str, Any]:
            name = random.choice(list(table))
            return name, make(table[name])

        kinds.append(chosen)

    if isinstance(value, Tensor):
        choose(TENSORS, lambda change: change(value))
    elif isinstance(value, nn.Module):
        choose(MODELS, lambda change: change(value))
    elif isinstance(value, Path):
        choose(paths(folder), lambda path: path)
    elif callable(value) and not isinstance(value, type):
        choose(FUNCTIONS, lambda function: function)
    elif isinstance(value, Mapping) and value:
        kinds.append(lambda: _in_mapping(value, random, folder))
    elif isinstance(value, list | tuple) and value:
        kinds.append(lambda: _in_sequence(value, random, folder))
    if kinds and random.random() < 0.6:
        try:
            return kinds[0]()
        except (RuntimeError, TypeError, NotImplementedError, IndexError):  # torch has no such form
            pass
    name = random.choice(list(ANYTHING))
    return name, ANYTHING[name]()


def _in_mapping(value: Mapping[Any, Any], random: Random, folder: Path) -> tuple[str, Any]:
    key = random.choice(list(value))
    how = random.choice(["its value", "its value", "its value", "its key", "without", "one more"])
    if how == "without":
        return f"without {key!r:.40}", {k: v for k, v in value.items() if k is not key}
    name, odd = wrong(value[key] if how == "its value" else key, random, folder)
    try:
        hash(odd)
    except TypeError:
        how = "its value"
    if how == "its value":
        return f"{name} at {key!r:.40}", {**value, key: odd}
    rest = value if how == "one more" else {k: v for k, v in value.items() if k is not key}
    return f"{name} as a key", {**rest, odd: value[key]}


def _in_sequence(value: Any, random: Random, folder: Path) -> tuple[str, Any]:
    at = random.randrange(len(value))
    how = random.choice(["in it", "in it", "after it", "twice", "generated", "as a set"])
    name, odd = wrong(value[at], random, folder)
    listed = list(value)
    if how == "in it":
        listed[at] = odd
    elif how == "after it":
        listed.append(odd)
    elif how == "twice":
        return "twice", type(value)([*value, *value])
    elif how == "generated":
        return "a generator of it", (item for item in value)
    else:
        try:
            return "a set of it", set(value)
        except TypeError:
            pass
    return f"{name} {how}", type(value)(listed)
