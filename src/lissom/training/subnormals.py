"""Numbers too small to matter, which a processor is slow with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushing_subnormals() -> Iterator[None]:
    """Take floats below 1.2e-38 for 0, as a GPU does, in the calling thread and those it starts.

    What is dead gets no gradient, so its moments in Adam or RMSprop fall by a factor in every
    step, until they are subnormal. There they stay, since 0.99 of a few units in the last place
    rounds to as many again, and arithmetic with them takes a processor many times as long.
    """
    before = flushes()
    torch.set_flush_denormal(True)  # False where the processor cannot, which is no harm
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes() -> bool:
    """Whether subnormal numbers are 0 in this thread now."""
    return float(torch.tensor(1e-39) * 0.5) == 0
