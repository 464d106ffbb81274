"""Stochastic gates: each group of weights is multiplied by a random gate that learns to be zero."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lissom.groups import Groups
from lissom.methods.gates.budget import Budget
from lissom.methods.gates.method import Gates, close_dead_gates, gates_of
from lissom.methods.gates.options import GateOptions
from lissom.methods.options import make_options, takes
from lissom.penalties import Penalty
from lissom.running import ExampleInputs

__all__ = ["Budget", "GateOptions", "Gates", "close_dead_gates", "gate", "gates_of"]


@takes(GateOptions)
def gate(
    optimizer: Optimizer,
    model: nn.Module,
    penalties: Mapping[Groups, Penalty],
    *,
    example_inputs: ExampleInputs | None = None,
    **options: Any,
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
        example_inputs: of the model, from which multiply–accumulates are counted.
        **options: those of `GateOptions`.

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
    made = make_options(GateOptions, options)
    return Gates(optimizer, model, penalties, made, example_inputs=example_inputs)
