"""The metric an optimizer steps in: its step is lr·direction/D, element by element.

Each optimizer with a diagonal preconditioner keeps it in its state; one function for each says
where. A weight that never had a gradient has a second moment of 0, so D = ε.
"""

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from lissom.errors import OptimizerError
from lissom.penalties import widen
from lissom.scratch import scratch
from lissom.shards import local

Group = dict[str, Any]


@dataclass(frozen=True)
class Preconditioner:
    """D = √v·scale + ε, made afresh at every call, because a copy of it would be one of the model.

    Attributes:
        moment: v, the running second moment, shaped like the parameter (or a part of it).
        scale: 1/√(1 − β₂ⁿ) in Adam; 1 − μ under heavy-ball momentum, whose steps add up to
            lr/(1 − μ); else 1.
        eps: the optimizer's ε.
        mean: the running mean of the gradient if v is centred by it.
    """

    moment: Tensor
    scale: float
    eps: float
    mean: Tensor | None = None

    def __call__(self) -> Tensor:
        """D, a fresh tensor."""
        return self.into(torch.empty_like(widen(self.moment)))

    def scratch(self) -> Tensor:
        """D, in memory that the next call uses again."""
        return self.into(scratch(widen(self.moment), "metric"))

    def into(self, out: Tensor) -> Tensor:
        """D, written to `out`."""
        moment = widen(self.moment)
        if self.mean is not None:
            moment = (moment - widen(self.mean).square()).clamp(min=0)
        return torch.sqrt(moment, out=out).mul_(self.scale).add_(self.eps)

    def here(self) -> "Preconditioner":
        """This one for the part of the parameter that this process holds."""
        mean = None if self.mean is None else local(self.mean)
        return Preconditioner(local(self.moment), self.scale, self.eps, mean)

    def of(self, rows: Tensor) -> "Preconditioner":
        """This one for some rows of the parameter, of which `rows` has a Boolean each."""
        mean = None if self.mean is None else self.mean[rows]
        return Preconditioner(self.moment[rows], self.scale, self.eps, mean)

    def parts(self, rows: int) -> list["Preconditioner"]:
        """This one for each `rows` rows of the parameter."""
        means = self.mean.split(rows) if self.mean is not None else None
        return [
            Preconditioner(moment, self.scale, self.eps, means[i] if means else None)
            for i, moment in enumerate(self.moment.split(rows))
        ]


@singledispatch
def preconditioner(optimizer: Optimizer, group: Group, parameter: Tensor) -> Preconditioner | None:
    """D of a parameter in its param group; None where it is 1 for all weights.

    lr/D is the length that the optimizer's step has in the long run, for a gradient of 1. So where
    training with L1 rests, |gradient| = λ, whichever the optimizer.

    Raises:
        OptimizerError: for an optimizer whose preconditioner is not known here.
    """
    known = ", ".join(cls.__name__ for cls in (SGD, Adagrad, RMSprop, Adam, AdamW))
    raise OptimizerError(
        f"metric='adaptive' needs to know how {type(optimizer).__name__} scales its steps, and "
        f"knows {known} (and their subclasses); metric='euclidean' works with every optimizer, "
        "and lissom.preconditioners.preconditioner.register adds one"
    )


def _moment(state: dict[str, Any], name: str, parameter: Tensor) -> Tensor:
    moment: Tensor = state[name] if name in state else torch.zeros_like(parameter)
    return moment


def _shortening(momentum: float, dampening: float = 0.0) -> float:
    """1 − μ, as momentum lengthens steps to lr/(1 − μ) in the long run; less so with dampening.

    Raises:
        OptimizerError: where steps would grow for ever, or vanish.
    """
    if not momentum:
        return 1.0
    if not (momentum < 1 and dampening < 1):
        raise OptimizerError(
            f"with momentum={momentum:g} and dampening={dampening:g} an optimizer's steps have no "
            "length in the long run, by which metric='adaptive' measures: take both below 1, or "
            "metric='euclidean'"
        )
    return (1 - momentum) / (1 - dampening)


@preconditioner.register
def _(optimizer: SGD, group: Group, parameter: Tensor) -> Preconditioner | None:
    scale = _shortening(group["momentum"], group["dampening"])
    ones = parameter.detach().new_ones(()).expand_as(parameter)
    return None if scale == 1 else Preconditioner(ones, scale, 0.0)


@preconditioner.register
def _(optimizer: Adagrad, group: Group, parameter: Tensor) -> Preconditioner:
    state = optimizer.state.get(parameter, {})
    # Its learning rate decays by a factor of its own, which is a part of the metric here.
    decay = 1 + (max(float(state.get("step", 1)), 1) - 1) * group["lr_decay"]
    return Preconditioner(_moment(state, "sum", parameter), decay, group["eps"] * decay)


@preconditioner.register
def _(optimizer: RMSprop, group: Group, parameter: Tensor) -> Preconditioner:
    state = optimizer.state.get(parameter, {})
    mean = state.get("grad_avg") if group["centered"] else None
    scale = _shortening(group["momentum"])
    moment = _moment(state, "square_avg", parameter)
    return Preconditioner(moment, scale, group["eps"] * scale, mean)


@preconditioner.register(Adam)
@preconditioner.register(AdamW)
def _(optimizer: Adam | AdamW, group: Group, parameter: Tensor) -> Preconditioner:
    state = optimizer.state.get(parameter, {})
    name = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
    step = float(state.get("step", 0))
    scale = (1 - group["betas"][1] ** step) ** -0.5 if step else 1.0
    return Preconditioner(_moment(state, name, parameter), scale, group["eps"])
