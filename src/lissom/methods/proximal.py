"""Proximal optimizers: the user's own optimizer, then the prox of a penalty, in one hook.

One step of   min_w L(w) + Σ P_i(norms of groups_i)   is

    w' = the optimizer's step on L alone           (penalties never enter its statistics)
    w  = argmin_w ½‖w − w'‖²_D + lr·Σ P_i          (each group rescaled, many to exact zero)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lissom.arguments import whole
from lissom.errors import MethodError, OptimizerError, warn
from lissom.groups import Groups, Partition
from lissom.methods.method import Method
from lissom.methods.metric import Metric, check_metric, is_measured, metric_of
from lissom.methods.optimizers import param_groups_of
from lissom.methods.options import Options, Steps, make_options, takes
from lissom.methods.sharing import renew_gathered
from lissom.methods.stepped import Rows, Stepped
from lissom.penalties import Penalty
from lissom.preconditioners import Preconditioner
from lissom.rescaling import rescale
from lissom.selection import Near


@dataclass(frozen=True, kw_only=True)
class ProximalOptions(Options):
    """When the prox acts, and in which metric.

    Attributes:
        every: apply the prox after every `every`-th step, as in Formanek's Proximal RMSProp where
            it is an epoch. The step t stays lr, so λ then acts `every` times less often.
        metric: "euclidean" (t = lr for all weights) or "adaptive": the optimizer's own D, so that
            a weight's step is lr/D_i. λ means different things in the two. D = √v̂ + ε in Adam,
            AdamW and RMSprop, √(Σg²) in Adagrad, 1 in SGD, times 1 − μ under heavy-ball
            momentum. For a group of several weights
            d_g = Σ D_i w_i² / Σ w_i², exact among all rescalings of the group.
        fused: False runs the plain reference loop (same result, slower).

    Raises:
        MethodError: for an unknown metric, or counts that cannot be.
    """

    every: Steps = 1
    metric: Metric = "euclidean"
    fused: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not whole(self.every, least=1):
            raise MethodError(f"every counts steps, 1 or more, got {self.every!r}", field="every")


class Proximal(Method):
    """The proximal step that follows an optimizer's own; made by `proximal`."""

    name = "proximal"
    takes = "penalties, such as L0, L1, TopK or L1Ball"
    options_type = ProximalOptions
    shards = True

    optimizer: Optimizer
    options: ProximalOptions
    penalties: dict[Groups, Penalty]

    def __init__(
        self,
        optimizer: Optimizer,
        penalties: Mapping[Groups, Penalty],
        options: ProximalOptions | None = None,
    ) -> None:
        super().__init__(optimizer, penalties, options)
        self._applied = False  # by hand
        self._groups_now = param_groups_of(self.optimizer)
        self._stepped = Stepped(self.blocks(), self._groups_now)
        self._near = {block: Near() for block in self.blocks()}
        if self.options.metric == "adaptive":  # an unknown one is refused now, not at a step
            for block in self.blocks():
                self._metrics(block)

    @classmethod
    def check(cls, penalties: Iterable[Any], options: ProximalOptions) -> None:
        listed = list(penalties)
        super().check(listed, options)
        check_metric(options.metric, listed)

    @classmethod
    def nests(cls, options: ProximalOptions) -> bool:
        return options.metric == "euclidean"  # where D differs, the two proxes are not one

    @classmethod
    def of_complex(cls, options: ProximalOptions) -> bool:
        return options.metric == "euclidean"  # moments are of real and imaginary parts

    def after_step(self) -> None:
        self._stepped.note()
        if self.now % self.options.every == 0:
            self._rescale(self._stepped.since())
            self._stepped.due = {}

    def apply(self) -> None:
        """Apply the prox now, with the penalties of the present step, to all groups.

        What no step was about so far is left alone, once there were steps; in the adaptive metric,
        of which the optimizer has none for it yet, before the first one too.

        Raises:
            MethodError: within `deployed`, which has applied what is due.
        """
        if self._deploying:
            raise MethodError("apply within deployed() would be undone at its end: call it later")
        self._groups_now = param_groups_of(self.optimizer)
        rows = self._stepped.so_far() if self._stepped.begun else {}
        unknown = [p for p in self._stepped.parameters if not self._measured(p)]
        rows |= {p: self._stepped.none_of(p) for p in unknown}
        self._rescale(rows)
        renew_gathered(self.blocks())
        self._stepped.due = {}
        self._applied = True

    @property
    def _in_force(self) -> bool:
        return self._applied or self.step > self.options.start

    def write_(self) -> None:
        """Apply the prox that is due, where there were steps since the last."""
        self._rescale(self._stepped.since())

    def finalize(self) -> None:
        """End as all methods do, and tell of budgets and units that were not for all weights."""
        known = {} if self.finalized or not self._stepped.begun else self._stepped.so_far()
        super().finalize()
        stepped = self._stepped.chosen(known)
        moved = {p for p, rows in known.items() if rows is None or rows.any()}
        for groups, penalty in self.penalties.items():
            left = [b for b in groups if stepped.get(b, False) is not None]
            if left and (penalty.joint or any(set(b.scaled) & moved for b in left)):
                warn(
                    f"{penalty} holds for what the optimizer has stepped, and the rest is as it "
                    f"was: in {', '.join(b.name for b in left)} something is frozen, or has rows "
                    "that never had a gradient. Leave it out with .without(…) if that is meant"
                )

    @torch.no_grad()
    def _rescale(self, rows: Rows) -> None:
        """Apply the prox to the groups that lie in the given rows of the parameters."""
        self._groups_now = param_groups_of(self.optimizer)
        only = self._stepped.chosen(rows)
        for groups, penalty in self.penalties.items():
            rescale(
                penalty.at(self.now),
                groups.blocks,
                self._lr,
                self._metrics,
                only=only,
                near=self._near,
                fused=self.options.fused,
            )

    def _measured(self, parameter: nn.Parameter) -> bool:
        """Whether the optimizer has a metric for a parameter."""
        euclidean = self.options.metric == "euclidean"
        return euclidean or is_measured(self.optimizer, self._groups_now, [parameter])

    def own_state(self) -> dict[str, Any]:
        return self._stepped.state_dict()

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self._stepped.load_state_dict(state)

    def _lr(self, block: Partition) -> float:
        rates = {float(self._groups_now[p]["lr"]) for p in block.parameters}
        if len(rates) > 1:
            raise OptimizerError(
                f"the members of {block.name} ({', '.join(block.names)}) are one group, so its "
                f"prox has one step; the optimizer gives them the learning rates {sorted(rates)}"
            )
        return rates.pop()

    def _metrics(self, block: Partition) -> list[Preconditioner] | None:
        """D for each parameter of a block; None where the metric is 1 throughout."""
        if self.options.metric == "euclidean":
            return None
        return metric_of(self.optimizer, self._groups_now, block.parameters)


@takes(ProximalOptions)
def proximal(optimizer: Optimizer, penalties: Mapping[Groups, Penalty], **options: Any) -> Proximal:
    """Let an optimizer minimise L(w) + Σ P(norms), with exact zeros: after its step, the prox.

    The optimizer stays the user's own object. Its momentum and second moments are left alone
    (the prox acts on the iterate), so schedulers, GradScaler, gradient accumulation, compiled
    models and `state_dict` work as before. A zero may come back until the method is finalized.

    What the optimizer did not step stays as it is, in either metric, and budgets do not count it:
    what has no gradient, rows that a sparse one has no index of, and rows of tables (embeddings)
    that never had another gradient than 0. So does a group of which that holds for a part.

    Heavy-ball momentum μ (SGD, RMSprop) lengthens steps to lr/(1 − μ) in the long run. The adaptive
    metric knows it; in the Euclidean one t stays lr, so that λ acts as (1 − μ)λ.

    Args:
        optimizer: any torch optimizer that holds the penalised parameters.
        penalties: {groups: penalty}; disjoint groups, each with a penalty of its own. In the
            Euclidean metric L1 of single weights may go with a penalty of the groups that they lie
            in: {weights: L1(λ₁), columns: L1(λ₂)} is the sparse-group lasso.
        **options: those of `ProximalOptions`.

    Returns:
        The method's handle (see `lissom.methods.Method`); `apply` takes the proximal step now.

    Raises:
        OptimizerError: a parameter the optimizer does not hold.
        MethodError: an unknown option or metric, or counts that cannot be.
        PenaltyError: a penalty that knows no metric (`Threshold`) in an adaptive one, or numbers
            for each group that do not fit the groups.
        GroupError: overlapping groups.

    Source: Formanek & Hadházi eq. 16–18; with Adagrad (initial_accumulator_value=lr²) and the
    adaptive metric it is TensorFlow's ProximalAdagrad, which Henrikson uses.
    """
    return Proximal(optimizer, penalties, make_options(ProximalOptions, options))
