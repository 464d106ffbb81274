"""In which metric weights are near one another: 1 for all, or the optimizer's own D."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from lissom.penalties import METRIC, refusal
from lissom.preconditioners import Group, Preconditioner, preconditioner
from lissom.shards import local

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


def metric_of(
    optimizer: Optimizer,
    groups: Mapping[nn.Parameter, Group],
    parameters: Sequence[nn.Parameter],
) -> list[Preconditioner] | None:
    """D of each parameter, or of this process's part; None where it is 1 for all of them.

    Args:
        optimizer: whose metric it is.
        groups: its `param_groups_of` now.
        parameters: which it holds.

    Raises:
        OptimizerError: for an optimizer whose preconditioner is not known.
    """
    found = [preconditioner(optimizer, groups[p], p) for p in parameters]
    if all(d is None for d in found):
        return None
    return [
        Preconditioner(torch.ones_like(local(p)), 1.0, 0.0) if d is None else d.here()
        for d, p in zip(found, parameters, strict=True)
    ]


def is_measured(
    optimizer: Optimizer,
    groups: Mapping[nn.Parameter, Group],
    parameters: Iterable[nn.Parameter],
) -> bool:
    """Whether the optimizer has a D for each parameter already: there were steps, or it needs none.

    Before the first step second moments are 0, and D = ε says nothing. Momentum alone, and an
    accumulator that does not begin at 0 (of Adagrad), are known from the start.
    """
    return all(
        _was_stepped(optimizer, parameter)
        or (d := preconditioner(optimizer, groups[parameter], parameter)) is None
        or bool((local(d.moment) > 0).all())
        for parameter in parameters
    )


def _was_stepped(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    """Adagrad makes its state before, with a step of 0."""
    return parameter in optimizer.state and float(optimizer.state[parameter].get("step", 1)) > 0
