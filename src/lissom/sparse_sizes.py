"""How many bytes a tensor takes: dense, as its non-zeros and their places, or coded by entropy."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Storage:
    """Bytes of one parameter tensor, without its name and shape.

    Attributes:
        name: of the parameter.
        dense: bytes of all its numbers.
        sparse: bytes in the smallest format, indices included.
        format: the smallest format; "dense" where no sparse one is smaller.
        coded: bytes that its entropy allows, see `coded`.
    """

    name: str
    dense: int
    sparse: int
    format: str
    coded: int


def storage(name: str, tensor: Tensor, zero: Tensor) -> Storage:
    """The smallest of: dense, bitmap, CSR, COO, and relative (run-length) indices.

    With n numbers of b bytes, of which k are not zero, in a matrix of r = shape[0] rows and c = n/r
    columns (a vector is one row), and with w(m), the bytes of the smallest unsigned integer
    (8, 16, 32 or 64 bit) that holds m:

    | format | bytes |
    | --- | --- |
    | dense | n·b |
    | bitmap | k·b + ⌈n/8⌉ |
    | CSR | k·(b + w(c − 1)) + (r + 1)·w(k) |
    | COO | k·(b + w(n − 1)), one flat index for each |
    | relative, i bit | e·b + ⌈e·i/8⌉ for e entries, i = 4, 8 or 16 |

    A relative index is the number of zeros since the last entry; where it does not fit in i bit, an
    entry with the value 0 stands in between (Han, Mao & Dally 2016, section 2).

    Args:
        name: of the tensor.
        tensor: the numbers.
        zero: which of them count as zero, of the same shape.
    """
    n, b = tensor.numel(), tensor.element_size()
    k = n - int(zero.sum())
    rows = tensor.shape[0] if tensor.dim() > 1 else 1
    sizes = {"dense": n * b}
    if k < n:
        columns = n // max(1, rows)
        sizes["bitmap"] = k * b + _bytes(n)
        sizes["CSR"] = k * (b + _width(columns - 1)) + (rows + 1) * _width(k)
        sizes["COO"] = k * (b + _width(n - 1))
        # Gaps are only looked at where they could win: without fillers, e is k.
        if k * b + _bytes(4 * k) < min(sizes.values()):
            sizes |= dict(_relative(zero, b))
    best = min(sizes, key=lambda name: sizes[name])
    return Storage(name, n * b, sizes[best], best, coded(tensor, zero))


def coded(tensor: Tensor, zero: Tensor) -> int:
    """Bytes that an arithmetic coder comes near, for zeros and for codebooks alike.

    With H(·) the entropy of how often each of some values occurs, in bits, of n numbers of b bytes
    of which k are not zero, with d distinct values among them:

        n·H(zero or not) + min(8·b·k, k·H(values) + 8·b·d) bits

    which is where the zeros are, and the others either as they are, or as places in a table of
    their values; or n·b bytes, if that is less. How often each occurs is not counted: the coder
    learns it on the way.

    Args:
        tensor: the numbers.
        zero: which of them count as zero, of the same shape.
    """
    n, b = tensor.numel(), tensor.element_size()
    alive = tensor.detach()[~zero].cpu().contiguous().view(torch.uint8).numpy()
    k = len(alive) // b
    # Equal numbers have equal bits; to sort them as integers is the quickest.
    words = np.sort(alive.view(f"u{b}")) if b <= 8 else np.sort(alive.view("c16"))
    starts = np.flatnonzero(words[1:] != words[:-1]) + 1
    counts = np.diff(starts, prepend=0, append=k)
    values = min(8 * b * k, _entropy(counts) + 8 * b * len(counts)) if k else 0
    return min(n * b, ceil((_entropy(np.array([k, n - k])) + values) / 8))


def _entropy(counts: NDArray[np.int64]) -> float:
    """Bits of a sequence in which values occur so often, each coded by its frequency."""
    found = counts[counts > 0]
    return float((found * np.log2(found.sum() / found)).sum())


def _relative(zero: Tensor, b: int) -> Iterator[tuple[str, int]]:
    places = (~zero).reshape(-1).nonzero().reshape(-1)
    gaps = places.diff(prepend=places.new_full([1], -1)) - 1
    for bits in (4, 8, 16):
        entries = len(gaps) + int((gaps >> bits).sum())  # a filler covers 2^bits places
        yield f"relative {bits} bit", entries * b + _bytes(entries * bits)


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _width(largest: int) -> int:
    return next((width for width in (1, 2, 4) if largest < 256**width), 8)
