"""Ways to run a layer in C, of which the cheapest that fits is taken."""

from collections.abc import Sequence, Set
from functools import partial

from lissom.exporting.c.kernels.blocks import PATTERNS, blocks
from lissom.exporting.c.kernels.codebooks import all_coded, coded, coded_pairs
from lissom.exporting.c.kernels.dense import CONVOLUTIONS, DENSE
from lissom.exporting.c.kernels.others import other
from lissom.exporting.c.kernels.running import Constant, Function, Kernel, Run, in_few_bytes
from lissom.exporting.c.kernels.sparse import sparse
from lissom.exporting.c.layers import Layer, Product

__all__ = ["KERNELS", "WORTH", "Constant", "Function", "Kernel", "Run", "cheapest", "in_few_bytes"]

KERNELS: tuple[Kernel, ...] = (
    *DENSE,
    *CONVOLUTIONS,
    sparse,
    *(partial(blocks, pattern) for pattern in PATTERNS),
    coded_pairs,
    *(partial(coded, bits) for bits in (2, 4)),
    *(partial(all_coded, bits) for bits in (2, 4)),
)
"""All ways to run a product of weights and activations."""

WORTH = 16
"""Instructions that are worth one byte of flash: 64 KiB as much as a million, 16 ms at 64 MHz."""


def cheapest(layers: Sequence[Layer]) -> list[list[Run]]:
    """The calls that run each layer, with the least flash + instructions / WORTH of all.

    Code is written once, so a function that another layer calls already is free: layers are gone
    through until none would rather be run in another way.
    """
    fitting = [_ways(layer) for layer in layers]
    chosen = [min(ways, key=_cost) for ways in fitting]
    before: list[list[Run]] = []
    while before != chosen:
        before = list(chosen)
        for number, ways in enumerate(fitting):
            others = chosen[:number] + chosen[number + 1 :]
            called = {f for runs in others for run in runs for f in run.function.all}
            there = {function for function in called if not function.inlined}
            chosen[number] = min(ways, key=partial(_cost, there=there))
    return chosen


def _ways(layer: Layer) -> list[list[Run]]:
    """All ways to run a layer."""
    if not isinstance(layer, Product):
        return [other(layer)]
    return [[run] for kernel in KERNELS if (run := kernel(layer)) is not None]


def _cost(runs: list[Run], there: Set[Function] = frozenset()) -> float:
    """Of constants, instructions, and code beside that which is there already."""
    code = {function for run in runs for function in run.function.all} - there
    constants = sum(run.bytes + run.cycles / WORTH for run in runs)
    return constants + sum(function.bytes for function in code)
