"""Codebooks: few values, as LC leaves them, and for each weight 2 or 4 bits that say which one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lissom.exporting.c.kernels.matrices import Rows
from lissom.exporting.c.kernels.running import Constant, Function, Run, in_few_bytes
from lissom.exporting.c.kernels.simd import INLINED
from lissom.exporting.c.kernels.sparse import entries
from lissom.exporting.c.layers import Layer, Product

PAIRS = Rows(
    "coded_pairs",
    "Weights that are not 0, two to three bytes: both gaps, and both places in the book.",
    Function(
        "coded_pairs_row",
        """\
/* A row of n pairs; k is where in x the entry stands. */
OUTLINED int32_t coded_pairs_row(const uint8_t *pairs, const int8_t *book, int n, int32_t sum,
    const uint8_t *x)
{
    uint32_t k = 0;
    do {
        k += pairs[0];
        sum += book[pairs[2] & 15] * x[k];
        k += pairs[1];
        sum += book[pairs[2] >> 4] * x[k];
        pairs += 3;
    } while (--n);
    return sum;
}
""",
        bytes=56,
        needs=(INLINED,),
    ),
    "coded_pairs_row(pairs, book, counts[o], bias[o] * step, x)",
    "pairs += 3 * counts[o];",
    bytes=70,
    instructions=28,
)

ENTRIES_C = """\
/* A row of n weights; k is where in x the entry stands. */
OUTLINED int32_t coded_BITS_row(const uint8_t *weights, const int8_t *book, int n, int32_t sum,
    const uint8_t *x)
{
    uint32_t k = 0;
    do {
        uint32_t weight = *weights++;
        k += weight >> BITS;
        sum += book[weight & MASK] * x[k];
    } while (--n);
    return sum;
}
"""

ALL_C = """\
/* A row of codes, for which n numbers are read. */
OUTLINED int32_t all_coded_BITS_row(const uint8_t *codes, const int8_t *book, int n, int32_t sum,
    const uint8_t *x)
{
    uint32_t code = 0;
    for (; n >= PER; n -= PER) {
        code = *codes++;
EACH
    }
    if (n)
        code = *codes;
    for (; n > 0; n--) {
        sum += book[code & MASK] * *x++;
        code >>= BITS;
    }
    return sum;
}
"""


def _entries(bits: int) -> Rows:
    """Gap and code in one byte."""
    text = ENTRIES_C.replace("BITS", str(bits)).replace("MASK", str(2**bits - 1))
    return Rows(
        f"coded_{bits}",
        f"Weights that are not 0, a byte each: the gap, and {bits} bits for the place in the book.",
        Function(f"coded_{bits}_row", text, 40, (INLINED,)),
        f"coded_{bits}_row(weights, book, counts[o], bias[o] * step, x)",
        "weights += counts[o];",
        bytes=70,
        instructions=28,
    )


def _all(bits: int) -> Rows:
    """Codes alone."""
    per, mask = 8 // bits, 2**bits - 1
    each = [f"book[code >> {bits * k} & {mask}] * x[{k}]" for k in range(per)]
    lines = [*(f"        sum += {product};" for product in each), f"        x += {per};"]
    text = ALL_C.replace("BITS", str(bits)).replace("MASK", str(mask)).replace("PER", str(per))
    return Rows(
        f"all_coded_{bits}",
        f"All weights one after another, {bits} bits each for their places in the book.",
        Function(f"all_coded_{bits}_row", text.replace("EACH", "\n".join(lines)), 90, (INLINED,)),
        f"all_coded_{bits}_row(codes, book, columns, bias[o] * step, x)",
        f"codes += (columns + {per - 1}) / {per};",
        bytes=70,
        instructions=28,
    )


ENTRIES: Mapping[int, Rows] = {bits: _entries(bits) for bits in (2, 4)}
ALL: Mapping[int, Rows] = {bits: _all(bits) for bits in (2, 4)}


def coded_pairs(layer: Layer) -> Run | None:
    """Any product without pooling whose weights are at most 16 numbers: sparse, gaps of 8 bits."""
    if not isinstance(layer, Product) or not _of_a_book(layer, 16):
        return None
    found = entries(layer, 255, 2)
    book, codes = found.values.unique(return_inverse=True)
    if len(book) > 16:
        return None
    gaps = found.gaps.reshape(-1, 2)
    pairs = torch.cat([gaps, codes[::2, None] | codes[1::2, None] << 4], dim=1)
    stored = {
        "pairs": Constant("uint8_t", pairs),
        "book": Constant("int8_t", book),
        "counts": in_few_bytes(found.counts // 2),
    }
    return PAIRS.run("sparse 4-bit codes", layer, stored, 16 * len(pairs))


def coded(bits: int, layer: Layer) -> Run | None:
    """Sparse, too: gap and code share a byte, for many weights."""
    if not isinstance(layer, Product) or not _of_a_book(layer, 2**bits):
        return None
    found = entries(layer, 2 ** (8 - bits) - 1)
    book, codes = found.values.unique(return_inverse=True)
    if len(book) > 2**bits:
        return None
    stored = {
        "weights": Constant("uint8_t", found.gaps << bits | codes),
        "book": Constant("int8_t", book),
        "counts": in_few_bytes(found.counts),
    }
    name = f"sparse {bits}-bit codes in bytes"
    return ENTRIES[bits].run(name, layer, stored, 8 * len(codes))


def all_coded(bits: int, layer: Layer) -> Run | None:
    """Dense layers and 1×1 convolutions: all weights are codes."""
    if not isinstance(layer, Product) or not _of_a_book(layer, 2**bits) or not contiguous(layer):
        return None
    book, codes = layer.weight.flatten(1).unique(return_inverse=True)
    if len(book) > 2**bits:
        return None
    stored = {"codes": Constant("uint8_t", packed(codes, bits)), "book": Constant("int8_t", book)}
    columns = codes.shape[1]
    instructions = codes.numel() * (5.3 if bits == 2 else 6.5)
    return ALL[bits].run(
        f"dense {bits}-bit codes", layer, stored, instructions, {"columns": columns}
    )


def packed(codes: Tensor, bits: int) -> Tensor:
    """Rows of small numbers as rows of bytes, the first in the lowest bits."""
    per = 8 // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % per))
    shifts = torch.arange(per) * bits
    return (codes.reshape(len(codes), -1, per) << shifts).sum(2)


def contiguous(layer: Product) -> bool:
    """Whether a window is all entries of one stretch of the input, in their order."""
    inside = layer.weight.shape[1:3] == (1, 1) and layer.groups == 1
    return layer.pool == (1, 1) and layer.columns is None and (layer.dense or inside)


def _of_a_book(layer: Product, most: int) -> bool:
    """Whether the weights are integers of which at most so many are not 0."""
    if layer.weight.dtype != torch.int8 or layer.pool != (1, 1):
        return False
    return len(layer.weight[layer.weight != 0].unique()) <= most
