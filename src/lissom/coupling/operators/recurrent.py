"""Recurrent layers, whose units feed back into themselves."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from lissom.coupling.constants import NAN, Constants
from lissom.coupling.contractions import NONE, record
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, placed
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, Unsupported, macs, operator
from lissom.coupling.resizing import Cut
from lissom.coupling.sites import Contraction, MustVanish
from lissom.groups import Role


@operator("rnn_tanh", "rnn_relu")
class Recurrent(Operator):
    """Unit j of a recurrent layer: its rows in all gates, and what all steps and layers read of it.

    torch gives all layers and directions one width, so unit j goes in all of them, or in none.

    Attributes:
        gates: how many are stacked in the weights.
        candidate: the gate that moves the state.
    """

    gates = 1
    candidate = 0

    def layers_of(self, call: Call) -> list[list[Any]]:
        """The tensors of each layer and direction: w_ih, w_hh, and two biases if it has them.

        Raises:
            Unsupported: for packed sequences, and for states that are projected.
        """
        if call["input"] is None:
            raise Unsupported("its sequences are packed")
        each, params = 4 if call["has_biases"] else 2, list(call["params"])
        if len(params) != each * self.directions(call) * int(concrete(call["num_layers"])):
            raise Unsupported("its states are projected")
        return [params[i : i + each] for i in range(0, len(params), each)]

    def directions(self, call: Call) -> int:
        """1, or 2."""
        return 2 if call["bidirectional"] else 1

    def states(self, call: Call) -> list[fx.Node]:
        """The initial states."""
        return list(call["hx"]) if isinstance(call["hx"], list | tuple) else [call["hx"]]

    def couple(self, c: Coupler, call: Call) -> list[Axes]:
        x, directions, layers = call["input"], self.directions(call), self.layers_of(call)
        ndim, width = len(c.trace.shape(x)), c.trace.shape(layers[0][1])[1]
        work = macs(call)
        unit = c.vector(layers[0][1], 1)
        for state in self.states(call):
            if (own := c.vector(state, -1)) is not None:
                unit = c.tie(unit, own)
        for number, (first, *others) in enumerate(layers):
            for p in (first, *others):
                rows = c.vector(p, 0)
                if rows is None or unit is None:
                    unit = c.tie(unit, rows)
                    continue
                c.labels.union(rows.reshape(self.gates, width), unit[None])
                c.mark(p, 0, Role.NORM if p in (first, others[0]) else Role.ZEROED)
            unit = c.tie(unit, c.vector(others[0], 1))
            c.mark(others[0], 1, Role.CUT)
            c.mark(first, 1, Role.CUT)
            if number < directions:
                read = c.tie(c.vector(x, -1), c.vector(first, 1))
                rows = c.vector(first, 0)
                site = Contraction(call.node, x, ndim - 1, NONE, first, (1, 0), rows, macs=work)
                record(c, site, read, rows)
                work = 0
            else:
                below = None if unit is None else np.tile(unit, directions)
                c.tie(below, c.vector(first, 1))
        if unit is None:
            return [() for _ in call.result]
        every = np.tile(c.labels.find(unit), directions)
        c.sites.append(MustVanish(call.node, call.node, ndim - 1, every, output=0))
        states = [(placed(unit, -1, ndim),)] * (len(call.result) - 1)
        return [(placed(every, -1, ndim),), *states]

    def constant(self, k: Constants, call: Call) -> Any:
        """Units whose candidate gate never moves, from a zero state: zero for ever."""
        layers, directions = self.layers_of(call), self.directions(call)
        shapes = [shape(part) for part in call.result]
        width = shapes[1][-1]
        if k.get(layers[0][1]) is None:
            return [None for _ in shapes]
        still = []
        for i, params in enumerate(layers):
            rows = [k.of(p).reshape(self.gates, width, -1) for p in params]
            zero = torch.stack([(r[self.candidate] == 0).all(-1) for r in rows]).all(0)
            for state in self.states(call):
                zero &= (k.of(state)[i] == 0).reshape(-1, width).all(0)
            still.append(torch.where(zero, 0.0, NAN).double())
        final = torch.stack(still).view(len(still), *[1] * (len(shapes[1]) - 2), width)
        top = torch.cat(still[-directions:]).expand(shapes[0])
        return [top, *(final.expand(sizes) for sizes in shapes[1:])]

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        inner, recurrent = (shape(p) for p in call["params"][:2])
        return {"input_size": inner[1], "hidden_size": recurrent[1]}

    def rewrite(self, cut: Cut) -> None:
        """Initial states that are given at their full width lose what the units lose."""
        weight, states = cut.call["params"][1], self.states(cut.call)
        width = cut.left(weight)[1]
        if width == cut.was(weight)[1]:
            return
        stays = cut.stays(weight, 1)
        twins = [
            cut.twin(state)
            if cut.left(state)[-1] == width
            else cut.selected(state, stays, like=weight)
            for state in states
        ]
        cut.set("hx", twins if isinstance(cut.call["hx"], list | tuple) else twins[0])

    def macs(self, call: Call) -> Iterator[tuple[Any, Any, int]]:
        """Every matrix once in every step."""
        steps = prod(shape(call["data"] if call["input"] is None else call["input"])[:-1])
        for weight in call["params"]:
            if len(shape(weight)) == 2:
                yield None, weight, steps * prod(shape(weight))


@operator("gru")
class GRU(Recurrent):
    """Reset, update, and the candidate."""

    gates, candidate = 3, 2


@operator("lstm")
class LSTM(Recurrent):
    """Input, forget, the candidate, and output."""

    gates, candidate = 4, 2
