"""Gates on a network that lost groups before."""

import torch

from lissom.gates.handle import LIMIT, Gates


@torch.no_grad()
def shut_dead(gates: Gates) -> None:
    """Shut the gates of groups that are zero: log α_g = −10 where ‖w_g‖ = 0.

    Gates start open, and those of dead groups would count as something that may still be removed.
    On a network that was hardened before, they begin where they ended.
    """
    parts = gates.log_alpha.data.split([block.shape.numel() for block in gates.blocks])
    for block, part in zip(gates.blocks, parts, strict=True):
        part[(block.norms() == 0).flatten()] = -LIMIT
