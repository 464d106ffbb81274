"""Proximal optimizers: the user's own optimizer, then the prox of a penalty, in one hook.

One step of   min_w L(w) + Σ P_i(norms of groups_i)   is

    w' = the optimizer's step on L alone           (penalties never enter its statistics)
    w  = argmin_w ½‖w − w'‖²_D + lr·Σ P_i          (each group rescaled, many to exact zero)
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import OptimizerError, PenaltyError
from lissom.groups import Block, Groups, disjoint
from lissom.penalties import Penalty
from lissom.preconditioners import Preconditioner, preconditioner
from lissom.rescaling import rescale

Metric = Literal["euclidean", "adaptive"]


class Proximal:
    """The proximal step that follows an optimizer's own; made by `proximal`.

    Attributes:
        step: optimizer steps seen so far.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        prices: Mapping[Groups, Penalty],
        *,
        every: int = 1,
        metric: Metric = "euclidean",
        start: int = 0,
        freeze_at: int | None = None,
        fused: bool = True,
    ) -> None:
        disjoint(prices)
        _check_counts(every, start, freeze_at)
        if metric not in ("euclidean", "adaptive"):
            raise OptimizerError(f"metric is 'euclidean' or 'adaptive', got {metric!r}")
        self.prices = dict(prices)
        self.every, self.metric, self.start = every, metric, start
        self.freeze_at, self.fused = freeze_at, fused
        self.step = 0
        self._optimizer = optimizer
        self._group_of = _param_groups(optimizer, prices)
        self._alive: list[Tensor] | None = None
        if metric == "adaptive":  # what knows no metric is refused now, not at the first step
            for groups, penalty in prices.items():
                if any(self._preconditioners(block) is not None for block in groups):
                    penalty.require_metric()
        self._hook = optimizer.register_step_post_hook(self._after_step)

    @property
    def frozen(self) -> bool:
        """Whether zeros stay zero from now on."""
        return self._alive is not None

    @torch.no_grad()
    def apply(self) -> None:
        """Apply the prox now, with the prices of the present step."""
        for groups, penalty in self.prices.items():
            now = penalty.at(max(0, self.step - self.start))
            rescale(now, groups.blocks, self._lr, self._preconditioners, fused=self.fused)

    @torch.no_grad()
    def freeze(self) -> None:
        """From now on zeros stay zero, and what lives is trained without a price: healing."""
        self._alive = [(b.norms() > 0).to(b.parameters[0].dtype) for b in self._blocks()]

    def remove(self) -> None:
        """Detach from the optimizer, which then steps as it did before."""
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model's and the optimizer's own state."""
        alive = None if self._alive is None else [mask.bool() for mask in self._alive]
        return {"step": self.step, "alive": alive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            OptimizerError: if the state is of other groups.
        """
        alive = state["alive"]
        blocks = self._blocks()
        if alive is not None and [m.shape for m in alive] != [b.shape for b in blocks]:
            raise OptimizerError(
                f"the saved state has masks of {[tuple(m.shape) for m in alive]}, but the groups "
                f"here are {[tuple(b.shape) for b in blocks]}: was it saved with other groups?"
            )
        self.step = int(state["step"])
        self._alive = alive and [
            mask.to(b.parameters[0].device, b.parameters[0].dtype)
            for mask, b in zip(alive, blocks, strict=True)
        ]

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # set by GradScaler for fused optimizers
        if found_inf is not None and bool(found_inf):
            return  # this step was skipped
        self.step += 1
        if self._alive is not None:
            self._keep_zeros()
            return
        since = self.step - self.start
        freezes = self.freeze_at is not None and self.step >= self.freeze_at
        if since > 0 and (since % self.every == 0 or freezes):
            self.apply()
        if freezes:
            self.freeze()

    @torch.no_grad()
    def _keep_zeros(self) -> None:
        assert self._alive is not None
        for block, alive in zip(self._blocks(), self._alive, strict=True):
            block.scale_(alive)

    def _blocks(self) -> list[Block]:
        return [block for groups in self.prices for block in groups]

    def _lr(self, block: Block) -> float:
        rates = {float(self._optimizer.param_groups[i]["lr"]) for i in self._group_of[block]}
        if len(rates) > 1:
            raise OptimizerError(
                f"the members of {block.name} ({', '.join(block.names)}) are one group, so its "
                f"prox has one step; the optimizer gives them the learning rates {sorted(rates)}"
            )
        return rates.pop()

    def _preconditioners(self, block: Block) -> list[Preconditioner] | None:
        """One for each parameter of a block; None where the metric is 1 throughout."""
        if self.metric == "euclidean":
            return None
        found = [
            preconditioner(self._optimizer, self._optimizer.param_groups[i], parameter)
            for i, parameter in zip(self._group_of[block], block.parameters, strict=True)
        ]
        if all(d is None for d in found):
            return None
        return [
            d or Preconditioner(torch.ones_like(p), 1.0, 0.0)
            for d, p in zip(found, block.parameters, strict=True)
        ]


def proximal(
    optimizer: Optimizer,
    prices: Mapping[Groups, Penalty],
    *,
    every: int = 1,
    metric: Metric = "euclidean",
    start: int = 0,
    freeze_at: int | None = None,
    fused: bool = True,
) -> Proximal:
    """Let an optimizer minimise L(w) + Σ P(norms), with exact zeros: after its step, the prox.

    The optimizer stays the user's own object. Its momentum and second moments are left alone
    (the prox acts on the iterate), so schedulers, GradScaler, gradient accumulation, compiled
    models and `state_dict` work as before. A zero may come back while the prox is active.

    Heavy-ball momentum μ (SGD, RMSprop) lengthens steps to lr/(1 − μ) in the long run. The adaptive
    metric knows it; in the Euclidean one t stays lr, so that a price λ acts as (1 − μ)λ.

    Args:
        optimizer: any torch optimizer that holds the priced parameters.
        prices: {groups: penalty}; disjoint groups, each with a price of its own.
        every: apply the prox after every `every`-th step, as in Formanek's Proximal RMSProp where
            it is an epoch. The step t stays lr, so λ then acts `every` times less often.
        metric: "euclidean" (t = lr for all weights) or "adaptive": the optimizer's own D, so that
            a weight's step is lr/D_i. λ means different things in the two. D = √v̂ + ε in Adam,
            AdamW and RMSprop, √(Σg²) in Adagrad, 1 in SGD, times 1 − μ under heavy-ball
            momentum. For a group of several weights
            d_g = Σ D_i w_i² / Σ w_i², exact among all rescalings of the group.
        start: steps to train without a price first. Schedules count from here.
        freeze_at: the step after which zeros are frozen and the survivors retrain unpriced.
        fused: False runs the plain reference loop (same result, slower).

    Returns:
        A handle with `state_dict`, `load_state_dict`, `apply`, `freeze` and `remove`.

    Raises:
        OptimizerError: a parameter the optimizer does not hold, an unknown metric, or counts that
            cannot be.
        PenaltyError: a penalty that knows no metric (`Threshold`) in an adaptive one.
        GroupError: overlapping groups.

    Source: Formanek & Hadházi eq. 16–18; with Adagrad (initial_accumulator_value=lr²) and the
    adaptive metric it is TensorFlow's ProximalAdagrad, which Henrikson uses.
    """
    return Proximal(
        optimizer,
        prices,
        every=every,
        metric=metric,
        start=start,
        freeze_at=freeze_at,
        fused=fused,
    )


def penalty_loss(prices: Mapping[Groups, Penalty], step: int = 0) -> Tensor:
    """Σ P(norms), to be added to a loss: subgradient descent, the baseline that gives no zeros.

    Args:
        prices: {groups: penalty} with penalties that have a gradient: L1, L2 and their sums.
        step: where schedules are read.

    Raises:
        PenaltyError: for a penalty that counts groups; its gradient is zero almost everywhere.

    Source: Henrikson 2021, "Try 1".
    """
    disjoint(prices)
    values: list[Tensor] = []
    for groups, penalty in prices.items():
        now = penalty.at(step)
        if not penalty.differentiable:  # asked before a schedule of L0 starts at 0
            raise PenaltyError(
                f"{penalty} has no gradient that could train a network; use "
                f"lissom.proximal(optimizer, {{groups: {penalty}}})"
            )
        values += [now.value(norms) for norms in groups.norms()]
    return torch.stack([value.to(values[0]) for value in values]).sum()


def _check_counts(every: int, start: int, freeze_at: int | None) -> None:
    if not isinstance(every, int) or every < 1:
        raise OptimizerError(f"every counts steps, 1 or more, got {every!r}")
    if not isinstance(start, int) or start < 0:
        raise OptimizerError(f"start counts steps, 0 or more, got {start!r}")
    if freeze_at is not None and (not isinstance(freeze_at, int) or freeze_at <= start):
        raise OptimizerError(
            f"freeze_at must be a step after start={start}, or nothing has been pruned by then; "
            f"got {freeze_at!r}"
        )


def _param_groups(optimizer: Optimizer, prices: Mapping[Groups, Penalty]) -> dict[Block, list[int]]:
    """Which param group of the optimizer holds each block's parameter."""
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"proximal follows the steps of a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    index = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    blocks = [block for groups in prices for block in groups]
    missing = [block.name for block in blocks if any(id(p) not in index for p in block.parameters)]
    if missing:
        raise OptimizerError(
            f"the optimizer does not hold {', '.join(missing)}, so no step would precede its prox; "
            "give it model.parameters(), or leave these out with .without(…)"
        )
    return {block: [index[id(p)] for p in block.parameters] for block in blocks}
