"""In which metric weights are near one another: 1 for all, or the optimizer's own D."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from lissom.errors import MethodError
from lissom.penalties import METRIC, refusal
from lissom.preconditioners import Preconditioner, preconditioner

Metric = Literal["euclidean", "adaptive"]


def check_metric(metric: object, penalties: Iterable[Any] = ()) -> None:
    """Refuse what is no metric, and penalties that know none other than the Euclidean.

    Raises:
        MethodError: for an unknown metric.
        LissomError: for a penalty or a compression that knows none.
    """
    if metric not in get_args(Metric):
        raise MethodError(f"metric is 'euclidean' or 'adaptive', got {metric!r}", field="metric")
    if metric == "adaptive":
        for penalty in penalties:
            if what := refusal("metric='adaptive'", penalty, METRIC):
                raise penalty.error(what, field="penalties")


def metric_of(
    optimizer: Optimizer, groups: Sequence[int], parameters: Sequence[nn.Parameter]
) -> list[Preconditioner] | None:
    """D of each parameter; None where it is 1 for all of them.

    Args:
        optimizer: whose metric it is.
        groups: the number of the param group that holds each parameter.
        parameters: of a block.

    Raises:
        OptimizerError: for an optimizer whose preconditioner is not known.
    """
    found = [
        preconditioner(optimizer, optimizer.param_groups[i], parameter)
        for i, parameter in zip(groups, parameters, strict=True)
    ]
    if all(d is None for d in found):
        return None
    return [
        d or Preconditioner(torch.ones_like(p), 1.0, 0.0)
        for d, p in zip(found, parameters, strict=True)
    ]
