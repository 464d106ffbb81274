"""Networks of every kind of task, each small, with data, and its scores computed by hand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lissom.data import Dataset, Loaders
from lissom.training import Score, Task

N, TEST = 48, 20


@dataclass(frozen=True)
class Case:
    """What is trained, and what is right: (loss, error) from outputs and targets of a part."""

    net: Callable[[], nn.Module]
    data: Callable[[], Dataset | Loaders]
    task: Task
    by_hand: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    options: dict[str, Any] = field(default_factory=dict)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_memory(x: Callable[[int, int], Tensor], y: Callable[[Tensor], Tensor]) -> Dataset:
    parts = [x(seed, n) for seed, n in enumerate((N, TEST))]
    made = Dataset("toy", parts[0], y(parts[0]), parts[1], y(parts[1]))
    return made.hold_out(12, seed=0)


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, outputs))


class TwoInputs(nn.Module):
    """A sum of two branches, with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.a(a) + self.b(b))
        return self.head(features), features


class Output(NamedTuple):
    logits: Tensor


class Tokens(nn.Module):
    """Classes of tokens, as transformers answer: an object with logits [n, length, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = torch.relu(self.table(input_ids)) * attention_mask[..., None]
        return Output(self.head(hidden))


class TokenBatches:
    """Dicts of token ids, padded to another length in each batch."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for i in range(self.n):
            ids = draw(i, 8, 4 + i % 3).abs().mul(5).long().clamp(max=10)
            mask = (ids > 0).long()
            yield {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": ids.where(ids > 0, -400) // 4,
            }


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples without a number of them, in an order of torch's generator."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x = draw(0, N, 4)
        for i in torch.randperm(N).tolist():
            yield x[i] + 0.01 * torch.randn(4), (x[i, 0] > 0).long()


def loaders(*columns: Callable[[int], Tensor]) -> Loaders:
    def part(n: int, *, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*(column(n) for column in columns)), 8, shuffle=shuffle)

    return Loaders(part(N, shuffle=True), part(TEST, shuffle=False), part(12, shuffle=False))


def wrong(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    counted = targets != -100
    error = (outputs.argmax(1) != targets)[counted].double().mean()
    return F.cross_entropy(outputs, targets), error


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(-1) - targets).abs().mean()


def jaccard(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over classes of what both say, of what either says."""
    said = outputs.argmax(1)
    both = [((said == c) & (targets == c)).sum() / ((said == c) | (targets == c)).sum().clamp(1)
            for c in range(2)]  # fmt: skip
    return torch.stack(both).mean()


WEIGHT = torch.tensor([0.5, 2.0])
POSITIVE = torch.tensor([1.0, 3.0, 2.0])

CASES = {
    "regression": Case(
        lambda: mlp(4, 1),
        lambda: in_memory(lambda s, n: draw(s, n, 4), lambda x: x.sum(1)),
        Task("mse", unit="°C"),
        lambda o, t: (((o[:, 0] - t) ** 2).mean(), ((o[:, 0] - t) ** 2).mean().sqrt()),
    ),
    "a loss of one's own": Case(
        lambda: mlp(4, 1),
        lambda: loaders(lambda n: draw(n, n, 4), lambda n: draw(n, n, 4).sum(1)),
        Task(absolute, name="MAE"),
        lambda o, t: (absolute(o, t), absolute(o, t)),
    ),
    "several labels": Case(
        lambda: mlp(4, 3),
        lambda: in_memory(lambda s, n: draw(s, n, 4), lambda x: (x[:, :3] > 0).float()),
        Task("bce_with_logits", weight=POSITIVE),
        lambda o, t: (
            F.binary_cross_entropy_with_logits(o, t, pos_weight=POSITIVE),
            ((o > 0) != (t > 0)).double().mean(),
        ),
    ),
    "one logit": Case(
        lambda: mlp(4, 1),
        lambda: loaders(lambda n: draw(n, n, 4), lambda n: (draw(n, n, 4)[:, 0] > 0).long()),
        Task("bce_with_logits"),
        lambda o, t: (
            F.binary_cross_entropy_with_logits(o[:, 0], t.float()),
            ((o[:, 0] > 0).long() != t).double().mean(),
        ),
        {"accumulate": 2, "clip_norm": 0.5},
    ),
    "segmentation": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        lambda: in_memory(lambda s, n: draw(s, n, 1, 6, 6), lambda x: (x[:, 0] > 0).long()),
        Task(
            score=Score(jaccard, name="mIoU", best=1.0, larger_is_better=True), weight=[0.5, 2.0]
        ),
        lambda o, t: (F.cross_entropy(o, t, WEIGHT), 1 - jaccard(o, t)),
    ),
    "tokens in dicts": Case(
        Tokens,
        lambda: Loaders(TokenBatches(6), TokenBatches(4), TokenBatches(3), name="tokens"),
        Task(),
        wrong,
    ),
    "a stream": Case(
        lambda: mlp(4, 2),
        lambda: Loaders(
            DataLoader(Stream(), 8),
            loaders(lambda n: draw(n, n, 4), lambda n: torch.zeros(n).long()).test,
        ),
        Task(),
        wrong,
        {"steps_per_epoch": 5},
    ),
    "several inputs and outputs": Case(
        TwoInputs,
        lambda: loaders(
            lambda n: draw(n, n, 4), lambda n: draw(n + 1, n, 6), lambda n: torch.arange(n) % 3
        ),
        Task(forward=lambda model, batch: (model(batch[0], batch[1])[0], batch[2])),
        wrong,
    ),
}  # fmt: skip
