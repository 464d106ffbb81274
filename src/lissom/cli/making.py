"""Commands that train: a recipe, or its whole curve, of which one network is chosen."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from lissom.cli.folders import begun, check_curve, check_run, resumable
from lissom.cli.shared import (
    MAX_SEED,
    Changes,
    DataDir,
    Device,
    Quick,
    Trust,
    app,
    console,
    mistakes_in_red,
    say,
)
from lissom.curves import Curve
from lissom.data import Dataset
from lissom.errors import PathError, RunError
from lissom.measuring import measure
from lissom.progress import Progress, points_shown
from lissom.recipes import (
    HenriksonLog,
    RecipePath,
    Record,
    keep_chosen,
    keep_record,
    keep_result,
    keep_weights,
    make_data,
    make_task,
    make_trainer,
    read_recipe,
    read_record,
    recipe_names,
    shape_of,
)
from lissom.report import class_accuracy
from lissom.storage import alone_in
from lissom.tables import table


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, a .toml file, or the recipe.json of a run.")
    ],
    changes: Changes = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/RECIPE or that of the recipe.json.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Of everything random in the training: 0, or the seed in the recipe.json.",
        ),
    ] = None,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
    quick: Quick = False,
    trust: Trust = False,
) -> None:
    """Train a recipe into a run directory: recipe, events, checkpoint, result."""
    with mistakes_in_red():
        read = read_recipe(recipe, changes or [], quick=quick, told=say)
        of_run = recipe.endswith(".json")
        if seed is None:
            seed = read_record(Path(recipe)).seed if of_run else 0
        run = out or (Path(recipe).parent if of_run else Path("runs") / Path(recipe).stem)
        check_run(run, read, seed, resume=resume, overwrite=overwrite)
        data = make_data(read, data_dir, seed=seed)
        shape = shape_of(data, make_task(read))
        log = HenriksonLog(run) if read.log == "henrikson" else None
        with resumable(run, "--resume"), Progress(console, read) as progress:

            def report(event: dict[str, Any]) -> None:
                if log is not None:
                    log.add(event)
                progress.report(event)

            trainer = make_trainer(read, data, seed=seed, device=device, out=run, report=report)
            record = Record(recipe=read, seed=seed, shape=shape, classes=data.classes)
            with begun(run, record, resume=resume, overwrite=overwrite):
                if resume and (run / "checkpoint.pt").exists():
                    trainer.resume()
                if log is not None:
                    log.begin(trainer.epoch)
                found = trainer.fit()
                event = found.to_dict()
                keep_weights(trainer.model, run)
                if trainer.outcome is not None:
                    event |= trainer.outcome.keep(trainer.model, run)
                keep_result(record, event, run)
        console.print(measure(trainer.model).table())
        if trainer.outcome is not None:
            typer.echo(trainer.outcome)
        console.print(f"test error {100 * found.test.error:.2f} %, epoch {found.epoch}")
        say(f"kept in {run}")


@app.command()
def path(
    recipe: Annotated[
        str, typer.Argument(help="A recipe with a [path]: its name, or a .toml file.")
    ],
    changes: Changes = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Its directory; runs/RECIPE.")] = None,
    from_scratch: Annotated[
        str | None,
        typer.Option(
            help="Train these strengths from scratch as well, at full length: all, or 0.1,0.01."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds side by side.")] = 1,
    device: Device = "cpu",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make the points that failed again.")
    ] = False,
    quick: Quick = False,
    trust: Trust = False,
) -> None:
    """Train a recipe's curve from dense to empty; the same command goes on after a kill."""
    with mistakes_in_red():
        chosen = _strengths(from_scratch)
        # Processes take on these threads; more of them than cores wait for one another.
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
        read = read_recipe(recipe, changes or [], quick=quick, told=say)
        run = out or Path("runs") / Path(recipe).stem
        curve = RecipePath(read, run, data_dir, device)
        curve.check(() if chosen == "all" else chosen)
        record = Record(recipe=read, seed=0, shape=curve.shape, classes=curve.data.classes)
        check_curve(run, read)
        with resumable(run), points_shown(console), alone_in(run):
            check_curve(run, read)  # another process may have been here since
            keep_record(record, run)
            first = () if chosen == "all" else chosen
            found = curve.run(jobs, first, retry_failed=retry_failed)
            if chosen == "all":
                sparse = [s.strength for s in found.settings if s.strength is not None]
                found = curve.run(jobs, sparse)
            if isinstance(curve.data, Dataset) and curve.data.classes is not None:
                x, y, names = curve.data.test_x, curve.data.test_y, curve.data.names
                class_accuracy(found, x, y, curve.make_model, names=names).save(run)
            keep_result(record, found.to_dict(), run)
        typer.echo(found)
        with suppress(PathError):  # too few points for one
            typer.echo(found.knee())
        say(f"kept in {run}")


@app.command()
def choose(
    curve: Annotated[Path, typer.Argument(help="The folder of a curve of `lissom path`.")],
    knee: Annotated[bool, typer.Option("--knee", help="Where the curve bends most.")] = False,
    within: Annotated[
        float | None, typer.Option(help="The smallest that loses at most this: 0.005, say.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="The best within a size: nonzeros=20000 or bytes=8192, say.")
    ] = None,
    axis: Annotated[
        str | None, typer.Option(help="The size for --knee and --within; nonzeros.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Its directory; CURVE/chosen.")] = None,
    trust: Trust = False,
) -> None:
    """Take one network of a curve as a run of its own: to measure, shrink and export it."""
    with mistakes_in_red():
        if [knee, within is not None, budget is not None].count(True) != 1:
            raise PathError("choose by one of --knee, --within 0.005 and --budget nonzeros=20000")
        if axis is not None and budget is not None:
            raise PathError(f"--budget {budget} names its size itself: leave out --axis {axis}")
        found = Curve.load(curve)
        if knee:
            setting = found.knee(axis or "nonzeros").setting
        elif within is not None:
            setting = found.within(within, axis or "nonzeros")
        else:
            setting = found.budget(**_size(str(budget)))
        run = out or curve / "chosen"
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise RunError(f"{run} is there already; choose another --out, or remove it")
        point = keep_chosen(found, setting, read_record(curve / "recipe.json"), run)
        typer.echo(f"{setting}; of its seeds {point.seed} has the lowest error on held-out data")
        say(f"kept in {run}")


@app.command()
def recipes() -> None:
    """List the recipes that come with lissom."""
    rows = []
    with mistakes_in_red():
        for name in recipe_names():
            read = read_recipe(name)
            rows.append([name, read.data.called, read.train.epochs, read.title])
    console.print(table(["recipe", "data", "epochs", "what it does"], rows))


def _strengths(given: str | None) -> list[float] | Literal["all"]:
    if given is None:
        return []
    if given == "all":
        return "all"
    try:
        return [float(number) for number in given.split(",")]
    except ValueError as error:
        what = f"--from-scratch takes 'all' or strengths such as 0.1,0.01, got {given!r}"
        raise PathError(what) from error


def _size(given: str) -> dict[str, float]:
    axis, _, number = given.partition("=")
    try:
        return {axis: float(number)}
    except ValueError as error:
        raise PathError(f"--budget is a size such as nonzeros=20000, got {given!r}") from error
