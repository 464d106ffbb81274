"""What the tests of the training loop share: small data and networks, and ways to be killed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from lissom import Trainer
from lissom.data import Dataset
from lissom.storage import read_events
from lissom.training import Evaluation

# A recipe without a method, of a network that is good after two epochs.
DENSE = """
title = "Digits: all weights"
data = { name = "digits" }
model = { name = "lenet300" }
optimizer = { name = "Adam", lr = 2e-3, beta2 = 0.99 }
train = { epochs = 2 }
"""

CLASSES, EXAMPLES, BATCH = 3, 64, 16
STEPS = EXAMPLES // BATCH


def blobs(
    seed: int = 0, *, noise: float = 0.5, valid: int = 0, image: int | None = None
) -> Dataset:
    """Three clusters in 4 dims, or as images of image×image pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4,) if image is None else (1, image, image)
    centres = torch.randn(CLASSES, *shape, generator=generator)

    def part(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % CLASSES
        return centres[y] + noise * torch.randn(n, *shape, generator=generator), y

    data = Dataset("blobs", *part(EXAMPLES + valid), *part(40), classes=CLASSES)
    return data.hold_out(valid, seed=0) if valid else data


def dense(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, CLASSES))


def conv(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3),
        nn.Flatten(), nn.Linear(8 * 4 * 4, CLASSES),
    )  # fmt: skip


def trainer(net: nn.Module | None = None, data: Dataset | None = None, **options: Any) -> Trainer:
    net = dense() if net is None else net
    given: dict[str, Any] = {"epochs": 3, "batch_size": BATCH, **options}
    optimizer = given.pop("optimizer", None) or Adam(net.parameters(), lr=0.01)
    return Trainer(net, optimizer, blobs() if data is None else data, **given)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of nested tensors and plain values."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def timeless(events: Sequence[dict[str, Any] | Evaluation]) -> list[dict[str, Any]]:
    told = [e.to_dict() if isinstance(e, Evaluation) else e for e in events]
    return [{key: value for key, value in e.items() if key != "seconds"} for e in told]


def events_in(out: Path) -> list[dict[str, Any]]:
    return read_events(out / "events.jsonl")


class Killed(Exception):  # noqa: N818
    pass


def kill(event: str, epoch: int) -> Callable[[dict[str, Any]], None]:
    """Raises at the start of epoch + 1, or after epoch was evaluated and kept."""

    def report(told: dict[str, Any]) -> None:
        if told["event"] == event and told["epoch"] == epoch:
            raise Killed

    return report
