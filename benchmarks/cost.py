"""What a proximal step costs: a whole training step with it over the same step without.

    python benchmarks/cost.py [--rounds 300] [--threads 2] [--save]
    python benchmarks/cost.py --large 100000000 [--save]

The variants take turns within each round, on models of the same weights and the same batch, so that
a machine that slows down slows them all. Printed are medians over rounds of the step and of its
ratio to the plain step of the same round. `--large` makes one model of so many weights and tells
the time and the memory of one global TopK.
"""

import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from torch.nn import functional as F

import lissom
from lissom import L0, L1, TopK
from lissom.models import lenet300

RESULTS = Path(__file__).parent / "results"

VARIANTS: dict[str, tuple[lissom.Penalty | None, dict[str, object]]] = {
    "plain": (None, {}),
    "L0": (L0(1e-6), {}),
    "L1": (L1(1e-5), {}),
    "L0, adaptive metric": (L0(1e-9), {"metric": "adaptive"}),
    "L1, adaptive metric": (L1(1e-8), {"metric": "adaptive"}),
    "TopK over all layers": (TopK(fraction=0.05), {}),
    "TopK per layer": (TopK(fraction=0.05, per_layer=True), {}),
    "TopK over all layers, adaptive metric": (TopK(fraction=0.05), {"metric": "adaptive"}),
    "TopK over all layers, every=100": (TopK(fraction=0.05), {"every": 100}),
    "TopK per layer, every=100": (TopK(fraction=0.05, per_layer=True), {"every": 100}),
    "zeros frozen": (TopK(fraction=0.05), {"freeze_at": 1}),
}


def stepper(
    penalty: lissom.Penalty | None, options: dict[str, object], batch_size: int
) -> Callable[[], None]:
    """One training step of LeNet-300-100 under Adam, with its own model and optimizer."""
    torch.manual_seed(0)
    net = lenet300()
    x, y = torch.rand(batch_size, 1, 28, 28), torch.randint(0, 10, (batch_size,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    if penalty is not None:
        lissom.proximal(optimizer, {lissom.weights(net): penalty}, **options)  # type: ignore[arg-type]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def main(
    rounds: int = 300,
    batch_size: int = 128,
    threads: int = 2,
    large: int = 0,
    save: bool = False,
) -> None:
    """Print the table, and with --save keep it under benchmarks/results."""
    torch.set_num_threads(threads)
    if large:
        record = global_topk(large)
        name, command = "cost-large", f"python benchmarks/cost.py --large {large}"
    else:
        record = {"batch_size": batch_size, "variants": compare(rounds, batch_size)}
        name, command = "cost", f"python benchmarks/cost.py --rounds {rounds} --threads {threads}"
    if save:
        about = {"command": command, "threads": threads, "torch": torch.__version__}
        (RESULTS / f"{name}.json").write_text(json.dumps({**about, **record}, indent=1) + "\n")


def compare(rounds: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Median step and median ratio of every variant, in turns.

    A round is 100 steps where the prox comes once in 100, so that each round holds one.
    """
    steps = {name: stepper(*variant, batch_size) for name, variant in VARIANTS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 10):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    table = {}
    for name, taken in times.items():
        pairs = zip(taken[10:], times["plain"][10:], strict=True)
        if "every=100" in name:  # the mean, or the one step in a hundred would not be seen
            ratio = sum(taken[10:]) / sum(times["plain"][10:])
        else:
            ratio = statistics.median(mine / plain for mine, plain in pairs)
        table[name] = {"microseconds": 1e6 * statistics.median(taken[10:]), "ratio": ratio}
        print(f"{name:40} {table[name]['microseconds']:8.0f} µs   × {ratio:.3f}")
    return table


def global_topk(n: int) -> dict[str, float]:
    """Seconds and memory of one global TopK over n weights in three tensors."""
    shapes = [(n // 2000, 1000), (n // 4000, 1000), (n - n // 2000 * 1000 - n // 4000 * 1000, 1)]
    net = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(shape)) for shape in shapes])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    handle = lissom.proximal(optimizer, {lissom.weights(net): TopK(fraction=0.02)})
    before = peak_bytes()
    started = time.perf_counter()
    handle.apply()
    seconds = time.perf_counter() - started
    copies = (peak_bytes() - before) / (4 * n)
    alive = sum(int(p.count_nonzero()) for p in net.parameters())
    print(f"{n:,} weights, {alive:,} kept: {seconds:.2f} s, {copies:.2f} copies of the weights")
    return {"weights": n, "kept": alive, "seconds": seconds, "copies": copies}


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    typer.run(main)
