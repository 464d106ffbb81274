"""Learning–compression: train towards weights of a given form, and end in exactly that form."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lissom.compressions.compressions import Compression
from lissom.groups import Groups
from lissom.methods.lc.method import LC, LCOptions
from lissom.methods.options import make_options, takes
from lissom.penalties import Penalty

__all__ = ["LC", "LCOptions", "lc"]


@takes(LCOptions)
def lc(
    optimizer: Optimizer,
    penalties: Mapping[Groups, Compression | Penalty],
    **options: Any,
) -> LC:
    """Learn weights that have a compressed form: min L(w) s.t. w = Δ(Θ), by turns.

        method = lissom.lc(opt, {lissom.weights(net): TopK(fraction=0.02)}, every=len(loader))
        for x, y in …:                                              # the L steps: your own loop
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad(); loss.backward(); opt.step()            # every so many steps a C step

    The L step draws w to θ = Δ(Θ) by (μ/2)‖w − θ − u‖², whose gradient joins that of the loss in
    the optimizer's step; the C step, after every `every` steps of the optimizer, finds the form
    nearest to w − u and, with multipliers, u ← u − (w − θ). After the last one the method
    finalizes: θ is written into the weights, so that what was asked for is met exactly. Start from
    a trained network, or train one in the first `start` steps.

    Args:
        optimizer: of the L steps; it holds what is compressed.
        penalties: {groups: compression}: a penalty with t = 1/μ, or one of `lissom.compressions`
            (`Codebook`, `LowRank`, …), or a sum of them. Schedules are read in optimizer steps
            since `start`: at 0 for direct compression, then at each C step.
        **options: those of `LCOptions`.

    Returns:
        The method's handle (see `lissom.methods.Method`); `outcome(net)` has the compressed forms.

    Raises:
        MethodError, CompressionError: for compressions, numbers or a metric that cannot be.
        OptimizerError: for weights that the optimizer does not hold.
        GroupError: for overlapping groups.

    Source: Carreira-Perpiñán 2017, *Model compression as constrained optimization*, part I;
    Idelbayev & Carreira-Perpiñán for ℓ0 + ℓ2: `TopK(fraction=κ) + L2(λ)` is their version 1, weight
    decay of the optimizer beside `TopK` alone version 2.
    """
    return LC(optimizer, penalties, make_options(LCOptions, options))
