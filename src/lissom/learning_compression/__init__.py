"""Learning–compression: train towards weights of a given form, and end in exactly that form."""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from lissom.groups import Groups
from lissom.learning_compression.algorithm import LC, Step
from lissom.learning_compression.checks import Method, Metric
from lissom.learning_compression.compressions import Additive, Compression
from lissom.learning_compression.factors import factorize
from lissom.learning_compression.forms import Dense, Factors, Form, Quantized, Sum
from lissom.learning_compression.low_rank import LowRank, RankSelection
from lissom.learning_compression.quantization import (
    Binary,
    Codebook,
    ScaledBinary,
    ScaledTernary,
)
from lissom.learning_compression.result import Compressed
from lissom.learning_compression.storing import load_compressed, save_compressed
from lissom.penalties import Penalty

__all__ = [
    "LC",
    "Additive",
    "Binary",
    "Codebook",
    "Compressed",
    "Compression",
    "Dense",
    "Factors",
    "Form",
    "LowRank",
    "Quantized",
    "RankSelection",
    "ScaledBinary",
    "ScaledTernary",
    "Step",
    "Sum",
    "factorize",
    "lc",
    "load_compressed",
    "save_compressed",
]


def lc(
    model: nn.Module,
    compressions: Mapping[Groups, Compression | Penalty],
    *,
    mu: Sequence[float] | None = None,
    method: Method = "augmented",
    metric: Metric = "euclidean",
    optimizer: Optimizer | None = None,
    steps: int = 40,
    tolerance: float | None = None,
) -> LC:
    """Learn weights that have a compressed form: min L(w) s.t. w = Δ(Θ), by turns.

        for step in lissom.lc(net, {lissom.weights(net): TopK(fraction=0.02)}):
            for x, y in loader:                                        # the L step
                loss = F.cross_entropy(net(x), y) + step.penalty()
                opt.zero_grad(); loss.backward(); opt.step()
                                                                       # the C step

    The L step draws w to θ = Δ(Θ) by (μ/2)‖w − θ − u‖²; the C step finds the form nearest to w − u
    and, in the augmented method, u ← u − (w − θ). When the loop ends, θ is written into the
    weights: what was asked for is met exactly. Start from a trained network.

    Args:
        model: any module; only its weights are changed, by the optimizer and at the end.
        compressions: {groups: compression}: a penalty with t = 1/μ, or one of this package
            (`Codebook`, `LowRank`, …), or a sum of them. Schedules are read by C steps: at 0 for
            direct compression, at n for the n-th.
        mu: μ of each step, such as `lissom.geometric(9e-5, 1.1, 40)`. None finds it: the pull is a
            tenth of the loss's gradient at first, and grows where ‖w − θ‖ falls too slowly.
        method: "augmented" Lagrangian, or "quadratic" penalty, with u = 0.
        metric: in which θ is nearest and w is drawn: "euclidean", or the optimizer's "adaptive" D
            as of the last C step (see `proximal`). There μ is a rate: an optimizer's step moves w
            by lr·μ of the way to θ.
        optimizer: whose metric it is; where mu is None, μ stays below its 1/lr.
        steps: how many at most, where mu is None.
        tolerance: of ‖w − θ‖/‖w‖, at which the loop ends before. By default 0.01 where mu is None,
            otherwise never.

    Returns:
        What the loop iterates over. Its `finish()` ends it after a break and gives the result;
        `state_dict` and `load_state_dict` go on after a kill.

    Raises:
        CompressionError: for compressions, numbers or a metric that cannot be.
        GroupError: for overlapping groups.

    Source: Carreira-Perpiñán 2017, *Model compression as constrained optimization*, part I;
    Idelbayev & Carreira-Perpiñán for ℓ0 + ℓ2: `TopK(fraction=κ) + L2(λ)` is their version 1, weight
    decay of the optimizer beside `TopK` alone version 2.
    """
    return LC(
        model,
        compressions,
        mu=mu,
        method=method,
        metric=metric,
        optimizer=optimizer,
        steps=steps,
        tolerance=tolerance,
    )
