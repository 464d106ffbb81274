"""Boosted trees that learn a network's answers: can something simpler give the same ones?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from lissom.arguments import as_annotated, whole
from lissom.data import Dataset
from lissom.data.dataset import stratified_choice
from lissom.errors import DistillError
from lissom.running import as_inputs, evaluating, run
from lissom.tables import table
from lissom.training.evaluation import logits_of

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

EXAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class Trees:
    """Gradient-boosted trees, and how they answer on test data.

    Attributes:
        model: takes inputs flattened to [n, numbers of an example].
        accuracy: the fraction of right answers.
        agreement: the fraction of answers that are the network's.
        copied: the fraction of the network's mistakes that they make too, with the same wrong
            class; None if the network makes none.
    """

    model: "HistGradientBoostingClassifier"
    accuracy: float
    agreement: float
    copied: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The numbers, as JSON has them."""
        return {name: value for name, value in vars(self).items() if name != "model"}


@dataclass(frozen=True, eq=False)
class Distilled:
    """A network, the trees that learned from it, and the same trees that learned from labels.

    Attributes:
        network: its accuracy on test data.
        taught: its accuracy on the examples that the trees learned from. Where it is 1 the network
            says what the labels say, and both trees are the same.
        from_network: trees that learned what the network answers.
        from_labels: trees that learned the true classes of the same examples.
        examples: how many they learned from.
        rounds: of boosting.
        seed: of the choice of examples.
    """

    network: float
    taught: float
    from_network: Trees
    from_labels: Trees
    examples: int
    rounds: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        trees = {"from_network": self.from_network, "from_labels": self.from_labels}
        return {**vars(self), **{name: one.to_dict() for name, one in trees.items()}}

    def table(self) -> Table:
        """Accuracy and agreement in percent, for printing."""
        rows = [
            ["network", _percent(self.network), "", ""],
            ["trees from the network", *map(_percent, self.from_network.to_dict().values())],
            ["trees from labels", *map(_percent, self.from_labels.to_dict().values())],
        ]
        columns = ["", "test accuracy, %", "as the network, %", "of its mistakes, %"]
        return table(columns, rows)


@as_annotated(DistillError, "network", "data", "rounds", "examples", "seed")
def distill_to_trees(
    network: nn.Module,
    data: Dataset,
    *,
    rounds: int = 100,
    examples: int | None = EXAMPLES,
    seed: int = 0,
) -> Distilled:
    """Teach gradient-boosted trees what a network answers, and the same trees the labels.

    The trees g learn the pairs (xᵢ, argmax f(xᵢ)) of training examples, and trees h the pairs
    (xᵢ, yᵢ). On test data, g's agreement with f says how well trees reproduce f, and h's how often
    they agree with f without having learned from it. Trees are scikit-learn's, with its defaults,
    and without early stopping: `rounds` trees for each class, or `rounds` in all for two. Test
    examples are only reported on.

        found = distill_to_trees(small, load("mnist"))
        found.from_network.agreement, found.from_labels.agreement

    Args:
        network: gives logits [n, classes]; it is run in evaluation mode.
        data: inputs of any shape, which the trees see as flat vectors.
        rounds: of boosting.
        examples: at most so many training examples, each class in its share; None for all. Time is
            proportional to rounds, to classes, to numbers of an example, and for many examples to
            their number.
        seed: 0 ≤ seed < 2³², of which examples they are.

    Raises:
        DistillError: if the network does not give logits [n, classes], or gives NaN; or for rounds
            or examples that cannot be.
        DataError: for a seed that cannot be.

    Source: Ahmed, chapter 5; Ke et al. 2017 for the trees.
    """
    if not isinstance(data, Dataset):
        raise DistillError(f"data is a lissom.data.Dataset, got {type(data).__name__}")
    if data.classes is None:
        raise DistillError(f"trees learn classes, and {data!r} has none: give Dataset(classes=…)")
    if not whole(rounds, least=1):
        raise DistillError(f"rounds is a whole number ≥ 1, got {rounds!r}")
    total = len(data.train_y)
    number = total if examples is None else examples
    if not whole(number, least=1):
        raise DistillError(
            f"examples is a whole number ≥ 1, or None for all {total:,}, got {examples!r}"
        )
    chosen = stratified_choice(data.train_y.cpu().numpy(), min(number, total), seed)
    taken = torch.from_numpy(chosen).to(data.train_y.device)
    learned, labels = data.train_x[taken], _array(data.train_y[taken])
    taught = _answers(network, learned, data.classes)
    answers, right = _answers(network, data.test_x, data.classes), _array(data.test_y)

    def trees(target: NDArray[np.int64]) -> Trees:
        model = _fitted(_flat(learned), target, rounds, seed)
        predicted = model.predict(_flat(data.test_x))
        same, wrong = predicted == answers, answers != right
        copied = float(same[wrong].mean()) if wrong.any() else None
        return Trees(model, float((predicted == right).mean()), float(same.mean()), copied)

    return Distilled(
        network=float((answers == right).mean()),
        taught=float((taught == labels).mean()),
        from_network=trees(taught),
        from_labels=trees(labels),
        examples=len(labels),
        rounds=rounds,
        seed=seed,
    )


def _fitted(
    x: NDArray[np.float32], y: NDArray[np.int64], rounds: int, seed: int
) -> "HistGradientBoostingClassifier":
    # Here and not above: scikit-learn takes a second to import, and the command line waits for it.
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=rounds, early_stopping=False, random_state=seed)
    return model.fit(x, y)


def _answers(network: nn.Module, x: Tensor, classes: int) -> NDArray[np.int64]:
    """The class of the largest logit, [n]."""
    with evaluating(network), torch.no_grad():
        first = run(network, as_inputs(x[:2]))  # a mistake is reported before all of x is run
    shape = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
    if shape != [len(x[:2]), classes]:
        raise DistillError(
            f"trees learn from a network that gives logits [n, {classes}], and for n = "
            f"{len(x[:2])} this one gave {shape}"
        )
    logits = logits_of(network, x)
    if bool(logits.isnan().any()):
        raise DistillError("the network gives NaN, from which trees can learn nothing")
    return _array(logits.argmax(1))


def _flat(x: Tensor) -> NDArray[np.float32]:
    """[n, numbers of an example]."""
    return x.flatten(1).cpu().numpy()


def _array(y: Tensor) -> NDArray[np.int64]:
    return y.cpu().numpy()


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"
