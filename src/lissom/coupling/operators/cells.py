"""One step of a recurrent layer, as in loops that a model writes itself."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from lissom.coupling.constants import Constants, product, zeros_where
from lissom.coupling.contractions import NONE, record
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, placed
from lissom.coupling.operators.recurrent import tie_gates
from lissom.coupling.ops import Call, shape
from lissom.coupling.records import Operator, operator
from lissom.coupling.sites import Contraction
from lissom.groups import Role


@operator("rnn_tanh_cell", "rnn_relu_cell")
class Cell(Operator):
    """Unit j of a cell: its rows in all gates, and the columns that read it in the next step.

    Attributes:
        gates: how many are stacked in the weights.
        candidate: the gate that moves the state.
        remembers: whether what was in the state stays there.
    """

    gates = 1
    candidate = 0
    remembers = False

    def states(self, call: Call) -> list[fx.Node]:
        """What the step before gave; an LSTM's inner state last."""
        return list(call["hx"]) if isinstance(call["hx"], list | tuple) else [call["hx"]]

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        x, states, (first, second) = call["input"], self.states(call), self.weights(call)
        unit = c.tie(c.vector(second, 1), *(c.vector(state, -1) for state in states))
        for p in (first, second, call["b_ih"], call["b_hh"]):
            if p is not None:
                unit = tie_gates(c, p, unit, self.gates)
                c.mark(p, 0, Role.NORM if p in (first, second) else Role.ZEROED)
        for source, weight in ((x, first), (states[0], second)):
            c.mark(weight, 1, Role.CUT)
            read, rows = c.tie(c.vector(source, -1), c.vector(weight, 1)), c.vector(weight, 0)
            dim, work = len(c.trace.shape(source)) - 1, self.work(source, weight)
            site = Contraction(call.node, source, dim, NONE, weight, (1, 0), rows, macs=work)
            record(c, site, read, rows)
        axes = () if unit is None else (placed(unit, -1, len(c.trace.shape(x))),)
        return axes if isinstance(call.result, Tensor) else [axes for _ in call.result]

    def weights(self, call: Call) -> tuple[Any, Any]:
        """Those of the input and of the state."""
        return call["w_ih"], call["w_hh"]

    def constant(self, k: Constants, call: Call) -> Any:
        """A unit whose candidate gate does not move it, from zero: zero."""
        states, biases = self.states(call), (call["b_ih"], call["b_hh"])
        width = shape(call["w_hh"])[1]
        zero = torch.ones((), dtype=torch.bool)
        for x, weight, bias in zip(
            (call["input"], states[0]), self.weights(call), biases, strict=True
        ):
            rows = k.of(weight).unflatten(0, (self.gates, width))[self.candidate]
            sums = product(k.of(x), rows, F.linear)
            if bias is not None:
                sums = sums + k.of(bias).unflatten(0, (self.gates, width))[self.candidate]
            zero = zero & (sums == 0)
        if self.remembers:
            zero = zero & (k.of(states[-1]) == 0)
        known = zeros_where(zero)
        return known if isinstance(call.result, Tensor) else [known for _ in call.result]

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        first, second = (shape(weight) for weight in self.weights(call))
        return {"input_size": first[1], "hidden_size": second[1]}

    def work(self, x: Any, weight: Any) -> int:
        """Multiply–accumulates of one product."""
        return prod(shape(x)[:-1]) * prod(shape(weight))

    def macs(self, call: Call) -> Iterator[tuple[Any, Any, int]]:
        sources = (call["input"], self.states(call)[0])
        for x, weight in zip(sources, self.weights(call), strict=True):
            yield x, weight, self.work(x, weight)


@operator("gru_cell")
class GRUCell(Cell):
    """Reset, update, and the candidate."""

    gates, candidate, remembers = 3, 2, True


@operator("lstm_cell")
class LSTMCell(Cell):
    """Input, forget, the candidate, and output."""

    gates, candidate, remembers = 4, 2, True
