"""Commands that train: a recipe, or its whole curve, of which one network is chosen."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lissom.cli.shared import (
    MAX_SEED,
    AsJson,
    Changes,
    DataDir,
    Device,
    PathRecipe,
    Quick,
    Quiet,
    Recipe,
    Trust,
    Verbose,
    app,
    console,
    mistakes_in_red,
    print_json,
    say,
    stderr,
)
from lissom.errors import LissomError, PathError, RunError


@app.command(epilog="Example: lissom train digits-demo --set train.epochs=120")
def train(
    recipe: Recipe,
    changes: Changes = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the run; runs/RECIPE if not given, or that of the recipe.json.",
            metavar="DIR",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="The seed of everything random; 0 if not given, or that in the recipe.json.",
        ),
    ] = None,
    device: Device = "cpu",
    devices: Annotated[
        int,
        typer.Option(min=1, help="How many devices, or processes of the CPU, share each step."),
    ] = 1,
    strategy: Annotated[
        str, typer.Option(help="How they share it, as Lightning Fabric has it; auto chooses ddp.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is there.")
    ] = False,
    quick: Quick = False,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train the network of a recipe, and keep all about it in the folder of a run."""
    from lissom.cli.folders import begun, check_run, folder_for, resumable
    from lissom.measuring import measure
    from lissom.progress import Progress, judged
    from lissom.recipes import (
        HenriksonLog,
        keep_result,
        keep_weights,
        make_data,
        make_record,
        make_task,
        make_trainer,
        read_recipe,
        read_record,
        shape_of,
    )
    from lissom.training import Evaluation

    with mistakes_in_red():
        if devices > 1 and int(os.environ.get("LOCAL_RANK", "0")):  # the first speaks for all
            stderr.quiet = True
        read = read_recipe(recipe, changes or [], quick=quick, told=say)
        if devices > 1 and read.teacher is not None:
            raise RunError(
                f"with --devices {devices} each process would train a teacher of its own: take "
                "--devices 1, or leave out the teacher with --set teacher=none"
            )
        of_run = recipe.endswith(".json")
        if seed is None:
            seed = read_record(Path(recipe)).seed if of_run else 0
        run = folder_for(recipe, out)
        check_run(run, read, seed, resume=resume, overwrite=overwrite)
        data = make_data(read, data_dir, seed=seed)
        task = make_task(read)
        shape = shape_of(data, task)
        log = HenriksonLog(run) if read.log == "henrikson" else None
        with resumable(run, "--resume"), Progress(stderr, read) as progress:

            def report(event: dict[str, Any]) -> None:
                if log is not None:
                    log.add(event)
                progress.report(event)

            trainer = make_trainer(
                read,
                data,
                seed=seed,
                device=device,
                out=run,
                report=report,
                devices=devices,
                strategy=strategy,
            )

            def fit() -> Evaluation:
                if resume and (run / "checkpoint.pt").exists():
                    trainer.resume()
                if log is not None and not trainer.rank:
                    log.begin(trainer.epoch)
                return trainer.fit()

            if trainer.rank:
                fit()
                return
            record = make_record(read, seed, shape, data.classes)
            with begun(run, record, resume=resume, overwrite=overwrite):
                found = fit()
                event = found.to_dict()
                keep_weights(trainer.model, run)
                if trainer.outcome is not None:
                    event |= trainer.outcome.keep(trainer.model, run)
                keep_result(record, event, run)
        if as_json:
            print_json({"run": run, "seed": seed, **event})
        else:
            console.print(measure(trainer.model).table())
            if trainer.outcome is not None:
                typer.echo(trainer.outcome)
            console.print(f"test {judged(found.test.error, task)}, epoch {found.epoch}")
        say(f"kept in {run}")


@app.command(epilog="Example: lissom path digits-path --jobs 2")
def path(
    recipe: PathRecipe,
    changes: Changes = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the curve; runs/RECIPE if not given, or that of the recipe.json.",
            metavar="DIR",
        ),
    ] = None,
    from_scratch: Annotated[
        str | None,
        typer.Option(
            help="Train networks of these strengths from scratch as well, at full length, to "
            "compare: all, or numbers as in 0.1,0.01.",
            metavar="STRENGTHS",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="How many seeds are trained at the same time.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Make the points on a Ray cluster, auto or ray://head:10001, whose machines see "
            "the folder and the data at the same place.",
            metavar="ADDRESS",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            help="The same on a dask cluster: scheduler:8786.",
            metavar="ADDRESS",
        ),
    ] = None,
    device: Device = "cpu",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the points that failed again.")
    ] = False,
    quick: Quick = False,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train the trade-off curve of a recipe; the same command goes on where it was stopped."""
    import torch

    from lissom.cli.clusters import executor_of
    from lissom.cli.folders import check_curve, folder_for, resumable
    from lissom.data import Dataset
    from lissom.recipes import RecipePath, keep_record, keep_result, make_record, read_recipe
    from lissom.report import class_accuracy
    from lissom.storage import alone_in

    with mistakes_in_red():
        chosen = _strengths(from_scratch)
        # Processes take on these threads; more of them than cores wait for one another.
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
        read = read_recipe(recipe, changes or [], quick=quick, told=say)
        run = folder_for(recipe, out)
        curve = RecipePath(read, run, data_dir, device)
        curve.check(() if chosen == "all" else chosen)
        record = make_record(read, 0, curve.shape, curve.data.classes)
        check_curve(run, read, mended=retry_failed)
        with executor_of(ray, dask, jobs) as executor, resumable(run), alone_in(run):
            check_curve(run, read, mended=retry_failed)  # another process may have been here since
            keep_record(record, run)
            first = () if chosen == "all" else chosen
            progress: Literal[False] | None = False if stderr.quiet else None
            how: dict[str, Any] = {"jobs": jobs, "executor": executor, "progress": progress}
            found = curve.run(from_scratch=first, retry_failed=retry_failed, **how)
            if chosen == "all":
                sparse = [s.strength for s in found.settings if s.strength is not None]
                found = curve.run(from_scratch=sparse, **how)
            if isinstance(curve.data, Dataset) and curve.data.classes is not None:
                x, y, names = curve.data.test_x, curve.data.test_y, curve.data.names
                try:
                    class_accuracy(found, x, y, curve.make_model, names=names).save(run)
                except LissomError as error:  # a loss of one's own may ask for no logits
                    say(f"no accuracy of each class: {error}")
            keep_result(record, found.to_dict(), run)
        if as_json:
            print_json({"curve": run, **found.to_dict()})
        else:
            typer.echo(found)
            try:
                typer.echo(found.knee())
            except PathError as error:  # too few points for one, say
                typer.echo(f"no knee: {error}")
        say(f"kept in {run}")


@app.command(epilog="Example: lissom choose runs/digits-path --within 0.005 --out runs/small")
def choose(
    curve: Annotated[Path, typer.Argument(help="The folder of a curve, such as runs/digits-path.")],
    knee: Annotated[
        bool,
        typer.Option("--knee", help="Take the network where the curve bends most."),
    ] = False,
    within: Annotated[
        float | None,
        typer.Option(
            help="Take the smallest network whose error is at most this much above that of the "
            "dense one: 0.005, say.",
            metavar="ERROR",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Take the best network within a size: nonzeros=20000 or bytes=8192, say.",
            metavar="SIZE=NUMBER",
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            help="Which size counts for --knee and --within; nonzeros if not given.", metavar="SIZE"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the new run; CURVE/chosen if not given.", metavar="DIR"),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take one network of a curve as a run of its own, to measure, shrink and export it."""
    from lissom.cli.folders import record_of_curve
    from lissom.curves import Curve
    from lissom.recipes import keep_chosen

    with mistakes_in_red():
        if [knee, within is not None, budget is not None].count(True) != 1:
            raise PathError("choose by one of --knee, --within 0.005 and --budget nonzeros=20000")
        if axis is not None and budget is not None:
            raise PathError(f"--budget {budget} names its size itself: leave out --axis {axis}")
        record = record_of_curve(curve)
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
        point = keep_chosen(found, setting, record, run)
        if as_json:
            print_json({"run": run, "setting": setting.to_dict(), "point": point.to_dict()})
        else:
            typer.echo(
                f"{setting}; of its seeds {point.seed} has the lowest error on held-out data"
            )
        say(f"kept in {run}")


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
