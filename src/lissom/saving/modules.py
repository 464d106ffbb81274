"""A small module of the user's own class as data, and the large one cut to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.coupling.records import layers
from lissom.errors import RunError
from lissom.parametrized import full_name, plain
from lissom.running import named_tensors
from lissom.saving.parts import as_indices, take_inputs
from lissom.saving.reports import ReportRecord
from lissom.shrinking import Surgery, operate
from lissom.shrinking.sizes import get_size
from lissom.shrinking.surgery import READS
from lissom.storage import checked, mismatch

MODULE = "lissom 1"


@dataclass(frozen=True)
class ModuleRecord:
    """What a file says besides tensors.

    Attributes:
        sizes: for each module by path: attributes and their new values.
        attention: paths of `nn.MultiheadAttention` with fewer heads: (those left, width of each).
        biases: names of those that the class may not have.
        inputs: of which only some entries are left, by position: the dim.
        reads: paths of layers that read some of what they are given.
        tied: names of tensors that are others' as well.
        keywords: of the inputs, in their order.
        report: of `shrink`; files of earlier versions have none.
    """

    sizes: dict[str, dict[str, int]]
    attention: dict[str, tuple[list[int], int]]
    biases: list[str]
    inputs: dict[int, int | None]
    reads: list[str]
    tied: dict[str, str]
    keywords: list[str] = field(default_factory=list)
    report: ReportRecord | None = None


def record_of_module(net: nn.Module, surgery: Surgery) -> dict[str, Any]:
    """What tells a small module from a large one, but for inputs and tied tensors."""
    return {
        "class": type(net).__qualname__,
        "sizes": surgery.sizes,
        "attention": surgery.attention,
        "biases": list(surgery.biases),
        "reads": list(surgery.reads),
    }


def module_of(
    record: dict[str, Any], tensors: dict[str, Tensor], path: Path, net: nn.Module
) -> tuple[nn.Module, Surgery, ReportRecord | None]:
    """The module that a file describes, cut out of a large one of its class, and how it was cut.

    Raises:
        RunError: if that is not what it was cut out of.
    """
    told = checked(ModuleRecord, record, path)
    try:
        net = plain(net)
        inputs = take_inputs(told.inputs, tensors)
        _check_sizes(net, told)
        surgery = Surgery(
            sizes=told.sizes,
            attention=told.attention,
            inputs=inputs,
            biases={name: torch.zeros_like(tensors[name]) for name in told.biases},
            reads={at: as_indices(at, tensors[full_name(at, READS)]) for at in told.reads},
        )
        _refit(net, tensors)
        operate(net, surgery)
        own = dict(named_tensors(net))
        for name, owner in told.tied.items():
            if own[name] is not own[owner]:
                raise ValueError(f"{name} was tied to {owner}")
        own = {name: tensor for name, tensor in own.items() if name not in told.tied}
        if wrong := mismatch(own, tensors):
            raise ValueError(wrong)
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
    except Exception as error:  # cutting a module of another class may fail in any way
        raise RunError(
            f"{path} was saved from a {record.get('class')} that is not what the factory made, "
            f"a {type(net).__name__}: {error}"
        ) from error
    return net, surgery, told.report


def _check_sizes(net: nn.Module, told: ModuleRecord) -> None:
    """See that only sizes are written, and that all of them shrink; and that the heads exist."""
    modules = dict(net.named_modules(remove_duplicate=False))
    if odd := {*told.sizes, *told.attention, *told.reads} - modules.keys():
        raise ValueError(f"it has no module {', '.join(map(repr, sorted(odd)))}")
    for path, (heads, width) in told.attention.items():
        layer = modules[path]
        if not isinstance(layer, nn.MultiheadAttention) or width != layer.head_dim:
            raise ValueError(f"{path} is no nn.MultiheadAttention with heads of {width} numbers")
        if not heads or not all(0 <= head < layer.num_heads for head in heads):
            raise ValueError(f"{path} has {layer.num_heads} heads, and those of {heads} were left")
    for path, sizes in told.sizes.items():
        for name, size in sizes.items():
            old = get_size(modules[path], name)
            if type(old) is not int or not 0 <= size <= old:
                raise ValueError(f"{path}.{name} is {old!r}, and was {size}")
    for path in told.reads:
        if layers().get(type(modules[path])) is None:
            raise ValueError(f"{path} is a {type(modules[path]).__name__}, which cannot select")


def _refit(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give every tensor the saved shape, if that is a part of its own; tied ones stay tied."""
    new: dict[Tensor, Tensor] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                saved = tensors.get(full_name(path, name))
                if old is None or saved is None or saved.shape == old.shape:
                    continue
                if saved.ndim != old.ndim or any(
                    n > m for n, m in zip(saved.shape, old.shape, strict=True)
                ):
                    raise ValueError(
                        f"{path}.{name} had shape {list(saved.shape)}, which is no part of "
                        f"{list(old.shape)}"
                    )
                empty = saved.new_zeros(saved.shape).to(old)
                new[old] = (
                    nn.Parameter(empty, old.requires_grad)
                    if isinstance(old, nn.Parameter)
                    else empty
                )
    for module in net.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for table in tables:
            table.update({n: new[t] for n, t in table.items() if t is not None and t in new})
