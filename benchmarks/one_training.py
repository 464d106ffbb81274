"""Seconds of a curve by one training, beside those of one dense training of as many epochs.

    python benchmarks/one_training.py [--rounds 2] [--save]

`lissom path lenet300-path-nested` makes twelve points in 34 + 11 × 6 epochs: those of the training
of all sizes, whose steps cost more than plain ones, and those in which cuts are fine-tuned, which
go on with what lives. The dense training is the same recipe without a method, for 100 epochs. The
two take turns on one thread, a seed each round, with all that belongs to them: data, evaluation,
files.
"""

import time
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import typer
from plans import prepare
from provenance import REMOVING, TRAINING, Busy, idle, keep, provenance, recipe_files
from run import call

RESULT = Path(__file__).parent / "results" / "one-training.json"
RECIPE = "lenet300-path-nested"
EPOCHS = 100
GOAL = 1.2  # dense trainings


def main(
    rounds: int = 2, data_dir: Path | None = None, save: bool = False, busy: Busy = False
) -> None:
    """Time both in turns, and with --save keep it under benchmarks/results."""
    load = idle(busy)
    prepare(data_dir)
    dense = ["--set", "method=none", "--set", "penalties=none", "--set", "path=none"]
    seconds: dict[str, list[float]] = {"dense": [], "curve": []}
    for seed in range(rounds):
        with TemporaryDirectory() as folder:
            given = ["--seed", str(seed), "--set", f"train.epochs={EPOCHS}"]
            out = ["--out", f"{folder}/dense"]
            seconds["dense"].append(timed("train", RECIPE, *dense, *given, *out))
            out = ["--out", f"{folder}/curve", "--set", "path.seeds=1", "--jobs", "1"]
            seconds["curve"].append(timed("path", RECIPE, *out))
        print({name: [round(s) for s in each] for name, each in seconds.items()}, flush=True)
    ratio = fmean(seconds["curve"]) / fmean(seconds["dense"])
    print(f"a curve takes {ratio:.2f} dense trainings; the goal was {GOAL}")
    if save:
        record = {
            "command": f"python benchmarks/one_training.py --rounds {rounds}",
            "seconds": seconds,
            "epochs": EPOCHS,
            "ratio": ratio,
            "goal": GOAL,
            "jobs": 1,
            **provenance([*TRAINING, *REMOVING, "src/lissom/curves", *recipe_files(RECIPE)]),
        }
        keep(record, RESULT, load)


def timed(*arguments: str) -> float:
    """Seconds of a command."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
