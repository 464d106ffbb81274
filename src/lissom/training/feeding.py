"""Where the batches of an epoch come from: tensors in memory, or loaders of the user's."""

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissom.data import Dataset, Loaders
from lissom.data.loaders import batches_in, epoch_of
from lissom.errors import RunError
from lissom.training.options import TrainOptions

Batch = tuple[Any, Tensor | None]  # and which training examples they are, where that is known


class Feed:
    """The training batches of each epoch, by steps; all that is random follows (seed, epoch).

    Several processes share a step: each takes its part of a batch in memory, in which every
    example is once, but for those that make the parts equally long; a loader gives each its own.

    Args:
        data: whose training examples are fed.
        options: of the training.
        rank: the number of this process.
        world: how many there are.
    """

    def __init__(
        self, data: Dataset | Loaders, options: TrainOptions, rank: int = 0, world: int = 1
    ) -> None:
        self._data, self._options, self._rank, self._world = data, options, rank, world
        self.steps = steps_per_epoch(
            data, options.batch_size, options.accumulate, options.steps_per_epoch
        )

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches of each step.

        Raises:
            RunError: if there are fewer than there should be.
        """
        seed = _mix(self._options.seed, epoch)
        in_memory = isinstance(self._data, Dataset)
        batches = self._rows(seed) if in_memory else self._loaded(seed, epoch)
        for step in range(self.steps):
            together = list(islice(batches, self._options.accumulate))
            if not together:
                raise RunError(
                    f"the training loader gave batches for {step:,} steps in epoch {epoch + 1}, "
                    f"and {self.steps:,} were expected: "
                    + (
                        "give fewer steps_per_epoch, or a loader that begins anew in every epoch"
                        if epoch
                        else f"set steps_per_epoch={max(step, 1)}"
                    ),
                    field="steps_per_epoch",
                )
            yield together

    def _rows(self, seed: int) -> Iterator[Batch]:
        """Of a data set in memory."""
        data, augment = self._data, self._options.augment
        assert isinstance(data, Dataset)
        x, y = data.train_x, data.train_y
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator).to(y.device)
        torch.manual_seed(seed + self._rank)  # for dropout and gates
        moves = None if augment is None else augment.draw(len(y), generator).to(y.device)
        for whole in order.split(self._options.batch_size):
            rows = whole if self._world == 1 else self._share(whole)
            inputs = x[rows]
            shown = rows
            if augment is not None and moves is not None:
                drawn = moves[rows]
                inputs = augment(inputs, drawn)
                shown = rows + len(y) * augment.way(drawn)
            if self._options.channels_last:
                inputs = inputs.to(memory_format=torch.channels_last)
            yield (inputs, y[rows]), shown

    def _share(self, rows: Tensor) -> Tensor:
        """Every world-th of a batch, beginning anew where it is too short."""
        each = math.ceil(len(rows) / self._world)
        numbers = torch.arange(each, device=rows.device) * self._world + self._rank
        return rows[numbers % len(rows)]

    def _loaded(self, seed: int, epoch: int) -> Iterator[Batch]:
        assert isinstance(self._data, Loaders)
        seed += self._rank
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # transforms draw from these
        random.seed(seed)
        for batch in epoch_of(self._data.train, seed, epoch):
            yield batch, None


def steps_per_epoch(
    data: Dataset | Loaders, batch_size: int, accumulate: int = 1, steps: int | None = None
) -> int:
    """Optimizer steps in one pass over the training examples; the last may be of fewer.

    Args:
        data: whose training examples are meant.
        batch_size: of a data set in memory.
        accumulate: batches in a step.
        steps: the option `steps_per_epoch`, which may end an epoch earlier.

    Raises:
        RunError: if nobody knows, or there are not that many.
    """
    if isinstance(data, Dataset):
        batches: int | None = math.ceil(len(data.train_y) / batch_size)
    else:
        batches = batches_in(data.train)
    if batches is None and steps is None:
        raise RunError(
            f"{data!r} does not know how many training batches there are: give steps_per_epoch",
            field="steps_per_epoch",
        )
    most = math.inf if batches is None else math.ceil(batches / accumulate)
    if not most or (steps is not None and steps > most):
        raise RunError(
            f"{data!r} has {most} steps in an epoch"
            + (f", fewer than steps_per_epoch={steps}" if most else ", so nothing can be trained"),
            field="steps_per_epoch",
        )
    return int(most) if steps is None else steps


def _mix(seed: int, epoch: int) -> int:
    """One seed for each (seed, epoch)."""
    return (seed * 1_000_003 + epoch) % 2**63
