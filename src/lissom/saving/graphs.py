"""A traced graph as data: which of torch's operations are called with what, and no code.

`torch.export` has a format of its own, but reading it unpickles objects and evaluates expressions
that stand in the file, which can be any program. Here operations are looked up by name among those
that come with torch; everything else in a file is a tensor, a number, or one of a few words.

| value | in JSON |
| --- | --- |
| None, truth value, number, text | itself |
| result of a node | {"node": number} |
| list or tuple | list |
| float that JSON does not have | {"float": "inf"} |
| torch.float32, torch.strided, torch.contiguous_format | {"torch": "float32"} |
| device | {"device": "cpu"}, since that is where tensors are that are read |
| slice | {"slice": [start, stop, step]} |
"""

import keyword
import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree

from lissom.errors import RunError
from lissom.parametrized import full_name
from lissom.running import named_tensors
from lissom.saving.parts import take_inputs
from lissom.saving.reports import ReportRecord
from lissom.shrinking import Surgery
from lissom.shrinking.graph import OpenSizes, ShrunkGraph
from lissom.storage import checked

GRAPH = "lissom graph 1"

NAME = re.compile(r"[\w-]+(\.[\w-]+)*")  # of a tensor; fx writes it into the code that it makes
# Public operations check what they are called with. Some below them trust it.
OPERATION = re.compile(r"aten\.([a-zA-Z]\w*|_assert_\w+|__i?(?:and|or|xor)__)\.(\w+)")
WORDS = (torch.dtype, torch.layout, torch.memory_format)
_OPERATORS = (
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod),
    *(operator.neg, operator.pow, operator.getitem, operator.and_, operator.or_, operator.not_),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(math.ceil, math.floor, math.trunc, math.sqrt),
    *(torch.sym_int, torch.sym_float, torch.sym_max, torch.sym_min, torch.sym_not),
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"{found.__module__.strip('_')}.{found.__name__}": found for found in _OPERATORS},
    "set_grad_enabled": torch.ops.higher_order.wrap_with_set_grad_enabled,
    "enter_autocast": _enter_autocast,
    "exit_autocast": _exit_autocast,
}
NAMES = {id(function): name for name, function in FUNCTIONS.items()}


@dataclass(frozen=True)
class NodeRecord:
    """One node: its operation, or the name of its tensor, and what it is called with."""

    op: Literal["placeholder", "get_attr", "call_function", "output"]
    target: str
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class SignatureRecord:
    """The names of arguments, and how the tensors of inputs and outputs are nested."""

    arguments: list[str]
    inputs: Any
    outputs: Any


@dataclass(frozen=True)
class GraphRecord:
    """What a file says besides tensors.

    Attributes:
        graphs: the nodes of each graph, by the path of its module; "" is the network.
        signature: how it is called.
        sizes: the shapes of the inputs, None for each size that may be another; an input that is
            no tensor as {"is": value}.
        parameters: which of the tensors are some, and whether they are trained.
        inputs: of which only some entries are left, by position: the dim.
        tied: names of tensors that are others' as well.
        keywords: of the inputs, in their order.
        report: of `shrink`; files of earlier versions have none.
    """

    graphs: dict[str, list[NodeRecord]]
    signature: SignatureRecord
    sizes: list[Any]
    parameters: dict[str, bool]
    inputs: dict[int, int | None]
    tied: dict[str, str]
    keywords: list[str] = field(default_factory=list)
    report: ReportRecord | None = None


def record_of_graph(net: nn.Module, surgery: Surgery) -> dict[str, Any]:
    """All of a traced graph that is no tensor, but for inputs and tied tensors.

    Raises:
        RunError: if it calls what does not come with torch, or returns objects of another class.
    """
    graphs = {
        path: _nodes(module.graph)
        for path, module in net.named_modules()
        if isinstance(module, fx.GraphModule)
    }
    assert isinstance(net, fx.GraphModule)
    for name, _ in named_tensors(net):
        _checked_name(name)
    info: _PyTreeInfo = net.graph._codegen.pytree_info  # type: ignore[attr-defined]
    hooks = net._forward_pre_hooks.values()
    [inputs] = (hook.inputs for hook in hooks if isinstance(hook, OpenSizes))
    return {
        "graphs": graphs,
        "signature": {
            "arguments": list(info.orig_args),
            "inputs": _nesting(info.in_spec),
            "outputs": _nesting(info.out_spec),  # type: ignore[arg-type]
        },
        "sizes": [list(x) if isinstance(x, tuple) else {"is": _encoded(x, {})} for x in inputs],
        "parameters": {name: p.requires_grad for name, p in net.named_parameters()},
    }


def graph_of(
    record: dict[str, Any], tensors: dict[str, Tensor], path: Path
) -> tuple[nn.Module, Surgery, ReportRecord | None]:
    """The graph that a file describes, and which inputs it reads.

    Raises:
        RunError: if the file describes none.
    """
    told = checked(GraphRecord, record, path)
    try:
        inputs = take_inputs(told.inputs, tensors)
        root = nn.Module()
        for name, tensor in tensors.items():
            parameter = name in told.parameters
            made = nn.Parameter(tensor, told.parameters[name]) if parameter else tensor
            _place(root, name, made)
        own = dict(named_tensors(root))
        for name, owner in told.tied.items():
            _place(root, name, own[owner])
        names = {*tensors, *told.tied, *told.graphs}
        # Graphs within others are made before these.
        for at in sorted(told.graphs, key=lambda at: -len(at)):
            module = _module(root, at)
            graph = _graph(told.graphs[at], None if at else told.signature)
            read = {str(node.target) for node in graph.find_nodes(op="get_attr")}
            if odd := {full_name(at, name) for name in read} - names:
                raise ValueError(f"it reads {', '.join(sorted(odd))}, which the file has not")
            made_graph = ShrunkGraph(module, graph, class_name="Shrunk")
            for name in read:  # what the class of graphs has under that name comes first
                if not isinstance(attrgetter(name)(made_graph), Tensor | fx.GraphModule):
                    raise ValueError(f"no tensor or graph can be called {name!r}")
            if at:
                _place(root, at, made_graph)
        made_graph.register_forward_pre_hook(
            OpenSizes([_input(x) for x in told.sizes]), with_kwargs=True
        )
    except Exception as error:  # what is no graph may fail in any way
        raise RunError(f"{path} does not describe a graph: {error}") from error
    return made_graph, Surgery(inputs=inputs), told.report


def _input(told: Any) -> Any:
    """A shape, or what an input is that is no tensor."""
    match told:
        case {"is": value, **rest} if not rest:
            return _decoded(value, [])
        case list() if all(size is None or type(size) is int for size in told):
            return tuple(told)
    raise ValueError(f"{told!r} is no input")


def _nodes(graph: fx.Graph) -> list[dict[str, Any]]:
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    return [
        {
            "op": node.op,
            "target": _name(node.target) if node.op == "call_function" else str(node.target),
            "args": [] if node.op == "placeholder" else _encoded(node.args, numbers),
            "kwargs": {name: _encoded(value, numbers) for name, value in node.kwargs.items()},
        }
        for node in graph.nodes
    ]


def _graph(nodes: list[NodeRecord], signature: SignatureRecord | None) -> fx.Graph:
    graph = fx.Graph()
    made: list[fx.Node] = []
    for number, node in enumerate(nodes):
        args = tuple(_decoded(value, made) for value in node.args)
        kwargs = {name: _decoded(value, made) for name, value in node.kwargs.items()}
        match node.op:
            case "placeholder":
                made.append(graph.placeholder(f"input_{number}"))
            case "get_attr":
                made.append(graph.get_attr(_checked_name(node.target)))
            case "call_function":
                function = _function(node.target)
                _check_keywords(function, kwargs)
                made.append(graph.call_function(function, args, kwargs))
            case "output":
                made.append(graph.output(args[0]))
    if signature is not None:
        for name in signature.arguments:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"an argument cannot be called {name!r}")
        specs = map(_spec, (signature.inputs, signature.outputs))
        graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(list(signature.arguments), *specs)))
    graph.lint()
    return graph


def _name(target: Any) -> str:
    """What a function is called in files.

    Raises:
        RunError: if files cannot have it.
    """
    name = NAMES.get(id(target), str(target))
    try:
        _function(name)
    except ValueError as error:
        raise RunError(
            f"save cannot write this traced graph: {error}. lissom.export writes it as a .pt2"
        ) from error
    return name


def _function(name: str) -> Callable[..., Any]:
    """The function of a name, if it can do nothing but compute.

    Raises:
        ValueError: if it is not known to be such a one.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    match = OPERATION.fullmatch(name)
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    found = getattr(packet, match[2], None) if match else None
    if (
        isinstance(found, torch._ops.OpOverload)
        and torch._C._dispatch_has_kernel(found.name())
        and all(argument.name != "filename" for argument in found._schema.arguments)
    ):
        return found
    raise ValueError(f"{name} is none of the operations on tensors that come with torch")


def _check_keywords(function: Callable[..., Any], names: Collection[str]) -> None:
    """See that a function has arguments of these names; fx writes them into the code it makes."""
    schema = getattr(function, "_schema", None)
    known = [argument.name for argument in schema.arguments] if schema is not None else []
    if odd := [name for name in names if name not in known or keyword.iskeyword(name)]:
        raise ValueError(f"{getattr(function, '__name__', function)} has no argument {odd[0]!r}")


def _encoded(value: Any, numbers: dict[fx.Node, int]) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case list() | tuple():
            return [_encoded(item, numbers) for item in value]
        case fx.Node():
            return {"node": numbers[value]}
        case torch.device():
            return {"device": "cpu"}
        case slice():
            ends = (value.start, value.stop, value.step)
            return {"slice": [_encoded(end, numbers) for end in ends]}
    if isinstance(value, WORDS):
        return {"torch": str(value).removeprefix("torch.")}
    raise RunError(f"save cannot write this traced graph: it holds the constant {value!r}")


def _decoded(value: Any, made: list[fx.Node]) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_decoded(item, made) for item in value]
        case {"float": "inf" | "-inf" | "nan" as word, **rest} if not rest:
            return float(word)
        case {"node": int(number), **rest} if not rest and 0 <= number < len(made):
            return made[number]
        case {"device": "cpu", **rest} if not rest:
            return torch.device("cpu")
        case {"slice": [start, stop, step], **rest} if not rest:
            return slice(*(_decoded(end, made) for end in (start, stop, step)))
        case {"torch": str(word), **rest} if not rest and isinstance(
            getattr(torch, word, None), WORDS
        ):
            return getattr(torch, word)
    raise ValueError(f"{value!r} is no argument of an operation")


def _nesting(spec: _pytree.TreeSpec) -> Any:
    """How tensors are nested, with None for each of them."""

    def encoded(tree: Any) -> Any:
        match tree:
            case None:
                return None
            case tuple() | list() if type(tree) in (tuple, list):
                return {type(tree).__name__: [encoded(item) for item in tree]}
            case dict() if type(tree) is dict and all(type(key) is str for key in tree):
                return {"dict": {key: encoded(item) for key, item in tree.items()}}
        raise RunError(
            "save writes traced graphs of networks that take and return tensors, tuples, lists and "
            f"dicts, got {type(tree).__name__}"
        )

    return encoded(_pytree.tree_unflatten([None] * spec.num_leaves, spec))


def _spec(nesting: Any) -> _pytree.TreeSpec:
    def decoded(value: Any) -> Any:
        match value:
            case None:
                return None
            case {"tuple": list(items), **rest} if not rest:
                return tuple(map(decoded, items))
            case {"list": list(items), **rest} if not rest:
                return list(map(decoded, items))
            case {"dict": dict(items), **rest} if not rest:
                return {key: decoded(item) for key, item in items.items()}
        raise ValueError(f"{value!r} says not how tensors are nested")

    return _pytree.tree_structure(decoded(nesting))


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise RunError(f"a tensor of a graph that is saved cannot be called {name!r}")
    return name


def _module(root: nn.Module, path: str) -> nn.Module:
    """The module at a path, made where there is none."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _place(root: nn.Module, name: str, value: Tensor | nn.Module) -> None:
    path, _, last = _checked_name(name).rpartition(".")
    owner = _module(root, path)
    if isinstance(value, nn.Module):
        owner._modules[last] = value
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(last, value)
    else:
        owner.register_buffer(last, value)
