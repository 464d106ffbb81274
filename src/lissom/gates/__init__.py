"""Stochastic gates: each group of weights is multiplied by a random gate that learns to be zero."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from lissom.gates.checks import Drops, refuse_gated
from lissom.gates.dead import shut_dead
from lissom.gates.handle import Gates, gates_of
from lissom.groups import Groups
from lissom.hard_concrete import HardConcrete
from lissom.penalties import Penalty
from lissom.running import ExampleInputs

__all__ = ["Gates", "gate", "gates_of", "refuse_gated", "shut_dead"]


def gate(
    model: nn.Module,
    prices: Mapping[Groups, Penalty],
    *,
    init: Drops = 0.5,
    per: Literal["weight", "group"] = "weight",
    test: str = "published",
    law: HardConcrete | None = None,
    draws: Literal["batch", "example"] = "batch",
    noise: Literal["fresh", "pooled"] = "fresh",
    seed: int | None = None,
    example: ExampleInputs | None = None,
) -> Gates:
    """Multiply every group by a random gate z_g ∈ [0, 1], and learn which gates to shut.

        min over w, α:   E_z[L(w ⊙ z)] + Σ_g λ_g n_g P(z_g ≠ 0),     z_g ~ HardConcrete(log α_g)

    The model stays itself: its class, its parameters and their names do not change, and it is
    copied, pickled, compiled and distributed as before. It has one parameter more, log α of all
    gates. In training mode each call draws gates, in evaluation mode they are deterministic.

    A gate of a channel, neuron or head acts where the unit is *read*, on the columns of the layers
    that follow, so that no normalisation undoes it; on single weights and kernels it acts on them.
    All members of a unit see one draw. Weights are divided by E[z] at first, so that the network
    computes what it did, on average.

    Args:
        model: any module; it is changed in place.
        prices: {groups: L0(λ)}, or L0(λ) + L2(λ₂) for the coupled L2 of the paper.
        init: the drop rate p at the start, log α ~ N(log((1 − p)/p), 0.01²); one for all, or
            {groups: p}.
        per: what λ is the price of: "weight", each of the weights n_g that the group's norm counts,
            as in the paper, or "group", n_g = 1.
        test: the gate of evaluation mode and of `harden`: "published" (eq. 13), "median", "mean"
            (which is never zero) or "mode" (see `lissom.hard_concrete`).
        law: β, γ and ζ.
        draws: one draw for each "batch", shared by its examples as in the paper, or one for each
            "example".
        noise: "fresh" for every draw, or "pooled": from a random place of a fixed pool of 2²²
            numbers, where drawing takes longer than the network's own step (weights on CPUs).
        seed: the n-th draw then depends on (seed, n) alone. In distributed training the same seed
            gives the same draws on every rank, seed + rank different ones. None draws from torch's
            global generator.
        example: inputs of the model, from which multiply–accumulates are counted.

    Returns:
        A handle: `param_groups` for the optimizer, `penalty` for the loss, `constrain` for a budget
        instead of a price, `expected` for reporting, `harden` to end with, `sample` for ensembles.

    Raises:
        GateError: for penalties without an expectation over gates, impossible options, a model that
            has gates already.
        GroupError: for overlapping groups.

    Source: Louizos, Welling & Kingma 2018; Ahmed, chapter 3, for single weights.
    """
    return Gates(
        model,
        prices,
        init=init,
        per=per,
        test=test,
        law=law,
        draws=draws,
        noise=noise,
        seed=seed,
        example=example,
    )
