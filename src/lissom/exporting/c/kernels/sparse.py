"""Sparse int8: the weights that are not 0, each with the gap to the one before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.exporting.c.kernels.arithmetic import arithmetic
from lissom.exporting.c.kernels.matrices import Rows, positions, steps
from lissom.exporting.c.kernels.running import Constant, Function, Run, in_few_bytes
from lissom.exporting.c.kernels.simd import INLINED, SIMD
from lissom.exporting.c.layers import Layer, Product

ROW = Function(
    "sparse_row",
    """\
/* A row of n pairs; k is where in x the entry stands. */
OUTLINED int32_t sparse_row(const uint32_t *pairs, int n, int32_t sum, const uint8_t *x)
{
    uint32_t k = 0;
    do {
        uint32_t pair = *pairs++;
#ifdef SIMD
        uint32_t two;
        k += pair >> 8 & 255;
        two = x[k];
        k += pair >> 24;
        two |= (uint32_t)x[k] << 16;
        sum = __smlad(__sxtb16((int32_t)pair), (int32_t)two, sum);
#else
        k += pair >> 8 & 255;
        sum += (int8_t)pair * x[k];
        k += pair >> 24;
        sum += (int8_t)(pair >> 16) * x[k];
#endif
    } while (--n);
    return sum;
}
""",
    bytes=60,
    needs=(SIMD, INLINED),
)

ROWS = Rows(
    "sparse",
    "Weights that are not 0, two to a word: value, gap, value, gap, from the lowest byte.",
    ROW,
    "sparse_row(pairs, counts[o], bias[o] * step, x)",
    "pairs += counts[o];",
    bytes=60,
    instructions=28,
)

POOLED_C = """\
/* The same for the windows of a map, and 2x2 max pooling: four sums at once. */
INLINED void $name(const uint32_t *pairs, const COUNT *counts, const int32_t *bias, $parameters,
    int rows, int across, int down, int height, int width, const uint8_t *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const uint32_t *stored = pairs;
            for (int o = 0; o < rows; o++) {
                const uint8_t *p = x + 2 * (i * down + j * across);
                int32_t sum = 0, right = 0, below = 0, both = 0;
                int n = counts[o];
                do {
                    uint32_t pair = *stored++;
                    int32_t g = (int8_t)pair;
                    p += pair >> 8 & 255;
                    sum += g * p[0];
                    right += g * p[across];
                    below += g * p[down];
                    both += g * p[down + across];
                    g = (int8_t)(pair >> 16);
                    p += pair >> 24;
                    sum += g * p[0];
                    right += g * p[across];
                    below += g * p[down];
                    both += g * p[down + across];
                } while (--n);
                if (right > sum) sum = right;
                if (both > below) below = both;
                if (below > sum) sum = below;
                sum += bias[o];
                *y++ = $finish;
            }
        }
}
"""


@dataclass(frozen=True, eq=False)
class Entries:
    """The weights that are not 0, row after row.

    Attributes:
        gaps: from the entry before, and of the first of a row from its window's beginning.
        values: the weights; 0 for what bridges a longer gap, and at the ends of rows.
        counts: of each row.
    """

    gaps: Tensor
    values: Tensor
    counts: Tensor


def entries(layer: Product, longest: int, multiple: int = 1) -> Entries:
    """The weights with gaps of at most `longest`, and a multiple > 0 of so many in each row."""
    at, weight = positions(layer), layer.weight.flatten(1)
    if layer.columns is not None:
        at, order = at.sort(1)
        weight = weight.gather(1, order)
    row, column = weight.nonzero(as_tuple=True)
    where = at[row, column]
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = row[1:] != row[:-1]
    gap = torch.where(first, where, where.diff(prepend=where[:1]))
    bridges = (gap - 1).clamp(min=0) // longest
    counts = torch.zeros(len(weight), dtype=torch.int64).index_add(0, row, bridges + 1)
    padded = (counts.clamp(min=1) + multiple - 1) // multiple * multiple
    ends = (bridges + 1).cumsum(0) + (padded.cumsum(0) - padded - counts.cumsum(0) + counts)[row]
    total = int(padded.sum())
    gaps, values = torch.zeros(total, dtype=torch.int64), torch.zeros(total, dtype=torch.int64)
    gaps[ends - 1], values[ends - 1] = gap - bridges * longest, weight[row, column].long()
    bridge = (ends - 1).repeat_interleave(bridges)
    begin = (bridges.cumsum(0) - bridges).repeat_interleave(bridges)
    gaps[bridge - 1 - (torch.arange(len(bridge)) - begin)] = longest
    return Entries(gaps, values, padded)


def sparse(layer: Layer) -> Run | None:
    """Any product of int8, alone or with pooling."""
    if not isinstance(layer, Product) or layer.weight.dtype != torch.int8:
        return None
    found = entries(layer, 255, 2)
    word = (found.values & 255) | found.gaps << 8
    counts = in_few_bytes(found.counts // 2)
    words = word[::2] | word[1::2] << 16
    stored = {"pairs": Constant("uint32_t", words), "counts": counts}
    if layer.pool == (1, 1):
        return ROWS.run("sparse int8", layer, stored, 11 * len(words))
    ends = arithmetic(layer.finish)
    template = POOLED_C.replace("COUNT", counts.type)
    outputs, (height, width, _) = len(layer.weight), layer.output.shape
    given = ("{pairs}", "{counts}", "{bias}", *ends.arguments)
    return Run(
        "sparse int8, pooled",
        ends.function(f"sparse_pool{counts.wide}", template, 250),
        (*given, outputs, *steps(layer), height, width, "{x}", "{y}"),
        {**stored, "bias": Constant("int32_t", layer.bias), **ends.constants},
        (27 * len(words) + 50 * outputs) * height * width,
    )
