"""Make the trade-off curves of a study, and keep their points as JSON.

    python benchmarks/curves.py STUDY [--data-dir DIR] [--jobs N] [--runs DIR]

A study is a table of benchmarks/curves.toml; its curves are made by `lissom path`, one after
another, and go on after a kill. What came of all points goes to benchmarks/results/STUDY.json,
without their networks, and benchmarks/tables.py makes tables and figures from it. `lissom report`
of the folders under --runs makes a page with the networks.
"""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from plans import plan, prepare
from provenance import REMOVING, TRAINING, keep, provenance, recipe_files

from lissom.curves.storing import PATH_KIND, POINT_KIND, TENSORS_KIND
from lissom.recipes.runs import RESULT_KIND
from lissom.report.classes import KIND as CLASSES_KIND
from lissom.storage import load_json, load_tensors, read_events

HERE = Path(__file__).parent


def main(
    study: str, data_dir: Path | None = None, jobs: int = 2, runs: Path = Path("runs")
) -> None:
    """Make the curves of one study of curves.toml."""
    asked = plan(HERE / "curves.toml", "study", study)
    prepare(data_dir)
    recipes = [file for entry in asked["curves"] for file in recipe_files(entry["recipe"])]
    origin = provenance([*TRAINING, *REMOVING, "src/lissom/curves", *set(recipes)])
    curves = [
        make(runs / study / f"curve{i}", entry, asked.get("set", []), jobs)
        for i, entry in enumerate(asked["curves"])
    ]
    record = {
        "study": f"curves-{study}",
        "title": asked["title"],
        "axis": asked.get("axis", "nonzeros"),
        "command": f"python benchmarks/curves.py {study}",
        "curves": curves,
        **origin,
    }
    out = HERE / "results" / f"curves-{study}.json"
    keep(record, out)
    print(f"{len(curves)} curves in {out}")


def make(folder: Path, entry: dict[str, Any], common: list[str], jobs: int) -> dict[str, Any]:
    """One curve, and what is kept of it."""
    arguments = ["path", entry["recipe"]]
    for change in [*common, *entry.get("set", [])]:
        arguments += ["--set", change]
    if "from_scratch" in entry:
        arguments += ["--from-scratch", entry["from_scratch"]]
    lissom = Path(sys.executable).with_name("lissom")
    place = ["--out", str(folder), "--jobs", str(jobs)]
    done = subprocess.run([str(lissom), *arguments, *place], text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{entry['name']} failed:\n{done.stdout}")
    print(f"{entry['name']}\n{done.stdout}", flush=True)
    files = sorted(folder.glob("seed*/*/point.json"))
    return {
        "name": entry["name"],
        "command": shlex.join(["lissom", *arguments]),
        "versions": load_json(folder / "result.json", RESULT_KIND)["versions"],
        "path": load_json(folder / "path.json", PATH_KIND),
        "points": [point(file.parent) for file in files],
        "classes": load_json(folder / "classes.json", CLASSES_KIND),
    }


def point(folder: Path) -> dict[str, Any]:
    """What came of one point, how long it was trained, and the non-zeros of each tensor."""
    found = load_json(folder / "point.json", POINT_KIND)
    if found["failed"]:
        return found
    _, tensors = load_tensors(folder / "network.safetensors", TENSORS_KIND)
    return {
        **found,
        "epochs": read_events(folder / "fit" / "events.jsonl")[-1]["epoch"],
        "nonzeros": {name: int(tensor.count_nonzero()) for name, tensor in tensors.items()},
    }


if __name__ == "__main__":
    typer.run(main)
