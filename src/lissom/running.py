"""Running a model on example inputs and leaving it as it was found."""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from lissom.arguments import why_odd
from lissom.errors import LissomError, OperatorError
from lissom.shards import is_sharded, local

PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Inputs:
    """What a model is called with: model(*args, **kwargs)."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in them, in the order of the arguments."""
        return leaves((self.args, self.kwargs))

    @property
    def batch(self) -> int:
        """The size of the first tensor's first dim; 1 where it has none."""
        first = self.tensors[0]
        return first.shape[0] if first.ndim else 1

    def has_batch(self, x: Tensor) -> bool:
        """Whether the first dim of a tensor is the batch."""
        return x.shape[:1] == self.tensors[0].shape[:1] != ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with other tensors."""
        args, kwargs = torch.utils._pytree.tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf,
            (self.args, self.kwargs),
        )
        return Inputs(args, kwargs)

    def with_batch(self, size: int) -> "Inputs":
        """The same with so many examples: over again, or the first of them."""
        return self.map(lambda x: resized(x, [size, *x.shape[1:]]) if self.has_batch(x) else x)

    def chunks(self, size: int) -> "Iterator[Inputs]":
        """So many examples at a time; the last are filled up with the first of them."""
        for start in range(0, self.batch, size):
            rows = slice(start, start + size)
            chunk = self.map(partial(self._rows, rows))
            yield chunk if chunk.batch == size else chunk.with_batch(size)

    def _rows(self, rows: slice, x: Tensor) -> Tensor:
        return x[rows] if self.has_batch(x) else x

    def __str__(self) -> str:
        return ", ".join(f"{list(x.shape)} ({x.dtype} on {x.device})" for x in self.tensors)


ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any] | Inputs


def as_inputs(example_inputs: object) -> Inputs:
    """The example inputs of a model: a tensor, a tuple or list of arguments, or a dict of keywords.

    An argument may be a tensor, a number, a word, None, or a tuple, list, dict or dataclass of
    them; dataclasses are registered with `torch.export.register_dataclass`.

    Raises:
        LissomError: if anything in it is something else, a tensor is empty, or there is none.
    """
    if isinstance(example_inputs, Inputs):
        return example_inputs
    inputs = Inputs((example_inputs,))
    if isinstance(example_inputs, Mapping):
        inputs = Inputs((), dict(example_inputs))
    elif isinstance(example_inputs, tuple | list) and not hasattr(example_inputs, "_fields"):
        inputs = Inputs(tuple(example_inputs))
    for name in inputs.kwargs:
        if not isinstance(name, str):
            raise LissomError(
                f"example_inputs that are a dict are keywords, model(**example_inputs), got the "
                f"key {name!r}; a dict that is one argument goes into a tuple: (batch,)"
            )
    parts = _flat((inputs.args, inputs.kwargs))
    if not parts:
        raise LissomError(f"example_inputs holds at least one tensor, got {example_inputs!r}")
    odd = [value for value in parts if not isinstance(value, (Tensor, *PLAIN))]
    if odd or not inputs.tensors:
        value = [*odd, *parts][0]
        raise LissomError(
            "example_inputs is a tensor, such as torch.rand(1, 784), a tuple of arguments or a "
            "dict of keywords, in which tensors may stand beside numbers, None, tuples, lists, "
            f"dicts and dataclasses; got {value!r}"
            + (f" in {type(example_inputs).__name__}" if value is not example_inputs else "")
        )
    for x in inputs.tensors:
        if x.numel() == 0:
            raise LissomError(
                f"example_inputs needs at least one input, got a tensor of shape {list(x.shape)}"
            )
    return inputs


def run(model: Callable[..., Any], inputs: Inputs, name: str = "") -> Any:
    """The model's outputs, with the user's mistake named if it fails.

    The model runs on copies of the inputs, into which it may write.

    Raises:
        LissomError: quoting the shapes and what the model said.
        OperatorError: for a mistake in the record of an operator that it calls.
    """
    own = inputs.map(torch.clone)
    try:
        return model(*own.args, **own.kwargs)
    except OperatorError:
        raise
    except Exception as error:  # a model may raise anything
        raise LissomError(
            f"{name or type(model).__name__} cannot run on example_inputs of shape {inputs}: "
            f"{error}"
        ) from error


def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors in the model's outputs, and the model is left as it was found.

    Raises:
        LissomError: as `run`.
    """
    with unchanged(model):
        return leaves(run(model, inputs))


def resized(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Its entries over again, or the first of them, up to these sizes."""
    for d, size in enumerate(sizes):
        if size != x.shape[d]:
            x = x.index_select(d, torch.arange(size, device=x.device) % x.shape[d])
    return x


def real_parts(x: Tensor) -> Tensor:
    """A complex tensor as [..., 2] of its real and imaginary parts."""
    return torch.view_as_real(x.resolve_conj())


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


def require_layers(model: nn.Module, what: str) -> None:
    """Refuse a scripted model, for `what` looks into modules.

    Raises:
        LissomError: naming the scripted part.
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise LissomError(
                f"{path or 'the model'} is scripted (torch.jit), which hides its layers: {what} "
                "the module that it was made from, with these weights by load_state_dict"
            )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of modules that keep computed tensors, wherever these stand.

    Raises:
        LissomError: if something in it cannot be copied, with what Python says of it.
    """
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings(action="ignore"), _Detaching():  # of fx on its own doings
            twin = copy.deepcopy(model, memo)
            for old, new in zip(model.modules(), twin.modules(), strict=True):
                for kind in type(old).__mro__[: type(old).__mro__.index(nn.Module)]:
                    for slot in vars(kind).get("__slots__", ()):  # which nn.Module's copies lose
                        if hasattr(old, slot):
                            setattr(new, slot, copy.deepcopy(getattr(old, slot), memo))
    except Exception as error:  # a part of a model may raise anything
        raise LissomError(
            f"{type(model).__name__} cannot be copied, which is what is worked on: "
            f"copy.deepcopy(model) raises {type(error).__name__}: {error}"
        ) from error
    return twin


class _Detaching(TorchFunctionMode):
    """Copies tensors that were computed without their history, where torch refuses to."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Put every module in eval mode, and each submodule back into its own mode afterwards."""
    roots = _roots(models)
    modes = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        try:
            root.eval()
        except NotImplementedError:  # what torch.export made is in one mode
            for module in root.modules():
                module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


CHANGEABLE = (dict, list, set, deque)


@contextmanager
def attributes_kept(*models: object) -> Iterator[None]:
    """Put back what modules assign to themselves, or put into their lists and dicts, as they run.

    But for parameters, which FSDP exchanges as it runs.
    """
    kept = [(x, _parts(x)) for x in _held(models) if isinstance(x, CHANGEABLE)]
    try:
        yield
    finally:
        for container, before in kept:
            if list(map(id, _parts(container))) != list(map(id, before)):
                _refill(container, before)


@contextmanager
def unchanged(*models: object) -> Iterator[None]:
    """Put back what modules assign, and what they write into tensors, as they run."""
    found = [*_held(models), *(p for root in _roots(models) for p in root.parameters())]
    # Others, as shards are, keep their numbers elsewhere.
    tensors = list({id(x): x for x in found if type(x) in (Tensor, nn.Parameter)}.values())
    with torch.no_grad():  # copied together: what shares memory goes on sharing it
        values = copy.deepcopy([x.detach() for x in tensors])
    with attributes_kept(*models), holding(tensors, values):
        yield


def _roots(models: Iterable[object]) -> list[nn.Module]:
    return [model for model in models if isinstance(model, nn.Module)]


def _held(models: Iterable[object]) -> Iterator[Any]:
    """All that is in the attributes of modules, also in containers there, but parameters."""
    modules = [module for root in _roots(models) for module in root.modules()]
    seen = {id(module._parameters) for module in modules}
    waiting: list[Any] = [vars(module) for module in modules]
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        yield held
        if isinstance(held, (*CHANGEABLE, tuple)):
            waiting += _parts(held)


def _parts(container: Any) -> list[Any]:
    """The members of a container, and the keys before the values of a dict."""
    return [*container, *(container.values() if isinstance(container, dict) else ())]


def _refill(container: Any, parts: list[Any]) -> None:
    container.clear()
    if isinstance(container, dict):
        half = len(parts) // 2
        container.update(zip(parts[:half], parts[half:], strict=True))
    else:
        (container.update if isinstance(container, set) else container.extend)(parts)


def gpus() -> Sequence[int]:
    """The CUDA devices, if any has been used: their generators can be drawn from."""
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


@contextmanager
def full_float32() -> Iterator[None]:
    """Let GPUs multiply float32 as such for a while, and not rounded to TF32: for comparisons."""
    cudnn, blas = torch.backends.cudnn, torch.backends.cuda.matmul
    wide: list[tuple[Any, str, Any]] = [(owner, "allow_tf32", False) for owner in (cudnn, blas)]
    # Torch's words for it since 2.9, which do not mix with the others.
    owners = [getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), blas]
    fine = [
        (owner, "fp32_precision", "ieee") for owner in owners if hasattr(owner, "fp32_precision")
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in fine]
    try:
        kept = [*((owner, name, getattr(owner, name)) for owner, name, _ in wide), *kept]
    except RuntimeError:  # the user has said it by the newer words
        wide = fine
    try:
        for owner, name, value in wide:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def leaves(output: object) -> list[Tensor]:
    """The tensors in a model's output, in the order in which ONNX and torch list them."""
    return [leaf for leaf in _flat(output) if isinstance(leaf, Tensor)]


def numbers(output: object) -> list[Tensor]:
    """The tensors in a model's output, and its plain numbers as tensors."""
    found = [torch.tensor(x) if isinstance(x, int | float) else x for x in _flat(output)]
    return [x for x in found if isinstance(x, Tensor)]


def register_dataclasses(tree: object) -> bool:
    """Let torch see into the dataclasses in a tree, and say whether there was a new one."""
    found = {type(x) for x in torch.utils._pytree.tree_leaves(tree) if is_dataclass(x)} - {type}
    for kind in found:
        name = f"{kind.__module__}.{kind.__qualname__}"
        torch.export.register_dataclass(kind, serialized_type_name=name)
    return bool(found)


def _flat(tree: object) -> list[Any]:
    """All that stands in nested tuples, lists, dicts and dataclasses."""
    try:
        while register_dataclasses(tree):
            pass
        return torch.utils._pytree.tree_leaves(tree)
    except RecursionError:
        raise LissomError(
            f"inputs and outputs are lists, dicts and the like in a few levels, got a "
            f"{type(tree).__name__} that is nested without end"
        ) from None


def examples_in(inputs: Inputs, output: object) -> int:
    """How many examples a batch has: the first dim of the first input, if an output has it too.

    Where none has, as for a single image [channels, height, width], all is one example.
    """
    return inputs.batch if any(map(inputs.has_batch, leaves(output))) else 1


@contextmanager
def holding(owners: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Let tensors hold other values for a while, which may be changed in place meanwhile.

    Their own values come back untouched, so that a backward pass whose forward pass was before may
    follow: autograd's count of changes is what it was.
    """
    with ExitStack() as stack:
        for owner, value in zip(owners, values, strict=True):
            if not owner.is_inference():
                stack.enter_context(_unsafe_preserve_version_counter(owner))
            held = _exchanged if is_sharded(owner) else _replaced
            stack.enter_context(held(owner, value))
        yield


@contextmanager
def _replaced(owner: Tensor, value: Tensor) -> Iterator[None]:
    kept, owner.data = owner.data, value
    try:
        yield
    finally:
        owner.data = kept


@contextmanager
def _exchanged(owner: Tensor, value: Tensor) -> Iterator[None]:
    """In the owner's own memory, out of which processes gather the whole tensor."""
    here, there = local(owner).detach(), local(value).detach()
    kept = here.clone()
    here.copy_(there)
    try:
        yield
    finally:
        there.copy_(here)
        here.copy_(kept)
