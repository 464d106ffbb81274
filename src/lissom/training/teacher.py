"""A teacher, whose answers a student learns beside the labels."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.arguments import is_number
from lissom.errors import RunError
from lissom.training.augment import Augment
from lissom.training.evaluation import logits_of

WHAT_WORKS = (
    "it is a lissom.training.Teacher, or a function without arguments that returns one. A network "
    "becomes one by its answers, Teacher(logits_of(net, data.train_x)), or is asked in every step "
    "as Teacher(net)"
)
MOST = 2**26  # logits that are kept, 256 MiB
PART = 2000  # examples that are moved at once, before there are any answers


@dataclass(frozen=True, eq=False)
class Teacher:
    """Distillation: (1 − α)·CE(labels, student) + α·T²·KL(σ(teacher/T) ‖ σ(student/T)).

    T² keeps the size of the second part's gradient when T changes. CE is the task's, with its
    weights of classes and its label smoothing.

    Attributes:
        logits: the teacher's, [n, classes], of the training examples in their order; or a network
            that gives them to what the student sees, and so goes with augmentation. It is asked in
            every step, or, where there are fewer ways to move an image than epochs, once about each
            image moved in each of them.
        alpha: the weight of the teacher's answers, 0 ≤ α ≤ 1.
        temperature: T > 0; the higher, the more is said of the wrong classes.

    Raises:
        RunError: for numbers out of range, or what is neither such logits nor a network.

    Source: Hinton, Vinyals & Dean 2015, section 2.
    """

    logits: Tensor | nn.Module
    alpha: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        check_distillation(self.alpha, self.temperature)
        given = self.logits
        if not isinstance(given, nn.Module) and not (isinstance(given, Tensor) and given.ndim == 2):
            raise RunError(
                "a teacher's logits are a tensor [n, classes], or a network that gives them, got "
                f"{list(given.shape) if isinstance(given, Tensor) else repr(given)}"
            )

    def loss(self, logits: Tensor, own: Tensor, batch: Tensor, inputs: Tensor) -> Tensor:
        """The loss of a student.

        Args:
            logits: the student's, [m, classes].
            own: their mean loss by the labels, CE.
            batch: which training examples these are, [m]; where they are moved, example i in way k
                of n examples is i + k·n.
            inputs: what the student saw of them, [m, …].
        """
        known = self.logits
        answers = known[batch] if isinstance(known, Tensor) else logits_of(known, inputs)
        student = logits.float() / self.temperature
        teacher = answers / self.temperature
        divergence = F.kl_div(
            student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
        )
        return (1 - self.alpha) * own + self.alpha * self.temperature**2 * divergence

    def to(self, device: torch.device | str) -> "Teacher":
        """The same on a device, with float32 logits; of a network it is a copy."""
        known = self.logits
        if isinstance(known, Tensor):
            return replace(self, logits=known.detach().float().to(device))
        return replace(self, logits=copy.deepcopy(known).to(device))


def check_distillation(alpha: object, temperature: object) -> None:
    """Refuse what is no weight, and what is no temperature.

    Raises:
        RunError: quoting it.
    """
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise RunError(f"a teacher's alpha is in [0, 1], got {alpha!r}", field="alpha")
    if not is_number(temperature) or not 0 < temperature < float("inf"):
        what = f"a teacher's temperature is above 0, got {temperature!r}"
        raise RunError(what, field="temperature")


def check_teacher(given: object, *, labels: bool, changed: bool) -> None:
    """Refuse what is neither a `Teacher` nor a function that makes one, and what it cannot teach.

    A network is callable too, but not without inputs.

    Args:
        given: for the teacher.
        labels: whether there are labels in memory, learnt by cross-entropy.
        changed: whether examples are changed anew in every epoch.

    Raises:
        RunError: saying what was given, and what works.
    """
    if not isinstance(given, Teacher) and (
        not callable(given) or isinstance(given, nn.Module | type)
    ):
        raise RunError(f"a teacher cannot be {_kind(given)}: {WHAT_WORKS}")
    if not labels:
        raise RunError(
            "a teacher answers to training examples by logits of classes: it goes with a Dataset "
            'with classes, and the loss "cross_entropy" without a forward of one\'s own',
            field="teacher",
        )
    if changed and isinstance(given, Teacher) and isinstance(given.logits, Tensor):
        raise RunError(
            "a teacher's logits are of the training examples as they are, and augment shows others "
            "in every epoch: let the network itself answer, as Teacher(net), or leave out augment",
            field="augment",
        )


def ready(
    given: Teacher | Callable[[], Teacher],
    x: Tensor,
    classes: int,
    *,
    augment: Augment | None,
    epochs: int,
) -> Teacher:
    """The teacher itself, made now if it has to be, on the device of the training examples.

    A network is asked beforehand where that is less than to ask it about each image in each epoch.

    Args:
        given: it, or the function that makes it.
        x: all training examples.
        classes: that there are.
        augment: how the student sees them moved.
        epochs: of the student.

    Raises:
        RunError: if a function made something else, or the answers are to other examples.
    """
    made = given if isinstance(given, Teacher) else given()
    if not isinstance(made, Teacher):
        raise RunError(f"the function that makes a teacher returned {_kind(made)}: {WHAT_WORKS}")
    check_teacher(made, labels=True, changed=augment is not None)
    made = made.to(x.device)
    if isinstance(made.logits, Tensor):
        what, needed, found = "each training example", [len(x), classes], list(made.logits.shape)
    else:
        what, needed, found = "an example", [1, classes], list(logits_of(made.logits, x[:1]).shape)
    if needed != found:
        raise RunError(f"a teacher answers to {what}: {needed} logits are needed, got {found}")
    if augment is None or augment.ways > epochs or augment.ways * len(x) * classes > MOST:
        return made
    assert isinstance(made.logits, nn.Module)
    net, each = made.logits, augment.all_moves().to(x.device)
    answers = [
        logits_of(net, augment(some, moves.expand(len(some), 3)))
        for moves in each
        for some in x.split(PART)  # all of them moved at once would be many copies of the data
    ]
    return replace(made, logits=torch.cat(answers))


def _kind(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if isinstance(given, nn.Module):
        return f"a network, {type(given).__name__}"
    return f"{given!r} ({type(given).__name__})" if given is not None else "None"
