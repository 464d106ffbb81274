"""Layers that read only some of their inputs."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lissom.coupling.records import layers
from lissom.parametrized import full_name
from lissom.shrinking.surgery import READS, Surgery, sliced


def reading_less(
    small: nn.Module,
    surgery: Surgery,
    masks: Mapping[str, Tensor] | None = None,
    most: float = 1.0,
) -> Surgery:
    """The same surgery, after which layers also leave out the inputs that they multiply by zeros.

    Those inputs live, since others read them or they are a part of a unit that lives: a position
    of a flattened channel, a channel of a residual stream.

    Args:
        small: the module after the surgery.
        surgery: what was done to it.
        masks: for weights of the module before, 0 where they stay zero; None if all zeros do.
        most: of its inputs that a layer still reads, or it reads all.
    """
    every = [p for _, p in small.named_parameters(remove_duplicate=False)]
    keep = {name: dict(dims) for name, dims in surgery.keep.items()}
    sizes = {path: dict(new) for path, new in surgery.sizes.items()}
    reads: dict[str, Tensor] = {}
    for path, module in small.named_modules():
        place = layers().get(type(module))
        if place is None or getattr(module, "groups", 1) != 1:
            continue
        weight = module.weight
        assert isinstance(weight, Tensor)
        if READS in module._buffers or sum(p is weight for p in every) != 1:
            continue  # it does so already, or its weight is tied and another owner reads all
        name = full_name(path, "weight")
        if masks is not None:
            if name not in masks:
                continue
            weight = sliced(masks[name], keep.get(name, {}))
        alive = (weight.detach() != 0).movedim(1, 0).flatten(1).any(1)
        indices = alive.nonzero()[:, 0].cpu()
        if 0 < len(indices) < len(alive) and len(indices) <= most * len(alive):
            dims = keep.setdefault(name, {})
            dims[1] = dims[1][indices] if 1 in dims else indices
            sizes.setdefault(path, {})[place[0]] = len(indices)
            reads[path] = indices
    return replace(surgery, keep=keep, sizes=sizes, reads=reads)
