"""Commands that look closer at a run: networks drawn from its gates, trees that learn from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lissom.cli.shared import (
    MAX_SEED,
    AsJson,
    DataDir,
    Quiet,
    Run,
    Trust,
    Verbose,
    app,
    console,
    mistakes_in_red,
    print_json,
    say,
)
from lissom.errors import RunError

if TYPE_CHECKING:
    from lissom.data import Dataset


@app.command(epilog="Example: lissom ensemble runs/lenet300-gates --networks 20")
def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a run whose gates were drawn to its end, or of several runs.",
            metavar="RUN…",
        ),
    ],
    networks: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many networks are drawn from gates; 50 if not given.", metavar="N"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The seed of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write into; that of the run, if there is only one, if not given.",
            metavar="DIR",
        ),
    ] = None,
    data_dir: DataDir = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Let networks answer together, drawn from a run's gates or those of several runs."""
    from statistics import fmean

    import torch

    from lissom.cli.folders import load_model, record_of_run
    from lissom.ensemble import SIZES, Recorded, accuracy_by_size, calibration_of
    from lissom.recipes import load_method, make_dataset
    from lissom.report import ensemble_sizes, reliability
    from lissom.report.figures import svg
    from lissom.storage import make_folder, replace, save_json
    from lissom.tables import table
    from lissom.training import loss_and_error

    with mistakes_in_red():
        if len(runs) > 1 and (out is None or networks is not None):
            raise RunError(
                f"{len(runs)} runs answer as they are, without --networks, and say where to write: "
                "lissom ensemble RUN RUN --out DIR"
            )
        folder = out or runs[0]
        record = record_of_run(runs[0])
        data = make_dataset(record.recipe, data_dir, seed=record.seed)
        if len(runs) == 1:
            model, method = load_method(runs[0], record)
            drawn = list(method.sample(networks or 50, seed))
            method.finalize()
            single = 1 - loss_and_error(model, data.test_x, data.test_y)[1]
        else:
            _check_tested_on(data, runs[1:], data_dir)
            single, drawn = None, [load_model(run)[0] for run in runs]
        sizes = [size for size in SIZES if size < len(drawn)] + [len(drawn)]
        known = [Recorded(network, data.test_x) for network in drawn]
        examples = torch.arange(len(data.test_y))
        found = accuracy_by_size(known, examples, data.test_y, sizes, seed=seed)
        calibration = calibration_of(known, examples, data.test_y)
        kept = {
            "runs": [str(run) for run in runs],
            "networks": len(drawn),
            "seed": seed,
            "single": single,
            "accuracy": {str(size): accuracies for size, accuracies in found.items()},
            "calibration_error": calibration.error,
        }
        make_folder(folder)
        save_json(kept, folder / "ensemble.json", "lissom ensemble 1")
        figures = {
            "ensemble": ensemble_sizes(found, single),
            "calibration": reliability(calibration),
        }
        for name, figure in figures.items():
            replace(folder / f"{name}.svg", svg(figure))
        rows = [
            [size, f"{100 * fmean(a):.2f}", f"{100 * min(a):.2f}", f"{100 * max(a):.2f}"]
            for size, a in found.items()
        ]
        if as_json:
            print_json(kept)
        else:
            console.print(table(["networks", "test accuracy, %", "least", "most"], rows))
            if single is not None:
                typer.echo(f"the network that the run delivered: {100 * single:.2f} %")
            typer.echo(f"calibration error of the votes of {len(drawn)}: {calibration.error:.4f}")
        written = [folder / name for name in ("ensemble.json", "ensemble.svg", "calibration.svg")]
        say(f"written: {', '.join(map(str, written))}")


@app.command(epilog="Example: lissom distill runs/digits-demo")
def distill(
    run: Run,
    to: Annotated[Literal["trees"], typer.Option(help="What learns: boosted trees.")] = "trees",
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds of boosting.")] = 100,
    examples: Annotated[
        int,
        typer.Option(min=1, help="Learn from at most so many examples, each class in its share."),
    ] = 10_000,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The seed by which the examples are chosen.")
    ] = 0,
    data_dir: DataDir = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Teach boosted trees what the network of a run answers, and the same trees the labels."""
    from lissom.cli.folders import load_model, record_of_run
    from lissom.distill import distill_to_trees
    from lissom.recipes import make_dataset
    from lissom.storage import save_json

    with mistakes_in_red():
        record = record_of_run(run)
        model, _ = load_model(run)
        data = make_dataset(record.recipe, data_dir, seed=record.seed)
        found = distill_to_trees(model, data, rounds=rounds, examples=examples, seed=seed)
        kept = {"to": to, **found.to_dict()}
        save_json(kept, run / "distilled.json", "lissom distilled 1")
        if as_json:
            print_json(kept)
        else:
            console.print(found.table())
            typer.echo(
                f"learned from {found.examples:,} training examples, of which the network tells "
                f"{100 * found.taught:.2f} % right"
            )
        say(f"written: {run / 'distilled.json'}")


def _check_tested_on(data: "Dataset", runs: list[Path], data_dir: Path | None) -> None:
    """See that the networks of runs are tested on the same examples.

    Raises:
        RunError: if one is tested on others.
    """
    import torch

    from lissom.cli.folders import record_of_run
    from lissom.recipes import make_dataset

    for run in runs:
        record = record_of_run(run)
        own = make_dataset(record.recipe, data_dir, seed=record.seed)
        if not torch.equal(own.test_x, data.test_x) or not torch.equal(own.test_y, data.test_y):
            raise RunError(
                f"networks answer together to the same examples, but the test examples of {run}, "
                f"{own.name}, are others than those of the first run, {data.name}. data.center "
                "takes off another mean for each seed"
            )
