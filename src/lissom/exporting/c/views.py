"""Tensors of the traced graph as entries of maps in memory, and what only moves entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lissom.exporting.c.layers import Value, as_map

aten = torch.ops.aten


@dataclass(frozen=True)
class View:
    """A tensor of the graph: where each of its entries stands in a map in memory.

    Whatever moves entries without changing them is run on `order` itself.

    Attributes:
        value: the map.
        order: positions, in the shape of the tensor without its batch.
    """

    value: Value
    order: Tensor


class UnreadableError(Exception):
    """Why an operator cannot be a layer."""


def canonical(shape: Sequence[int]) -> Tensor:
    """Positions in memory, channels last, of the entries of a tensor of this shape."""
    channels, height, width = as_map(shape)
    positions = torch.arange(channels * height * width).reshape(height, width, channels)
    return positions.permute(2, 0, 1).reshape(tuple(shape))


def views_in(tree: Any) -> list[View]:
    """All of them in nested arguments."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, View)]


def moved(operator: Any, args: Any, kwargs: Any) -> Any:
    """What only moves entries, run on their positions in a batch of one."""
    (view,) = views_in((args, kwargs))
    on_positions = torch.utils._pytree.tree_map(
        lambda leaf: leaf.order[None].contiguous() if isinstance(leaf, View) else leaf,
        (args, kwargs),
    )
    found = operator(*on_positions[0], **on_positions[1])

    def as_view(order: Tensor) -> View:
        if order.shape[:1] != (1,):
            raise UnreadableError("it moves the batch")
        return View(view.value, order[0])

    return torch.utils._pytree.tree_map(as_view, found)


MOVES = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int),
    *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default),
    *(aten.permute.default, aten.transpose.int, aten.mT.default, aten.movedim.int),
    *(aten.flip.default, aten.roll.default),
    *(aten.index_select.default, aten.index.Tensor, aten.slice.Tensor, aten.select.int),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.chunk.default),
    *(aten.narrow.default, aten.contiguous.default, aten.clone.default, aten.alias.default),
    *(aten.detach.default, aten.expand.default, aten.repeat.default),
    *(aten.channel_shuffle.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
}


def require_unread(node: fx.Node, known: dict[fx.Node, Any]) -> None:
    """Refuse a change in place of entries that are read elsewhere later, whose `View` stays.

    Args:
        node: an operator.
        known: what was read before it.
    """
    places = zip(node.args, node.target._schema.arguments, strict=False)  # type: ignore[union-attr]
    written = [x for x, place in places if place.is_write and isinstance(x, fx.Node)]
    for view in (x for x in known if isinstance(known[x], View)):
        read_later = any(reader not in known and reader is not node for reader in view.users)
        if read_later and any(_overlap(view, x) for x in written):
            raise UnreadableError(
                f"it works in place on entries of {view.name}, which is read again later. Have it "
                "give a new tensor"
            )


def _overlap(*two: fx.Node) -> bool:
    """Whether two tensors of the graph have entries in one place of memory."""
    one, other = (node.meta["val"] for node in two)
    if one.untyped_storage()._cdata != other.untyped_storage()._cdata:
        return False
    return bool(torch.isin(_addresses(one), _addresses(other)).any())


def _addresses(x: Tensor) -> Tensor:
    """Where the entries of a tensor lie in its memory."""
    memory = torch.arange(x.untyped_storage().nbytes() // x.element_size())
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())
