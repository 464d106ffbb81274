"""A model as a graph of tensor operations, by torch.export."""

import contextlib
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn

from lissom.coupling.ops import (
    call,
    fixed_size,
    has_sizes,
    is_tensor,
    operator_name,
    shape,
    size_symbols,
)
from lissom.coupling.records import memory_of
from lissom.coupling.regions import open_regions
from lissom.errors import GroupError
from lissom.running import (
    ExampleInputs,
    Inputs,
    as_inputs,
    attributes_kept,
    copied,
    evaluating,
    examples_in,
    named_tensors,
    register_dataclasses,
    require_layers,
    require_numbers,
    unchanged,
)
from lissom.shards import require_whole


@dataclass(frozen=True)
class Trace:
    """What a model computes, operation by operation.

    Attributes:
        program: the exported program as a module; its tensors are the model's own.
        tensors: the model's parameters and buffers that the graph reads, by node.
        names: their names in the model (the first of them, where they are tied).
        kinds: the classes of the model's modules, by path.
        example_inputs: the inputs it was traced with.
        dynamic: whether sizes that depend on the inputs are open in it.
        once: the operations none of whose sizes follows that of the batch.
        surely_open_sizes: as `open_sizes`, without sizes that something has fixed meanwhile, though
            it may not matter. Python may have read one, as `x.unbind(1)` does; then numbers made of
            it stand in the graph.
    """

    program: fx.GraphModule
    tensors: dict[fx.Node, Tensor]
    names: dict[fx.Node, str]
    kinds: dict[str, type[nn.Module]]
    example_inputs: Inputs
    dynamic: bool
    once: frozenset[fx.Node]
    surely_open_sizes: list[Any]

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The operations in their order."""
        return iter(self.program.graph.nodes)

    @cached_property
    def written(self) -> set[fx.Node]:
        """Parameters, buffers and inputs that the model writes to when it runs."""
        found = set()
        for node in self.nodes:
            if node.op == "call_function" and call(node).in_place:
                found.add(memory_of(node))
        return {node for node in found if node.op in ("get_attr", "placeholder")}

    def of_weights(self, node: fx.Node) -> bool:
        """Whether a tensor is made of parameters and constants alone, whatever the input."""
        return node in self._of_weights

    @cached_property
    def _of_weights(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node in self.nodes:
            fixed = node.op != "placeholder" and node not in self.written
            if fixed and found.issuperset(node.all_input_nodes):
                found.add(node)
        return found

    def examples_of(self, node: fx.Node) -> int:
        """How many examples an operation is for: one where it is done once for a batch."""
        return 1 if node in self.once else self.examples

    @cached_property
    def examples(self) -> int:
        """How many examples the batch has that was traced."""
        made = filter(is_tensor, self.program.graph.output_node().all_input_nodes)
        sized = [node for node in made if has_sizes(node.meta["val"])]
        outputs = [torch.empty(self.shape(node), device="meta") for node in sized]
        return examples_in(self.example_inputs, outputs)

    def module(self, node: fx.Node) -> tuple[str, str]:
        """The path and the class of the innermost module that an operation stands in."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, *_ = str(stack[-1][0] if stack else "").split("@")  # a second call is path@1
        kind = self.kinds.get(path)
        return path, "" if kind is None else f"{kind.__module__}.{kind.__qualname__}"

    def place(self, node: fx.Node) -> str:
        """An operation in words, as in "aten.linear at encoder.block2"."""
        path, _ = self.module(node)
        return f"{operator_name(node)} at {path}" if path else operator_name(node)

    def modules(self, node: fx.Node) -> list[str]:
        """The paths of all modules that an operation stands in, the outermost first."""
        stack = (node.meta.get("nn_module_stack") or {}).values()
        return [path.partition("@")[0] for path, _ in stack]

    @cached_property
    def open_sizes(self) -> list[Any]:
        """The shapes of the inputs, None for each size that may be another; other inputs as such.

        Those are written into the graph, which is right for no other ones.
        """
        return _sizes(self.program, lambda n: n if isinstance(n, int) else None)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of the tensor that a node gives for the example inputs."""
        return shape(node)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Trace:
    """Export the model in evaluation mode; its mode and its tensors stay as they were.

    Sizes that the model leaves open are open in the graph: the first dim, and all dims of inputs
    with less than four. So it is known what depends on them. (torch takes a size of 1 for fixed; a
    batch of 1 is therefore doubled.)

    Args:
        model: any module that `torch.export` can read.
        example_inputs: of the shapes the model will see; sizes that vary should be 2 or more.

    Raises:
        LissomError: if example_inputs cannot be some, or the model has no tensors yet or hides its
            layers.
        GroupError: if the model does not run on it or cannot be exported.
    """
    if not isinstance(model, nn.Module):
        raise GroupError(f"a model is a torch.nn.Module, got {type(model).__name__}: {model!r}")
    require_numbers(model)
    require_layers(model, "give")
    require_whole(model, "a pass through its graph")
    args = as_inputs(example_inputs)
    with _plainly(model):
        exported, wide, dynamic = _exported(model, args)
        module = exported.module()
        for node in list(module.graph.nodes):
            if node.op == "call_module" and not node.users:  # the check of the inputs' shapes
                module.graph.erase_node(node)
        open_regions(module, {tensor.device.type for _, tensor in named_tensors(model)})
        program = fx.GraphModule(module, module.graph)
    own = {_key(tensor): name for name, tensor in reversed(named_tensors(model))}
    tensors, names = {}, {}
    for node in program.graph.nodes:
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(str(node.target))(program)
        if isinstance(value, Tensor):
            tensors[node] = value
            node.meta["val"] = torch.empty_like(value, device="meta")
            if (name := own.get(_key(value))) is not None:
                names[node] = name
    classes = {path: type(part) for path, part in model.named_modules(remove_duplicate=False)}
    # First of all, for a size that is read as a number is fixed from then on.
    once, open_sizes = _once(program, wide), _sizes(program, fixed_size)
    return Trace(program, tensors, names, classes, wide, dynamic, once, open_sizes)


def _sizes(program: fx.GraphModule, fixed: Callable[[Any], int | None]) -> list[Any]:
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    return [tuple(map(fixed, x.shape)) if isinstance(x, Tensor) else x for x in values]


def _once(program: fx.GraphModule, inputs: Inputs) -> frozenset[fx.Node]:
    """What is done once for a batch; nothing, so far as that is known, where its size is fixed."""
    nodes = list(program.graph.nodes)
    given = [node.meta["val"] for node in nodes if node.op == "placeholder" and is_tensor(node)]
    pairs = zip(given, inputs.tensors, strict=True)
    batch = size_symbols(x.shape[0] for x, example in pairs if inputs.has_batch(example))

    def follows(node: fx.Node) -> bool:
        values = [x.meta.get("val") for x in (node, *node.all_input_nodes)]
        tensors = [x for x in torch.utils._pytree.tree_leaves(values) if isinstance(x, Tensor)]
        return not batch.isdisjoint(size_symbols(size for x in tensors for size in x.shape))

    return frozenset(node for node in nodes if batch and not follows(node))


def _exported(
    model: nn.Module, args: Inputs, *, again: bool = True
) -> tuple[torch.export.ExportedProgram, Inputs, bool]:
    """The model for any sizes if it can be, else for those of the example inputs; and which."""
    # Copies, because torch.export leaves marks on its inputs.
    wide = (args.with_batch(2) if args.batch == 1 else args).map(torch.clone)
    sizes = torch.export.ShapesCollection()
    for x in wide.tensors:
        sizes[x] = dict.fromkeys(range(x.ndim if x.ndim < 4 else 1), torch.export.Dim.AUTO)
    try:
        shapes = sizes.dynamic_shapes(model, wide.args, wide.kwargs)
        return _export(model, wide, shapes), wide, True
    except Exception:  # torch raises a different type for each reason
        try:
            return _export(model, args.map(torch.clone), None), args, False
        except Exception as error:
            with contextlib.suppress(Exception), torch.no_grad():
                outputs = copied(model)(*args.args, **args.kwargs)
                if again and register_dataclasses(outputs):
                    return _exported(model, args, again=False)
            raise GroupError(_why(model, args, error)) from error


def _export(model: nn.Module, inputs: Inputs, shapes: Any) -> torch.export.ExportedProgram:
    return torch.export.export(
        model, inputs.args, inputs.kwargs, dynamic_shapes=shapes, strict=False
    )


@contextlib.contextmanager
def _plainly(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and without the fused attention that would hide the heads."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), attributes_kept(model), _quiet():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _key(tensor: Tensor) -> tuple[object, ...]:
    """The same for tensors that are one and the same memory."""
    where = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
    return where, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    names = ("torch.export", "torch._export", "torch.fx", "torch._subclasses.fake_tensor")
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        # Torch prints the graph as far as it came, once for each try.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(StringIO()):
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _why(model: nn.Module, args: Inputs, error: Exception) -> str:
    """What was wrong: the example inputs, or the model."""
    given = ", ".join("×".join(map(str, x.shape)) + f" {x.dtype}" for x in args.tensors)
    name = type(model).__name__
    try:
        with torch.no_grad(), unchanged(model):
            model(*args.args, **args.kwargs)
    except Exception as failed:
        return f"{name} does not run on example_inputs ({given}): {_first_line(failed)}"
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return f"{name} is around the network that is meant: give its .module"
    return (
        f"torch.export cannot read {name} (example_inputs: {given}): {_first_line(error)} "
        "Control flow that depends on values has to leave forward, or to go through torch.cond"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
