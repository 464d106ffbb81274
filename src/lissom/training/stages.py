"""Methods that train towards a simpler network, and end with it at a given epoch.

Until then the network that is evaluated is not the one that is trained: gates are drawn, weights
are drawn to their compressed form. After it, zeros stay and what is left is trained alone.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.gates import Gates, gates_of
from lissom.groups import Groups
from lissom.learning_compression import LC
from lissom.penalties import Penalty
from lissom.proximal import Proximal
from lissom.training.evaluation import gates_event


class Stage(ABC):
    """A part of training with a penalty of its own in the loss.

    Attributes:
        name: of what it tells in events and keeps in checkpoints.
    """

    name: str

    @property
    def result_lasts(self) -> bool:
        """Whether what it ends with can be kept while training goes on."""
        return True

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027
        """Called before each epoch, with the number of those that are done."""

    @abstractmethod
    def penalty(self) -> Tensor | None:
        """What is added to the loss now; None for nothing."""

    def end_epoch(self, epoch: int) -> None:  # noqa: B027
        """Called after each epoch, with the number of those that are done."""

    @abstractmethod
    def over(self, epoch: int) -> bool:
        """Whether it ends when so many epochs are done."""

    @abstractmethod
    def plain(self, model: nn.Module) -> nn.Module:
        """What the model, or its average, would be if the stage ended now: a copy."""

    @abstractmethod
    def end(self) -> Proximal | None:
        """Make the model plain; what keeps its zeros from now on, if anything does."""

    @abstractmethod
    def event(self, model: nn.Module) -> dict[str, Any]:
        """How it stands, for an event."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


class Gated(Stage):
    """Stochastic gates, which are hardened after an epoch, or after the last."""

    name = "gates"

    def __init__(self, gates: Gates, optimizer: Optimizer, harden_at: int | None) -> None:
        self.gates, self.harden_at = gates, harden_at
        self._optimizer = optimizer

    def penalty(self) -> Tensor:
        return self.gates.penalty()

    def over(self, epoch: int) -> bool:
        return epoch == self.harden_at

    def plain(self, model: nn.Module) -> nn.Module:
        mine = gates_of(model)
        mine.load_state_dict(self.gates.state_dict())  # the steps of an average stand still
        return mine.hardened()

    def end(self) -> Proximal:
        log_alpha = self.gates.log_alpha
        self.gates.harden()
        for group in self._optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not log_alpha]
        return _frozen(self._optimizer, self.gates.prices)

    def event(self, model: nn.Module) -> dict[str, Any]:
        return gates_event(gates_of(model))

    def state_dict(self) -> dict[str, Any]:
        return self.gates.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gates.load_state_dict(state)


class Compressing(Stage):
    """Learning–compression in L steps of whole epochs.

    Args:
        lc: of the trainer's model.
        optimizer: the trainer's.
        begins: how many epochs are done when each L step begins, and when the last one is over.
        restart: whether the optimizer starts each L step without momentum, as the published one
            does, which makes a new one for each.
    """

    name = "lc"

    def __init__(
        self, lc: LC, optimizer: Optimizer, begins: Sequence[int], *, restart: bool
    ) -> None:
        self.lc, self._optimizer = lc, optimizer
        self._begins, self._restart = begins, restart

    @property
    def result_lasts(self) -> bool:
        """Zeros can stay; a codebook or a rank could not."""
        return all(isinstance(what, Penalty) for what in self.lc.given.values())

    def begin_epoch(self, epoch: int) -> None:
        if epoch == self._begins[self.lc.number]:
            if self._restart:
                self._optimizer.state.clear()
            self.lc.learn()

    def penalty(self) -> Tensor | None:
        return self.lc.penalty() if self.lc.learning else None

    def end_epoch(self, epoch: int) -> None:
        if self.lc.learning and epoch == self._begins[self.lc.number + 1]:
            self.lc.compress()

    def over(self, epoch: int) -> bool:
        return self.lc.done

    def plain(self, model: nn.Module) -> nn.Module:
        if not self.lc.begun:
            return copy.deepcopy(model)
        with self.lc.apply():
            return copy.deepcopy(model)

    def end(self) -> Proximal | None:
        self.lc.finish()
        kept = {g: p for g, p in self.lc.given.items() if isinstance(p, Penalty)}
        return _frozen(self._optimizer, kept) if kept else None

    def event(self, model: nn.Module) -> dict[str, Any]:
        if not self.lc.begun:
            return {}
        return {"step": self.lc.number, "mu": self.lc.mu, "gap": self.lc.gap}

    def state_dict(self) -> dict[str, Any]:
        return self.lc.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lc.load_state_dict(state)


def _frozen(optimizer: Optimizer, prices: Mapping[Groups, Penalty]) -> Proximal:
    # Moments of before would go on moving what is dead, and belong to another problem.
    optimizer.state.clear()
    zeros = Proximal(optimizer, prices)
    zeros.freeze()
    return zeros
