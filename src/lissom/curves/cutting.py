"""Networks of sizes that nobody trained: cuts of a network whose training was one of all sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lissom.arguments import fits
from lissom.curves.running import sizes_of
from lissom.errors import PathError
from lissom.methods.statistics import keeps_statistics, renew_statistics
from lissom.running import ExampleInputs, as_inputs, copied, run
from lissom.shrinking import shrink

ORDER = "order"  # under this name `fit` returns it at the dense point


@dataclass(frozen=True)
class Whole:
    """A network with an order of its groups.

    Attributes:
        net: with all weights.
        order: the smallest fraction of the groups with which each weight stays, by parameter.
        example_inputs: to shrink cuts on.
        round_to: as for `lissom.shrink`.
        inputs: as for `lissom.shrink`.
    """

    net: nn.Module
    order: Mapping[str, Tensor]
    example_inputs: ExampleInputs
    round_to: int
    inputs: bool

    def cut(self, fraction: float, batches: Sequence[Any] | None = None) -> nn.Module:
        """The shrunk network of a fraction of the groups.

        Args:
            fraction: of the groups.
            batches: inputs, on which running statistics are made anew.
        """
        net = copied(self.net)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name in self.order:
                    parameter.mul_((self.order[name] <= fraction).to(parameter))
        if batches is not None:
            renew_statistics(net, [partial(run, net, as_inputs(batch)) for batch in batches])
        return shrink(net, self.example_inputs, round_to=self.round_to, inputs=self.inputs)

    def within(self, axis: str, limit: float, batches: Sequence[Any] | None) -> nn.Module:
        """The largest cut whose size is within a limit: sizes grow with the fraction.

        Most are about proportional to it, so it is looked for there first.

        Raises:
            PathError: if the smallest is too large, or running statistics cannot be made anew.
        """
        if (batches is None or len(batches) == 0) and keeps_statistics(self.net):
            raise PathError(
                "running statistics, such as BatchNorm's, are of networks of all sizes here: give "
                "batches=[…] of training inputs, on which they are made anew"
            )
        fractions = torch.cat([least.flatten() for least in self.order.values()]).unique()
        low, high, stride = 0, 1 + len(fractions), 1  # so many groups fit, and do not
        at = round(len(fractions) * min(1.0, limit / self._size(1.0, axis)))
        while high - low > 1:
            at = min(max(at, low + 1), high - 1)
            fitting = self._size(float(fractions[at - 1]), axis) <= limit
            low, high = (at, high) if fitting else (low, at)
            bracketed = low > 0 and high <= len(fractions)
            at = (low + high) // 2 if bracketed else at + (stride if fitting else -stride)
            stride *= 2
        if low == 0:
            raise PathError(f"no cut has at most {axis}={limit:,}")
        return self.cut(float(fractions[low - 1]), batches)

    def _size(self, fraction: float, axis: str) -> float:
        return sizes_of(self.cut(fraction), self.example_inputs)[axis]


def order_in(state: Mapping[str, Any] | None, net: nn.Module) -> dict[str, Tensor]:
    """The order that the dense point of a network left.

    Raises:
        PathError: if it left none, or one of another network.
    """
    order: Any = (state or {}).get(ORDER)
    if not fits(order, dict[str, Tensor]):
        raise PathError(
            "a size that nobody trained is cut from one training of all sizes, with cuts=True, "
            f"whose fit returns {{{ORDER!r}: method.order()}} for the dense network"
        )
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    if odd := [name for name, least in order.items() if shapes.get(name) != least.shape]:
        raise PathError(f"the order is of another network, in which {', '.join(odd)} differ")
    found: dict[str, Tensor] = order
    return found
