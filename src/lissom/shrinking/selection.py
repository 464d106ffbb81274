"""A network that reads only some of its inputs."""

from typing import Any

from torch import Tensor, nn


class Selected(nn.Module):
    """y = net(x[…, indices, …]): the entries of the inputs that the network still reads.

    Args:
        net: the network on what is left.
        inputs: for each input that lost entries, by position: (dim, indices). The input is
            flattened to [batch, entries] and cut there if dim is None.
    """

    def __init__(self, net: nn.Module, inputs: dict[int, tuple[int | None, Tensor]]) -> None:
        super().__init__()
        self.net = net
        self.dims = {position: dim for position, (dim, _) in inputs.items()}
        device = next(net.parameters()).device
        for position, (_, indices) in inputs.items():
            self.register_buffer(f"indices{position}", indices.to(device))

    def forward(self, *inputs: Any) -> Any:
        """As the network's own, on inputs of the full size."""
        given = list(inputs)
        for position, dim in self.dims.items():
            x = given[position].flatten(1) if dim is None else given[position]
            indices = self.get_buffer(f"indices{position}")
            given[position] = x.index_select(1 if dim is None else dim, indices)
        return self.net(*given)
