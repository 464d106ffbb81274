"""Recurrent layers, whose units feed back into themselves."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from lissom.coupling.constants import Constants, zeros_where
from lissom.coupling.contractions import NONE, record
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, Axis, placed
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, Unsupported, operator
from lissom.coupling.resizing import Cut
from lissom.coupling.sites import Contraction, MustVanish, Product
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

        What projects the state, if anything does, comes last.

        Raises:
            Unsupported: for packed sequences.
        """
        if call["input"] is None:
            raise Unsupported("its sequences are packed")
        params = list(call["params"])
        each = len(params) // (self.directions(call) * int(concrete(call["num_layers"])))
        return [params[i : i + each] for i in range(0, len(params), each)]

    def projects(self, call: Call) -> bool:
        """Whether what a layer gives is a projection of its state."""
        return len(self.layers_of(call)[0]) in (3, 5)

    def directions(self, call: Call) -> int:
        """1, or 2."""
        return 2 if call["bidirectional"] else 1

    def states(self, call: Call) -> list[fx.Node]:
        """The initial states: what is given, and an LSTM's inner one."""
        return list(call["hx"]) if isinstance(call["hx"], list | tuple) else [call["hx"]]

    def couple(self, c: Coupler, call: Call) -> list[Axes]:
        x, directions, layers = call["input"], self.directions(call), self.layers_of(call)
        ndim, projects = len(c.trace.shape(x)), self.projects(call)
        unit = None if c.vector(layers[0][0], 0) is None else c.labels.fresh([self.width(call)])
        given = c.vector(layers[0][-1], 0) if projects else unit
        for number, state in enumerate(self.states(call)):
            if (own := c.vector(state, -1)) is not None:
                if number == 0 and projects:
                    given = c.tie(given, own)
                else:
                    unit = c.tie(unit, own)
                    given = given if projects else unit
        for number, params in enumerate(layers):
            first, second, *others = params
            projection = others.pop() if projects else None
            for p in (first, second, *others):
                unit = tie_gates(c, p, unit, self.gates)
                c.mark(p, 0, Role.NORM if p in (first, second) else Role.ZEROED)
            if projection is None:
                given = unit
            else:
                given = c.tie(given, c.vector(projection, 0))
                unit = c.tie(unit, c.vector(projection, 1))
                c.mark(projection, 0, Role.NORM)
                c.mark(projection, 1, Role.CUT)
            given = c.tie(given, c.vector(second, 1))
            unit = unit if projects else given
            c.mark(second, 1, Role.CUT)
            c.mark(first, 1, Role.CUT)
            if number < directions:
                read = c.tie(c.vector(x, -1), c.vector(first, 1))
                rows = c.vector(first, 0)
                work = self.work(call, first)
                site = Contraction(call.node, x, ndim - 1, NONE, first, (1, 0), rows, macs=work)
                record(c, site, read, rows)
                inner = [second, projection]
            else:
                inner = [first, second, projection]
                below = None if given is None else np.tile(given, directions)
                c.tie(below, c.vector(first, 1))
            for weight in inner:
                if weight is not None:
                    work = self.work(call, weight)
                    c.products.append(Product(call.node, work, (0, 1), weight=weight))
        every = None if given is None else np.tile(c.labels.find(given), directions)
        if every is not None:
            c.sites.append(MustVanish(call.node, call.node, ndim - 1, every, output=0))
        if projects and unit is not None:
            c.sites.append(MustVanish(call.node, call.node, ndim - 1, unit, output=2))
        along = [every, given, unit][: len(call.result)]
        return [() if v is None else (placed(v, -1, ndim),) for v in along]

    def width(self, call: Call) -> int:
        """Of the state."""
        return shape(call["params"][0])[0] // self.gates

    def constant(self, k: Constants, call: Call) -> Any:
        """Units whose candidate gate never moves, from a zero state: zero for ever."""
        layers, directions = self.layers_of(call), self.directions(call)
        shapes, width = [shape(part) for part in call.result], self.width(call)
        if k.get(layers[0][1]) is None:
            return [None for _ in shapes]
        projects, states = self.projects(call), self.states(call)
        inner, given = [], []
        for i, params in enumerate(layers):
            moving = params[:-1] if projects else params
            rows = [k.of(p).reshape(self.gates, width, -1) for p in moving]
            still = torch.stack([(r[self.candidate] == 0).all(-1) for r in rows]).all(0)
            if projects:
                inner.append(still & starts_at_zero(k, states[1], i))
                zero = (k.of(params[-1]) == 0).all(-1) & starts_at_zero(k, states[0], i)
                given.append(zero)
                continue
            for state in states:
                still = still & starts_at_zero(k, state, i)
            inner.append(still)
            given.append(still)
        top = torch.cat(given[-directions:])
        beside = [1] * (len(shapes[1]) - 2)  # the batch, if there is one
        known = [
            top,
            *(torch.stack(zero).view(len(layers), *beside, -1) for zero in (given, inner)),
        ]
        return [zeros_where(zero).expand(sizes) for zero, sizes in zip(known, shapes, strict=False)]

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        first, second = (shape(p) for p in call["params"][:2])
        sizes = {"input_size": first[1], "hidden_size": first[0] // self.gates}
        return {**sizes, "proj_size": second[1]} if self.projects(call) else sizes

    def rewrite(self, cut: Cut) -> None:
        """Initial states that are given at their full width lose what the units lose."""
        first, twins = self.layers_of(cut.call)[0], []
        for number, state in enumerate(self.states(cut.call)):
            # The columns of w_hh read what was given, those of a projection the inner state.
            weight = first[-1] if number and self.projects(cut.call) else first[1]
            width = cut.left(weight)[1]
            whole = cut.left(state)[-1] != width
            twins.append(
                cut.selected(state, cut.stays(weight, 1), like=weight) if whole else cut.twin(state)
            )
        if twins != [cut.twin(state) for state in self.states(cut.call)]:
            cut.set("hx", twins if isinstance(cut.call["hx"], list | tuple) else twins[0])

    def work(self, call: Call, weight: Any) -> int:
        """Multiply–accumulates of a matrix: all of it in every step."""
        steps = shape(call["data"] if call["input"] is None else call["input"])[:-1]
        return prod(steps) * prod(shape(weight))

    def macs(self, call: Call) -> Iterator[tuple[Any, Any, int]]:
        for weight in call["params"]:
            if len(shape(weight)) == 2:
                yield None, weight, self.work(call, weight)


def tie_gates(c: Coupler, weight: fx.Node, unit: Axis | None, gates: int) -> Axis | None:
    """Unit j is row j of all the gates that are stacked in a weight or a bias."""
    rows = c.vector(weight, 0)
    if rows is None or unit is None:
        return c.tie(unit, rows)
    c.labels.union(rows.reshape(gates, -1), unit[None])
    return c.labels.find(unit)


def starts_at_zero(k: Constants, state: fx.Node, layer: int) -> torch.Tensor:
    """Which units of an initial state are known to be zero."""
    return (k.of(state)[layer] == 0).reshape(-1, shape(state)[-1]).all(0)


@operator("gru")
class GRU(Recurrent):
    """Reset, update, and the candidate."""

    gates, candidate = 3, 2


@operator("lstm")
class LSTM(Recurrent):
    """Input, forget, the candidate, and output."""

    gates, candidate = 4, 2
