"""Cutting the traced program, for what a module's own code cannot express.

The result is a graph of the operations that evaluation mode runs, with the cut tensors as its
parameters and every literal size rewritten. It can be trained further, in that mode.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from lissom.coupling.constants import Constants
from lissom.coupling.coupler import Coupler
from lissom.coupling.ops import call
from lissom.coupling.records import asked
from lissom.coupling.resizing import Cut, rest
from lissom.errors import LissomError
from lissom.shrinking.decision import Decision
from lissom.shrinking.surgery import Surgery, folded


def cut_graph(
    coupler: Coupler,
    decision: Decision,
    constants: Constants,
    surgery: Surgery,
    sizes: Sequence[Any],
) -> fx.GraphModule:
    """A new module that runs the traced graph on what is left, for inputs of these sizes.

    Raises:
        GroupError: where a size that depends on the input would have to be rewritten.
    """
    trace = coupler.trace
    with warnings.catch_warnings(action="ignore"):  # torch.fx on torch's own doings
        graph = copy.deepcopy(trace.program.graph)
        small = ShrunkGraph(trace.program, graph, class_name="Shrunk")
    twins = dict(zip(trace.program.graph.nodes, graph.nodes, strict=True))
    _cut_tensors(small, coupler, surgery, partial(rest, coupler, decision.times))
    for node in list(trace.nodes):
        if node.op == "call_function":
            asked("rewrite", call(node), Cut(small, coupler, decision.times, node, twins))
    for i, (site, values) in enumerate(decision.folds.items()):
        added = folded(coupler, decision, constants, site, values)
        _add_to_bias(small, twins[site.node], site.bias and twins[site.bias], added, i)
    graph.lint()
    small.recompile()
    small.register_forward_pre_hook(OpenSizes(sizes), with_kwargs=True)
    return small


class ShrunkGraph(fx.GraphModule):
    """A graph whose copies have its report and refuse what it refuses; torch leaves both out."""

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        twin: fx.GraphModule = super().__deepcopy__(memo)
        for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "shrinkage"):
            if name in self.__dict__:
                object.__setattr__(twin, name, copy.deepcopy(self.__dict__[name], memo))
        return twin

    def __reduce__(self) -> NoReturn:
        raise LissomError(
            "this network is a traced graph, which pickle, and so torch.save(net), could write but "
            "not read again: lissom.save(net, path) and lissom.load(path) can, and "
            "torch.save(net.state_dict()) writes its weights"
        )


class OpenSizes:
    """Refuses inputs that the graph was not traced for: it might run on them, and be wrong.

    Attributes:
        inputs: for each input its shape, None for a size that may be any; or what it has to be, if
            it is no tensor.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = list(inputs)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        given = torch.utils._pytree.tree_leaves(list(bound.arguments.values()))
        for x, wanted in zip(given, self.inputs, strict=False):
            if isinstance(wanted, tuple):
                fits = (
                    isinstance(x, Tensor)
                    and x.ndim == len(wanted)
                    and all(
                        size is None or n == size for n, size in zip(x.shape, wanted, strict=True)
                    )
                )
                said = "×".join("any" if size is None else str(size) for size in wanted)
                got = "×".join(map(str, x.shape)) if isinstance(x, Tensor) else repr(x)
            else:
                fits, said, got = type(x) is type(wanted) and x == wanted, repr(wanted), repr(x)
            if not fits:
                raise LissomError(f"this traced graph takes an input of {said}, got {got}")


def _cut_tensors(
    small: fx.GraphModule,
    coupler: Coupler,
    surgery: Surgery,
    cut: Callable[[fx.Node, Tensor], Tensor],
) -> None:
    """Tensors of its own for the new module: cut, or copied."""
    tensors: dict[str, Tensor] = {}
    for node, old in coupler.trace.tensors.items():
        name = coupler.trace.names.get(node, f"constant {node.target}")
        if name not in tensors:
            new = surgery.cut(name, old) if node in coupler.trace.names else cut(node, old)
            parameter = isinstance(old, nn.Parameter)
            tensors[name] = nn.Parameter(new, old.requires_grad) if parameter else new
        path, _, last = str(node.target).rpartition(".")
        owner = small.get_submodule(path)
        if isinstance(tensors[name], nn.Parameter):
            setattr(owner, last, tensors[name])
        else:
            owner._parameters.pop(last, None)
            owner.__dict__.pop(last, None)
            owner.register_buffer(last, tensors[name])


def _add_to_bias(
    small: fx.GraphModule, node: fx.Node, bias: fx.Node | None, added: Tensor, number: int
) -> None:
    if bias is not None:
        parameter = small.get_parameter(str(bias.target))
        with torch.no_grad():
            parameter.add_(added.to(parameter))
        return
    name = f"folded_{number}"
    like = next(small.parameters())
    small.register_parameter(name, nn.Parameter(added.to(like)))
    with node.graph.inserting_before(node):
        new_bias = node.graph.get_attr(name)
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    args = list(node.args)
    position = names.index("bias")
    args += [None] * (position + 1 - len(args))
    args[position] = new_bias
    node.args = tuple(args)
