"""N:M: in each block of m neighbours at most n weights are not 0, and their places are stored."""

from collections.abc import Mapping

import torch

from lissom.exporting.c.kernels.codebooks import contiguous, packed
from lissom.exporting.c.kernels.matrices import Rows
from lissom.exporting.c.kernels.running import Constant, Function, Run
from lissom.exporting.c.kernels.simd import INLINED
from lissom.exporting.c.layers import Layer, Product

ROW_C = """\
/* A row of n weights, FEW for each MANY numbers. */
OUTLINED int32_t NAME_row(const int8_t *values, const uint8_t *places, int n, int32_t sum,
    const uint8_t *x)
{
    uint32_t place = 0;
    for (; n >= PER; n -= PER) {
        place = *places++;
EACH
    }
    if (n)
        place = *places;
    for (; n > 0; n--) {
        sum += *values++ * x[place & MASK];
        place >>= BITS;
REST    }
    return sum;
}
"""


def _rows(n: int, m: int) -> Rows:
    """The function for n of m, with 2 or 4 bits for a place."""
    bits = _bits(m)
    per, mask, name = 8 // bits, 2**bits - 1, f"blocks_{n}_of_{m}"
    lines = []
    for k in range(per):
        lines.append(f"        sum += *values++ * x[place >> {bits * k} & {mask}];")
        if (k + 1) % n == 0:
            lines.append(f"        x += {m};")
    words = {
        **{"NAME": name, "FEW": str(n), "MANY": str(m), "PER": str(per), "EACH": "\n".join(lines)},
        **{"MASK": str(mask), "BITS": str(bits), "REST": f"        x += {m};\n" if n == 1 else ""},
    }
    text = ROW_C
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return Rows(
        name,
        f"At most {n} of {m} neighbours are not 0: values, and {bits} bits for the place of each.",
        Function(f"{name}_row", text, 100, (INLINED,)),
        f"{name}_row(values, places, stored, bias[o] * step, x)",
        f"values += stored;\n        places += (stored + {per - 1}) / {per};",
        bytes=70,
        instructions=30,
    )


def _bits(m: int) -> int:
    return 2 if m == 4 else 4


PATTERNS: Mapping[tuple[int, int], Rows] = {
    (n, m): _rows(n, m) for n, m in ((1, 4), (2, 4), (1, 8), (2, 8), (1, 16), (2, 16))
}


def blocks(pattern: tuple[int, int], layer: Layer) -> Run | None:
    """Dense layers and 1×1 convolutions with at most n of m neighbours that are not 0."""
    n, m = pattern
    if not isinstance(layer, Product) or layer.weight.dtype != torch.int8 or not contiguous(layer):
        return None
    weight = layer.weight.flatten(1)
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % m))
    block = weight.reshape(len(weight), -1, m)
    live = block != 0
    if int(live.sum(2).max()) > n:
        return None
    place = live.int().argsort(stable=True, dim=2, descending=True)[..., :n].sort(2).values
    values = block.gather(2, place)
    place[values == 0] = 0  # which is in the input, though the last block may end after it
    values = values.flatten(1)
    stored = {
        "values": Constant("int8_t", values),
        "places": Constant("uint8_t", packed(place.flatten(1), _bits(m))),
    }
    count = values.shape[1]
    each = 6 if m == 4 else 7
    name = f"{n}:{m} blocks int8"
    return PATTERNS[pattern].run(name, layer, stored, each * values.numel(), {"stored": count})
