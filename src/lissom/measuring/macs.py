"""Multiply–accumulates of one forward pass, and which of them meet a weight that is not zero."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from lissom.errors import LissomError
from lissom.running import evaluating, leaves, run

# Their first argument is added; of the others, the first two are multiplied.
ADDING = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)


@dataclass
class Pass:
    """What one forward pass did.

    Attributes:
        total: MACs of all counted operations.
        macs: MACs by (layer, parameter): each counted operation that multiplies with a parameter.
        shapes: output shape of each layer that ran, in the order in which they began; None where
            only its parameters were used, by another module.
    """

    total: int = 0
    macs: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)


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


def forward_pass(model: nn.Module, inputs: tuple[Tensor, ...]) -> Pass:
    """Run the model once in eval mode under torch's own flop counter; MACs are FLOPs/2.

    An operation belongs to the parameter among its factors, recognised by its memory, and to the
    layer that holds it.

    Raises:
        LissomError: if the model cannot run on these inputs, or is scripted.
    """
    done = Pass()
    held = owners(model)
    parameters = dict(model.named_parameters())
    running: list[str] = []
    find = _finder(parameters)

    def watched(op: object, formula: Callable[..., int]) -> Callable[..., int]:
        def count(*args: Any, **kwargs: Any) -> int:
            flops = formula(*args, **kwargs)
            factors = args[1:3] if op in ADDING else args[:2]
            name = next(filter(None, map(find, factors)), None)
            if name is not None:
                inside = [layer for layer in running if layer in held[name]]
                layer = inside[-1] if inside else held[name][0]
                done.shapes.setdefault(layer, None)
                done.macs[layer, name] += flops // 2
            return flops

        count._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes
        return count

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
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules.values()):
        raise LissomError(
            f"{type(model).__name__} is scripted, which hides its layers: measure the module that "
            "it was made from, or without example_inputs"
        )
    hooks = []
    for layer in {layer for layers in held.values() for layer in layers}:
        hooks.append(modules[layer].register_forward_pre_hook(begins(layer)))
        hooks.append(modules[layer].register_forward_hook(ends(layer)))
    mapping = {op: watched(op, formula) for op, formula in flop_registry.items()}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    try:
        with evaluating(model), torch.no_grad(), _unfused(), counter:
            run(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    done.total = counter.get_total_flops() // 2
    return done


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


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention and recurrent layers as the matrix products they are.

    Their fused kernels (the fast path of `nn.MultiheadAttention`, flash attention on the CPU,
    oneDNN's and cuDNN's LSTM) are single operations that torch's flop counter does not know.
    """
    mha, mkldnn, cudnn = torch.backends.mha, torch.backends.mkldnn, torch.backends.cudnn
    before = mha.get_fastpath_enabled(), mkldnn.enabled, cudnn.enabled
    mha.set_fastpath_enabled(False)
    mkldnn.enabled = cudnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before[0])
        mkldnn.enabled, cudnn.enabled = before[1:]
