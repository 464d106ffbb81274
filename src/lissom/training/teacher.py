"""A teacher's answers to the training examples, which a student learns beside the labels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.errors import RunError


@dataclass(frozen=True, eq=False)
class Teacher:
    """Distillation: (1 − α)·CE(labels, student) + α·T²·KL(σ(teacher/T) ‖ σ(student/T)).

    T² keeps the size of the second part's gradient when T changes.

    Attributes:
        logits: the teacher's, [n, classes], of the training examples in their order.
        alpha: the weight of the teacher's answers, 0 ≤ α ≤ 1.
        temperature: T > 0; the higher, the more is said of the wrong classes.

    Raises:
        RunError: for numbers out of range, or logits of another shape.

    Source: Hinton, Vinyals & Dean 2015, section 2.
    """

    logits: Tensor
    alpha: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not isinstance(self.logits, Tensor) or self.logits.ndim != 2:
            raise RunError(
                "a teacher's logits are a tensor [n, classes], got "
                f"{list(self.logits.shape) if isinstance(self.logits, Tensor) else self.logits!r}"
            )
        if not 0 <= self.alpha <= 1:
            raise RunError(f"a teacher's alpha is in [0, 1], got {self.alpha!r}")
        if not 0 < self.temperature < float("inf"):
            raise RunError(f"a teacher's temperature is above 0, got {self.temperature!r}")

    def loss(self, logits: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
        """The loss of a student.

        Args:
            logits: the student's, [m, classes].
            labels: the true classes, [m].
            batch: which training examples these are, [m].
        """
        student = logits.float() / self.temperature
        teacher = self.logits[batch] / self.temperature
        divergence = F.kl_div(
            student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
        )
        own = F.cross_entropy(logits, labels)
        return (1 - self.alpha) * own + self.alpha * self.temperature**2 * divergence

    def to(self, device: torch.device | str) -> "Teacher":
        """The same, with float32 logits on a device."""
        return replace(self, logits=self.logits.detach().float().to(device))
