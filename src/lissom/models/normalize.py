"""The first layer of a network that takes pixels and computes with standardised ones."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated
from lissom.errors import LissomError


class Normalize(nn.Module):
    """(x − mean)/std for each channel of images [n, channels, h, w].

    It is a part of the model and not of the data, so that whatever is shrunk, saved or exported
    still takes pixels in [0, 1], and nobody has to know the numbers beside the network.

    Args:
        mean: of each channel.
        std: of each channel, > 0.

    Raises:
        LissomError: for numbers that cannot be, or not as many of the one as of the other.
    """

    mean: Tensor
    std: Tensor

    @as_annotated(LissomError)
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise LissomError(
                f"a mean and a std for each channel are needed, got {len(mean)} and {len(std)}: "
                f"{list(mean)} and {list(std)}"
            )
        if not (all(map(math.isfinite, (*mean, *std))) and all(one > 0 for one in std)):
            raise LissomError(
                "means are finite and stds above 0, for one is subtracted and the other divides; "
                f"got {list(mean)} and {list(std)}",
                field="mean" if not all(map(math.isfinite, mean)) else "std",
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to the same shape."""
        return (x - self.mean) / self.std
