"""Commands that look closer at a run: networks drawn from its gates, trees that learn from it."""

from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

import typer

from lissom.checkpoints import save_json
from lissom.cli.networks import load_model
from lissom.cli.shared import MAX_SEED, DataDir, app, console, say, told
from lissom.distill import EXAMPLES, distill_to_trees
from lissom.ensemble import SIZES, accuracy_by_size, calibration_of
from lissom.recipes import gates_in, make_data, read_record
from lissom.report import ensemble_sizes, reliability
from lissom.tables import table
from lissom.training import entropy_and_inaccuracy


@app.command()
def ensemble(
    run: Annotated[Path, typer.Argument(help="A run with gates that were hardened at its end.")],
    networks: Annotated[int, typer.Option(min=1, help="How many are drawn.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw networks from a run's gates and let them answer together: accuracy and confidence."""
    with told():
        record = read_record(run / "recipe.json")
        data = make_data(record.recipe, data_dir, seed=record.seed)
        gates = gates_in(run, record)
        single = 1 - entropy_and_inaccuracy(gates.hardened(), data.test_x, data.test_y)[1]
        drawn = list(gates.sample(networks, seed))
        sizes = [size for size in SIZES if size < networks] + [networks]
        found = accuracy_by_size(drawn, data.test_x, data.test_y, sizes, seed=seed)
        trust = calibration_of(drawn, data.test_x, data.test_y)
        kept = {
            "networks": networks,
            "seed": seed,
            "single": single,
            "accuracy": {str(size): accuracies for size, accuracies in found.items()},
            "calibration_error": trust.error,
        }
        save_json(kept, run / "ensemble.json")
        ensemble_sizes(found, single).savefig(run / "ensemble.svg")
        reliability(trust).savefig(run / "calibration.svg")
        rows = [
            [size, f"{100 * fmean(a):.2f}", f"{100 * min(a):.2f}", f"{100 * max(a):.2f}"]
            for size, a in found.items()
        ]
        console.print(table(["networks", "test accuracy, %", "least", "most"], rows))
        typer.echo(
            f"one network with hardened gates: {100 * single:.2f} %; calibration error of the "
            f"votes of {networks}: {trust.error:.4f}"
        )
        written = [str(run / name) for name in ("ensemble.json", "ensemble.svg", "calibration.svg")]
        say(f"written: {', '.join(written)}")


@app.command()
def distill(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[Literal["trees"], typer.Option(help="What learns.")] = "trees",
    rounds: Annotated[int, typer.Option(min=1, help="Of boosting.")] = 100,
    examples: Annotated[
        int, typer.Option(min=1, help="At most so many are learned from, each class in its share.")
    ] = EXAMPLES,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of which they are.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Teach boosted trees what the network of a run answers, and the same trees the labels."""
    with told():
        record = read_record(run / "recipe.json")
        model, _ = load_model(run)
        data = make_data(record.recipe, data_dir, seed=record.seed)
        found = distill_to_trees(model, data, rounds=rounds, examples=examples, seed=seed)
        save_json({"to": to, **found.to_dict()}, run / "distilled.json")
        console.print(found.table())
        typer.echo(
            f"learned from {found.examples:,} training examples, of which the network tells "
            f"{100 * found.taught:.2f} % right"
        )
        say(f"written: {run / 'distilled.json'}")
