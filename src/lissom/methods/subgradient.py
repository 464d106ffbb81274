"""The penalty in the loss, and nothing else: the baseline that gives small weights and no zeros."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import PenaltyError
from lissom.groups import Groups
from lissom.methods.method import Method
from lissom.methods.options import Options, make_options, takes
from lissom.penalties import GRADIENT, Penalty


class Subgradient(Method):
    """Σ P(norms) in the loss; made by `subgradient`."""

    name = "subgradient"
    needs = (GRADIENT,)
    shards = True
    averages = True
    exact = False

    @classmethod
    def of_complex(cls, options: Any) -> bool:
        return True

    @classmethod
    def nests(cls, options: Options) -> bool:
        return True

    def loss_term(self) -> Tensor:
        values: list[Tensor] = []
        for groups, penalty in self.penalties.items():
            now = penalty.at(self.now)
            for i, block in enumerate(groups):
                one = now.of(i)
                one = one.among(block.part) if block.shard and one.tensors else one
                values.append(_value(one, block.norms()))
        return torch.stack([value.to(values[0]) for value in values]).sum()


def _value(penalty: Penalty, norms: Tensor) -> Tensor:
    value: object = penalty.value(norms)
    if isinstance(value, Tensor) and not value.ndim:
        return value
    shape = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise PenaltyError(f"the value of {penalty} is a tensor of no dimension, a sum; got {shape}")


@takes(Options)
def subgradient(
    optimizer: Optimizer, penalties: Mapping[Groups, Penalty], **options: Any
) -> Subgradient:
    """Add Σ P(norms) to the loss: subgradient descent, the baseline that gives no exact zeros.

    Args:
        optimizer: any torch optimizer that holds the penalised parameters.
        penalties: {groups: penalty} with penalties that have a gradient: L1, L2, MCP and their
            sums. L1 of single weights may go with a penalty of the groups that they lie in.
        **options: those of `Options`.

    Raises:
        MethodError: for a penalty that counts groups; its gradient is zero almost everywhere.

    Source: Henrikson 2021, "Try 1".
    """
    return Subgradient(optimizer, penalties, make_options(Options, options))
