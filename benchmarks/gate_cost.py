"""What gates cost: a whole training step with them over the same step without, and their memory.

    python benchmarks/gate_cost.py [--rounds 15] [--save]

LeNet-300-100 under Adam, at batches of 100 and 1,024, on one thread, eager and compiled. A gated
step and a dense one take turns in blocks, on models of the same weights and the same batch; the
dense one is run in the same way, eager against eager. The ratio is the median over the blocks.
Memory is what a forward pass keeps for the backward pass beyond the dense one, in copies of the
gated weights; log α, its gradient and its moments come on top, as for any parameter.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import TRAINING, Busy, idle, provenance
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import L0
from lissom.methods.gates.drawing import POOL
from lissom.models import lenet300

RESULTS = Path(__file__).parent / "results"
BLOCKS = {100: 50, 1024: 10}  # batch: steps in a block
GATES: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "neurons": {},
    "weights": {},
    "weights, noise from a pool": {"noise": "pooled"},
}


@dataclass
class Case:
    """A model, its optimizer and its loss.

    Attributes:
        net: LeNet-300-100.
        step: trains it once on a batch.
        loss: the forward pass.
    """

    net: nn.Module
    step: Callable[[], None]
    loss: Callable[[], Tensor]


def case(gated: str, batch: int, *, fused: bool, compiled: bool) -> Case:
    """The same weights and the same batch for all."""
    torch.manual_seed(0)
    net = lenet300()
    x, y = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    options = GATES[gated]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    gates = None
    if options is not None:
        units = gated == "neurons"
        chosen = lissom.neurons(net, x[:2], inputs=True) if units else lissom.weights(net)
        gates = lissom.gate(optimizer, net, {chosen: L0(1e-6)}, **options)
    forward = torch.compile(net) if compiled else net

    def loss() -> Tensor:
        found = F.cross_entropy(forward(x), y)
        return found if gates is None else found + gates.penalty()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return Case(net, step, loss)


def main(rounds: int = 15, save: bool = False, busy: Busy = False) -> None:
    """Print the tables, and with --save keep them under benchmarks/results."""
    load = idle(busy)
    torch.set_num_threads(1)
    times = [
        compare(batch, rounds, fused=fused, compiled=compiled)
        for compiled in (False, True)
        for fused in (False, True)
        for batch in BLOCKS
    ]
    record = {
        "command": f"python benchmarks/gate_cost.py --rounds {rounds}",
        "threads": 1,
        "times": times,
        "memory": {gated: copies(gated) for gated in GATES},
        "load": [load, os.getloadavg()[0]],
        **provenance(TRAINING),
    }
    print(record["memory"])
    if save:
        path = RESULTS / "gate-cost.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


def compare(batch: int, rounds: int, *, fused: bool, compiled: bool) -> dict[str, Any]:
    """Median over blocks of each gated step's time over that of the dense blocks beside it."""
    dense = case("dense", batch, fused=fused, compiled=compiled)
    ratios: dict[str, float] = {}
    for gated in GATES:
        mine = case(gated, batch, fused=fused, compiled=compiled)
        block(mine, batch), block(dense, batch)
        pairs = [(block(mine, batch), block(dense, batch)) for _ in range(rounds)]
        ratios[gated] = statistics.median(own / other for own, other in pairs)
    seconds = statistics.median(other for _, other in pairs) / BLOCKS[batch]
    row = {"batch": batch, "compiled": compiled, "fused Adam": fused, "dense seconds": seconds}
    print({**row, **ratios}, flush=True)
    return {**row, "ratios": ratios}


def block(one: Case, batch: int) -> float:
    """Seconds for a block of steps."""
    started = time.perf_counter()
    for _ in range(BLOCKS[batch]):
        one.step()
    return time.perf_counter() - started


def copies(gated: str) -> float:
    """What the forward pass keeps beyond the dense one, as copies of the gated weights."""
    kept = [kept_bytes(case(name, 100, fused=False, compiled=False)) for name in (gated, "dense")]
    weights = sum(p.nbytes for p in lenet300().parameters() if p.ndim > 1)
    return (kept[0] - kept[1]) / weights


def kept_bytes(one: Case) -> int:
    """Bytes of tensors that are saved for the backward pass and stand nowhere else."""
    one.step()  # whatever is made once is there
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = one.loss()
    del loss
    own = {p.untyped_storage().data_ptr() for p in one.net.parameters()}
    # The pool of noise is one for all steps, and of fixed size.
    return sum(n for place, n in found.items() if place not in own and n != 4 * POOL)


if __name__ == "__main__":
    typer.run(main)
