"""Teach lissom an operator: one record of what it does to dims, constants and sizes, and its MACs.

    from lissom.operators import Operator, contract, operator, shape

    @operator("mylib::scaled_linear")
    class ScaledLinear(Operator):
        def couple(self, c, call):
            return contract(c, call, call["x"], call["weight"])

        def constant(self, k, call):
            return k.layer(call, call["x"], call["weight"], None, torch.nn.functional.linear)

        def macs(self, call):
            yield call["x"], call["weight"], prod(call.shape) * shape(call["x"])[-1]

A record of torch's own operators is looked up by the same name: `Elementwise`, `Movement` and the
others in `lissom.coupling.operators` can be taken as they are, as in
`operator("mylib::swish")(Elementwise)`.
"""

from lissom.coupling.constants import Constants, uniform
from lissom.coupling.contractions import contract
from lissom.coupling.coupler import Coupler
from lissom.coupling.operators.elementwise import Elementwise
from lissom.coupling.operators.movement import Movement
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, Unsupported, operator
from lissom.coupling.resizing import Cut

__all__ = [
    "Call",
    "Constants",
    "Coupler",
    "Cut",
    "Elementwise",
    "Movement",
    "Operator",
    "Unsupported",
    "concrete",
    "contract",
    "operator",
    "shape",
    "uniform",
]
