"""How long each weight lives along a path."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.path.point import Point
from lissom.path.storing import tensors_in


@dataclass(frozen=True, eq=False)
class Scores:
    """When each weight dies for good.

    Attributes:
        prices: of the seed's points that worked, from dense to empty; the first may be None.
        index: for each parameter, shaped like it: the place in `prices` from which on the weight is
            0 at every sparser point; len(prices) if it is not 0 at the last. Sort by it: the
            largest matter most. A unit dies with the last of its weights, at the largest index.
    """

    prices: tuple[float | None, ...]
    index: Mapping[str, Tensor]

    def price(self, name: str) -> Tensor:
        """prices[index]: +∞ where a weight never dies, NaN where it is 0 without a price."""
        prices = [math.nan if price is None else price for price in self.prices]
        table = torch.tensor([*prices, math.inf], dtype=torch.float64)
        return table[self.index[name]]


def scores_of(points: Sequence[Point], parameters: Sequence[str]) -> Scores:
    """The scores of one seed's points, from dense to empty."""
    index: dict[str, Tensor] = {}
    dead: dict[str, Tensor] = {}
    for place in range(len(points) - 1, -1, -1):  # "for good" is seen from the sparse end
        tensors = tensors_in(points[place].folder)
        for name in parameters:
            zero = tensors[name] == 0
            if name not in index:
                index[name] = torch.full(zero.shape, len(points))
                dead[name] = torch.ones_like(zero)
            dead[name] &= zero
            index[name][dead[name]] = place
    return Scores(tuple(point.price for point in points), index)
