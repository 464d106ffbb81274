"""Numbers too small to matter, which a processor is slow with."""

import torch
from torch.optim import Optimizer


@torch.no_grad()
def flush_subnormals(optimizer: Optimizer) -> None:
    """Take the numbers of an optimizer's state below 1.2e-38 for 0.

    What is dead gets no gradient, so its moments in Adam or RMSprop fall by a factor in every
    step, until they are subnormal. There they stay, since 0.99 of a few units in the last place
    rounds to as many again, and arithmetic with them takes a processor many times as long.
    `torch.set_flush_denormal` would do for one thread; this is the same for any number of them.
    """
    for state in optimizer.state.values():
        for tensor in state.values():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.ndim:
                tensor[tensor.abs() < torch.finfo(tensor.dtype).tiny] = 0
