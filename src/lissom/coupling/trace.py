"""A model as a graph of tensor operations, by torch.export."""

import contextlib
import logging
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lissom.errors import GroupError
from lissom.running import Example, as_inputs, evaluating


@dataclass(frozen=True)
class Trace:
    """What a model computes, operation by operation.

    Attributes:
        program: the exported program as a module; its tensors are the model's own.
        tensors: the model's parameters and buffers that the graph reads, by node.
        names: their names in the model (the first of them, where they are tied).
        example: the inputs it was traced with.
    """

    program: fx.GraphModule
    tensors: dict[fx.Node, Tensor]
    names: dict[fx.Node, str]
    example: tuple[Tensor, ...]

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The operations in their order."""
        return iter(self.program.graph.nodes)

    def module(self, node: fx.Node) -> tuple[str, str]:
        """The path and the class of the innermost module that an operation stands in."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        path = path.partition("@")[0]  # the second call of a module is called path@1
        return path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of the tensor that a node gives for the example."""
        value = self.tensors.get(node, node.meta.get("val"))
        assert isinstance(value, Tensor), f"{node} is no tensor"
        return tuple(int(size) for size in value.shape)


def trace(model: nn.Module, example: Example, *, dynamic: bool = False) -> Trace:
    """Export the model in evaluation mode; its mode and its tensors stay as they were.

    Args:
        model: any module that `torch.export` can read.
        example: inputs of the shapes the model will see; a batch of 2 or more is best.
        dynamic: leave the size of the first dim of each input open where the model allows it.

    Raises:
        LissomError: if the example holds anything but tensors.
        GroupError: if the model does not run on it or cannot be exported.
    """
    args = as_inputs(example)
    batch = args[0].shape[:1]
    if dynamic and batch == (1,):  # torch.export takes a size of 1 for a constant
        args = tuple(torch.cat([x, x]) if x.shape[:1] == batch else x for x in args)
    open_batch = tuple({0: torch.export.Dim.AUTO} if x.ndim else None for x in args)
    with _plainly(model):
        try:
            exported = torch.export.export(
                model, args, dynamic_shapes=open_batch if dynamic else None, strict=False
            )
        except Exception as error:
            raise GroupError(_why(model, args, error)) from error
        module = exported.module()
        for node in list(module.graph.nodes):
            if node.op == "call_module" and not node.users:  # the check of the inputs' shapes
                module.graph.erase_node(node)
        program = fx.GraphModule(module, module.graph)
    own = {
        _key(tensor): name
        for name, tensor in reversed([*_named_tensors(model)])
        if isinstance(tensor, Tensor)
    }
    tensors, names = {}, {}
    for node in program.graph.nodes:
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(str(node.target))(program)
        if isinstance(value, Tensor):
            tensors[node] = value
            if (name := own.get(_key(value))) is not None:
                names[node] = name
    return Trace(program, tensors, names, args)


@contextlib.contextmanager
def _plainly(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and without the fused attention that would hide the heads."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), _quiet():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _key(tensor: Tensor) -> tuple[object, ...]:
    """The same for tensors that are one and the same memory."""
    where = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
    return where, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _why(model: nn.Module, args: tuple[Any, ...], error: Exception) -> str:
    """What was wrong: the example, or the model."""
    given = ", ".join(
        "×".join(map(str, x.shape)) + f" {x.dtype}" if isinstance(x, Tensor) else repr(x)
        for x in args
    )
    name = type(model).__name__
    try:
        with torch.no_grad():
            model(*args)
    except Exception as failed:
        return f"{name} does not run on the example ({given}): {_first_line(failed)}"
    return (
        f"torch.export cannot read {name} (example: {given}): {_first_line(error)} "
        "Control flow that depends on values has to leave forward, or to go through torch.cond"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
