"""An operator that nobody here has heard of, and its record, as in a user's own file."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.operators import Operator, contract, operator, shape


@torch.library.custom_op("stranger::scaled_linear", mutates_args=())
def scaled_linear(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """y = s·x Wᵀ."""
    return scale * F.linear(x, weight)


@scaled_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


# The record: begin
@operator("stranger::scaled_linear")
class ScaledLinear(Operator):
    def couple(self, c, call):
        return contract(c, call, call["x"], call["weight"])

    def constant(self, k, call):
        def f(x, w):
            return call["scale"] * F.linear(x, w)

        return k.layer(call, call["x"], call["weight"], None, f)

    def macs(self, call):
        yield call["x"], call["weight"], prod(call.shape) * shape(call["x"])[-1]


# The record: end


class Stranger(nn.Module):
    """A layer that calls it along one dim."""

    def __init__(self, inputs: int, outputs: int, axis: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = scaled_linear(x.movedim(self.axis, -1), self.weight, -0.7)
        return y.movedim(-1, self.axis)
