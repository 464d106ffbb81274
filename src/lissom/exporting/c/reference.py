"""What the C computes, for whole batches."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lissom.exporting.c.layers import Network

BATCH = 250  # examples at once: memory


def maps(x: Tensor, network: Network) -> Iterator[Tensor]:
    """Inputs of a user's network as maps, channels last, in parts."""
    for part in x.detach().cpu().float().split(BATCH):
        yield network.maps(part)


class Reference(nn.Module):
    """What the C computes: equal to it bit for bit in int8, up to rounding in float32.

    Maps float [n, *inputs] of the user's network to float [n, *outputs] on the CPU.

    Args:
        network: of floats or of integers.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """In parts, as all activations of a part are held."""
        with torch.no_grad():
            return torch.cat([self._part(part) for part in maps(x, self.network)])

    def _part(self, inputs: Tensor) -> Tensor:
        network = self.network
        if network.scale is not None:
            inputs = network.scale.integers(inputs)
        found = next(y for value, y in network.activations(inputs) if value is network.output)
        ordered = found.float().flatten(1)[:, network.order]
        return ordered.reshape(len(ordered), *network.shape)
