"""A teacher's answers to the training examples, which a student learns beside the labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.errors import RunError

WHAT_WORKS = (
    "it is a lissom.training.Teacher, or a function without arguments that returns one. A network "
    "becomes one by its answers, Teacher(logits_of(net, data.train_x))"
)


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
        check_distillation(self.alpha, self.temperature)
        if not isinstance(self.logits, Tensor) or self.logits.ndim != 2:
            raise RunError(
                "a teacher's logits are a tensor [n, classes], got "
                f"{list(self.logits.shape) if isinstance(self.logits, Tensor) else self.logits!r}"
            )

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


def check_distillation(alpha: object, temperature: object) -> None:
    """Refuse what is no weight, and what is no temperature.

    Raises:
        RunError: quoting it.
    """
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise RunError(f"a teacher's alpha is in [0, 1], got {alpha!r}", field="alpha")
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        what = f"a teacher's temperature is above 0, got {temperature!r}"
        raise RunError(what, field="temperature")


def check_teacher(given: object) -> None:
    """Refuse what is neither a `Teacher` nor a function that makes one.

    A network is callable too, but not without inputs, and its answers are wanted only once.

    Raises:
        RunError: saying what was given, and how a network becomes a teacher.
    """
    if isinstance(given, Teacher):
        return
    if not callable(given) or isinstance(given, nn.Module | type):
        raise RunError(f"a teacher cannot be {_kind(given)}: {WHAT_WORKS}")


def make_answers(given: Teacher | Callable[[], Teacher], examples: int, classes: int) -> Teacher:
    """The teacher itself, made now if it has to be, with an answer to each training example.

    Raises:
        RunError: if a function made something else, or the answers are to other examples.
    """
    made = given if isinstance(given, Teacher) else given()
    if not isinstance(made, Teacher):
        raise RunError(f"the function that makes a teacher returned {_kind(made)}: {WHAT_WORKS}")
    if list(made.logits.shape) != [examples, classes]:
        raise RunError(
            f"a teacher answers to each training example: {[examples, classes]} logits are needed, "
            f"got {list(made.logits.shape)}"
        )
    return made


def _kind(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if isinstance(given, nn.Module):
        return f"a network, {type(given).__name__}"
    return f"{given!r} ({type(given).__name__})" if given is not None else "None"
