"""Random numbers of a point that depend on nothing but the point."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lissom.running import gpus


@contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Seed torch, numpy and python by these words, and leave their generators as they were."""
    number = int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "big")
    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(gpus()):
        try:
            torch.manual_seed(number)
            np.random.seed(number)
            random.seed(number)
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)
