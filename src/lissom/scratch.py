"""Memory that is used again at every step.

On a CPU a fresh megabyte costs more, in page faults, than the arithmetic that is done in it.
"""

import threading

import torch
from torch import Tensor

SMALL = 2**22  # numbers in one buffer; what is larger is allocated and given back


class _Kept(threading.local):
    """One set of buffers for each thread, by use and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_kept = _Kept()


def scratch(like: Tensor, use: str) -> Tensor:
    """An uninitialised tensor of the shape and dtype of another.

    It holds until the same thread asks for the same `use` again.
    """
    n = like.numel()
    if like.device.type != "cpu" or n > SMALL:  # other devices keep their memory themselves
        return torch.empty_like(like)
    kept = _kept.buffers.get((use, like.dtype))
    if kept is None or kept.numel() < n:
        kept = _kept.buffers[use, like.dtype] = torch.empty(n, dtype=like.dtype)
    return kept[:n].view(like.shape)
