"""Are networks that were trained and shrunk as fast in ONNX Runtime as their size promises?

    python benchmarks/shrunk_speed.py vgg-channels vgg-modern [--runs DIR] [--seeds 1] [--rounds 9]
        [--busy]

after `python benchmarks/run.py` of these studies, whose networks are under --runs. Of each setting
the networks of the first seeds are shrunk, exported with the channels that `lissom.export` adds,
and timed on one thread with batches of 1 and 32, in turns with the dense one and all others. Those
that do not become smaller are left out: single zeros take as long as other weights. The result goes
to benchmarks/results/STUDY-speed.json, STUDY being the last of them. Where other work runs on the
machine nothing is timed, unless --busy says so.
"""

import shlex
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import typer
from plans import plan
from provenance import REMOVING, Busy, idle, keep, provenance
from run import HERE, expand, name_of
from torch import nn

import lissom
from lissom.measuring import latency
from lissom.recipes import make_example, make_model, read_record
from lissom.recipes.runs import load_weights

BATCHES = (1, 32)
CODE = (*REMOVING, "src/lissom/measuring", "src/lissom/exporting", "benchmarks/shrunk_speed.py")


def main(
    studies: list[str],
    runs: Path = Path("runs"),
    seeds: int = 1,
    rounds: int = 9,
    busy: Busy = False,
    out: Path | None = None,
) -> None:
    """Time the networks of some studies, and keep the record."""
    load = idle(busy)
    torch.set_num_threads(1)
    settings = [
        [(name_of(entry, seed).removesuffix("-seed0"), runs / study / name_of(entry, seed))
         for seed in range(seeds)]
        for study in studies
        for entry in expand(plan(HERE / "studies.toml", "study", study))
    ]  # fmt: skip
    folders = dict(chain.from_iterable(settings))
    known = {name: run for name, run in folders.items() if (run / "result.json").exists()}
    if not known:
        raise SystemExit(f"no run of {', '.join(studies)} is finished under {runs}")
    dense = untrained(next(iter(known.values())))
    example_inputs = make_example(dense, shape_of(next(iter(known.values()))), 1)
    networks = {"dense": dense, **smaller(known, lissom.measure(dense, example_inputs).macs)}
    record = {
        "command": shlex.join(["python", "benchmarks/shrunk_speed.py", *studies])
        + (f" --seeds {seeds}" if seeds > 1 else ""),
        "networks": measured(networks, example_inputs, rounds),
        "missing": [own[0][0] for own in settings if not any(name in known for name, _ in own)],
        "jobs": 1,
        **provenance(CODE, ("torch", "onnxruntime", "onnx")),
    }
    out = out or HERE / "results" / f"{studies[-1]}-speed.json"
    keep(record, out, load)
    print(f"{len(networks)} networks in {out}")


def shape_of(run: Path) -> tuple[int, ...]:
    """Of one input of its network."""
    return tuple(read_record(run / "recipe.json").shape)


def untrained(run: Path) -> nn.Module:
    """The network of a run as it was before the training: times do not depend on the weights."""
    record = read_record(run / "recipe.json")
    return make_model(record.recipe, record.shape, record.classes).eval()


def smaller(runs: dict[str, Path], macs: int | None) -> dict[str, nn.Module]:
    """The shrunk networks that have fewer multiply–accumulates than the dense one."""
    found = {}
    for name, run in runs.items():
        model = untrained(run)
        load_weights(model, run)
        small = lissom.shrink(model, make_example(model, shape_of(run)))
        left = lissom.measure(small, make_example(model, shape_of(run), 1)).macs
        assert left is not None and macs is not None
        if left < macs:
            found[name] = small
    return found


def measured(
    networks: dict[str, nn.Module], example_inputs: torch.Tensor, rounds: int
) -> list[dict[str, Any]]:
    """Size, file and times of each; ratios are to the first."""
    with TemporaryDirectory() as folder:
        written = {
            name: lissom.export(net, example_inputs, Path(folder) / f"{i}.onnx")
            for i, (name, net) in enumerate(networks.items())
        }
        files = {name: one.path for name, one in written.items()}
        times = {
            batch: latency(
                files,
                torch.randn(batch, *example_inputs.shape[1:]),
                runtime="onnxruntime",
                threads=1,
                rounds=rounds,
            )
            for batch in BATCHES
        }
    found = []
    for name, net in networks.items():
        size, one = lissom.measure(net, example_inputs), written[name]
        found.append(
            {
                "name": name,
                "weights": size.weights,
                "macs": size.macs,
                "bytes": one.bytes,
                "difference": one.difference,
                "notes": one.notes,
                "times": {str(batch): asdict(times[batch][name]) for batch in BATCHES},
            }
        )
        ratios = ", ".join(f"batch {n}: × {times[n][name].ratio:.3f}" for n in BATCHES)
        print(f"{name}: {size.macs:,} MACs, {ratios}", flush=True)
    return found


if __name__ == "__main__":
    typer.run(main)
