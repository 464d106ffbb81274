"""One record for each of torch's operators; importing this fills the table."""

from lissom.coupling.operators import (
    convolutions,
    elementwise,
    movement,
    products,
    recurrent,
    statistics,
)

__all__ = ["convolutions", "elementwise", "movement", "products", "recurrent", "statistics"]
