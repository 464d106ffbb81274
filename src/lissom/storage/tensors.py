"""Safetensors: tensors by name, and in the header a record of plain values."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import safetensors.torch
import torch
from torch import Tensor

from lissom.arguments import why_odd
from lissom.errors import RunError
from lissom.storage.formats import opened, sealed
from lissom.storage.reading import content_of
from lissom.storage.replacing import replace

KEY = "lissom"  # under which the header has the record
COMPLEX = "lissom_complex"  # and the names of complex tensors that are kept as pairs of real ones
PAIRS = {torch.float64: torch.complex128, torch.float16: torch.complex32}


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, kind: str, record: Mapping[str, Any] | None = None
) -> None:
    """Write tensors, and a record of plain values, of a kind such as "lissom tensors 1".

    Raises:
        RunError: for a tensor that safetensors has no form for, or if the path cannot be a file.
    """
    own: dict[str, Tensor] = {}
    pairs = []
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if why := why_odd(tensor):
            raise RunError(f"{path} cannot hold {name}, a tensor {why}")
        dense = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        if dense.dtype in PAIRS.values():
            dense = torch.view_as_real(dense)
            pairs.append(name)
        # safetensors refuses tensors that share memory.
        shared = dense.untyped_storage().data_ptr() in memory
        own[name] = dense.clone() if shared else dense
        memory.add(own[name].untyped_storage().data_ptr())
    header = {KEY: json.dumps(sealed(record or {}, kind, _checksum(own, pairs)))}
    if pairs:
        header[COMPLEX] = json.dumps(pairs)
    replace(path, safetensors.torch.save(own, header))


def load_tensors(path: Path, *kinds: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_tensors` wrote, of one of these kinds.

    Returns:
        The record with its "format", and the tensors on the CPU.

    Raises:
        RunError: if it is missing, damaged or of another kind.
    """
    content = content_of(path, f"there is no file {path}")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        text = header.get("__metadata__", {}).get(KEY, "null")
        record = json.loads(text)
        pairs = json.loads(header.get("__metadata__", {}).get(COMPLEX, "[]"))
        made = {name: torch.view_as_complex(tensors[name]) for name in pairs}
    except Exception as error:  # safetensors and torch raise a different type for each damage
        raise RunError(f"{path} is not a readable safetensors file: {error}") from error
    return opened(record, str(path), kinds, _checksum(tensors, pairs)), {**tensors, **made}


def mismatch(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Why tensors cannot be copied into those of a network, or None if they can."""
    if odd := sorted(own.keys() ^ found.keys()):
        return f"only one of the two has {', '.join(odd)}"
    for name, tensor in found.items():
        if (why := why_odd(tensor)) and not why_odd(own[name]):
            return f"{name} is a tensor {why}"
        if tensor.shape != own[name].shape:
            return f"{name} had shape {list(tensor.shape)}, now {list(own[name].shape)}"
        if _field(tensor) != _field(own[name]):
            return f"{name} was {tensor.dtype}, now {own[name].dtype}"
    return None


def _field(tensor: Tensor) -> str:
    """What its numbers are: real ones of any precision, complex ones, or whole ones of a type."""
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else str(tensor.dtype)


def _checksum(tensors: Mapping[str, Tensor], pairs: Sequence[str]) -> int:
    """Of names, types, shapes and numbers, in whatever order they stand in the file."""
    found = crc32(" ".join(pairs).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found
