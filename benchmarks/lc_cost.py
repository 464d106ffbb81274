"""What the C steps of learning–compression cost; what an L step does is in cost.py.

    python benchmarks/lc_cost.py [--save]

LeNet-300-100 (266,200 weights) on one thread, the median of a few; and 100 million weights in one
tensor on all threads, once.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import TRAINING, Busy, idle, keep, provenance
from torch import Tensor, nn

import lissom
from lissom import TopK
from lissom.compressions import Additive, Codebook, Compression, LowRank, ScaledTernary
from lissom.models import lenet300
from lissom.penalties import Penalty

RESULTS = Path(__file__).parent / "results"
LARGE = 100_000_000
SLOW = (LowRank, Additive)  # they take minutes there
COMPRESSIONS: dict[str, Compression | Penalty] = {
    "TopK, 2 %": TopK(fraction=0.02),
    "Codebook, k = 2": Codebook(2),
    "Codebook, k = 16": Codebook(16),
    "scaled ternary": ScaledTernary(),
    "1 % + Codebook, k = 2": TopK(fraction=0.01) + Codebook(2),
    "low rank, 10": LowRank(10),
}


def c_step(weights: list[Tensor], what: Compression | Penalty, times: int) -> float:
    """Seconds of one C step, the first left out where there are several."""
    net = nn.ParameterList(nn.Parameter(w.clone()) for w in weights)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    clock: list[float] = []
    for parameter in net:
        parameter.grad = torch.zeros_like(parameter)
    # The method's hook lies between these two. One C step more, which would finalize, is not made.
    opt.register_step_post_hook(lambda *_: clock.append(time.perf_counter()))
    lissom.lc(opt, {lissom.weights(net): what}, every=1, c_steps=times + 1, mu=1e-3)
    opt.register_step_post_hook(lambda *_: clock.append(time.perf_counter()))
    for _ in range(times):
        opt.zero_grad(set_to_none=False)
        opt.step()
    found = [end - start for start, end in zip(clock[::2], clock[1::2], strict=True)]
    return statistics.median(found[1:] or found)


def main(save: bool = False, busy: Busy = False) -> None:
    """Measure, print, and keep it in results/lc-cost.json if asked."""
    load = idle(busy)
    threads = torch.get_num_threads()
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
        "large_weights": LARGE,
        "large_threads": threads,
        "c_steps": compressions,
        "jobs": threads,
        **provenance(TRAINING),
    }
    if save:
        keep(record, RESULTS / "lc-cost.json", load)


if __name__ == "__main__":
    typer.run(main)
