"""Stochastic gates: each group of weights is multiplied by a random gate that learns to be zero."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from lissom.groups import Groups
from lissom.hard_concrete import HardConcrete
from lissom.methods.gates.budget import Budget
from lissom.methods.gates.method import Gates, close_dead_gates, gates_of
from lissom.methods.gates.options import GateOptions
from lissom.penalties import Penalty
from lissom.running import ExampleInputs

__all__ = ["Budget", "GateOptions", "Gates", "close_dead_gates", "gate", "gates_of"]


def gate(
    optimizer: Optimizer,
    model: nn.Module,
    penalties: Mapping[Groups, Penalty],
    *,
    gate_lr: float | None = None,
    budget: Budget | None = None,
    init: float | Sequence[float] = 0.5,
    per: Literal["weight", "group"] = "weight",
    test: str = "published",
    law: HardConcrete | None = None,
    draws: Literal["batch", "example"] = "batch",
    noise: Literal["fresh", "pooled"] = "fresh",
    detach_l2: bool = True,
    start: int = 0,
    finalize_at: int | None = None,
    seed: int | None = None,
    example_inputs: ExampleInputs | None = None,
) -> Gates:
    """Multiply every group by a random gate z_g ∈ [0, 1], and learn which gates to close.

        min over w, α:   E_z[L(w ⊙ z)] + Σ_g λ_g n_g P(z_g ≠ 0),     z_g ~ HardConcrete(log α_g)

    The model stays itself: its class, its parameters and their names do not change, and it is
    copied, pickled, compiled and distributed as before. It has one parameter more, log α of all
    gates, which joins the optimizer as a param group of its own without weight decay. In training
    mode each call draws gates, in evaluation mode they are deterministic.

    A gate of a channel, neuron or head acts where the unit is *read*, on the columns of the layers
    that follow, so that no normalisation undoes it; on single weights and kernels it acts on them.
    All members of a unit see one draw. Weights are divided by E[z] at first, so that the network
    computes what it did, on average.

    Args:
        optimizer: of the model's weights. Make learning-rate schedulers after this call, since they
            keep one rate for each param group, and wrap the model for distributed training after
            it too.
        model: any module; it is changed in place.
        penalties: {groups: L0(λ)}, or L0(λ) + L2(λ₂) for the coupled L2 of the paper.
        gate_lr: of log α; 10·lr by default. Gates that never move usually want a larger one.
        budget: an expected size to be met instead of a λ to be guessed.
        init: the drop rate p at the start, log α ~ N(log((1 − p)/p), 0.01²); one for all, or a list
            with one for each groups.
        per: what λ is for: "weight", each of the weights n_g that the group's norm counts, as in
            the paper, or "group", n_g = 1.
        test: the gate of evaluation mode and of `finalize`: "published" (eq. 13), "median", "mean"
            (which is never zero) or "mode" (see `lissom.hard_concrete`).
        law: β, γ and ζ.
        draws: one draw for each "batch", shared by its examples as in the paper, or one for each
            "example".
        noise: "fresh" for every draw, or "pooled": from a random place of a fixed pool of 2²²
            numbers, where drawing takes longer than the network's own step (weights on CPUs).
        detach_l2: whether the gradient of the L2 part reaches the weights only. Otherwise large
            weights push their gates shut.
        start: steps before λ acts and before the budget does; schedules count from there.
        finalize_at: the step after which the gates become plain weights.
        seed: the n-th draw then depends on (seed, n) alone. In distributed training the same seed
            gives the same draws on every rank, seed + rank different ones. None draws from torch's
            global generator.
        example_inputs: of the model, from which multiply–accumulates are counted.

    Returns:
        The method's handle (see `lissom.methods.Method`), with `expected` sizes for reporting and
        `sample` for ensembles.

    Raises:
        MethodError: for penalties without an expectation over gates.
        GateError: for impossible options, or a model that has gates already.
        OptimizerError: for an optimizer that a scheduler was made for.
        GroupError: for overlapping groups.

    Source: Louizos, Welling & Kingma 2018; Ahmed, chapter 3, for single weights.
    """
    options = GateOptions(
        gate_lr=gate_lr,
        budget=budget,
        init=init,
        per=per,
        test=test,
        law=law,
        draws=draws,
        noise=noise,
        detach_l2=detach_l2,
        start=start,
        finalize_at=finalize_at,
        seed=seed,
    )
    return Gates(optimizer, model, penalties, options, example_inputs=example_inputs)
