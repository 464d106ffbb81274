"""Running a model on example inputs and leaving it as it was found."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.parameter import is_lazy

from lissom.arguments import shown, why_odd
from lissom.errors import LissomError, OperatorError

ExampleInputs = Tensor | tuple[Tensor, ...]


def as_inputs(example_inputs: object) -> tuple[Tensor, ...]:
    """The example inputs of a model as a tuple: one tensor, or a tuple or list of them.

    Raises:
        LissomError: if anything in it is not a tensor, or a tensor is empty.
    """
    inputs = (
        tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    )
    if not inputs:
        raise LissomError(f"example_inputs holds at least one tensor, got {example_inputs!r}")
    tensors = []
    for value in inputs:
        if not isinstance(value, Tensor):
            raise LissomError(
                "example_inputs is a tensor, such as torch.rand(1, 784), or a tuple of tensors, "
                f"got {value!r}"
                + (f" in {type(example_inputs).__name__}" if value is not example_inputs else "")
            )
        if value.numel() == 0:
            raise LissomError(
                "example_inputs needs at least one input, got a tensor of shape "
                f"{list(value.shape)}"
            )
        tensors.append(value)
    return tuple(tensors)


def run(model: Callable[..., Any], inputs: tuple[Tensor, ...], name: str = "") -> Any:
    """model(*inputs), with the user's mistake named if that fails.

    Raises:
        LissomError: quoting the shapes and what the model said.
        OperatorError: for a mistake in the record of an operator that it calls.
    """
    try:
        return model(*inputs)
    except OperatorError:
        raise
    except Exception as error:  # a model may raise anything
        shapes = ", ".join(
            f"{list(x.shape)} ({x.dtype} on {x.device})" if isinstance(x, Tensor) else shown(x)
            for x in inputs
        )
        raise LissomError(
            f"{name or type(model).__name__} cannot run on example_inputs of shape {shapes}: "
            f"{error}"
        ) from error


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and all buffers, also those that a state dict leaves out; tied ones each time."""
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def require_numbers(model: nn.Module) -> None:
    """Refuse a model some of whose tensors have shapes at most, or are sparse.

    Raises:
        LissomError: naming the first, and what gives it numbers.
    """
    for name, tensor in named_tensors(model):
        if is_lazy(tensor):
            raise LissomError(f"{name} has no numbers yet: run the model once before")
        if tensor.is_meta:
            raise LissomError(
                f"{name} has no numbers yet: it is on the device meta; load the model's weights "
                'before, or take model.to_empty(device="cpu")'
            )
        if (why := why_odd(tensor)) and not tensor.is_quantized:
            raise LissomError(f"{name} is a tensor {why}")


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Put every module in eval mode, and each submodule back into its own mode afterwards."""
    roots = [model for model in models if isinstance(model, nn.Module)]
    modes = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def leaves(output: object) -> list[Tensor]:
    """The tensors in a model's output, in the order in which ONNX and torch list them."""
    found = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


@contextmanager
def holding(owners: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Let tensors hold other values for a while, which may be changed in place meanwhile.

    Their own values come back untouched, so that a backward pass whose forward pass was before may
    follow: autograd's count of changes is what it was.
    """
    kept = [owner.data for owner in owners]
    with ExitStack() as stack:
        for owner in owners:
            if not owner.is_inference():
                stack.enter_context(_unsafe_preserve_version_counter(owner))
        try:
            for owner, value in zip(owners, values, strict=True):
                owner.data = value
            yield
        finally:
            for owner, value in zip(owners, kept, strict=True):
                owner.data = value
