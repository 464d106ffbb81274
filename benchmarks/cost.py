"""What methods cost: a whole training step with each of them over the same step without.

    python benchmarks/cost.py [--rounds 15] [--only TopK] [--quick] [--save]
    python benchmarks/cost.py --large 100000000 [--save]

LeNet-300-100 under torch's default Adam, at batches of 100 and 1,024, eager and compiled (then the
plain step is compiled too), on one thread and on two. A method's step and the plain one take turns
in blocks, on models of the same weights and the same batch, so that a machine that slows down slows
both and each has its memory at hand; the median over the blocks of the ratio of their times, the
lowest and the highest. Subnormal numbers count as 0 in all of them: the moments of dead neurons
become so small, and a processor takes longer for them, in the plain step too. Beside it, what a
forward pass under gates keeps for the backward pass beyond the plain one, in copies of the weights;
log α, its gradient and its moments come on top, as for any parameter. `--large` makes one model of
so many weights and tells the time and the memory of one global TopK.
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from provenance import TRAINING, Busy, idle, keep, provenance
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import L0, L1, TopK
from lissom.methods import Method
from lissom.methods.gates.drawing import POOL
from lissom.models import lenet300

RESULTS = Path(__file__).parent / "results"
NEVER = 10**9  # an L step as long as that has no C step among what is timed
BLOCKS = {100: 50, 1024: 10}  # batch: steps in a block
WAYS = [
    {"batch": 100, "compiled": compiled, "threads": threads}
    for compiled in (False, True)
    for threads in (1, 2)
] + [{"batch": 1024, "compiled": compiled, "threads": 1} for compiled in (False, True)]

Make = Callable[[torch.optim.Optimizer, nn.Module, Tensor], "Method | Twice | None"]


def proximal(penalty: lissom.penalties.Penalty, **options: Any) -> Make:
    """A proximal method on all weights."""
    return lambda opt, net, x: lissom.proximal(opt, {lissom.weights(net): penalty}, **options)


def gates(units: bool, **options: Any) -> Make:
    """Gates on pixels and neurons, or on all weights."""

    def make(opt: torch.optim.Optimizer, net: nn.Module, x: Tensor) -> Method:
        chosen = lissom.neurons(net, x[:2], inputs=True) if units else lissom.weights(net)
        return lissom.gate(opt, net, {chosen: L0(1e-6)}, **options)

    return make


class Twice:
    """A second parameter of as many numbers as weights, as gates on weights have, and no more."""

    has_loss_term = True

    def __init__(self, optimizer: torch.optim.Optimizer, net: nn.Module) -> None:
        weights = sum(p.numel() for p in net.parameters() if p.ndim > 1)
        self.numbers = nn.Parameter(torch.zeros(weights))
        optimizer.add_param_group({"params": [self.numbers]})

    def penalty(self) -> Tensor:
        """Something with a gradient."""
        return self.numbers.sum()


METHODS: dict[str, Make] = {
    "plain": lambda opt, net, x: None,
    "plain, with as many parameters again": lambda opt, net, x: Twice(opt, net),
    "L0": proximal(L0(1e-6)),
    "L1": proximal(L1(1e-5)),
    "L0, adaptive metric": proximal(L0(1e-9), metric="adaptive"),
    "L1, adaptive metric": proximal(L1(1e-8), metric="adaptive"),
    "TopK over all layers": proximal(TopK(fraction=0.05)),
    "TopK per layer": proximal(TopK(fraction=0.05, per="layer")),
    "TopK over all layers, adaptive metric": proximal(TopK(fraction=0.05), metric="adaptive"),
    "TopK over all layers, every=50": proximal(TopK(fraction=0.05), every=50),
    "finalized": proximal(TopK(fraction=0.05), finalize_at=1),
    "LC, an L step": lambda opt, net, x: lissom.lc(
        opt, {lissom.weights(net): TopK(fraction=0.02)}, every=NEVER, mu=1e-3
    ),
    "gates on neurons": gates(units=True),
    "gates on weights": gates(units=False),
    "gates on weights, noise from a pool": gates(units=False, noise="pooled"),
}


# Of the plain step, eager at batch 100.
GOALS = {
    "L0, adaptive metric": 1.1,
    "L1, adaptive metric": 1.1,
    "TopK over all layers": 1.1,
    "TopK per layer": 1.1,
    "TopK over all layers, adaptive metric": 1.1,
    "finalized": 1.02,
    "LC, an L step": 1.05,
    "gates on neurons": 1.08,
    "gates on weights": 1.5,
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


def case(name: str, batch: int, *, compiled: bool = False) -> Case:
    """The same weights and the same batch for all."""
    torch.manual_seed(0)
    net = lenet300()
    x, y = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    method = METHODS[name](optimizer, net, x)
    term = method if method is not None and method.has_loss_term else None
    forward = torch.compile(net) if compiled else net

    def loss() -> Tensor:
        found = F.cross_entropy(forward(x), y)
        return found if term is None else found + term.penalty()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return Case(net, step, loss)


def main(
    rounds: int = 15,
    only: str = "",
    quick: Annotated[bool, typer.Option(help="Eager, on one thread, at batch 100.")] = False,
    large: int = 0,
    save: bool = False,
    busy: Busy = False,
) -> None:
    """Print the table, and with --save keep it under benchmarks/results."""
    load = idle(busy)
    torch.set_flush_denormal(True)  # before there are other threads, which have it from this one
    if large:
        record = {"command": f"python benchmarks/cost.py --large {large}", **global_topk(large)}
    else:
        record = {
            "command": f"python benchmarks/cost.py --rounds {rounds}" + " --quick" * quick,
            "times": [compare(way, rounds, only) for way in WAYS[: 1 if quick else None]],
            "kept": {name: kept(name) for name in METHODS if only in name},
            "goals": GOALS,
        }
        print(record["kept"])
    if save:
        path = RESULTS / ("cost-large.json" if large else "cost.json")
        keep({**record, **provenance(TRAINING), "jobs": 2}, path, load)


def compare(way: dict[str, Any], rounds: int, only: str = "") -> dict[str, Any]:
    """Median over blocks of each method's time over that of the plain blocks beside it."""
    batch, compiled = way["batch"], way["compiled"]
    torch.set_num_threads(way["threads"])
    print(way, flush=True)
    torch.compiler.reset()  # what was compiled is for so many threads
    plain, table = case("plain", batch, compiled=compiled), {}
    for name in (name for name in METHODS if only in name):
        mine = case(name, batch, compiled=compiled)
        block(mine, batch), block(plain, batch)
        pairs = [(block(mine, batch), block(plain, batch)) for _ in range(rounds)]
        ratios = [own / other for own, other in pairs]
        table[name] = {
            "seconds": statistics.median(own for own, _ in pairs) / BLOCKS[batch],
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
        print(
            "{:40} {:6.0f} µs  × {ratio:.3f} ({lowest:.2f} … {highest:.2f})".format(
                name, 1e6 * table[name]["seconds"], **table[name]
            ),
            flush=True,
        )
    return {**way, "methods": table}


def block(one: Case, batch: int) -> float:
    """Seconds for a block of steps, which holds one prox where it comes every 50 steps."""
    started = time.perf_counter()
    for _ in range(BLOCKS[batch]):
        one.step()
    return time.perf_counter() - started


def kept(name: str) -> float:
    """What the forward pass keeps beyond the plain one, as copies of the weights."""
    found = [kept_bytes(case(one, 100)) for one in (name, "plain")]
    weights = sum(p.nbytes for p in lenet300().parameters() if p.ndim > 1)
    return (found[0] - found[1]) / weights


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
