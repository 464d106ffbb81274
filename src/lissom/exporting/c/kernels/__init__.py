"""Ways to run a layer in C, of which the cheapest that fits is taken."""

from lissom.exporting.c.kernels.dense import CONVOLUTIONS, DENSE
from lissom.exporting.c.kernels.others import other
from lissom.exporting.c.kernels.running import Constant, Function, Kernel, Run
from lissom.exporting.c.kernels.sparse import sparse
from lissom.exporting.c.layers import Layer, Product

__all__ = ["KERNELS", "Constant", "Function", "Kernel", "Run", "cheapest"]

KERNELS: tuple[Kernel, ...] = (*DENSE, *CONVOLUTIONS, sparse)
"""All ways to run a product of weights and activations."""


def cheapest(layer: Layer) -> list[Run]:
    """The calls that run a layer, with the least product of flash and cycles."""
    if not isinstance(layer, Product):
        return other(layer)
    runs = [run for kernel in KERNELS if (run := kernel(layer)) is not None]
    return [min(runs, key=lambda run: run.bytes * run.cycles)]
