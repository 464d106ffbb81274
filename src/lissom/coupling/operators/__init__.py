"""One record for each of torch's operators; importing this fills the table."""

from lissom.coupling.operators import (
    along,
    cells,
    convolutions,
    declined,
    einsum,
    elementwise,
    indexing,
    made,
    movement,
    normalisations,
    pooling,
    products,
    recurrent,
    reductions,
)

__all__ = [
    "along",
    "cells",
    "convolutions",
    "declined",
    "einsum",
    "elementwise",
    "indexing",
    "made",
    "movement",
    "normalisations",
    "pooling",
    "products",
    "recurrent",
    "reductions",
]
