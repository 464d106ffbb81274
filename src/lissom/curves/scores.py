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
        strengths: of the seed's points that worked, from dense to empty; the first may be None.
        index: for each parameter, shaped like it, or for each block of groups: the place in
            `strengths` from which on the weight or group is 0 at every sparser point;
            len(strengths) if it is not 0 at the last. Sort by it: the largest matter most.
    """

    strengths: tuple[float | None, ...]
    index: Mapping[str, Tensor]

    def strength(self, name: str) -> Tensor:
        """strengths[index]: +∞ for what never dies, NaN for what is 0 in the dense network."""
        strengths = [math.nan if strength is None else strength for strength in self.strengths]
        table = torch.tensor([*strengths, math.inf], dtype=torch.float64)
        return table[self.index[name]]


def scores_of(strengths: Sequence[float | None], dead: Sequence[Mapping[str, Tensor]]) -> Scores:
    """When each weight or group dies for good.

    Args:
        strengths: from dense to empty.
        dead: at each of them, which weights or groups are zero, by name.
    """
    index: dict[str, Tensor] = {}
    for name, last in dead[-1].items():
        index[name] = torch.full(last.shape, len(strengths))
        gone = torch.ones_like(last)
        for place in range(len(strengths) - 1, -1, -1):  # "for good" is seen from the sparse end
            gone = gone & dead[place][name]
            index[name][gone] = place
    return Scores(tuple(strengths), index)
