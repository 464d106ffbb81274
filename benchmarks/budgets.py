"""Are stated budgets met? Six targets of expected weights and of MACs on gated LeNet-300-100.

    python benchmarks/budgets.py [--data-dir DIR] [--epochs 5] [--seeds 1] [--ramp 0.5]

Gates on inputs and neurons get budgets of the weights and of the MACs, gates on single weights get
budgets of the weights, all with the defaults of `lissom.Budget`, trained on all of MNIST by Adam.
With a ramp the target goes exponentially from the whole network to the stated fraction within the
first half of the training, or what `--ramp` says; `--ramp 0` states it from the first step on.
Nothing is chosen, so nothing is held out: the error is the test error at the end. Deployed is what
`lissom.shrink` leaves, where zeros do not count. Runs that are in the record already, with the same
settings, are not repeated.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import REMOVING, TRAINING, keep, provenance
from torch import nn
from torch.nn import functional as F

import lissom
from lissom import L0, Budget
from lissom.data import Dataset, load
from lissom.methods.gates import Gates
from lissom.models import lenet300
from lissom.schedules import exponential

RESULT = Path(__file__).parent / "results" / "budgets.json"
TARGETS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
BUDGETS = (("neurons", "weights"), ("neurons", "macs"), ("single weights", "weights"))
Run = dict[str, Any]


@dataclass
class Settings:
    """What all runs of a record share.

    Attributes:
        epochs: of each run.
        ramp: the fraction of them in which the target falls; 0 states it at once.
        batch: examples in a step.
        lr: of the weights.
        gate_lr: of log α.
        init: the drop rate at the start.
    """

    epochs: int = 5
    ramp: float = 0.5
    batch: int = 100
    lr: float = 1e-3
    gate_lr: float = 1e-2
    init: float = 0.5


def main(
    data_dir: Path | None = None,
    epochs: int = 5,
    seeds: int = 1,
    ramp: float = 0.5,
    out: Path = RESULT,
) -> None:
    """Train all that is missing, and keep the record."""
    torch.set_num_threads(1)
    data = load("mnist", data_dir)
    settings = Settings(epochs=epochs, ramp=ramp)
    record: dict[str, Any] = {
        "command": f"python benchmarks/budgets.py --epochs {epochs} --seeds {seeds} --ramp {ramp}",
        "data": data.name,
        "settings": asdict(settings),
        "runs": [],
        **provenance([*TRAINING, *REMOVING, "benchmarks/budgets.py"]),
    }
    done: dict[tuple[Any, ...], Run] = {}
    if out.exists():
        old = json.loads(out.read_text())
        if all(old.get(key) == record[key] for key in ("settings", "code")):
            done = {key(run): run for run in old["runs"]}
    for seed in range(seeds):
        for gated, cost in BUDGETS:
            for target in TARGETS:
                run: Run = {"gated": gated, "cost": cost, "target": target, "seed": seed}
                if key(run) not in done:
                    done[key(run)] = {**run, **train(data, settings, **run)}
                    print(line(done[key(run)]), flush=True)
                record["runs"] = list(done.values())
                keep(record, out)


def train(
    data: Dataset, settings: Settings, *, gated: str, cost: str, target: float, seed: int
) -> Run:
    """One training with one budget."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    net = lenet300()
    example_inputs = data.test_x[:2]
    groups = (
        lissom.neurons(net, example_inputs, inputs=True)
        if gated == "neurons"
        else lissom.weights(net)
    )
    steps = settings.epochs * math.ceil(len(data.train_y) / settings.batch)
    falling = exponential(1.0, target, steps=round(settings.ramp * steps))
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.lr)
    gates = lissom.gate(
        optimizer,
        net,
        {groups: L0(0)},
        gate_lr=settings.gate_lr,
        budget=Budget(**{cost: falling}),
        init=settings.init,
        example_inputs=example_inputs,
    )
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(data.train_y)).split(settings.batch):
            loss = F.cross_entropy(net(data.train_x[batch]), data.train_y[batch])
            optimizer.zero_grad()
            (loss + gates.penalty()).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    return {
        **sizes(net.eval(), gates, data),
        "multiplier": float(gates.constraints[0].multiplier),
        "seconds": seconds,
    }


@torch.no_grad()
def sizes(net: nn.Module, gates: Gates, data: Dataset) -> Run:
    """Sizes as fractions of the whole network, and the error of what is deployed."""
    example_inputs = data.test_x[:1]
    with gates.deployed():
        small = lissom.shrink(net, data.test_x[:2], inputs=True)
    measured = lissom.measure(small, example_inputs)
    assert measured.effective_macs is not None
    deployed = {"weights": measured.nonzeros, "macs": measured.effective_macs}
    wrong = small(data.test_x).argmax(1) != data.test_y
    return {
        "expected": {name: float(gates.expected(name)) / gates.total(name) for name in deployed},
        "deployed": {name: size / gates.total(name) for name, size in deployed.items()},
        "error": float(wrong.float().mean()),
    }


def key(run: Run) -> tuple[Any, ...]:
    """What tells runs of the same settings apart."""
    return run["gated"], run["cost"], run["target"], run["seed"]


def line(run: Run) -> str:
    """A run, for reading along."""
    cost, target = run["cost"], run["target"]
    expected, deployed = run["expected"][cost], run["deployed"][cost]
    return (
        f"{run['gated']}, {target:.0%} of {cost}: expected {expected:.2%} "
        f"(× {expected / target:.3f}), deployed {deployed:.2%} (× {deployed / target:.3f}), "
        f"error {run['error']:.2%}, multiplier {run['multiplier']:.3f}, {run['seconds']:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
