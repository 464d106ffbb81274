"""The traced graph of a network, read node by node into layers."""

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lissom.errors import LissomError
from lissom.exporting.c.layers import Gather, Layer, Network, Value, as_map
from lissom.exporting.c.views import (
    MOVES,
    UnreadableError,
    View,
    canonical,
    moved,
    require_unread,
    views_in,
)

SUPPORTED = (
    "dense layers, convolutions in 1 or 2 dims, BatchNorm, ReLU and its bounded kin, max and "
    "average pooling, activations by entry, sums and products of branches, concatenation, "
    "padding, and what only moves entries"
)

Rule = Callable[..., View]


class Reader:
    """Reads the nodes of a graph one by one.

    Attributes:
        rules: how operators are read.
        layers: what was read so far.
        name: of the module in which the node stands.
    """

    def __init__(self, program: ExportedProgram, rules: Mapping[Any, Rule]) -> None:
        self.program = program
        self.rules = rules
        self.layers: list[Layer] = []
        self.name = ""

    def network(self) -> Network:
        """All of the graph.

        Raises:
            LissomError: naming the module and the operator that C knows nothing of.
        """
        signature, graph = self.program.graph_signature, self.program.graph
        given = {spec.arg.name: spec for spec in signature.input_specs}
        constants = {**self.program.state_dict, **self.program.constants}
        known: dict[fx.Node, Any] = {}
        inputs: list[View] = []
        shape: tuple[int, ...] = ()
        for node in graph.nodes:
            if node.op == "placeholder":
                spec = given[node.name]
                if spec.kind == InputKind.USER_INPUT:
                    if not isinstance(node.meta["val"], Tensor):
                        raise LissomError("C is written for a network of one tensor")
                    shape = _shape_of(node)
                    known[node] = _input(node, shape)
                    inputs.append(known[node])
                else:
                    known[node] = constants[spec.target].detach().cpu().clone()  # may be written to
            elif node.op == "call_function":
                known[node] = self._called(node, known)
            elif node.op == "output":
                (returned,) = node.args
                outputs = [known[x] for x in returned if isinstance(x, fx.Node)]
        if len(inputs) != 1 or len(outputs) != 1:
            raise LissomError(
                f"C is written for a network of one input and one output; this one has "
                f"{len(inputs)} and {len(outputs)}"
            )
        (output,) = outputs
        if not isinstance(output, View):
            raise LissomError("the outputs of the network do not depend on its input")
        (view,) = inputs
        order = output.order.flatten()
        return Network(
            view.value, shape, tuple(self.layers), output.value, order, tuple(output.order.shape)
        )

    def _called(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
        stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
        self.name = str(stack[-1][0])
        if node.target is operator.getitem or not views_in((args, kwargs)):
            target: Any = node.target  # computed from weights alone, or one of several outputs
            return target(*args, **kwargs)
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # of x.float()
            return None
        try:
            require_unread(node, known)
            if node.target in MOVES:
                return moved(node.target, args, kwargs)
            if node.target in self.rules:
                return self._layer(node, args, kwargs)
        except UnreadableError as error:
            raise LissomError(f"{self._where(node)} has no form in C: {error}") from None
        raise LissomError(f"{self._where(node)} has no form in C, which knows {SUPPORTED}")

    def _layer(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        found = self.rules[node.target](self, *args, **kwargs)
        made = node.meta["val"]
        several = isinstance(made, tuple)  # pooling gives positions as well, which nobody reads
        shape = (made[0] if several else made).shape[1:]
        if found.order.shape != shape:
            raise UnreadableError(
                f"it gives {list(shape)} where whole windows give {list(found.order.shape)}"
            )
        return (found, None) if several else found

    def _where(self, node: fx.Node) -> str:
        return f"{self.name or 'the network'} ({node.target})"

    def add(
        self, kind: type[Layer], inputs: Sequence[Value], shape: Sequence[int], **more: Any
    ) -> View:
        """One more layer, whose output is of this shape without the batch."""
        if not prod(shape):
            raise UnreadableError("it has no outputs")
        channels, height, width = as_map(shape)
        output = Value((height, width, channels))
        self.layers.append(kind(self.name, tuple(inputs), output, **more))
        return View(output, canonical(shape))

    def map(self, view: View) -> Value:
        """The tensor as a map of its own shape, moved there if it stands otherwise."""
        shape = view.order.shape
        if len(shape) > 3:
            raise UnreadableError(
                f"maps have at most channels, height and width, not {list(shape)}"
            )
        channels, height, width = as_map(shape)
        same = torch.equal(view.order, canonical(shape))
        if same and view.value.shape == (height, width, channels):
            return view.value
        positions = torch.empty(view.order.numel(), dtype=torch.int64)
        positions[canonical(shape).flatten()] = view.order.flatten()
        return self.add(Gather, [view.value], shape, positions=positions).value


def _shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape without the batch."""
    value = node.meta["val"]
    return tuple(int(size) for size in value.shape[1:])


def _input(node: fx.Node, shape: tuple[int, ...]) -> View:
    if len(shape) > 3:
        raise LissomError(
            f"inputs are vectors, or have channels, height and width; not {list(shape)}"
        )
    if not node.meta["val"].ndim:
        raise LissomError("inputs have a first dim, the batch; this network reads a number")
    channels, height, width = as_map(shape)
    return View(Value((height, width, channels)), canonical(shape))
