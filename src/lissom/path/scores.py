"""How long each weight, or each group of weights, lives along a path."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """When each weight, or each group, dies for good.

    Attributes:
        prices: of the seed's points that worked, from dense to empty; the first may be None.
        index: for each parameter, shaped like it, or for each block of groups: the place in
            `prices` from which on the weight or group is 0 at every sparser point; len(prices) if
            it is not 0 at the last. Sort by it: the largest matter most.
    """

    prices: tuple[float | None, ...]
    index: Mapping[str, Tensor]

    def price(self, name: str) -> Tensor:
        """prices[index]: +∞ for what never dies, NaN for what is 0 without a price."""
        prices = [math.nan if price is None else price for price in self.prices]
        table = torch.tensor([*prices, math.inf], dtype=torch.float64)
        return table[self.index[name]]


def scores_of(prices: Sequence[float | None], dead: Sequence[Mapping[str, Tensor]]) -> Scores:
    """When each weight or group dies for good.

    Args:
        prices: from dense to empty.
        dead: at each of them, which weights or groups are zero, by name.
    """
    index: dict[str, Tensor] = {}
    for name, last in dead[-1].items():
        index[name] = torch.full(last.shape, len(prices))
        gone = torch.ones_like(last)
        for place in range(len(prices) - 1, -1, -1):  # "for good" is seen from the sparse end
            gone = gone & dead[place][name]
            index[name][gone] = place
    return Scores(tuple(prices), index)
