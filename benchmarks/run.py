"""Run a study: recipes × changes × seeds, one process each, and keep what came out as JSON.

    python benchmarks/run.py STUDY [--data-dir DIR] [--jobs N] [--runs DIR] [--device DEVICE]
        [--precision PRECISION] [--finished] [--again]

A study is a table of benchmarks/studies.toml. Its record is benchmarks/results/STUDY.json, from
which benchmarks/tables.py makes the tables and figures of the documentation. The record grows run
by run, over days if need be: a run that is in it with the same settings is not run again, one that
was killed goes on from its checkpoint, and each says which code made it, and when. --again makes
all of them anew; with --finished nothing is trained, and what is there so far is collected. Where
the study says `shrink = true`, each network is shrunk and measured afterwards; where it says
`ensemble = 50`, so many networks are drawn from the gates of each run and answer together. On
another device than the CPU runs are trained and no more: a call without --device does the rest, of
those whose networks are in DIR. --precision is for machines that have not what the recipes ask for;
the command on record tells it.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import torch
import typer
from plans import plan, prepare
from provenance import TRAINING, provenance, recipe_files
from safetensors.torch import load_file
from torch import nn

from lissom import measure, shrink
from lissom.data import Dataset
from lissom.errors import LissomError
from lissom.measuring import latency
from lissom.recipes import make_data, make_example, make_model, read_recipe, read_record
from lissom.recipes.options import defaults_of
from lissom.sparse_sizes import coded
from lissom.training import usable_device

HERE = Path(__file__).parent
BATCH, ROUNDS = 64, 31  # of the measured times


def main(
    study: str,
    data_dir: Path | None = None,
    jobs: int = 2,
    runs: Path = Path("runs"),
    seeds: Annotated[int | None, typer.Option(help="Instead of the study's own.")] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Train nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Whatever is on record.")] = False,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str | None, typer.Option(help="Instead of the recipes' own.")] = None,
) -> None:
    """Run one study of studies.toml."""
    try:
        usable_device(device)
    except LissomError as error:
        raise SystemExit(str(error)) from None
    asked = plan(HERE / "studies.toml", "study", study)
    entries = [
        {**entry, "settings": settings_of(entry["recipe"], entry["set"])} for entry in expand(asked)
    ]
    todo = [(entry, seed) for seed in range(seeds or asked["seeds"]) for entry in entries]
    prepare(data_dir)
    record = Record(HERE / "results" / f"{study}.json", todo, again)
    record.told = {"study": study, "title": asked["title"], "command": command(study, seeds)}
    folder = runs / study
    missing = [task for task in todo if name_of(*task) not in record.runs]
    if finished:
        missing = [task for task in missing if (folder / name_of(*task) / "result.json").exists()]

    def add(task: tuple[dict[str, Any], int]) -> None:
        name, result = name_of(*task), trained(folder, *task, device, precision)
        total = result["nonzeros"]["total"]
        print(
            f"{name}: error {100 * result['test']['error']:.2f} %, "
            f"non-zeros {total['nonzeros']:,} of {total['weights']:,}",
            flush=True,
        )
        record.add(name, result)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(add, missing))
    questions = afterwards(asked) if device == "cpu" else {}
    for name, run in record.runs.items():
        for key, function in questions.items():
            if key not in run and (folder / name / "model.safetensors").exists():
                record.add(name, {**run, key: function(folder / name)})
    record.write()
    print(f"{len(record.runs)} of {len(todo)} runs in {record.path}")


def afterwards(study: dict[str, Any]) -> dict[str, Callable[[Path], dict[str, Any]]]:
    """What a study asks about its trained networks, by the names of the answers."""
    asked: dict[str, Callable[[Path], dict[str, Any]]] = {}
    if study.get("shrink"):
        torch.set_num_threads(1)
        asked["shrunk"] = shrunk
    if study.get("select"):
        asked["small"] = selected
    if "ensemble" in study:
        asked["ensemble"] = lambda run: drawn(run, study["ensemble"])
    return asked


class Record:
    """The runs of a study so far, in its order; the file is written whenever there is one more."""

    def __init__(self, path: Path, todo: list[tuple[dict[str, Any], int]], again: bool) -> None:
        self.path, self.told = path, dict[str, Any]()
        self.order = [name_of(*task) for task in todo]
        found = json.loads(path.read_text())["runs"] if path.exists() and not again else []
        known = {(run.get("settings"), run["seed"]): run for run in found}
        runs = {name_of(*task): known.get((task[0]["settings"], task[1])) for task in todo}
        self.runs = {name: run for name, run in runs.items() if run is not None}
        self._lock = Lock()

    def add(self, name: str, run: dict[str, Any]) -> None:
        """One more."""
        with self._lock:
            self.runs[name] = run
            self.write()

    def write(self) -> None:
        """Beside the file first, so that a kill leaves the old or the new one."""
        runs = [self.runs[name] for name in self.order if name in self.runs]
        text = json.dumps({**self.told, "runs": runs}, indent=1) + "\n"
        self.path.parent.mkdir(exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(text)
        beside.replace(self.path)


def expand(study: dict[str, Any]) -> list[dict[str, Any]]:
    """A run with `values` for one key becomes one for each; `set` of the study is that of all."""
    expanded = []
    for entry in study["runs"]:
        for value in entry.get("values", [None]):
            changes = [*study.get("set", []), *entry.get("set", [])]
            if value is not None:
                changes.append(f"{entry['vary']}={value}")
            named = {"recipe": entry["recipe"], "label": entry.get("label", entry["recipe"])}
            expanded.append({**named, "value": value, "set": changes})
    return expanded


def settings_of(recipe: str, changes: list[str]) -> str:
    """Sixteen hex digits of what is asked for, however it is written and called.

    What is as it would be unasked does not count, so that a new option changes nothing.
    """
    read = read_recipe(recipe, changes)
    asked = read.model_dump(exclude_defaults=True, exclude={"title", "source"})
    if read.method is not None:
        unasked = defaults_of(read.method.type.options_type)
        given = asked["method"].items()
        asked["method"] = {key: x for key, x in given if key not in unasked or x != unasked[key]}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def trained(
    folder: Path,
    entry: dict[str, Any],
    seed: int,
    device: str = "cpu",
    precision: str | None = None,
) -> dict[str, Any]:
    """What came out of one run, made unless its result is there already."""
    out = folder / name_of(entry, seed)
    # Of each code that this run was trained by, the last one last.
    origins = folder / f"{out.name}.origins.json"
    if not (out / "result.json").exists():
        known = json.loads(origins.read_text()) if origins.exists() else []
        now = provenance([*TRAINING, *recipe_files(entry["recipe"])], device=device)
        asked = list(entry["set"])
        if precision:
            now["precision"] = precision
            asked.append(f"train.precision={precision}")
        known = [one for one in known if one["code"] != now["code"]]
        folder.mkdir(parents=True, exist_ok=True)
        origins.write_text(json.dumps([*known, {**now, "date": str(date.today())}]))
        changes = [option for change in asked for option in ("--set", change)]
        arguments = ["train", entry["recipe"], *changes, "--seed", str(seed), "--out", str(out)]
        if device != "cpu":
            arguments += ["--device", device]
        if (out / "recipe.json").exists():
            arguments.append("--resume")
        call(*arguments)
    result = json.loads((out / "result.json").read_text())
    tensors = load_file(out / "model.safetensors")
    weights = [w for name, w in tensors.items() if name in result["nonzeros"]]  # no buffers
    result["coded"] = sum(coded(w, w == 0) for w in weights)
    result["l1"] = sum(float(w.abs().sum()) for name, w in tensors.items() if "weight" in name)
    result["command"] = re.sub(r" --out ('[^']*'|\S+)", "", result["command"])
    *before, origin = json.loads(origins.read_text())
    if before:
        origin["began with"] = [one["code"]["digest"] for one in before]
    return {**entry, **result, **origin}


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
    told = [(e["epoch"], e["method"].get("curves", {})) for e in events if "method" in e]
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
