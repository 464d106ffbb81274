"""What learning–compression costs: an L step over a plain step, and C steps.

    python benchmarks/lc_cost.py [--rounds 15] [--save]

L steps: LeNet-300-100 on one thread; a training step with `method.penalty()` and one without take
turns in blocks, on models of the same weights and the same batch; the median of the ratios. C
steps: LeNet-300-100 (266,200 weights) on one thread, the median of a few; and 100 million weights
in one tensor on all threads, once.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import TRAINING, Busy, idle, provenance
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import TopK
from lissom.compressions import Additive, Codebook, Compression, LowRank, ScaledTernary
from lissom.models import lenet300
from lissom.penalties import Penalty

RESULTS = Path(__file__).parent / "results"
BLOCKS = {100: 50, 256: 30, 1024: 10}  # batch: steps in a block
NEVER = 10**9  # an L step as long as that has no C step among what is timed
LARGE = 100_000_000
SLOW = (LowRank, Additive)  # they take minutes there
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD, Nesterov": lambda net: torch.optim.SGD(
        net.parameters(), lr=1e-3, momentum=0.9, nesterov=True
    ),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=1e-4),
}
COMPRESSIONS: dict[str, Compression | Penalty] = {
    "TopK, 2 %": TopK(fraction=0.02),
    "Codebook, k = 2": Codebook(2),
    "Codebook, k = 16": Codebook(16),
    "scaled ternary": ScaledTernary(),
    "1 % + Codebook, k = 2": TopK(fraction=0.01) + Codebook(2),
    "low rank, 10": LowRank(10),
}


def training(optimizer: str, batch: int, drawn: bool) -> Callable[[], None]:
    """A training step on one batch, with the pull of an L step or without."""
    torch.manual_seed(0)
    net = lenet300()
    x, y = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    opt = OPTIMIZERS[optimizer](net)
    method = None
    if drawn:
        asked = {lissom.weights(net): TopK(fraction=0.02)}
        method = lissom.lc(opt, asked, every=NEVER, mu=1e-3)
        method.penalty()  # direct compression, which is no part of a step

    def once() -> None:
        loss = F.cross_entropy(net(x), y)
        if method is not None:
            loss = loss + method.penalty()
        opt.zero_grad()
        loss.backward()
        opt.step()

    return once


def l_step(optimizer: str, batch: int, rounds: int) -> dict[str, Any]:
    """The ratio of both, beside that of two plain ones, which shows how far to trust it."""
    steps = {
        "plain": training(optimizer, batch, drawn=False),
        "plain again": training(optimizer, batch, drawn=False),
        "L step": training(optimizer, batch, drawn=True),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(BLOCKS[batch]):
                step()
            times[name].append((time.perf_counter() - start) / BLOCKS[batch])
    plain = times["plain"]
    ratios = {
        name: statistics.median(t / p for t, p in zip(found, plain, strict=True))
        for name, found in times.items()
        if name != "plain"
    }
    return {
        "optimizer": optimizer,
        "batch": batch,
        "plain_seconds": statistics.median(plain),
        "ratios": ratios,
    }


def c_step(weights: list[Tensor], what: Compression | Penalty, times: int) -> float:
    """Seconds of one C step, the first left out where there are several."""
    net = nn.ParameterList(nn.Parameter(w.clone()) for w in weights)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    clock: list[float] = []
    # The method's hook lies between these two. One C step more, which would finalize, is not made.
    opt.register_step_post_hook(lambda *_: clock.append(time.perf_counter()))
    method = lissom.lc(opt, {lissom.weights(net): what}, every=1, c_steps=times + 1, mu=1e-3)
    opt.register_step_post_hook(lambda *_: clock.append(time.perf_counter()))
    for _ in range(times):
        opt.zero_grad()
        method.penalty().backward()
        opt.step()
    found = [end - start for start, end in zip(clock[::2], clock[1::2], strict=True)]
    return statistics.median(found[1:] or found)


def main(rounds: int = 15, save: bool = False, busy: Busy = False) -> None:
    """Measure, print, and keep it in results/lc-cost.json if asked."""
    load = idle(busy)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = []
    for optimizer in OPTIMIZERS:
        for batch in BLOCKS:
            steps.append(l_step(optimizer, batch, rounds))
            print(steps[-1], flush=True)
    small = [p.detach() for p in lenet300().parameters() if p.ndim > 1]
    compressions = []
    torch.manual_seed(0)
    for name, what in COMPRESSIONS.items():
        torch.set_num_threads(1)
        row: dict[str, Any] = {"name": name, "small": c_step(small, what, 6)}
        torch.set_num_threads(threads)
        large = torch.randn(LARGE // 10_000, 10_000)
        row["large"] = None if isinstance(what, SLOW) else c_step([large], what, 1)
        compressions.append(row)
        print(row, flush=True)
    record = {
        "command": "python benchmarks/lc_cost.py --save",
        "rounds": rounds,
        "large_weights": LARGE,
        "large_threads": threads,
        "l_steps": steps,
        "c_steps": compressions,
        "load": [load, os.getloadavg()[0]],
        "jobs": threads,
        **provenance(TRAINING),
    }
    if save:
        (RESULTS / "lc-cost.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
