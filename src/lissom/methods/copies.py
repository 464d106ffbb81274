"""Copies of a network's weights that somebody else holds, such as an average of them."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lissom.errors import MethodError, nearest
from lissom.groups import Partition


def copies_in(
    to: nn.Module | Mapping[str, Tensor], blocks: Sequence[Partition]
) -> dict[Tensor, Tensor]:
    """The tensors of a copy of a network, by the parameters of which they are copies.

    Args:
        to: the copy, or a wrapper of it, which puts something before each name.
        blocks: the parameters are theirs.

    Raises:
        MethodError: naming what is missing or of another shape.
    """
    named = dict(to.named_parameters(remove_duplicate=False)) if isinstance(to, nn.Module) else to
    if not isinstance(named, Mapping):
        raise MethodError(f"a copy of weights is a model or {{name: tensor}}, got {to!r}")
    copies: dict[Tensor, Tensor] = {}
    members = [m for b in blocks for m in b.members if isinstance(m.tensor, nn.Parameter)]
    for name, tensor in ((member.name, member.tensor) for member in members):
        found = [key for key in named if key == name or key.endswith(f".{name}")]
        key = name if name in found else found[0] if len(found) == 1 else None
        if key is None:
            raise MethodError(f"the copy has no {name}.{nearest(name, named)}")
        if named[key].shape != tensor.shape:
            raise MethodError(
                f"{key} of the copy is {list(named[key].shape)}, and {name} {list(tensor.shape)}"
            )
        copies[tensor] = named[key].detach()
    return copies
