"""Parts of a network that run without gradients or autocast, as torch.export has them in graphs.

    with torch.no_grad(): …                        # wrap_with_set_grad_enabled(False, graph, x, …)
    with torch.autocast("cuda", enabled=False): …  # wrap_with_autocast("cuda", …, graph, x, …)

Their operations are put into the graph around them, so that units are followed through.
"""

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

WITHOUT_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled
WITH_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def open_regions(program: fx.GraphModule, devices: Collection[str]) -> None:
    """Put the operations of regions into the graph, where they compute the same there.

    What leaves one without gradients is detached, and autocast is entered and left around the
    operations. Where it is on for a device of the network, it stays closed: what is computed in it
    is of another dtype.

    Args:
        program: is changed.
        devices: types of those that the network is on, such as "cpu".
    """
    todo = list(program.graph.nodes)
    while todo:
        node = todo.pop()
        if node.target is WITHOUT_GRADIENTS and not node.args[0]:
            todo += _open(program, node, 1)
        elif node.target is WITH_AUTOCAST and not (node.args[2] and node.args[0] in devices):
            todo += _open(program, node, 4)


def _open(program: fx.GraphModule, region: fx.Node, at: int) -> list[fx.Node]:
    """Put a region's operations in its place, and return them.

    Args:
        program: with the region.
        region: whose arguments are what it sets, its graph, and what that reads.
        at: which argument is the graph.
    """
    arguments: Any = region.args
    graph, setting, held, rest = program.graph, arguments[:at], arguments[at], arguments[at + 1 :]
    inner: fx.GraphModule = operator.attrgetter(held.target)(program)
    known: dict[fx.Node, Any] = dict(
        zip(inner.graph.find_nodes(op="placeholder"), rest, strict=True)
    )
    with graph.inserting_before(region):
        entered = graph.call_function(_enter_autocast, setting) if at > 1 else None
        for node in inner.graph.nodes:
            if node.op == "get_attr":
                known[node] = _held(program, operator.attrgetter(str(node.target))(inner), node)
            elif node.op not in ("placeholder", "output"):
                known[node] = graph.node_copy(node, known.__getitem__)
        if entered is not None:
            graph.call_function(_exit_autocast, (entered,))
        (returned,) = inner.graph.output_node().args
        outputs: Any = fx.node.map_arg(returned, known.__getitem__)
        if entered is None:
            outputs = [_detached(graph, x) for x in outputs]
    for reader in list(region.users):  # which take one of the outputs each
        place: Any = reader.args[1]
        reader.replace_all_uses_with(outputs[place])
        graph.erase_node(reader)
    graph.erase_node(region)
    if not held.users:
        graph.erase_node(held)
    return [known[node] for node in inner.graph.nodes if node.op == "call_function"]


def _held(program: fx.GraphModule, value: Any, node: fx.Node) -> fx.Node:
    """A tensor or graph that a region holds, held by the program."""
    name = f"{node.name}_of_region"
    while hasattr(program, name):
        name += "_"
    setattr(program, name, value)
    found = program.graph.get_attr(name)
    found.meta = dict(node.meta)
    return found


def _detached(graph: fx.Graph, output: Any) -> Any:
    if not isinstance(output, fx.Node) or not isinstance(output.meta.get("val"), Tensor):
        return output
    found = graph.call_function(torch.ops.aten.detach.default, (output,))
    found.meta = dict(output.meta)
    return found
