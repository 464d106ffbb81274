"""Run a study: recipes × changes × seeds, one process each, and keep what came out as JSON.

    python benchmarks/run.py STUDY [--data-dir DIR] [--jobs N] [--runs DIR]

A study is a table of benchmarks/studies.toml. A run that is finished is not run again, one that was
killed goes on from its checkpoint, as long as the code and the recipes are the same. Where the
study says `shrink = true`, each network is shrunk and measured afterwards; where it says
`ensemble = 50`, so many networks are drawn from the gates of each run and answer together. The
result goes to benchmarks/results/STUDY.json, from which benchmarks/tables.py makes the tables and
figures of the documentation.
"""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from plans import plan, prepare
from provenance import TRAINING, provenance, recipe_files
from safetensors.torch import load_file
from torch import nn

from lissom import measure, shrink
from lissom.data import Dataset
from lissom.measuring import latency
from lissom.recipes import make_data, make_example, make_model, read_record
from lissom.sparse_sizes import coded

HERE = Path(__file__).parent
BATCH, ROUNDS = 64, 31  # of the measured times


def main(
    study: str,
    data_dir: Path | None = None,
    jobs: int = 2,
    runs: Path = Path("runs"),
    seeds: Annotated[int | None, typer.Option(help="Instead of the study's own.")] = None,
) -> None:
    """Run one study of studies.toml."""
    asked = plan(HERE / "studies.toml", "study", study)
    todo = [
        (entry, seed) for seed in range(seeds or asked["seeds"]) for entry in expand(asked["runs"])
    ]
    prepare(data_dir)
    recipes = {file for entry, _ in todo for file in recipe_files(entry["recipe"])}
    origin = provenance([*TRAINING, *recipes])
    folder = runs / study / origin["code"]["digest"]
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda task: train(folder, *task), todo))
    if asked.get("shrink"):
        torch.set_num_threads(1)
        for (entry, seed), result in zip(todo, done, strict=True):
            result["shrunk"] = shrunk(folder / name_of(entry, seed))
    if asked.get("select"):
        for (entry, seed), result in zip(todo, done, strict=True):
            result["small"] = selected(folder / name_of(entry, seed))
    if "ensemble" in asked:
        for (entry, seed), result in zip(todo, done, strict=True):
            result["ensemble"] = drawn(folder / name_of(entry, seed), asked["ensemble"])
    record = {
        "study": study,
        "title": asked["title"],
        "command": command(study, seeds),
        "runs": done,
        **origin,
    }
    out = HERE / "results" / f"{study}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(done)} runs in {out}")


def expand(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An entry with `values` for one key becomes an entry for each of them."""
    expanded = []
    for entry in entries:
        for value in entry.get("values", [None]):
            changes = list(entry.get("set", []))
            if value is not None:
                changes.append(f"{entry['vary']}={value}")
            label = entry.get("label", entry["recipe"])
            expanded.append(
                {"recipe": entry["recipe"], "label": label, "value": value, "set": changes}
            )
    return expanded


def train(folder: Path, entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run, told with its test error."""
    result = trained(folder, entry, seed)
    total = result["nonzeros"]["total"]
    print(
        f"{name_of(entry, seed)}: error {100 * result['test']['error']:.2f} %, "
        f"non-zeros {total['nonzeros']:,} of {total['weights']:,}",
        flush=True,
    )
    return result


def trained(folder: Path, entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """What came out of one run, made unless its result is there already."""
    out = folder / name_of(entry, seed)
    if not (out / "result.json").exists():
        changes = [option for change in entry["set"] for option in ("--set", change)]
        arguments = ["train", entry["recipe"], *changes, "--seed", str(seed), "--out", str(out)]
        if (out / "recipe.json").exists():
            arguments.append("--resume")
        call(*arguments)
    result = json.loads((out / "result.json").read_text())
    tensors = load_file(out / "model.safetensors")
    weights = [w for name, w in tensors.items() if name in result["nonzeros"]]  # no buffers
    result["coded"] = sum(coded(w, w == 0) for w in weights)
    result["l1"] = sum(float(w.abs().sum()) for name, w in tensors.items() if "weight" in name)
    result["command"] = re.sub(r" --out ('[^']*'|\S+)", "", result["command"])
    return {**entry, **result}


def call(*arguments: str) -> None:
    """The command line."""
    lissom = Path(sys.executable).with_name("lissom")
    done = subprocess.run([str(lissom), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lissom {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def drawn(run: Path, networks: int) -> dict[str, Any]:
    """How networks that are drawn from the gates of a run answer together."""
    call("ensemble", str(run), "--networks", str(networks))
    found: dict[str, Any] = json.loads((run / "ensemble.json").read_text())
    found.pop("runs")  # folders of this machine
    return found


def name_of(entry: dict[str, Any], seed: int) -> str:
    """The folder of a run."""
    value = "" if entry["value"] is None else f"-{entry['value']}"
    return f"{entry['label']}{value}-seed{seed}".replace(" ", "-").replace("/", "-")


def shrunk(run: Path) -> dict[str, Any]:
    """What is left of a run's network without its dead units: sizes, error, and time."""
    record = read_record(run / "recipe.json")
    model = make_model(record.recipe, record.shape, record.classes).eval()
    model.load_state_dict(load_file(run / "model.safetensors"))
    small = shrink(model, make_example(model, record.shape))
    report = small.shrinkage.to_dict()
    one, many = (make_example(model, record.shape, batch) for batch in (1, BATCH))
    before, after = measure(model, one).macs, measure(small, one).macs
    times = latency({"dense": model, "small": small}, many, threads=1, rounds=ROUNDS)
    print(f"{run.name}: {before:,} MACs → {after:,}, time × {times['small'].ratio:.3f}", flush=True)
    return {
        "units": [family["after"] for family in report["families"]],
        **{key: report[key] for key in ("weights_before", "weights_after", "folded", "difference")},
        "kept": report["kept"],
        "macs_before": before,
        "macs_after": after,
        "test": {"error": error(small, make_data(record.recipe))},
        "seconds_before": times["dense"].seconds,
        "seconds_after": times["small"].seconds,
        "time_ratio": times["small"].ratio,
        "batch": BATCH,
        "threads": 1,
    }


def selected(run: Path) -> dict[str, Any]:
    """A run's network without dead units and inputs, as the papers on gates count its size.

    Its dense weights, without biases, are those of layers that select the inputs they read; the
    notation has the maps of convolutions and the inputs of dense layers (Louizos et al., table 1).
    """
    record = read_record(run / "recipe.json")
    model = make_model(record.recipe, record.shape, record.classes).eval()
    model.load_state_dict(load_file(run / "model.safetensors"))
    example = make_example(model, record.shape, 1)
    small = shrink(model, example.expand(2, *example.shape[1:]), inputs=True, select=True)
    layers = [layer for layer in small.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    left = {
        "neurons": [
            layer.out_channels if isinstance(layer, nn.Conv2d) else layer.in_features
            for layer in layers
        ],
        "weights": sum(p.numel() for p in small.parameters() if p.ndim > 1),
        "macs": measure(small, example).macs,
        "difference": small.shrinkage.difference,
        "test": {"error": error(small, make_data(record.recipe))},
    }
    print(f"{run.name}: {left}", flush=True)
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    if isinstance(first, nn.Linear):  # how many weights read each input
        left["connections"] = " ".join(map(str, first.weight.count_nonzero(0).tolist()))
    told = [(e["epoch"], e["method"]["curves"]) for e in events if "method" in e]
    left["history"] = [(n, c["expected size"]) for n, c in told if "expected size" in c]
    return left


@torch.inference_mode()
def error(model: nn.Module, data: Dataset) -> float:
    """The fraction of the test data that is classified wrongly."""
    found = torch.cat([model(x).argmax(1) for x in data.test_x.split(1000)])
    return float((found != data.test_y).float().mean())


def command(study: str, seeds: int | None) -> str:
    """How to make this result again."""
    return f"python benchmarks/run.py {study}" + (f" --seeds {seeds}" if seeds else "")


if __name__ == "__main__":
    typer.run(main)
