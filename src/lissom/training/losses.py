"""The losses that are known by name: what is trained on, and what a part's loss and error sum up.

A part is looked at in batches, so each loss gives sums: of the loss, of what it is divided by, of
the errors, and of what they are divided by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.data.loaders import told
from lissom.errors import RunError

IGNORED = -100  # torch's ignore_index

Sums = tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]


class Loss(Protocol):
    """A mean to train on, and sums to evaluate by."""

    @property
    def error(self) -> str:
        """What the error is called."""

    @property
    def root(self) -> bool:
        """Whether the error is the root of the mean."""

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """Of a batch, with a gradient."""

    def sums(self, outputs: Any, targets: Any) -> Sums:
        """Loss, its denominator, errors, and theirs."""

    def answers(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Outputs and targets as a score sees them."""


@dataclass(frozen=True)
class CrossEntropy:
    """Classes, in dim 1 of the outputs; the error is the fraction of wrong answers."""

    weight: Tensor | None
    smoothing: float = 0.0  # in training alone
    error: ClassVar[str] = "error"
    root: ClassVar[bool] = False

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """In nats; weighted if there are weights."""
        outputs, targets = self._fit(outputs, targets)
        return self._entropy(outputs, targets, "mean", self.smoothing)

    def sums(self, outputs: Any, targets: Any) -> Sums:
        """Of the targets that count."""
        outputs, targets = self._fit(outputs, targets)
        counted = targets != IGNORED
        n = counted.sum()
        of = n if self.weight is None else self._weight(outputs)[targets[counted]].sum()
        wrong = ((outputs.argmax(1) != targets) & counted).sum()
        return self._entropy(outputs, targets, "sum"), of, wrong, n

    def answers(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Logits, and classes."""
        return self._fit(outputs, targets)

    def _entropy(
        self, outputs: Tensor, targets: Tensor, reduction: str, smoothing: float = 0.0
    ) -> Tensor:
        weight = None if self.weight is None else self._weight(outputs)
        try:
            return F.cross_entropy(
                outputs, targets, weight, reduction=reduction, label_smoothing=smoothing
            )
        except IndexError as error:  # a class that there is no output for
            raise RunError(
                f"targets go up to {int(targets.max())} and down to {int(targets.min())}, but the "
                f"network has outputs for classes 0 to {outputs.shape[1] - 1}"
            ) from error

    def _weight(self, outputs: Tensor) -> Tensor:
        assert self.weight is not None
        if self.weight.shape != outputs.shape[1:2]:
            raise RunError(
                f"weight has a number for each class: {outputs.shape[1]} classes, got "
                f"{list(self.weight.shape)}"
            )
        return self.weight.to(outputs)

    def _fit(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        fits = (
            isinstance(outputs, Tensor)
            and isinstance(targets, Tensor)
            and outputs.ndim >= 2
            and outputs.shape[:1] + outputs.shape[2:] == targets.shape
        )
        if not fits or targets.is_floating_point() or targets.is_complex():
            last = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
            last = last and outputs.shape[:-1] == targets.shape and outputs.ndim > 2
            raise RunError(
                "'cross_entropy' takes outputs [n, classes, …] and whole-numbered targets [n, …], "
                f"got {told(outputs)} and {told(targets)}"
                + ("; outputs.movedim(-1, 1) has the classes in dim 1" if last else "")
            )
        return outputs, targets.long()


class _Numberwise:
    """A loss of numbers one by one, for outputs and targets of one shape."""

    name: ClassVar[str]

    def _fit(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            if outputs.shape == (*targets.shape, 1):
                outputs = outputs.squeeze(-1)
            if outputs.shape == targets.shape and not outputs.is_complex():
                return outputs, targets.to(outputs.dtype)
        raise RunError(
            f"{self.name!r} takes outputs and targets of one shape, or outputs [n, 1] and targets "
            f"[n], got {told(outputs)} and {told(targets)}"
        )


@dataclass(frozen=True)
class MeanSquares(_Numberwise):
    """Numbers; the error is the root of the mean squared error, in the targets' unit."""

    weight: Tensor | None
    name: ClassVar[str] = "mse"
    error: ClassVar[str] = "RMSE"
    root: ClassVar[bool] = True

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """Of all numbers."""
        return F.mse_loss(*self._fit(outputs, targets))

    def sums(self, outputs: Any, targets: Any) -> Sums:
        """Of all numbers."""
        total = F.mse_loss(*self._fit(outputs, targets), reduction="sum")
        return total, targets.numel(), total, targets.numel()

    def answers(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Both in one shape."""
        return self._fit(outputs, targets)


@dataclass(frozen=True)
class BinaryEntropy(_Numberwise):
    """Yes or no, by a logit each; the error is the fraction of wrong answers, at logit 0."""

    weight: Tensor | None
    name: ClassVar[str] = "bce_with_logits"
    error: ClassVar[str] = "error"
    root: ClassVar[bool] = False

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """Of all answers, in nats."""
        return self._entropy(*self._fit(outputs, targets), "mean")

    def sums(self, outputs: Any, targets: Any) -> Sums:
        """Of all answers."""
        outputs, targets = self._fit(outputs, targets)
        wrong = ((outputs > 0) != (targets > 0.5)).sum()
        n = targets.numel()
        return self._entropy(outputs, targets, "sum"), n, wrong, n

    def answers(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Logits, and 0 or 1 as whole numbers."""
        outputs, targets = self._fit(outputs, targets)
        return outputs, (targets > 0.5).long()

    def _entropy(
        self, outputs: Tensor, targets: Tensor, reduction: str, smoothing: float = 0.0
    ) -> Tensor:
        weight = None if self.weight is None else self.weight.to(outputs)
        try:
            return F.binary_cross_entropy_with_logits(
                outputs, targets, pos_weight=weight, reduction=reduction
            )
        except RuntimeError as error:
            if weight is None:
                raise
            raise RunError(
                f"weight has a number for each label, or one: outputs are {list(outputs.shape)}, "
                f"weight {list(weight.shape)}"
            ) from error


@dataclass(frozen=True)
class Own:
    """A function of the user's, whose mean over batches counts each by its examples."""

    function: Callable[..., Any]
    root: ClassVar[bool] = False

    @property
    def error(self) -> str:
        """Its mean is what it is judged by, without a score."""
        return "loss"

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """What the function says."""
        loss = self.function(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            remedy = ""
            if isinstance(loss, Tensor):
                remedy = "; take its .mean()"
            elif isinstance(loss, dict | list | tuple):
                remedy = "; add its terms up"
            raise RunError(
                f"the loss {name} is to give a scalar tensor, the mean over a batch, got "
                f"{told(loss)}{remedy}"
            )
        return loss

    def sums(self, outputs: Any, targets: Any) -> Sums:
        """The mean as often as there are examples."""
        first = next((x for x in torch.utils._pytree.tree_leaves((targets, outputs))
                      if isinstance(x, Tensor) and x.ndim), None)  # fmt: skip
        n = 1 if first is None else len(first)
        total = self.mean(outputs, targets) * n
        return total, n, total, n

    def answers(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """As they are."""
        return outputs, targets


LOSSES: dict[str, Callable[[Tensor | None], Loss]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquares,
    "bce_with_logits": BinaryEntropy,
}
