"""How many bytes a tensor takes: dense, or as its non-zeros and their places."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Storage:
    """Bytes of one parameter tensor, without its name and shape.

    Attributes:
        name: of the parameter.
        dense: bytes of all its numbers.
        sparse: bytes in the smallest format, indices included.
        format: the smallest format; "dense" where no sparse one is smaller.
    """

    name: str
    dense: int
    sparse: int
    format: str


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
    return Storage(name, n * b, sizes[best], best)


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
