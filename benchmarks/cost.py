"""What a proximal step costs: a whole training step with it over the same step without.

    python benchmarks/cost.py [--rounds 15] [--save]
    python benchmarks/cost.py --large 100000000 [--save]

A variant and the plain step take turns in blocks of 100 steps, on models of the same weights and
the same batch, so that a machine that slows down slows both and each has its memory at hand.
Printed is the median over the blocks of the ratio of their times. `--large` makes one model of so
many weights and tells the time and the memory of one global TopK.
"""

import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from provenance import TRAINING, Busy, idle, provenance
from torch.nn import functional as F

import lissom
from lissom import L0, L1, TopK
from lissom.models import lenet300

BLOCK = 100
RESULTS = Path(__file__).parent / "results"

VARIANTS: dict[str, tuple[lissom.penalties.Penalty | None, dict[str, object]]] = {
    "plain": (None, {}),
    "L0": (L0(1e-6), {}),
    "L1": (L1(1e-5), {}),
    "L0, adaptive metric": (L0(1e-9), {"metric": "adaptive"}),
    "L1, adaptive metric": (L1(1e-8), {"metric": "adaptive"}),
    "TopK over all layers": (TopK(fraction=0.05), {}),
    "TopK per layer": (TopK(fraction=0.05, per="layer"), {}),
    "TopK over all layers, adaptive metric": (TopK(fraction=0.05), {"metric": "adaptive"}),
    "TopK over all layers, every=100": (TopK(fraction=0.05), {"every": 100}),
    "TopK per layer, every=100": (TopK(fraction=0.05, per="layer"), {"every": 100}),
    "finalized": (TopK(fraction=0.05), {"finalize_at": 1}),
}


def stepper(
    penalty: lissom.penalties.Penalty | None, options: dict[str, object], batch_size: int
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
    rounds: int = 15,
    batch_size: int = 128,
    large: int = 0,
    save: bool = False,
    busy: Busy = False,
) -> None:
    """Print the table, and with --save keep it under benchmarks/results."""
    load = idle(busy)
    if large:
        record = {"command": f"python benchmarks/cost.py --large {large}", **global_topk(large)}
    else:
        threads = {}
        for count in (1, 2):
            torch.set_num_threads(count)
            print(f"{count} thread{'s' * (count - 1)}")
            threads[str(count)] = compare(rounds, batch_size)
        command = f"python benchmarks/cost.py --rounds {rounds}"
        record = {"command": command, "batch_size": batch_size, "threads": threads}
    if save:
        path = RESULTS / ("cost-large.json" if large else "cost.json")
        about = {**provenance(TRAINING), "load": [load, os.getloadavg()[0]], "jobs": 2}
        path.write_text(json.dumps({**record, **about}, indent=1) + "\n")


def compare(rounds: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Median over blocks of each variant's time over that of the plain blocks beside it."""
    table = {}
    for name, variant in VARIANTS.items():
        plain, step = stepper(*VARIANTS["plain"], batch_size), stepper(*variant, batch_size)
        block(plain), block(step)
        pairs = [(block(step), block(plain)) for _ in range(rounds)]
        ratios = [mine / other for mine, other in pairs]
        table[name] = {
            "microseconds": 1e6 * statistics.median(mine for mine, _ in pairs) / BLOCK,
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
        print("{:40} {microseconds:6.0f} µs  × {ratio:.3f}".format(name, **table[name]))
    return table


def block(step: Callable[[], None]) -> float:
    """Seconds for a block of steps, which holds one prox where it comes every 100 steps."""
    started = time.perf_counter()
    for _ in range(BLOCK):
        step()
    return time.perf_counter() - started


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
    threads = torch.get_num_threads()
    return {"weights": n, "kept": alive, "seconds": seconds, "copies": copies, "threads": threads}


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    typer.run(main)
