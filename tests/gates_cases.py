"""What the tests of gates share: gates by an optimizer that nobody steps, and plain copies."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import SGD

from lissom.groups import Groups
from lissom.methods.gates import Gates, gate, gates_of
from lissom.penalties import Penalty


def gated(net: nn.Module, penalties: Mapping[Groups, Penalty], **options: Any) -> Gates:
    """Gates for tests that take no steps, or whose steps are taken by another optimizer."""
    return gate(SGD(net.parameters(), 0.1), net, penalties, **options)


def delivered(gates: Gates) -> nn.Module:
    """A copy of the network as it would be delivered now; the model keeps its gates."""
    with gates.deployed():
        return copy.deepcopy(gates.model)


def plain(gates: Gates) -> nn.Module:
    """A copy of the same weights without gates."""
    other = copy.deepcopy(gates.model)
    gates_of(other).remove()
    return other
