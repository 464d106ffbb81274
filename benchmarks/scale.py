"""What it costs to leave one machine: shards, processes beside one another, and what they send.

    python benchmarks/scale.py [--only shards] [--rounds 3] [--save]

*shards*: a network of 100 million random weights (six layers of 4,096 × 4,096) under fully_shard in
two processes that talk by gloo, one thread each: a step of AdamW, alone and with TopK over all
weights after it. Processes are started anew for each variant and each round, in turn, since what is
told of memory is the largest that a process ever had. *paths*: one seed of a path in one process
and two in two, in turn: twice the work in the same time would be 2. *sent*: what all points of that
path share as bytes and how long it takes to pack and unpack, what a point leaves in a store, how
long it takes to put and to get, and what a point costs whoever hands them out. The store is a
folder of this machine, so that a network's time comes on top.
"""

import json
import os
import pickle
import resource
import socket
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import TRAINING, Busy, idle, keep, provenance
from torch import distributed, nn
from torch.nn import functional as F

import lissom
from lissom import TopK
from lissom.curves import Start
from lissom.curves.makers import packed
from lissom.curves.placing import Plan
from lissom.curves.running import Job
from lissom.curves.storing import POINT, mirrored
from lissom.data import load
from lissom.models import lenet300
from lissom.storage import Store

RESULT = Path(__file__).parent / "results" / "scale.json"
WORLD, WIDTH, LAYERS, BATCH, STEPS = 2, 4096, 6, 64, 5
VARIANTS = {"plain": None, "TopK": "euclidean", "TopK, adaptive metric": "adaptive"}
LONG = 240  # epochs of a training that takes about 10 s, since a process starts in 5
STRENGTHS = [0.3, 0.1, 0.03, 0.01]
DATA = load("digits").hold_out(300, seed=0)


def main(only: str = "", rounds: int = 3, save: bool = False, busy: Busy = False) -> None:
    """Measure, and with --save keep it under benchmarks/results."""
    before = idle(busy)
    parts = {"shards": shards, "paths": paths, "sent": sent}
    found = {name: part(rounds) for name, part in parts.items() if only in name}
    print(json.dumps(found, indent=1))
    if save:
        others = json.loads(RESULT.read_text()) if only and RESULT.exists() else {}
        record = {
            **others,
            "command": f"python benchmarks/scale.py --rounds {rounds}",
            **found,
            "jobs": WORLD,
            **provenance(
                [*TRAINING, "src/lissom/curves", "src/lissom/storage", "src/lissom/shards.py"]
            ),
        }
        keep(record, RESULT, before)


def shards(rounds: int) -> dict[str, Any]:
    """Milliseconds of a step and megabytes of a process, of each variant."""
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    memory: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, metric in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                torch.multiprocessing.spawn(_shard, (port, metric, folder), nprocs=WORLD)
                told = [json.loads((Path(folder) / f"{r}").read_text()) for r in range(WORLD)]
            times[name].append(max(one["seconds"] for one in told))
            memory[name].append(max(one["bytes"] for one in told))
            print(name, times[name][-1], memory[name][-1] / 2**20, flush=True)
    plain = statistics.median(times["plain"]), statistics.median(memory["plain"])
    return {
        "weights": LAYERS * WIDTH * WIDTH,
        "processes": WORLD,
        "variants": {
            name: {
                "ms": 1e3 * statistics.median(times[name]),
                "time": statistics.median(times[name]) / plain[0],
                "MB": statistics.median(memory[name]) / 2**20,
                "memory": statistics.median(memory[name]) / plain[1],
            }
            for name in VARIANTS
        },
    }


def _shard(rank: int, port: int, metric: str | None, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    distributed.init_process_group("gloo", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    with torch.device("meta"):
        layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    net = nn.Sequential(*layers)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    net.to_empty(device="cpu")
    torch.manual_seed(rank)
    for parameter in net.parameters():
        nn.init.normal_(parameter.to_local(), std=WIDTH**-0.5)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    if metric is not None:
        lissom.proximal(optimizer, {lissom.weights(net): TopK(fraction=0.1)}, metric=metric)
    x, taken = torch.randn(BATCH, WIDTH), []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        F.mse_loss(net(x), x).backward()
        optimizer.step()
        distributed.barrier()
        taken.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"seconds": statistics.median(taken[1:]), "bytes": peak}
    (Path(folder) / f"{rank}").write_text(json.dumps(told))
    distributed.destroy_process_group()


def fit(net: nn.Module, strength: float | None, start: Start, epochs: int = 20) -> None:
    """A training on digits."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    chosen = {lissom.weights(net): TopK(fraction=strength)} if strength else None
    method = chosen and lissom.proximal(optimizer, chosen, metric="adaptive")
    for _ in range(epochs):
        for rows in torch.randperm(len(DATA.train_y)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(DATA.train_x[rows]), DATA.train_y[rows]).backward()
            optimizer.step()
    if method:
        method.finalize()


def make_model(seed: int) -> nn.Module:
    """LeNet-300-100 for 8 × 8 pixels."""
    return lenet300(inputs=64)


def error(net: nn.Module) -> float:
    """On what was held out."""
    return float((net(DATA.valid_x).argmax(1) != DATA.valid_y).float().mean())


def path(seeds: int, jobs: int, out: str | None = None, epochs: int = 20) -> float:
    """Seconds for a path."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    lissom.path(
        partial(fit, epochs=epochs), STRENGTHS, make_model=make_model, error=error,
        example_inputs=DATA.train_x[:2], seeds=seeds, jobs=jobs, out=out, progress=False,
    )  # fmt: skip
    return time.perf_counter() - started


def paths(rounds: int) -> dict[str, Any]:
    """Seconds of one seed in one process, of two in two, and how much more work that is."""
    one, two = [], []
    for _ in range(rounds):
        one.append(path(1, 1, epochs=LONG))
        two.append(path(2, 2, epochs=LONG))
        print(one[-1], two[-1], flush=True)
    ratios = [2 * a / b for a, b in zip(one, two, strict=True)]
    return {
        "one": statistics.median(one), "two": statistics.median(two),
        "trainings": 1 + len(STRENGTHS), "speedup": statistics.median(ratios),
        "lowest": min(ratios), "highest": max(ratios),
    }  # fmt: skip


def sent(rounds: int) -> dict[str, Any]:
    """Bytes and seconds of what is sent for points, and of what is kept of them."""
    plan = Plan.of(STRENGTHS, len(STRENGTHS))
    x = DATA.train_x[:2]
    job = Job(fit, make_model, error, None, x, plan, 1, False, False, Path("out"), folders=True)
    started = time.perf_counter()
    parcel = packed(job)
    pack = time.perf_counter() - started
    started = time.perf_counter()
    pickle.loads(parcel)
    unpack = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        url, here = f"file://{folder}/store", Path(folder) / "here"
        whole = path(1, 1, url)
        started = time.perf_counter()
        mirrored(Store(url, here))
        points = [file.parent for file in here.glob(f"seed*/*/{POINT}")]
        get = (time.perf_counter() - started) / len(points)
        kept = sum(f.stat().st_size for p in points for f in p.rglob("*") if f.is_file())
        other = Store(f"file://{folder}/other", here)
        started = time.perf_counter()
        for point in points:
            other.push(str(point.relative_to(here)), last=POINT)
        put = (time.perf_counter() - started) / len(points)
        started = time.perf_counter()
        path(1, 1, url)  # all is there
        again = (time.perf_counter() - started) / len(points)
    return {
        "job bytes": len(parcel), "pack": pack, "unpack": unpack,
        "point": whole / len(points), "point bytes": kept / len(points),
        "put": put, "get": get, "hand out": again,
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
