"""Choose a recipe's numbers by held-out training examples, and keep every trial.

    python benchmarks/choose.py CHOICE [--data-dir DIR] [--jobs N] [--runs DIR]

A choice is a table of benchmarks/choices.toml: a recipe, what all trials `set`, and the keys to
`vary`, each with its values. One key after another is varied, the others at what was best so far:
the lowest validation error, and among equals the lowest validation loss, of the trials that leave
at most `nonzeros` parameters, where that is given. The test set is not looked at, and test errors
are not kept. A finished trial is not run again. The record goes to
benchmarks/results/choice-CHOICE.json and has the recipe as it was; the recipe itself is changed by
hand, to what the record says.
"""

import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import typer
from plans import plan, prepare
from provenance import ROOT, TRAINING, digest, keep, provenance, recipe_files
from run import HERE, trained

Trial = dict[str, Any]
Values = dict[str, Any]


def main(
    choice: str, data_dir: Path | None = None, jobs: int = 1, runs: Path = Path("runs")
) -> None:
    """Run the trials of one choice of choices.toml."""
    asked = plan(HERE / "choices.toml", "choice", choice)
    prepare(data_dir)
    origin = provenance(TRAINING)
    recipe, *teachers = recipe_files(asked["recipe"])
    folder = runs / f"choice-{choice}" / digest([*origin["code"]["files"], recipe, *teachers])
    with ThreadPoolExecutor(jobs) as pool:
        trials, chosen = search(
            asked["vary"],
            lambda tried: list(pool.map(lambda values: trial(folder, asked, values), tried)),
            asked.get("nonzeros"),
        )
    record = {
        "choice": choice,
        "title": asked["title"],
        "command": f"python benchmarks/choose.py {choice}",
        "plan": asked,
        "recipe": tomllib.loads((ROOT / recipe).read_text("utf-8")),
        "trials": trials,
        "chosen": chosen["values"],
        **origin,
    }
    out = HERE / "results" / f"choice-{choice}.json"
    keep(record, out)
    print(f"chosen of {len(trials)} trials: {chosen['values']}; kept in {out}")


def search(
    vary: list[dict[str, Any]], run: Callable[[list[Values]], list[Trial]], most: int | None = None
) -> tuple[list[Trial], Trial]:
    """All trials, and the best: one key after another, the first value of each to begin with.

    Args:
        vary: keys with their values.
        run: makes a trial of each, with "values", "valid" and "nonzeros".
        most: parameters that are left at most.
    """
    values: Values = {entry["key"]: entry["values"][0] for entry in vary}
    trials: list[Trial] = []
    for entry in vary:
        asked = [{**values, entry["key"]: value} for value in entry["values"]]
        known = [trial["values"] for trial in trials]
        trials += run([one for one in asked if one not in known])
        best = min(trials, key=lambda trial: rank(trial, most))
        values = best["values"]
    return trials, best


def rank(trial: Trial, most: int | None) -> tuple[float, float, float]:
    """What is smallest in the best trial: too many parameters, validation error, loss."""
    excess = 0 if most is None else max(0, trial["nonzeros"] - most)
    return excess, trial["valid"]["error"], trial["valid"]["loss"]


def as_changes(values: Values) -> list[str]:
    """What --set is given for them; a text is TOML as it is, such as none or {pad=1}."""
    return [f"{key}={value}" for key, value in values.items()]


def trial(folder: Path, asked: dict[str, Any], values: Values) -> Trial:
    """One training on what is not held out."""
    label = ", ".join(as_changes(values))
    changes = [*asked["set"], *as_changes(values)]
    entry = {"recipe": asked["recipe"], "label": label, "value": None, "set": changes}
    found = trained(folder, entry, asked["seed"])
    made = {
        "values": values,
        "valid": {name: found["valid"][name] for name in ("error", "loss")},
        "nonzeros": found["nonzeros"]["total"]["nonzeros"],
        "epoch": found["epoch"],
        "seed": found["seed"],
        "command": found["command"],
    }
    print(
        f"{label}: validation error {100 * made['valid']['error']:.2f} %, "
        f"loss {made['valid']['loss']:.4f}, non-zeros {made['nonzeros']:,}",
        flush=True,
    )
    return made


if __name__ == "__main__":
    typer.run(main)
