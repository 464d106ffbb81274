"""The command line: train a recipe or its curve; measure, shrink, export and report what came."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from torch import nn

from lissom.checkpoints import load_state, load_tensors, save_json, save_tensors
from lissom.ensemble import SIZES, accuracy_by_size, calibration_of
from lissom.errors import LissomError, PathError, RunError
from lissom.export import export as export_model
from lissom.gates.checks import LOG_ALPHA
from lissom.learning_compression import save_compressed
from lissom.measure import measure as measure_model
from lissom.path import Curve
from lissom.progress import Progress, points_shown
from lissom.recipes import (
    TEACHER,
    Recipe,
    RecipePath,
    Record,
    gates_in,
    keep_chosen,
    keep_record,
    keep_result,
    make_data,
    make_example,
    make_gates,
    make_model,
    make_trainer,
    read_recipe,
    read_record,
    recipe_names,
)
from lissom.report import (
    class_accuracy,
    ensemble_sizes,
    reliability,
    write_curve_report,
    write_report,
)
from lissom.saving import save as save_model
from lissom.shrink import Shrinkage
from lissom.shrink import shrink as shrink_model
from lissom.tables import table
from lissom.training import entropy_and_inaccuracy

app = typer.Typer(
    help="Train PyTorch networks to exact zeros.", no_args_is_help=True, add_completion=False
)
console = Console()
stderr = Console(stderr=True)

RUN_FILES = (
    "recipe.json",
    "events.jsonl",
    "checkpoint.pt",
    "model.safetensors",
    "result.json",
    "report.html",
    "model.onnx",
    "model.pt2",
    "compressed.safetensors",
    "small.safetensors",
    "shrinkage.json",
)
MAX_SEED = 2**32 - 1

Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of data sets; LISSOM_DATA_DIR if not given.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
RoundTo = Annotated[
    int | None,
    typer.Option(help="Leave a multiple of N units in each layer, such as 8.", metavar="N"),
]


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
            help="Of initialisation, order and dropout; 0 or that of the recipe.json.",
        ),
    ] = None,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
) -> None:
    """Train a recipe into a run directory: recipe, events, checkpoint, result."""
    with _told():
        read = read_recipe(recipe, changes or [])
        of_run = recipe.endswith(".json")
        if seed is None:
            seed = read_record(Path(recipe)).seed if of_run else 0
        run = out or (Path(recipe).parent if of_run else Path("runs") / Path(recipe).stem)
        _check_run(run, resume=resume, overwrite=overwrite)
        if resume and (run / "recipe.json").exists():
            _check_same(run, read, seed)
        data = make_data(read, data_dir, seed=seed)
        shape = list(data.train_x.shape[1:])
        with _resumable(run, "--resume"), Progress(console, read) as progress:
            trainer = make_trainer(
                read, data, seed=seed, device=device, out=run, report=progress.report
            )
            record = Record(recipe=read, seed=seed, shape=shape, classes=data.classes)
            _start(run, record, resume=resume)
            if resume and (run / "checkpoint.pt").exists():
                trainer.resume()
            event = trainer.fit()
        save_tensors(trainer.model.state_dict(), run / "model.safetensors")
        if (made := trainer.compressed) is not None:
            save_compressed(trainer.model, made.forms, run / "compressed.safetensors")
            event = {**event, "compressed": made.to_dict()}
        keep_result(record, event, run)
        console.print(measure_model(trainer.model).table())
        if made is not None:
            typer.echo(made)
        console.print(f"test error {100 * event['inacc_test']:.2f} %, epoch {event['epochAfter']}")
        console.print(f"kept in {run}", markup=False, soft_wrap=True)


@app.command()
def path(
    recipe: Annotated[
        str, typer.Argument(help="A recipe with a [path]: its name, or a .toml file.")
    ],
    changes: Changes = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Its directory; runs/RECIPE.")] = None,
    cold: Annotated[
        str | None,
        typer.Option(
            help="Train these prices from scratch as well, at full length: all, or 0.1,0.01."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds side by side.")] = 1,
    device: Device = "cpu",
) -> None:
    """Train a recipe's curve from dense to empty; the same command goes on after a kill."""
    with _told():
        chosen = _cold_prices(cold)
        read = read_recipe(recipe, changes or [])
        run = out or Path("runs") / Path(recipe).stem
        curve = RecipePath(read, run, data_dir, device)
        shape = list(curve.data.train_x.shape[1:])
        record = Record(recipe=read, seed=0, shape=shape, classes=curve.data.classes)
        if (run / "recipe.json").exists():
            _check_same(run, read, 0)
        else:
            _check_run(run, resume=False, overwrite=False)
            keep_record(record, run)
        with _resumable(run), points_shown(console):
            found = curve.run(jobs, () if chosen == "all" else chosen)
            if chosen == "all":
                found = curve.run(jobs, [s.price for s in found.settings if s.price is not None])
        data = curve.data
        class_accuracy(found, data.test_x, data.test_y, curve.network).save(run)
        keep_result(record, found.to_dict(), run)
        typer.echo(found)
        with suppress(PathError):  # too few points for one
            typer.echo(found.knee())
        console.print(f"kept in {run}", markup=False, soft_wrap=True)


@app.command()
def choose(
    curve: Annotated[Path, typer.Argument(help="The folder of a curve of `lissom path`.")],
    knee: Annotated[bool, typer.Option("--knee", help="Where the curve bends most.")] = False,
    within: Annotated[
        float | None, typer.Option(help="The smallest that loses at most this: 0.005, say.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="The best within a size: weights=20000 or bytes=8192, say.")
    ] = None,
    axis: Annotated[str, typer.Option(help="The size for --knee and --within.")] = "weights",
    out: Annotated[Path | None, typer.Option(help="Its directory; CURVE/chosen.")] = None,
) -> None:
    """Take one network of a curve as a run of its own: to measure, shrink and export it."""
    with _told():
        if [knee, within is not None, budget is not None].count(True) != 1:
            raise PathError("choose by one of --knee, --within 0.005 and --budget weights=20000")
        found = Curve.load(curve)
        if knee:
            setting = found.knee(axis).setting
        elif within is not None:
            setting = found.within(within, axis)
        else:
            setting = found.budget(**_size(str(budget)))
        run = out or curve / "chosen"
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise RunError(f"{run} is there already; choose another --out, or remove it")
        point = keep_chosen(found, setting, read_record(curve / "recipe.json"), run)
        typer.echo(f"{setting}; of its seeds {point.seed} has the lowest error on held-out data")
        console.print(f"kept in {run}", markup=False, soft_wrap=True)


@app.command()
def ensemble(
    run: Annotated[Path, typer.Argument(help="A run with gates that were hardened at its end.")],
    networks: Annotated[int, typer.Option(min=1, help="How many are drawn.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Draw networks from a run's gates and let them answer together: accuracy and confidence."""
    with _told():
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
        console.print(f"written: {', '.join(written)}", markup=False, soft_wrap=True)


@app.command()
def recipes() -> None:
    """List the recipes that come with lissom."""
    rows = []
    with _told():
        for name in recipe_names():
            read = read_recipe(name)
            rows.append([name, read.data.name, read.train.epochs, read.title])
    console.print(table(["recipe", "data", "epochs", "what it does"], rows))


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    tolerance: Annotated[
        float, typer.Option(help="Count |w| ≤ tolerance as zero; exact zeros by default.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time as well.")] = False,
) -> None:
    """Measure a run: non-zeros by variable (Henrikson's table), MACs by layer, neurons, bytes."""
    with _told():
        model, shape = _load_model(run)
        example = make_example(model, shape, 1)
        counted = measure_model(model, example, tolerance=tolerance, latency=latency)
        if as_json:
            typer.echo(json.dumps(counted.to_dict(), indent=2))
        else:
            console.print(counted.table())


@app.command()
def shrink(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    round_to: RoundTo = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Remove the inputs that nothing reads as well.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/small.safetensors.")] = None,
) -> None:
    """Remove what is dead from the network of a run: a smaller network with the same outputs."""
    with _told():
        path = out or run / "small.safetensors"
        if path.suffix != ".safetensors" or path.is_dir():
            raise RunError(f"shrink writes a file that ends in .safetensors, got --out {path}")
        if path.resolve() == (run / "model.safetensors").resolve():
            raise RunError(f"{path} is the network that is to be shrunk: choose another --out")
        model, shape = _load_model(run)
        small, report = _shrunk(model, shape, round_to=round_to, inputs=inputs)
        save_model(small, path)
        one = make_example(model, shape, 1)
        before, after = (measure_model(net, one).macs for net in (model, small))
        found = {"macs_before": before, "macs_after": after, **report.to_dict()}
        save_json(found, run / "shrinkage.json")
        typer.echo(f"{report}\n{before:,} MACs for one example → {after:,}")
        console.print(f"written: {path}, {run}/shrinkage.json", markup=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[Literal["onnx", "pt2"], typer.Option(help="The format.")] = "onnx",
    dense: Annotated[
        bool, typer.Option("--dense", help="The network as it is, with its zeros.")
    ] = False,
    round_to: RoundTo = None,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/model.onnx or .pt2.")] = None,
) -> None:
    """Write the network of a run, shrunk, as a checked file for ONNX Runtime or torch.export."""
    with _told():
        path = out or run / f"model.{to}"
        if path.suffix != f".{to}":
            raise RunError(f"--to {to} writes a file that ends in .{to}, got --out {path}")
        if dense and round_to is not None:
            raise RunError("--dense removes nothing, so there is nothing to --round-to: choose one")
        model, shape = _load_model(run)
        what = "the network as it is, with its zeros (--dense)"
        if not dense:
            model, report = _shrunk(model, shape, round_to=round_to)
            before, after = report.weights
            what = (
                f"the network was shrunk first, {before:,} weights → {after:,}; --dense leaves them"
            )
        written = export_model(model, make_example(model, shape), path)
        console.print(f"written: {written}\n{what}", markup=False, soft_wrap=True)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A finished run, or folders of curves to be overlaid.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page of curves; report.html in the first folder.")
    ] = None,
) -> None:
    """Write report.html: one page that works offline, about a run, or about curves."""
    with _told():
        single = [run for run in runs if not (run / "path.json").exists()]
        if single and (len(runs) > 1 or out is not None):
            raise RunError(
                f"{single[0]} holds no curve of `lissom path`: a page about a run is of one run, "
                "and lies in its directory"
            )
        page = (
            write_report(single[0])
            if single
            else write_curve_report(runs, out or runs[0] / "report.html")
        )
        console.print(f"written: {page}", markup=False, soft_wrap=True)


def _cold_prices(given: str | None) -> list[float] | Literal["all"]:
    if given is None:
        return []
    if given == "all":
        return "all"
    try:
        return [float(number) for number in given.split(",")]
    except ValueError as error:
        raise PathError(f"--cold takes 'all' or prices such as 0.1,0.01, got {given!r}") from error


def _size(given: str) -> dict[str, float]:
    axis, _, number = given.partition("=")
    try:
        return {axis: float(number)}
    except ValueError as error:
        raise PathError(f"--budget is a size such as weights=20000, got {given!r}") from error


def _check_run(run: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix this run with what its directory holds."""
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it: choose one")
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file; a run needs a directory: choose another --out")
    if (run / "recipe.json").exists():
        if not resume and not overwrite:
            raise RunError(
                f"{run} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "--out DIR writes elsewhere"
            )
    elif resume and not run.exists():
        raise RunError(f"there is no run {run} to resume; without --resume it is started")
    elif run.exists() and any(found.name != "recipe.json.part" for found in run.iterdir()):
        raise RunError(f"{run} is not empty and not a run; choose another --out")


def _check_same(run: Path, recipe: Recipe, seed: int) -> None:
    """Refuse to go on with another recipe than the run was started with."""
    old = read_record(run / "recipe.json")
    before = _leaves({**old.recipe.model_dump(by_alias=True), "seed": old.seed})
    now = _leaves({**recipe.model_dump(by_alias=True), "seed": seed})
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise RunError(f"{run} was started with another recipe: " + "; ".join(changed))


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as {dotted path: leaf}."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in _leaves(inner, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def _start(run: Path, record: Record, *, resume: bool) -> None:
    """Make the run directory; an old run goes only now that the new one is known to be possible."""
    if not resume:
        _clear(run)
    keep_record(record, run)


def _clear(run: Path) -> None:
    """Remove what a run has written, and what its teacher has."""
    if (run / TEACHER).is_dir():
        _clear(run / TEACHER)
        with suppress(OSError):  # something of the user's lies there
            (run / TEACHER).rmdir()
    for name in RUN_FILES:
        (run / name).unlink(missing_ok=True)
        (run / f"{name}.part").unlink(missing_ok=True)


@contextmanager
def _resumable(run: Path, *flags: str) -> Iterator[None]:
    """Answer Ctrl-C with the command that goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        given = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        command = shlex.join(["lissom", *given, *flags])
        stderr.print(f"stopped; {run} goes on with: {command}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from error


def _load_model(run: Path) -> tuple[nn.Module, list[int]]:
    """The finished network of a run, or of its last checkpoint, and the shape of an example."""
    record = read_record(run / "recipe.json")
    model = make_model(record.recipe, record.shape, record.classes)
    finished, unfinished = run / "model.safetensors", run / "checkpoint.pt"
    if finished.exists():
        state, path = load_tensors(finished), finished
    else:
        state, path = load_state(unfinished).get("model", {}), unfinished
        stderr.print(f"{run} is not finished; this is its last checkpoint", markup=False)
    gates = make_gates(record.recipe, model, record.shape, 1) if LOG_ALPHA in state else None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the recipe beside it: {error}") from error
    if gates is not None:
        gates.harden()
    return model, record.shape


def _shrunk(
    model: nn.Module, shape: list[int], *, round_to: int | None, inputs: bool = False
) -> tuple[nn.Module, Shrinkage]:
    """The network of a run without what is dead, and what went; recipes need no traced graphs."""
    small = shrink_model(
        model,
        make_example(model, shape),
        round_to=1 if round_to is None else round_to,
        inputs=inputs,
        as_graph=False,
    )
    report = small.shrinkage
    assert isinstance(report, Shrinkage)
    return small, report


@contextmanager
def _told() -> Iterator[None]:
    """Tell the user's mistakes in red, without a traceback."""
    try:
        yield
    except (LissomError, OSError) as error:
        stderr.print("[red]error:[/red]", end=" ")
        stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
