"""When a training goes on with what lives, and what a checkpoint says of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.arguments import first_misfit
from lissom.data import Dataset, Loaders, first_inputs
from lissom.data.loaders import drawing_apart, moved
from lissom.errors import LissomError, RunError, warn
from lissom.measuring.macs import of_one_example
from lissom.methods import methods_on
from lissom.methods.optimizers import stepping_optimizer
from lissom.methods.staying import staying
from lissom.running import Inputs, as_inputs, copied
from lissom.shrinking import SmallTraining, Surgery
from lissom.shrinking.living import living
from lissom.shrinking.small import Cut
from lissom.training.options import TrainOptions
from lissom.training.task import Task

# Multiply–accumulates of the training that is left, below which the second or two that tracing and
# checking take are not earned back: on the CPU, and on what is faster.
WORTH, WORTH_ELSEWHERE = 1e11, 1e13
MUCH = 0.9  # of the weights: with more of them left, nothing is faster
PASSES = 3  # forward passes that a step takes as long as
SURGERY: dict[str, Any] = {
    "keep": Mapping[str, Mapping[int, Tensor]],
    "sizes": Mapping[str, Mapping[str, int]],
    "attention": Mapping[str, tuple[list[int], int]],
    "reads": Mapping[str, Tensor],
}


def go_small(
    model: nn.Module,
    optimizer: Optimizer,
    data: Dataset | Loaders,
    task: Task,
    options: TrainOptions,
    steps: int,
) -> SmallTraining | None:
    """Cut a model whose zeros are final, if that is wanted, or where it makes training faster.

    Args:
        model: in training.
        optimizer: that steps it.
        data: on whose first examples it is traced.
        task: that calls it.
        options: whether it is wanted, and how large batches are.
        steps: that are left.

    Returns:
        None where training goes on at full size; where that is not for the sake of time, a warning
        says so.
    """
    try:
        with drawing_apart():
            inputs = _inputs(model, data, task)
            if options.shrink is None and not _worth_it(model, inputs, options, steps):
                return None
            zeros, surgery, report = living(model, optimizer, inputs)
            before, after = report.weights
            if options.shrink is None and after > MUCH * before:
                return None
            return SmallTraining(model, stepping_optimizer(optimizer), surgery, zeros, report)
    except LissomError as error:
        warn(f"training goes on at full size, for the dead part cannot be cut out: {error}")
        return None


def _inputs(model: nn.Module, data: Dataset | Loaders, task: Task) -> Inputs:
    return as_inputs(first_inputs(data, task)).map(lambda x: moved(x, model))


def _worth_it(model: nn.Module, inputs: Inputs, options: TrainOptions, steps: int) -> bool:
    macs = of_one_example(model, inputs).total
    work = PASSES * macs * options.batch_size * options.accumulate * steps
    on_cpu = next(model.parameters()).device.type == "cpu"
    return work >= (WORTH if on_cpu else WORTH_ELSEWHERE)


def small_state(small: SmallTraining | None) -> dict[str, Any] | None:
    """What a checkpoint needs to go on small, beside the states at full size."""
    return None if small is None else {name: getattr(small.surgery, name) for name in SURGERY}


def check_small(
    state: Mapping[str, Any] | None, model: nn.Module, data: Dataset | Loaders, task: Task
) -> None:
    """See that a model runs when it is cut as a state says, and change nothing.

    Raises:
        RunError: saying what does not fit.
    """
    if state is None:
        return
    if why := first_misfit(state, SURGERY):
        raise RunError(f"what was cut: {why}")
    twin = copied(model)
    try:
        Cut(twin, Surgery(**state)).do()
        with drawing_apart():
            inputs = _inputs(model, data, task)
            twin(*inputs.args, **inputs.kwargs)
    except Exception as error:  # a model may raise anything
        raise RunError(f"what was cut is of another model: {error}") from error


def small_again(
    state: Mapping[str, Any] | None, model: nn.Module, optimizer: Optimizer
) -> SmallTraining | None:
    """Go on small with a model and an optimizer whose states at full size were loaded."""
    if state is None:
        return None
    optimizer = stepping_optimizer(optimizer)
    return SmallTraining(model, optimizer, Surgery(**state), staying(methods_on(optimizer)))
