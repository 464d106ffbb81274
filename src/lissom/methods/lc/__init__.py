"""Learning–compression: train towards weights of a given form, and end in exactly that form."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch.optim import Optimizer

from lissom.compressions.compressions import Compression
from lissom.groups import Groups
from lissom.methods.lc.method import LC, LCOptions
from lissom.methods.metric import Metric
from lissom.penalties import Penalty

__all__ = ["LC", "LCOptions", "lc"]


def lc(
    optimizer: Optimizer,
    penalties: Mapping[Groups, Compression | Penalty],
    *,
    every: int | Sequence[int],
    first: int | None = None,
    c_steps: int | None = None,
    mu: float | Sequence[float] | None = None,
    mu_factor: float = 1.0,
    algorithm: Literal["augmented", "quadratic"] = "augmented",
    metric: Metric = "euclidean",
    tolerance: float | None = None,
    restart: bool = False,
    start: int = 0,
    finalize_at: int | None = None,
) -> LC:
    """Learn weights that have a compressed form: min L(w) s.t. w = Δ(Θ), by turns.

        method = lissom.lc(opt, {lissom.weights(net): TopK(fraction=0.02)}, every=len(loader))
        for x, y in …:                                              # the L steps: your own loop
            loss = F.cross_entropy(net(x), y) + method.penalty()
            opt.zero_grad(); loss.backward(); opt.step()            # every so many steps a C step

    The L step draws w to θ = Δ(Θ) by (μ/2)‖w − θ − u‖²; the C step, after every `every` steps of
    the optimizer, finds the form nearest to w − u and, with multipliers, u ← u − (w − θ). After the
    last one the method finalizes: θ is written into the weights, so that what was asked for is met
    exactly. Start from a trained network, or train one in the first `start` steps.

    Args:
        optimizer: of the L steps; it holds what is compressed.
        penalties: {groups: compression}: a penalty with t = 1/μ, or one of `lissom.compressions`
            (`Codebook`, `LowRank`, …), or a sum of them. Schedules are read in optimizer steps
            since `start`: at 0 for direct compression, then at each C step.
        every: optimizer steps of an L step; or a list of the steps since `start` after which each
            of them ends.
        first: steps of the first L step, if it is another number.
        c_steps: how many C steps there are, where `every` is a number; 40 by default.
        mu: μ of the first L step, which grows by `mu_factor` with each, or a list with one for
            each. None finds it: the pull is a tenth of the loss's gradient at first, and grows
            where ‖w − θ‖ falls too slowly, up to the 1/lr that the optimizer can follow.
        mu_factor: a in μ_n = μ₀ aⁿ.
        algorithm: "augmented" Lagrangian, or "quadratic" penalty, with u = 0.
        metric: in which θ is nearest and w is drawn: "euclidean", or the optimizer's "adaptive" D
            as of the last C step (see `proximal`). There μ is a rate: an optimizer's step moves w
            by lr·μ of the way to θ.
        tolerance: of ‖w − θ‖/‖w‖, at which it ends before. By default 0.01 where mu is None,
            otherwise never.
        restart: whether the optimizer forgets its moments when an L step begins, as the published
            code does by making a new one.
        start: steps of plain training before the first L step.
        finalize_at: the step after which it ends, if that is before the last C step.

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
    options = LCOptions(
        every=every,
        first=first,
        c_steps=c_steps,
        mu=mu,
        mu_factor=mu_factor,
        algorithm=algorithm,
        metric=metric,
        tolerance=tolerance,
        restart=restart,
        start=start,
        finalize_at=finalize_at,
    )
    return LC(optimizer, penalties, options)
