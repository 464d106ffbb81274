"""Which single weights are zero and stay so, whatever groups they vanished in."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lissom.methods.method import Method
from lissom.running import holding


@torch.no_grad()
def staying(methods: Iterable[Method]) -> dict[nn.Parameter, Tensor]:
    """For each parameter of methods that have ended, 0 where its zeros stay, and 1 elsewhere.

    What the methods do to the weights after each step is done to ones.
    """
    masks: dict[nn.Parameter, Tensor] = {}
    for method in methods:
        if method._alive is None:  # it was removed
            continue
        owners = [p for p in method.tensors() if isinstance(p, nn.Parameter)]
        values = [masks.get(owner, torch.ones_like(owner)) for owner in owners]
        with holding(owners, values):
            for block, alive in zip(method.kept(), method._alive, strict=True):
                method.keep_zeros_(block, alive.to(block.parameters[0]))
        masks |= dict(zip(owners, values, strict=True))
    return masks
