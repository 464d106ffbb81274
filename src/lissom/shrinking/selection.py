"""A network that reads only some of its inputs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Selected(nn.Module):
    """y = net(x[…, indices, …]): the entries of the inputs that the network still reads.

    Args:
        net: the network on what is left.
        inputs: for each input that lost entries, by position: (dim, indices). The input is
            flattened to [batch, entries] and cut there if dim is None. Positions are of all that
            the inputs hold, nested or not, keywords in the order in which they were traced.
        keywords: that order.
    """

    def __init__(
        self,
        net: nn.Module,
        inputs: dict[int, tuple[int | None, Tensor]],
        keywords: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.net, self.keywords = net, tuple(keywords)
        self.dims = {position: dim for position, (dim, _) in inputs.items()}
        device = next(net.parameters()).device
        for position, (_, indices) in inputs.items():
            self.register_buffer(f"indices{position}", indices.to(device))

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """As the network's own, on inputs of the full size."""
        ordered = {name: keywords[name] for name in self.keywords if name in keywords} | keywords
        given, spec = torch.utils._pytree.tree_flatten((inputs, ordered))
        for position, dim in self.dims.items():
            x = given[position].flatten(1) if dim is None else given[position]
            indices = self.get_buffer(f"indices{position}")
            given[position] = x.index_select(1 if dim is None else dim, indices)
        args, kwargs = torch.utils._pytree.tree_unflatten(given, spec)
        return self.net(*args, **kwargs)
