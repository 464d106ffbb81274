"""Layers that read only some of their inputs."""

from dataclasses import replace

from torch import Tensor, nn

from lissom.coupling.records import layers
from lissom.shrinking.surgery import READS, Surgery


def reading_less(small: nn.Module, surgery: Surgery) -> Surgery:
    """The same surgery, after which layers also leave out the inputs that they multiply by zeros.

    Those inputs live, since others read them or they are a part of a unit that lives: a position
    of a flattened channel, a channel of a residual stream.

    Args:
        small: the module after the surgery.
        surgery: what was done to it.
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
        alive = (weight.detach() != 0).movedim(1, 0).flatten(1).any(1)
        indices = alive.nonzero()[:, 0].cpu()
        if 0 < len(indices) < len(alive):
            dims = keep.setdefault(f"{path}.weight".lstrip("."), {})
            dims[1] = dims[1][indices] if 1 in dims else indices
            sizes.setdefault(path, {})[place[0]] = len(indices)
            reads[path] = indices
    return replace(surgery, keep=keep, sizes=sizes, reads=reads)
