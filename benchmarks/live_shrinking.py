"""What training costs when it goes on with what lives: seconds of the processor, one thread.

    python benchmarks/live_shrinking.py [--rounds 5] [--epochs 20] [--save]

Two networks: LeNet-300-100 on MNIST, of which 2 % of the weights live in the end, and the VGG at a
quarter of its width on 5,000 images of JPEG CIFAR-10, of which a quarter of each layer's channels
do. Trainings: a `Trainer` without a method, with TopK that ends half-way, and with the same at full
size (`shrink=False`), of the same epochs and with all that belongs to them: tracing, evaluation
every fifth epoch. Steps: the dense network's, those of fine-tuning what TopK has left with frozen
zeros at full size, and the same with `lissom.train_small`. All of a kind take turns, and the best
of each counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import REMOVING, TRAINING, Busy, idle, keep, provenance
from torch import nn
from torch.nn import functional as F

import lissom
from lissom import TopK, Trainer
from lissom.data import Dataset, load
from lissom.models import lenet300, vgg
from lissom.schedules import cubic, linear
from lissom.training import Evaluation

RESULT = Path(__file__).parent / "results" / "live-shrinking.json"
BOUNDS = {"step": 0.4, "training": 1.0}  # of the dense network's


@dataclass(frozen=True)
class Case:
    """A network, its data, and what is to be left of it."""

    model: Callable[[], nn.Module]
    data: Callable[[], Dataset]
    groups: Callable[[nn.Module, torch.Tensor], lissom.Groups]
    topk: Callable[[Any], TopK]  # of a fraction
    fraction: float
    batch_size: int
    block: int  # steps that are timed together
    metric: str = "euclidean"


def some_of_cifar10() -> Dataset:
    """5,000 images to train on and 1,000 to test on; in the file they are class by class."""
    data = load("jpeg-cifar10")
    return replace(
        data, train_x=data.train_x[::10], train_y=data.train_y[::10], test_x=data.test_x[::10],
        test_y=data.test_y[::10],
    )  # fmt: skip


CASES = {
    "LeNet-300-100, 2 % of the weights": Case(
        lenet300, lambda: load("mnist"), lambda net, x: lissom.weights(net),
        lambda kept: TopK(fraction=kept), 0.02, 256, 50, "adaptive",
    ),
    "VGG × 0.25, a quarter of the channels": Case(
        lambda: vgg(width=0.25), some_of_cifar10, lissom.channels,
        lambda kept: TopK(fraction=kept, per="layer"), 0.25, 128, 4,
    ),
}  # fmt: skip


def main(
    rounds: int = 5,
    epochs: int = 20,
    fused: bool = False,
    only: str = "",
    save: bool = False,
    busy: Busy = False,
) -> None:
    """Time steps and trainings, and with --save keep them under benchmarks/results."""
    load_before = idle(busy)
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        if only not in name:
            continue
        print(name)
        data = case.data()
        taken, sparse = trainings(case, data, epochs, max(1, rounds // 2), fused)
        found[name] = {
            "trainings": taken,
            "steps": steps(case, data, sparse, rounds, fused),
        }
    if save:
        record = {
            "command": f"python benchmarks/live_shrinking.py --rounds {rounds} --epochs {epochs}"
            + " --fused" * fused,
            "bounds": BOUNDS,
            "networks": found,
            "jobs": 1,
            **provenance([*TRAINING, *REMOVING]),
        }
        keep(record, RESULT, load_before)


def adam(net: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    """The optimizer of all of them."""
    return torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.99), fused=fused)


def trained(
    case: Case, data: Dataset, epochs: int, fused: bool, *, topk: bool = True, **options: Any
) -> tuple[nn.Module, Evaluation]:
    """A whole training; TopK falls during the first half, and is final then."""
    torch.manual_seed(0)
    net = case.model()
    optimizer = adam(net, fused)
    method = None
    if topk:
        half = -(-len(data.train_y) // case.batch_size) * epochs // 2
        kept = linear(1, 1, half // 10).then(cubic(1, case.fraction, half * 8 // 10))
        penalties = {case.groups(net, data.train_x[:2]): case.topk(kept)}
        method = lissom.proximal(optimizer, penalties, metric=case.metric, finalize_at=half)
    made = Trainer(
        net, optimizer, data, method=method, epochs=epochs, batch_size=case.batch_size,
        evaluate_every=5, **options,
    )  # fmt: skip
    return net, made.fit()


def steps(
    case: Case, data: Dataset, sparse: nn.Module, rounds: int, fused: bool
) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, and the ratio to the dense one."""
    x, y = data.train_x[: case.batch_size], data.train_y[: case.batch_size]
    made, weights = {}, {}
    for name in ("dense", "frozen zeros at full size", "small"):
        net = case.model()
        optimizer = adam(net, fused)
        if name != "dense":
            net.load_state_dict(sparse.state_dict())
            groups = case.groups(net, x[:2])
            lissom.proximal(optimizer, {groups: case.topk(case.fraction)}).finalize()
        if name == "small":
            lissom.train_small(net, optimizer, x[:2])
        made[name] = stepper(net, optimizer, x, y)
        weights[name] = sum(p.numel() for p in net.parameters())
    best = dict.fromkeys(made, float("inf"))
    for _ in range(rounds + 1):  # the first warms up
        for name, step in made.items():
            best[name] = min(best[name], seconds(step, case.block) / case.block)
    return told(best, {name: {"weights": weights[name]} for name in best})


def stepper(
    net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], None]:
    """One step of training."""
    net.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], object], times: int) -> float:
    """Of the processor, for so many steps."""
    started = time.process_time()
    for _ in range(times):
        step()
    return time.process_time() - started


def trainings(
    case: Case, data: Dataset, epochs: int, rounds: int, fused: bool
) -> tuple[dict[str, dict[str, float]], nn.Module]:
    """Seconds of whole trainings, the ratio to the dense one, and what TopK has left."""
    kinds: dict[str, dict[str, Any]] = {
        "dense": {"topk": False},
        "TopK at full size": {"shrink": False},
        "TopK": {},
    }
    best, errors = dict.fromkeys(kinds, float("inf")), {}
    for _ in range(rounds):
        for name, options in kinds.items():
            started = time.process_time()
            net, found = trained(case, data, epochs, fused, **options)
            best[name] = min(best[name], time.process_time() - started)
            errors[name] = {"test error": found.test.error}
    return told(best, errors), net


def told(best: dict[str, float], more: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The times with their ratios, which are printed."""
    table = {
        name: {"seconds": taken, "ratio": taken / best["dense"], **more[name]}
        for name, taken in best.items()
    }
    for name, row in table.items():
        others = ", ".join(f"{key} {value:g}" for key, value in row.items() if key in more[name])
        print("  {:28} {seconds:9.4f} s  × {ratio:.3f}  ".format(name, **row) + others, flush=True)
    return table


if __name__ == "__main__":
    typer.run(main)
