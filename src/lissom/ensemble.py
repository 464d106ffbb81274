"""Networks that answer together, how far they agree, and whether that can be trusted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, fits, is_number, shown, whole
from lissom.errors import EnsembleError
from lissom.measuring import measure
from lissom.running import Inputs, evaluating, run
from lissom.training.evaluation import check_labelled, logits_of, loss_and_error

SIZES = (1, 2, 5, 10, 20, 50)


class Ensemble(nn.Module):
    """p(c|x) = (1/L) Σ_l softmax(f_l(x))_c, the mean of what L classifiers answer.

        ensemble = Ensemble(gates.sample(20, seed=0))    # twenty networks of one training
        ensemble(x).argmax(1), ensemble.confidence(x)

    The members may be draws from gates, or networks of several trainings.

    Args:
        networks: one or more, which give logits [n, classes] of the same classes.

    Raises:
        EnsembleError: if there is none, or something else is among them.

    Source: Ahmed, chapter 5.
    """

    @as_annotated(EnsembleError)
    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        members = list(networks)
        if not members:
            raise EnsembleError("an ensemble has at least one network, got none")
        if wrong := [net for net in members if not isinstance(net, nn.Module)]:
            raise EnsembleError(f"an ensemble is made of torch.nn.Modules, got {shown(wrong[0])}")
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """log p(c|x), [n, classes]: to be used as logits."""
        logits = self._logits(inputs)
        return logits.log_softmax(2).logsumexp(0) - torch.tensor(len(logits)).log()

    def votes(self, *inputs: Tensor) -> Tensor:
        """The fraction of the members whose largest logit is the c-th, [n, classes]."""
        logits = self._logits(inputs)
        chosen = nn.functional.one_hot(logits.argmax(2), logits.shape[2])
        return chosen.float().mean(0)

    def confidence(self, *inputs: Tensor) -> Tensor:
        """The fraction of the members that agree with the most frequent answer, [n]."""
        return self.votes(*inputs).amax(1)

    def __len__(self) -> int:
        return len(self.members)

    def _logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """[L, n, classes] in float32."""
        answers = [run(member, Inputs(tuple(inputs))) for member in self.members]
        shapes = {tuple(answer.shape) for answer in answers}
        if len(shapes) > 1 or len(next(iter(shapes))) != 2:
            raise EnsembleError(
                f"the members give logits [n, classes] of the same classes, got {sorted(shapes)}"
            )
        return torch.stack([answer.float() for answer in answers])


class Recorded(nn.Module):
    """A network's recorded answers: forward(i) returns its logits for the i-th example.

        known = [Recorded(net, x) for net in networks]     # each network is run only here
        accuracy_by_size(known, torch.arange(len(x)), y), calibration_of(known, …)

    Args:
        network: a classifier; it is run in evaluation mode.
        x: inputs [n, …].
        batch_size: how many inputs it gets at a time.
    """

    @as_annotated(EnsembleError)
    def __init__(self, network: nn.Module, x: Tensor, *, batch_size: int = 2000) -> None:
        super().__init__()
        self.answers = logits_of(network, x, batch_size)

    def forward(self, examples: Tensor) -> Tensor:
        """The logits of the examples of these numbers, [n, classes]."""
        if not fits(examples, Tensor) or examples.is_floating_point() or examples.is_complex():
            what = f"examples are whole numbers from 0 to {len(self.answers) - 1}"
            raise EnsembleError(f"{what}, got {shown(examples)}")
        return self.answers[examples]


@as_annotated(EnsembleError, "networks")
def best_of(
    networks: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    strength: float = 0.0,
    *,
    batch_size: int = 2000,
) -> nn.Module:
    """argmin over the networks of L(f_l) + λ‖θ_l‖₀: the best one, weighed against its size.

        best_of(gates.sample(50, seed=0), data.valid_x, data.valid_y, strength=1e-6)

    L is the mean cross-entropy, and ‖θ‖₀ counts the non-zero weights and biases.

    Args:
        networks: one or more classifiers, such as draws from gates.
        x: inputs [n, …], neither trained on nor tested on.
        y: their classes [n].
        strength: λ ≥ 0, in nats per non-zero weight.
        batch_size: how many inputs a network gets at a time.

    Raises:
        EnsembleError: for no network, labels that do not fit, a strength that is not a number ≥ 0,
            or if all losses are NaN.

    Source: Ahmed, chapter 3B, which proposes it.
    """
    members = Ensemble(networks)
    check_labelled(x, y, EnsembleError)
    if not is_number(strength) or not 0 <= strength < math.inf:
        raise EnsembleError(f"strength is a number λ ≥ 0, got {strength!r}")
    costs = []
    for member in members.members:
        loss, _ = loss_and_error(member, x, y, batch_size)
        costs.append(loss + strength * measure(member).nonzeros)
    if all(math.isnan(cost) for cost in costs):
        raise EnsembleError(f"the losses of all {len(costs)} networks are NaN")
    best = min(range(len(costs)), key=lambda i: (math.isnan(costs[i]), costs[i]))
    return members.members[best]


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well a confidence matches the fraction of right answers.

    Attributes:
        confidence: its mean in each bin of equal width, [bins]; NaN where there is no example.
        accuracy: the fraction of right answers in each bin, [bins].
        counts: how many examples are in each, [bins].
    """

    confidence: Tensor
    accuracy: Tensor
    counts: Tensor

    @property
    def error(self) -> float:
        """Σ_b n_b/n · |accuracy_b − confidence_b|, the expected calibration error.

        Source: Guo et al. 2017, eq. 3.
        """
        gaps = (self.accuracy - self.confidence).abs().nan_to_num(0.0)
        return float((gaps * self.counts).sum() / self.counts.sum())


@as_annotated(EnsembleError)
def calibration(confidence: Tensor, right: Tensor, bins: int = 10) -> Calibration:
    """Compare a confidence with the fraction of right answers, bin by bin.

        answer = ensemble.votes(x).max(1)
        calibration(answer.values, answer.indices == y).error

    Args:
        confidence: in [0, 1], [n]. The bins are ((b − 1)/B, b/B], the first one with its 0.
        right: whether each answer is right, bool [n].
        bins: B ≥ 1.

    Raises:
        EnsembleError: for other shapes or numbers.
    """
    if confidence.ndim != 1 or confidence.shape != right.shape or not len(right):
        raise EnsembleError(
            f"a confidence and whether it was right, for n ≥ 1 examples each: got "
            f"{list(confidence.shape)} and {list(right.shape)}"
        )
    if right.dtype != torch.bool:
        raise EnsembleError(f"right says True or False for each example, got {right.dtype}")
    known = confidence.double()
    if not bool(((known >= 0) & (known <= 1)).all()):
        low, high = float(known.min()), float(known.max())
        raise EnsembleError(f"a confidence lies between 0 and 1, got {low:g} to {high:g}")
    if not whole(bins, least=1):
        raise EnsembleError(f"bins is a whole number ≥ 1, got {bins!r}")
    # 0.3 of float32 is a little more than 3/10, and belongs to the third of ten bins all the same.
    place = (known * bins - 1e-6).ceil().long().clamp(min=1) - 1
    counts = torch.bincount(place, minlength=bins)
    mean = torch.bincount(place, known, minlength=bins) / counts
    accuracy = torch.bincount(place, right.double(), minlength=bins) / counts
    return Calibration(mean, accuracy, counts)


@torch.no_grad()
@as_annotated(EnsembleError, "networks")
def calibration_of(
    networks: Iterable[nn.Module], x: Tensor, y: Tensor, *, bins: int = 10, batch_size: int = 2000
) -> Calibration:
    """The calibration of an ensemble's votes: the fraction that agrees against the accuracy.

    Args:
        networks: the members.
        x: inputs [n, …].
        y: their classes [n].
        bins: of equal width.
        batch_size: how many inputs a network gets at a time.
    """
    members = Ensemble(networks)
    check_labelled(x, y, EnsembleError)
    with evaluating(members):
        votes = torch.cat([members.votes(part) for part in x.split(batch_size)]).max(1)
    return calibration(votes.values, votes.indices == y, bins)


@torch.no_grad()
@as_annotated(EnsembleError, "networks")
def accuracy_by_size(
    networks: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] = SIZES,
    *,
    repeats: int = 20,
    seed: int = 0,
    batch_size: int = 2000,
) -> Mapping[int, list[float]]:
    """Accuracies of ensembles of L of these networks, for each size L: what a box plot shows.

        accuracy_by_size(gates.sample(50, seed=0), data.test_x, data.test_y)

    Args:
        networks: N of them; each is run once on all of x.
        x: inputs [n, …].
        y: their classes [n].
        sizes: L, each at most N.
        repeats: how many sets of L networks are drawn for each size, without repetition within a
            set; all N together are one set.
        seed: of the draws.
        batch_size: how many inputs a network gets at a time.

    Raises:
        EnsembleError: for sizes that cannot be.

    Source: Ahmed, fig. 8–9.
    """
    members = Ensemble(networks)
    check_labelled(x, y, EnsembleError)
    if wrong := [size for size in sizes if not whole(size, least=1)]:
        raise EnsembleError(f"a size is a whole number ≥ 1, got {wrong[0]!r}")
    if most := [size for size in sizes if size > len(members)]:
        raise EnsembleError(f"there are {len(members)} networks, which make no {most[0]}")
    if repeats < 1:
        raise EnsembleError(f"repeats is a whole number ≥ 1, got {repeats!r}")
    with evaluating(members):
        parts = [members._logits([part]).softmax(2) for part in x.split(batch_size)]
    answers = torch.cat(parts, dim=1)  # [N, n, classes]
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, list[float]] = {}
    for size in sizes:
        found[size] = []
        for _ in range(1 if size == len(members) else repeats):
            chosen = torch.randperm(len(members), generator=generator)[:size]
            predicted = answers[chosen.to(answers.device)].mean(0).argmax(1)
            found[size].append(float((predicted == y).double().mean()))
    return found
