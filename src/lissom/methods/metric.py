"""In which metric weights are near one another: 1 for all, or the optimizer's own D."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from lissom.penalties import METRIC, refusal
from lissom.preconditioners import Preconditioner, preconditioner

Metric = Literal["euclidean", "adaptive"]


def check_metric(metric: Metric, penalties: Iterable[Any]) -> None:
    """Refuse penalties that know no other metric than the Euclidean, where it is another.

    Raises:
        LissomError: for a penalty or a compression that knows none.
    """
    if metric == "adaptive":
        for penalty in penalties:
            if what := refusal("metric='adaptive'", penalty, METRIC):
                raise penalty.error(what, field="penalties")


def group_numbers(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> list[int]:
    """The number of the param group that holds each parameter."""
    numbers = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    return [numbers[parameter] for parameter in parameters]


def metric_of(
    optimizer: Optimizer, groups: Sequence[int], parameters: Sequence[nn.Parameter]
) -> list[Preconditioner] | None:
    """D of each parameter; None where it is 1 for all of them.

    Args:
        optimizer: whose metric it is.
        groups: the `group_numbers` of the parameters.
        parameters: which it holds.

    Raises:
        OptimizerError: for an optimizer whose preconditioner is not known.
    """
    found = _found(optimizer, groups, parameters)
    if all(d is None for d in found):
        return None
    return [
        d or Preconditioner(torch.ones_like(p), 1.0, 0.0)
        for d, p in zip(found, parameters, strict=True)
    ]


def is_measured(
    optimizer: Optimizer, groups: Sequence[int], parameters: Sequence[nn.Parameter]
) -> bool:
    """Whether the optimizer has a D for each parameter already: it is 1, or there were steps."""
    found = zip(_found(optimizer, groups, parameters), parameters, strict=True)
    return all(d is None or parameter in optimizer.state for d, parameter in found)


def _found(
    optimizer: Optimizer, groups: Sequence[int], parameters: Sequence[nn.Parameter]
) -> list[Preconditioner | None]:
    return [
        preconditioner(optimizer, optimizer.param_groups[i], parameter)
        for i, parameter in zip(groups, parameters, strict=True)
    ]
