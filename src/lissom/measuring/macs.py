"""Multiply–accumulates of one forward pass, and which of them meet a weight that is not zero."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lissom.coupling.ops import named
from lissom.coupling.records import Unsupported, counts, products
from lissom.errors import LissomError
from lissom.running import Inputs, evaluating, examples_in, leaves, require_layers, run, unchanged


@dataclass
class Pass:
    """What one forward pass did.

    Attributes:
        examples: how many the batch has.
        total: MACs of all operations, for all of the batch.
        macs: MACs by (layer, parameter): each counted operation that multiplies with a parameter.
        shapes: output shape of each layer that ran, in the order in which they began; None where
            only its parameters were used, by another module.
    """

    examples: int = 1
    total: int = 0
    macs: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)


def of_one_example(model: nn.Module, inputs: Inputs) -> Pass:
    """A forward pass with the MACs of one example, whatever the batch is.

    What is computed once for a batch, as a matrix that is made of others, counts whole: so they are
    counted again on the first example alone. A model that is tied to its batch size shares all.

    Raises:
        LissomError: as `forward_pass`.
    """
    done = forward_pass(model, inputs)
    if done.examples == 1:
        return done
    try:
        alone = forward_pass(model, inputs.with_batch(1))
    except LissomError:
        each = {key: macs // done.examples for key, macs in done.macs.items()}
        return replace(done, total=done.total // done.examples, macs=each)
    return replace(done, total=alone.total, macs=alone.macs)


def owners(model: nn.Module) -> dict[str, list[str]]:
    """The layers that hold each parameter; a tied one has several, and goes by its first name.

    A layer is a module with parameters of its own, "" the model itself.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for layer, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            found[names[parameter]].append(layer)
    return found


def forward_pass(model: nn.Module, inputs: Inputs) -> Pass:
    """Run the model once in eval mode, and ask the records of its operators for their MACs.

    A product belongs to the parameter among its factors, recognised by its memory, and to the layer
    that holds it.

    Raises:
        LissomError: if the model cannot run on these inputs, or is scripted.
    """
    require_layers(model, "measure")
    done = Pass()
    held = owners(model)
    running: list[str] = []

    def count(a: object, b: object, macs: int) -> None:
        done.total += macs
        name = find(a) or find(b)
        if name is not None:
            inside = [layer for layer in running if layer in held[name]]
            layer = inside[-1] if inside else held[name][0]
            done.shapes.setdefault(layer, None)
            done.macs[layer, name] += macs

    def begins(layer: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            running.append(layer)
            done.shapes.setdefault(layer, None)

        return hook

    def ends(layer: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            running.pop()
            tensors = leaves(output)
            if tensors and done.shapes[layer] is None:
                done.shapes[layer] = tuple(tensors[0].shape)

        return hook

    modules = dict(model.named_modules())
    hooks = []
    for layer in {layer for layers in held.values() for layer in layers}:
        hooks.append(modules[layer].register_forward_pre_hook(begins(layer)))
        hooks.append(modules[layer].register_forward_hook(ends(layer)))
    try:
        with evaluating(model), unchanged(model), torch.no_grad():
            find = _finder(dict(model.named_parameters()))
            with _whole_operators(), _Counting(count):
                done.examples = examples_in(inputs, run(model, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return done


class _Counting(TorchDispatchMode):
    """Tells of every product of every operator that runs: (a, b, multiply–accumulates)."""

    def __init__(self, tell: Callable[[object, object, int], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tell = tell

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        op = named(func, args, kwargs, None)
        if counts(op):
            result = func(*args, **kwargs)
            with suppress(Unsupported):
                for product in products(replace(op, result=result)):
                    self.tell(*product)
                return result
        with self:  # what it is made of may have products
            result = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


@contextmanager
def _whole_operators() -> Iterator[None]:
    """Operators are seen as they are called, before autograd takes them to pieces.

    Without the fast path of `nn.MultiheadAttention`, which is one operator for a whole layer.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch._C._AutoDispatchBelowAutograd():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _finder(parameters: Mapping[str, Tensor]) -> Callable[[object], str | None]:
    """Which parameter a tensor is, or is a view of: their memory, not the objects, is compared."""
    spans = sorted((p.data_ptr(), p.nbytes, name) for name, p in parameters.items() if p.numel())
    starts = [start for start, _, _ in spans]

    def find(value: object) -> str | None:
        if not isinstance(value, Tensor) or not starts:
            return None
        place = value.data_ptr()
        start, size, name = spans[bisect_right(starts, place) - 1]
        return name if start <= place < start + size else None

    return find
