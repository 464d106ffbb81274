"""Shrink thousands of random networks with random damage, and compare each with its original.

    python benchmarks/fuzz.py --networks 5000 [--first 0] [--jobs 2]

The networks and the damage are those of tests/random_networks.py and depend on the seed alone.
`lissom.shrink` checks itself; here its result is compared once more, on inputs that it did not see:
three draws of different size, and another batch size where the original takes one. All is in
float64, on one thread a process. The record is written after every chunk of networks, and a run
that was stopped goes on where it was; it starts anew if the package has changed meanwhile.
"""

import json
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import typer
from provenance import REMOVING, provenance
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from random_networks import VOCABULARY, damage_, random_network  # noqa: E402

import lissom  # noqa: E402
from lissom.running import leaves  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"
TOLERANCE = 1e-10
SECONDS = 120  # for one network, before it counts as a crash
CHUNK = 50
DRAWN = ["tests/random_networks.py", "tests/random_blocks.py"]
COUNTS = ("crashes", "differences", "networks", "units", "removed", "folded", "weights")


def main(networks: int = 5000, first: int = 0, jobs: int = 1, out: Path = RESULT) -> None:
    """Shrink the networks of these seeds, and keep the record."""
    record = resumed(out, first, networks, jobs)
    seeds = range(first + record["networks"], first + networks)
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for chunk, results in zip(chunks, pool.map(attempts, chunks), strict=True):
            for seed, found in zip(chunk, results, strict=True):
                add(record, seed, found)
            record["load"] = [record["load"][0], os.getloadavg()[0]]
            write(out, record)
            print(
                "{networks:,} networks, {removed:,} of {units:,} units removed, {crashes} "
                "crashes, {differences} differences, {seconds:.0f} s".format(**record),
                flush=True,
            )


def attempts(seeds: range) -> list[dict[str, Any]]:
    """A chunk of networks, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return list(map(attempt, seeds))


def resumed(out: Path, first: int, networks: int, jobs: int) -> dict[str, Any]:
    """The record so far, or an empty one."""
    command = f"python benchmarks/fuzz.py --networks {networks} --first {first}"
    record: dict[str, Any] = {
        "command": command,
        "first": first,
        "tolerance": TOLERANCE,
        **dict.fromkeys(COUNTS, 0),
        "weights_left": 0,
        "shrunk": 0,
        "graphs": 0,
        "code_fixes": 0,
        "largest_difference": 0.0,
        "seconds": 0.0,
        "slowest": {"seconds": 0.0},
        "kept": {},
        "unknown": {},
        "blocks": {},
        "failures": [],
        "load": [os.getloadavg()[0]] * 2,
        "jobs": jobs,
        **provenance([*REMOVING, *DRAWN, "benchmarks/fuzz.py"]),
    }
    if out.exists():
        old = json.loads(out.read_text())
        same = all(old.get(key) == record[key] for key in ("first", "code", "versions"))
        if same and old["networks"] <= networks:
            return {**old, "command": command}
    return record


def attempt(seed: int) -> dict[str, Any]:
    """Shrink one network and compare it; what went wrong is in the result, not raised."""
    started = time.perf_counter()
    found: dict[str, Any] = {"blocks": []}
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(SECONDS)
    try:
        model, example_inputs = random_network(seed)
        damage_(model.eval(), seed)
        found["blocks"] = [type(block).__name__ for block in model.blocks]
        found["weights"] = sum(p.numel() for p in model.parameters())
        small = lissom.shrink(model, example_inputs)
        found["shrinkage"] = small.shrinkage.to_dict()
        found["difference"] = difference(model, small, example_inputs, seed)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        found["crash"] = f"{type(error).__name__} in {where}: {error}"[:500]
    finally:
        signal.alarm(0)
    return {**found, "seconds": time.perf_counter() - started}


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


@torch.no_grad()
def difference(
    large: nn.Module, small: nn.Module, example_inputs: tuple[Tensor, ...], seed: int
) -> float:
    """The largest difference on fresh inputs, relative to the largest output of each."""
    generator = torch.Generator().manual_seed(10**6 + seed)
    worst = 0.0
    for scale, batch in ((1, None), (0.1, None), (10, None), (1, 3)):
        inputs = tuple(fresh(x, scale, batch, generator) for x in example_inputs)
        try:
            wanted = leaves(large(*inputs))
        except Exception:
            if batch is None:
                raise
            continue  # its code has a fixed batch size
        got = leaves(small(*inputs))
        if [x.shape for x in got] != [x.shape for x in wanted]:
            return float("inf")
        for a, b in zip(wanted, got, strict=True):
            apart = float(torch.where(a == b, 0, (a - b).abs()).max())
            worst = max(worst, apart / max(float(a.abs().max()), 1e-12), key=nan_last)
    return worst


def nan_last(value: float) -> float:
    return float("inf") if value != value else value


def fresh(x: Tensor, scale: float, batch: int | None, generator: torch.Generator) -> Tensor:
    shape = [batch or x.shape[0], *x.shape[1:]]
    if x.is_floating_point():
        return scale * torch.randn(shape, generator=generator, dtype=x.dtype)
    return torch.randint(VOCABULARY, shape, generator=generator)


def add(record: dict[str, Any], seed: int, found: dict[str, Any]) -> None:
    """Count one network in."""
    record["networks"] += 1
    record["seconds"] += found["seconds"]
    count(record["blocks"], set(found["blocks"]))
    if found["seconds"] > record["slowest"]["seconds"]:
        record["slowest"] = {"seed": seed, "seconds": found["seconds"]}
    if "crash" in found:
        record["crashes"] += 1
        record["failures"].append({"seed": seed, "crash": found["crash"]})
    if "shrinkage" not in found:
        return
    shrinkage = found["shrinkage"]
    record["units"] += sum(family["before"] for family in shrinkage["families"])
    record["removed"] += shrinkage["removed"]
    record["shrunk"] += shrinkage["removed"] > 0
    record["folded"] += shrinkage["folded"]
    record["graphs"] += shrinkage["as_graph"]
    record["weights"] += shrinkage["weights_before"]
    record["weights_left"] += shrinkage["weights_after"]
    reasons = Counter[str]()
    for kept in shrinkage["kept"]:
        reasons[re.sub(r"\bblocks[.\w]*", "…", kept["reason"])] += kept["units"]
    record["kept"] = dict(Counter(record["kept"]) + reasons)
    record["code_fixes"] += any("code fixes" in kept["reason"] for kept in shrinkage["kept"])
    record["unknown"] = dict(Counter(record["unknown"]) + Counter(shrinkage["pinned_by"]))
    if "difference" in found:
        apart = nan_last(found["difference"])
        record["largest_difference"] = max(record["largest_difference"], apart)
        if apart > TOLERANCE:
            record["differences"] += 1
            record["failures"].append({"seed": seed, "difference": apart})


def count(counts: dict[str, int], names: set[str]) -> None:
    for name in sorted(names):
        counts[name] = counts.get(name, 0) + 1


def write(out: Path, record: dict[str, Any]) -> None:
    """At once or not at all."""
    out.parent.mkdir(exist_ok=True)
    half = out.with_suffix(".half")
    half.write_text(json.dumps(record, indent=1) + "\n")
    half.replace(out)


if __name__ == "__main__":
    typer.run(main)
