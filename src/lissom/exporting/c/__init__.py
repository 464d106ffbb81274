"""C for a microcontroller: a network as NAME.c and NAME.h, in int8 or float32."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lissom.exporting.c.integers import Quantized, quantized
from lissom.exporting.c.layers import Network, channels_last
from lissom.exporting.c.reading import read
from lissom.exporting.c.writing import Program, header, programmed, source

__all__ = ["Reference", "program_of"]

BATCH = 1000  # examples at once in the reference: memory


class Reference(nn.Module):
    """What the C computes, for batches: equal to it bit for bit in int8, up to rounding in float.

    Args:
        network: of floats, or of integers.
    """

    def __init__(self, network: Network | Quantized) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, *inputs] to float [n, *outputs]."""
        with torch.no_grad():
            return torch.cat([self._outputs(part) for part in x.detach().cpu().split(BATCH)])

    def _outputs(self, x: Tensor) -> Tensor:
        network = self.network.network if isinstance(self.network, Quantized) else self.network
        maps = channels_last(x, network.channels_first)
        if isinstance(self.network, Quantized):
            maps = self.network.quantize(maps)
        found = network.values(maps)[network.output].float()
        return found.flatten(1)[:, network.order].reshape(len(x), *network.shape)


def program_of(program: ExportedProgram, calibration: Tensor | None) -> tuple[Program, Reference]:
    """A network, traced on one example, as calls of C, and their reference.

    Args:
        program: the traced network.
        calibration: [n, *inputs] to find the ranges of activations with; None for float32.
    """
    network = read(program)
    if calibration is None:
        return programmed(network), Reference(network)
    integers = quantized(network, _maps(calibration, network))
    return programmed(integers.network, integers.scale), Reference(integers)


def _maps(x: Tensor, network: Network) -> Iterator[Tensor]:
    for part in x.detach().cpu().float().split(BATCH):
        yield channels_last(part, network.channels_first)
