"""What `lissom.lc` is given, checked before anything is begun."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from lissom.budgets import TopK
from lissom.errors import CompressionError
from lissom.gates import refuse_gated
from lissom.groups import Groups
from lissom.learning_compression.compressions import Compression, tensors_of, terms
from lissom.penalties import Elastic, Penalty

Method = Literal["augmented", "quadratic"]
Metric = Literal["euclidean", "adaptive"]


def check(
    model: nn.Module,
    compressions: Mapping[Groups, Compression | Penalty],
    mu: object,
    method: str,
    metric: str,
    optimizer: Optimizer | None,
    steps: int,
    tolerance: float | None,
) -> None:
    """Refuse what cannot be, before the model is touched.

    Raises:
        CompressionError: quoting what was given, and what would work.
        GateError: for a model with gates.
    """
    if not isinstance(model, nn.Module):
        raise CompressionError(f"lc takes a torch.nn.Module, got {model!r}")
    refuse_gated(model, "lissom.lc")
    own = set(model.parameters())
    for groups in compressions:
        strange = [b.name for b in groups if not own.issuperset(tensors_of([b]))]
        if strange:
            raise CompressionError(
                f"{', '.join(strange)} of the groups is no parameter of this "
                f"{type(model).__name__}: make the groups from the same model"
            )
    if method not in ("augmented", "quadratic"):
        raise CompressionError(f"method is 'augmented' or 'quadratic', got {method!r}")
    if tolerance is not None and not (isinstance(tolerance, int | float) and 0 < tolerance < 1):
        raise CompressionError(f"tolerance is of ‖w − θ‖/‖w‖, between 0 and 1, got {tolerance!r}")
    _check_metric(compressions, metric, optimizer)
    if mu is not None:
        _check_mu(mu)
    elif not isinstance(steps, int) or steps < 1:
        raise CompressionError(f"steps is a whole number ≥ 1, got {steps!r}")
    else:
        _check_sizes(compressions)


def _check_metric(
    compressions: Mapping[Groups, Compression | Penalty], metric: str, optimizer: Optimizer | None
) -> None:
    if metric not in ("euclidean", "adaptive"):
        raise CompressionError(f"metric is 'euclidean' or 'adaptive', got {metric!r}")
    if metric == "euclidean":
        return
    if not isinstance(optimizer, Optimizer):
        raise CompressionError(
            f"metric='adaptive' is an optimizer's: give it as optimizer=…, got {optimizer!r}"
        )
    held = {p for group in optimizer.param_groups for p in group["params"]}
    for groups, compression in compressions.items():
        lacking = [b.name for b in groups if not held.issuperset(b.parameters)]
        if lacking:
            raise CompressionError(f"the optimizer does not hold {', '.join(lacking)}")
        for part in terms(compression):
            if not part.has_metric:
                raise CompressionError(f"{part} knows no metric: use metric='euclidean' with it")


def _check_mu(mu: object) -> None:
    values = list(mu) if isinstance(mu, Iterable) and not isinstance(mu, str) else [mu]
    bad = [v for v in values if not (isinstance(v, int | float) and 0 < v < math.inf)]
    if bad or not values or not isinstance(mu, Iterable):
        raise CompressionError(
            "mu is a list of positive numbers, one for each step, such as "
            f"lissom.geometric(9e-5, 1.1, 40), or None to find it on the way; got {mu!r}"
        )


def _check_sizes(compressions: Mapping[Groups, Compression | Penalty]) -> None:
    for compression in compressions.values():
        for part in terms(compression):
            if priced(part):
                raise CompressionError(
                    f"{part!r} is a price, which μ is weighed against: without a given mu, say a "
                    "size instead, such as TopK(fraction=0.02), or give mu as a list"
                )


def priced(compression: Compression | Penalty) -> bool:
    """Whether what it projects to depends on μ."""
    if isinstance(compression, Compression):
        return compression.priced
    plus = compression.plus if isinstance(compression, TopK) else compression
    return isinstance(plus, Elastic) and plus != Elastic()
