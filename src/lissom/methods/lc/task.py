"""What one compression does to the weights it was given, through all steps of the algorithm."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.compressions.compressions import Compression, bound, compress, tensors_of
from lissom.compressions.forms import Form, form_of
from lissom.groups import Groups
from lissom.methods.lc.pull import penalty, pull_
from lissom.methods.metric import is_measured, metric_of
from lissom.methods.optimizers import maximizes, param_groups_of
from lissom.penalties import Penalty
from lissom.preconditioners import Group
from lissom.shards import local, shard_of


class Task:
    """Weights w, their forms Θ, and what the L step draws w to.

    Attributes:
        weights: parameters of the model.
        compression: with schedules.
        forms: Θ, one for each of the weights.
        metric: D of the last C step; None for 1.
        targets: c = Δ(Θ) + u.
        duals: u, the multipliers of w = Δ(Θ) over μD; None in the quadratic-penalty method.
    """

    def __init__(
        self,
        groups: Groups,
        compression: Compression | Penalty,
        *,
        augmented: bool,
        optimizer: Optimizer | None,
    ) -> None:
        self.weights = tensors_of(groups.blocks)
        self.shards = [shard_of(w) for w in self.weights]
        self.compression = bound(compression, groups)
        self.forms: list[Form] = []
        self.metric: list[Tensor] | None = None
        self.targets: list[Tensor] = []
        self.duals = [torch.zeros_like(w) for w in self.here()] if augmented else None
        self._optimizer = optimizer  # in whose metric θ is nearest
        if optimizer is not None:  # one that has none is refused now, not at a step
            metric_of(optimizer, param_groups_of(optimizer), self.weights)

    def here(self) -> list[Tensor]:
        """The weights, or this process's parts of them; what else belongs to them is shaped so."""
        return [local(w.detach()) for w in self.weights]

    @torch.no_grad()
    def project(self, step: int, mu: float) -> list[Form]:
        """argmin over Θ of ‖(w − u) − Δ(Θ)‖²_D, in the present metric."""
        return self._project(step, mu, self._metric())

    @torch.no_grad()
    def begin(self, mu: float) -> None:
        """Direct compression: the forms nearest to the weights as they are."""
        self.metric = self._metric()
        self.forms = self._project(0, mu or 1.0, self.metric)

    @torch.no_grad()
    def compress(self, step: int, mu: float) -> None:
        """The C step: Θ anew, then u ← u − (w − Δ(Θ))."""
        self.metric = self._metric()
        self.forms = self._project(step, mu, self.metric)
        if self.duals is not None:
            w_u_theta = zip(self.here(), self.duals, self.values(), strict=True)
            self.duals = [u - (w - theta) for w, u, theta in w_u_theta]

    @torch.no_grad()
    def aim(self, ratio: float = 1.0) -> None:
        """Set the targets of an L step whose μ is the last one divided by `ratio`."""
        self.targets = self.values()
        if self.duals is not None:
            self.duals = [u * ratio for u in self.duals]
            self.targets = [c + u for c, u in zip(self.targets, self.duals, strict=True)]

    def values(self) -> list[Tensor]:
        """Δ(Θ), a tensor for each of the weights."""
        return [form.value() for form in self.forms]

    def penalty(self, mu: float, groups: Mapping[nn.Parameter, Group]) -> Tensor:
        """The L step's penalty, (μ/2)‖w − c‖²_D; before the first, as it would begin now.

        Below 0 for weights whose param group maximizes, from whose objective it is subtracted.
        """
        mus = self._signed(mu, groups)
        if self.forms:
            return penalty(self.weights, self.targets, mus, self.metric, self.shards)
        targets = [form.value() for form in self.project(0, mu)]
        return penalty(self.weights, targets, mus, self._metric(), self.shards)

    def pull_(self, mu: float, groups: Mapping[nn.Parameter, Group], scale: Tensor | None) -> None:
        """Add its gradient to those of the weights, which `scale` has multiplied."""
        pull_(self.weights, self.targets, self._signed(mu, groups), self.metric, scale)

    def _signed(self, mu: float, groups: Mapping[nn.Parameter, Group]) -> list[float]:
        """μ of each of the weights, and −μ where the optimizer goes up the gradient."""
        return [-mu if maximizes(groups.get(w)) else mu for w in self.weights]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        forms, metric = self.forms, self.metric
        if any(self.shards):  # torch loads into what is there
            forms = forms or self.project(0, 1.0)
            if metric is None and self._optimizer is not None:
                metric = [torch.ones_like(w) for w in self.here()]
        pairs = zip(forms, self.shards, strict=False)
        whole = [form if s is None else form.changed(s.whole) for form, s in pairs]
        return {
            "forms": [form.state() for form in whole],
            "metric": self._joined(metric),
            "duals": self._joined(self.duals),
        }

    def _joined(self, parts: list[Tensor] | None) -> list[Tensor] | None:
        """As a checkpoint has them: what processes share is a DTensor."""
        if parts is None:
            return None
        return [
            x if shard is None else shard.whole(x)
            for x, shard in zip(parts, self.shards, strict=True)
        ]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        device = self.weights[0].device
        forms = [form_of(form, device) for form in state["forms"]]
        pairs = zip(forms, self.shards, strict=False)
        self.forms = [form if s is None else form.changed(local) for form, s in pairs]
        self.metric, self.duals = (
            None if state[name] is None else [local(x).to(device) for x in state[name]]
            for name in ("metric", "duals")
        )
        if self.forms:
            self.aim()

    def _project(self, step: int, mu: float, metric: list[Tensor] | None) -> list[Form]:
        w = self.here()
        if self.duals is not None:
            w = [x - u for x, u in zip(w, self.duals, strict=True)]
        return compress(self.compression.at(step), w, mu, metric)

    def _metric(self) -> list[Tensor] | None:
        """The optimizer's, or None before its first step, where it has none yet."""
        if self._optimizer is None:
            return None
        groups = param_groups_of(self._optimizer)
        if not is_measured(self._optimizer, groups, self.weights):
            return None
        found = metric_of(self._optimizer, groups, self.weights)
        return None if found is None else [d() for d in found]
