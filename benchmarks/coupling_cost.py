"""What coupling and shrinking cost: ResNet-50 and ViT-B/16 at 224 px, and the norms of their units.

    python benchmarks/coupling_cost.py [--rounds 5] [--batch-size 32]

A random half of the units of every family is zero, in float32. Shrinking is timed as a whole and in
parts, on two threads; and in seconds of the processor on one thread, which other work on the
machine does not stretch and which two threads can only shorten. The norms of all units, and a whole
Proximal step with L1 over them, are compared with a training step (forward, backward, SGD) of
ResNet-50: they take turns, and the ratio is the median over the rounds of the quotient within a
round, as in benchmarks/cost.py; on two threads by the clock, and on one in seconds of the
processor. For comparison, the group regulariser of Torch-Pruning takes its turn too, where that is
installed.
"""

import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from provenance import REMOVING, Busy, idle, keep, provenance

# Threads that wait actively take the cores from whatever else the machine does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from libraries import library  # noqa: E402

import lissom  # noqa: E402
from lissom import L1  # noqa: E402
from lissom.coupling import couple, families, trace, units  # noqa: E402
from lissom.coupling.constants import Constants  # noqa: E402
from lissom.running import copied  # noqa: E402
from lissom.shrinking.decision import Decider  # noqa: E402
from lissom.shrinking.surgery import operate, plan  # noqa: E402
from lissom.shrinking.verify import difference, fresh_inputs, other_sizes  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "coupling-cost.json"
# By which clock, on how many threads.
CLOCKS = {"perf_counter": 2, "process_time": 1}
MODELS = {"ResNet-50": "resnet50", "ViT-B/16": "vit_b_16"}
BOUNDS = {"ResNet-50": 5.0, "ViT-B/16": 10.0, "norms": 0.03}
REPEATS = {"norms of all units": 5, "L1's prox alone": 5}  # they are short
Pass = dict[str, list[float]]


def main(
    rounds: int = 5,
    batch_size: int = 32,
    batch: Annotated[int, typer.Option(help="Of the inputs that are traced.")] = 2,
    busy: Busy = False,
    out: Path = RESULT,
) -> None:
    """Time everything, and keep the record."""
    load = idle(busy)
    shrinking: dict[str, Any] = {}
    training: dict[str, Any] = {}
    for clock, threads in CLOCKS.items():
        torch.set_num_threads(threads)
        Timer.clock = clock
        for name in MODELS:
            shrinking.setdefault(name, {})[clock] = shrinks(name, rounds, batch)
        training[clock] = compare(rounds, batch_size)
    packages = ("torch", "torchvision", "numpy", "torch-pruning")
    options = f" --batch-size {batch_size}" * (batch_size != 32) + f" --batch {batch}" * (
        batch != 2
    )
    record = {
        "command": f"python benchmarks/coupling_cost.py --rounds {rounds}{options}",
        "seed": 0,
        "batch_size": batch_size,
        "example": batch,
        "bounds": BOUNDS,
        "threads": CLOCKS,
        "shrinking": shrinking,
        "training": training,
        "jobs": 2,
        **provenance(REMOVING, [p for p in packages if find_spec(p.replace("-", "_"))]),
    }
    keep(record, out, load)


def damaged(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """The network with a random half of every family's units zero."""
    torch.manual_seed(0)
    model = getattr(library("torchvision.models"), MODELS[name])().eval()
    example_inputs = torch.randn(batch, 3, 224, 224)
    for family in units(model, example_inputs).blocks:
        family.scale_((torch.rand(family.shape) < 0.5).float())
    return model, example_inputs


def shrinks(name: str, rounds: int, batch: int) -> dict[str, Any]:
    """Seconds of the whole and of the parts, each round all of them."""
    model, example_inputs = damaged(name, batch)
    taken: Pass = {}
    for _ in range(rounds):
        with timed(taken, "shrink"):
            small = lissom.shrink(model, example_inputs)
        with timed(taken, "shrink, verify=False"):
            lissom.shrink(model, example_inputs, verify=False)
        parts(model, example_inputs, taken)
    seconds = {part: summary(times) for part, times in taken.items()}
    for part, found in seconds.items():
        print(f"{name:10} {part:30} {found['median']:7.3f} s, {Timer.clock}", flush=True)
    shrinkage = small.shrinkage
    return {
        "seconds": seconds,
        "units": sum(before for _, _, before, _ in shrinkage.families),
        "removed": shrinkage.removed,
        "weights": shrinkage.weights,
        "difference": shrinkage.difference,
    }


def parts(model: nn.Module, example_inputs: Tensor, taken: Pass) -> None:
    """The steps that `lissom.shrink` takes, one by one."""
    args = (example_inputs,)
    with timed(taken, "trace"):
        traced = trace(model, args)
    with timed(taken, "couple"):
        coupler = couple(traced)
        families(coupler, model)
    with timed(taken, "constants"):
        constants = Constants(coupler.trace)
        decider = Decider(coupler, constants, fold=True)
    with timed(taken, "decide"):
        decision = decider.decide()
    with timed(taken, "surgery"):
        surgery = plan(model, coupler, decision, constants)
        small = copied(model)
        operate(small, surgery)
    others = [*other_sizes(args, resolution=True), fresh_inputs(args)]
    with timed(taken, "verification"):
        difference(model, small, [args, others])


def compare(rounds: int, batch_size: int) -> dict[str, Any]:
    """Steps that take turns with the plain training step of ResNet-50."""
    torch.manual_seed(0)
    net = library("torchvision.models").resnet50()
    groups = units(net, torch.randn(2, 3, 224, 224))
    x, y = torch.randn(batch_size, 3, 224, 224), torch.randint(0, 1000, (batch_size,))
    others: dict[str, Callable[[], object]] = {
        "norms of all units": torch.no_grad()(groups.norms),
        "step with L1 over the units": stepper(net, x, y, proximal=True),
        "L1's prox alone": prox(net),
    }
    regularize = regulariser(net)
    if regularize is not None:
        others["Torch-Pruning's group regulariser"] = regularize
    plain = stepper(net, x, y)
    for run in (plain, *others.values()):
        run()
    taken: Pass = {"training step": []}
    for _ in range(rounds):
        with timed(taken, "training step"):
            plain()
        for name, run in others.items():
            with timed(taken, name, repeats := REPEATS.get(name, 1)):
                for _ in range(repeats):
                    run()
    table = {}
    for name, times in taken.items():
        ratios = [t / step for t, step in zip(times, taken["training step"], strict=True)]
        table[name] = {**summary(times), "ratio": summary(ratios)}
        print(
            f"{name:40} {statistics.median(times):7.3f} s  × {statistics.median(ratios):.4f}",
            flush=True,
        )
    return table


def stepper(net: nn.Module, x: Tensor, y: Tensor, *, proximal: bool = False) -> Callable[[], None]:
    """A training step on a copy of the network, with the prox or without."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    if proximal:
        lissom.proximal(optimizer, {units(net, x[:2]): L1(1e-3)})

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def prox(net: nn.Module) -> Callable[[], None]:
    """The prox of L1 over all units, without the step."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    handle = lissom.proximal(optimizer, {units(net, torch.randn(2, 3, 224, 224)): L1(1e-3)})
    return handle.apply


def regulariser(net: nn.Module) -> Callable[[], object] | None:
    """Torch-Pruning's group-norm regulariser on a copy; None where it is not installed."""
    if find_spec("torch_pruning") is None:
        return None
    import torch_pruning as tp

    net = copy.deepcopy(net)
    pruner = tp.pruner.GroupNormPruner(
        net,
        torch.randn(2, 3, 224, 224),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        ignored_layers=[net.fc],
    )
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return lambda: pruner.regularize(net)


class Timer:
    """Which clock is read."""

    clock = "perf_counter"

    @classmethod
    def now(cls) -> float:
        seconds: float = getattr(time, cls.clock)()
        return seconds


@contextmanager
def timed(taken: Pass, name: str, repeats: int = 1) -> Any:
    """Seconds for one of so many repeats."""
    started = Timer.now()
    yield
    taken.setdefault(name, []).append((Timer.now() - started) / repeats)


def summary(numbers: list[float]) -> dict[str, float]:
    """The median and the ends."""
    return {"median": statistics.median(numbers), "lowest": min(numbers), "highest": max(numbers)}


if __name__ == "__main__":
    typer.run(main)
