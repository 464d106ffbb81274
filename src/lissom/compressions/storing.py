"""Compressed networks on disk: what each parameter's form consists of, in one safetensors file.

| form | what is stored |
| --- | --- |
| quantized | the codebook, and the indices packed to ⌈log2 k⌉ bits each |
| factors | U and V |
| dense | the smallest of: all numbers; the non-zeros and a bitmap; the non-zeros and int32 places |
| sum | its parts |

Other parameters and buffers are stored as they are. `Form.bits` counts with the best of some more
formats for sparse tensors, and without names and shapes, so the file's size differs a little.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated
from lissom.compressions.forms import Dense, Factors, Form, Quantized, Sum, index_bits
from lissom.errors import CompressionError, RunError, nearest
from lissom.running import named_tensors
from lissom.storage import checked, load_tensors, mismatch, pack, save_tensors, unpack

COMPRESSED = "lissom compressed 1"

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in INTEGERS}

Entry = dict[str, Any]  # of one form: its kind, and what else is not a tensor


@dataclass(frozen=True)
class CompressedRecord:
    """What a file says besides tensors, by the names of parameters.

    Attributes:
        tied: names of tensors that are others' as well.
        shapes: of those that have a form.
        forms: what their forms are.
    """

    tied: dict[str, str]
    shapes: dict[str, list[int]]
    forms: dict[str, Entry]


@as_annotated(RunError)
def save_compressed(
    model: nn.Module, forms: Mapping[str, Form], path: str | os.PathLike[str]
) -> None:
    """Write a network with its compressed parameters in their forms, without pickled code.

    A form that lissom does not know is stored as the dense tensor it stands for. −0 becomes 0.

    Args:
        model: gives all that is not compressed; parameters with a form are taken from that.
        forms: by the name of the parameter, as `Compressed.forms` has them.
        path: a file to be written, replaced if it exists.

    Raises:
        CompressionError: for a name that is no parameter of the model, two forms of one tied
            parameter, or a form of another shape or dtype than it.
        RunError: if the path cannot be a file.
    """
    own = dict(named_tensors(model))
    for name, form in forms.items():
        _check(name, form, own)
    owners: dict[int, str] = {}
    for name in forms:
        if (other := owners.setdefault(id(own[name]), name)) != name:
            raise CompressionError(f"{other} and {name} are one tied parameter: give one form")
    tied = {
        name: owners[id(tensor)]
        for name, tensor in own.items()
        if owners.setdefault(id(tensor), name) != name
    }
    tensors = {n: x for n, x in own.items() if n not in tied and n not in forms}
    record = {
        "class": type(model).__qualname__,
        "tied": tied,
        "shapes": {name: list(own[name].shape) for name in forms},
        "forms": {name: _write(form, f"{name}/", tensors) for name, form in forms.items()},
    }
    save_tensors(tensors, Path(path), COMPRESSED, record)


@torch.no_grad()
@as_annotated(RunError)
def load_compressed(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Form]:
    """Read what `save_compressed` wrote into a model; nothing in the file is executed.

    Args:
        path: the file.
        model: of the class that was saved; gets the weights Δ(Θ) and all else. It is not touched
            if anything is wrong.

    Returns:
        The forms by the name of the parameter, on the CPU: `factorize(model, forms)` makes layers
        of low rank of them.

    Raises:
        RunError: if the file is missing or damaged, or of another network than this one.
    """
    path = Path(path)
    record, tensors = load_tensors(path, COMPRESSED)
    told = checked(CompressedRecord, record, path)
    own = dict(named_tensors(model))
    packed = tuple(f"{name}/" for name in told.forms)
    values = {name: x for name, x in tensors.items() if not name.startswith(packed)}
    try:
        if odd := own.keys() ^ (values.keys() | told.forms.keys() | told.tied.keys()):
            raise ValueError(f"only one of the two has {', '.join(sorted(odd))}")
        if wrong := [a for a, b in told.tied.items() if own[a] is not own[b]]:
            raise ValueError(f"{', '.join(wrong)} was tied to another tensor")
        own = {name: tensor for name, tensor in own.items() if name not in told.tied}
        for name, shape in sorted(told.shapes.items()):
            # Before anything is unpacked to the size that it claims.
            if list(own[name].shape) != shape:
                raise ValueError(f"{name} had shape {shape}, now {list(own[name].shape)}")
        forms = {
            name: _form(entry, f"{name}/", tensors, own[name].shape)
            for name, entry in told.forms.items()
        }
        values |= {name: form.value() for name, form in forms.items()}
        if why := mismatch(own, values):
            raise ValueError(why)
        for name, value in values.items():
            if value.dtype != own[name].dtype:
                raise ValueError(f"{name} was {value.dtype}, now {own[name].dtype}")
    except Exception as error:  # forms of nonsense may fail in any way
        raise RunError(
            f"{path}, saved from a {record.get('class')}, is damaged or of another network than "
            f"this {type(model).__name__}: {error}"
        ) from error
    for name, value in values.items():
        own[name].copy_(value)
    return forms


def _check(name: str, form: Form, own: Mapping[str, Tensor]) -> None:
    if name not in own:
        raise CompressionError(f"the model has no parameter {name!r}." + nearest(name, own))
    value, tensor = form.value(), own[name]
    if (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
        raise CompressionError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)}, its form {value.dtype} of "
            f"shape {list(value.shape)}"
        )


def _write(form: Form, at: str, tensors: dict[str, Tensor]) -> Entry:
    """Put what a form consists of into `tensors`, under names that begin with `at`."""
    match form:
        case Quantized(codebook, indices):
            if indices.numel() and int(indices.min()) < 0:
                raise CompressionError(f"{at[:-1]} is quantized with negative indices")
            tensors[at + "codebook"] = codebook
            tensors[at + "indices"] = pack(indices, index_bits(len(codebook)))
            return {"kind": "quantized", "indices": str(indices.dtype).removeprefix("torch.")}
        case Factors(u, v):
            tensors[at + "u"], tensors[at + "v"] = u, v
            return {"kind": "factors"}
        case Sum(parts):
            found = [_write(part, f"{at}{i}/", tensors) for i, part in enumerate(parts)]
            return {"kind": "sum", "parts": found}
    return _write_dense(form.value().detach(), at, tensors)


def _write_dense(x: Tensor, at: str, tensors: dict[str, Tensor]) -> Entry:
    alive = (x != 0).flatten()
    n, count = x.numel(), int(alive.sum())
    sizes = {"dense": n * x.itemsize, "bitmap": count * x.itemsize + -(-n // 8)}
    if n <= 2**31:
        sizes["places"] = count * (x.itemsize + 4)
    kind = min(sizes, key=lambda kind: sizes[kind])
    tensors[at + "numbers"] = x if kind == "dense" else x.flatten()[alive]
    if kind == "bitmap":
        tensors[at + "bitmap"] = pack(alive, 1)
    elif kind == "places":
        tensors[at + "places"] = alive.nonzero().flatten().int()
    return {"kind": kind}


def _form(entry: Entry, at: str, tensors: Mapping[str, Tensor], shape: torch.Size) -> Form:
    """The form that `_write` made the entry of."""
    match entry["kind"]:
        case "quantized":
            codebook = tensors[at + "codebook"]
            bits, dtype = index_bits(len(codebook)), DTYPES[entry["indices"]]
            if len(codebook) - 1 > torch.iinfo(dtype).max:  # the numbers would wrap around
                raise ValueError(f"{dtype} cannot number the {len(codebook)} values of {at[:-1]}")
            indices = unpack(tensors[at + "indices"], bits, shape.numel(), dtype)
            return Quantized(codebook, indices.view(shape))
        case "factors":
            u, v = tensors[at + "u"], tensors[at + "v"]
            if u.ndim != 2 or v.ndim != 2 or u.shape[0] * v.shape[1] != shape.numel():
                raise ValueError(f"{at[:-1]} has factors {list(u.shape)} and {list(v.shape)}")
            return Factors(u, v, shape)
        case "sum":
            parts = entry["parts"]
            return Sum([_form(p, f"{at}{i}/", tensors, shape) for i, p in enumerate(parts)])
        case "dense":
            return Dense(tensors[at + "numbers"])
        case "bitmap":
            alive = unpack(tensors[at + "bitmap"], 1, shape.numel(), torch.bool)
            places = alive.nonzero().flatten()
        case "places":
            places = tensors[at + "places"].long()
        case other:
            raise ValueError(f"a form of kind {other!r} is not known")
    numbers = tensors[at + "numbers"]
    return Dense(numbers.new_zeros(shape.numel()).index_copy_(0, places, numbers).view(shape))
