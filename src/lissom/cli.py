"""The command line: train a recipe, list the recipes, measure a run."""

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from safetensors.torch import load_file, save_file
from torch import nn

from lissom.checkpoints import load_json, load_state, save_json
from lissom.errors import LissomError, RunError
from lissom.measure import measure as measure_model
from lissom.progress import Progress
from lissom.recipes import Recipe, make_data, make_model, make_trainer, read_recipe, recipe_names
from lissom.tables import table

app = typer.Typer(
    help="Train PyTorch networks to exact zeros.", no_args_is_help=True, add_completion=False
)
console = Console()

RUN_FILES = ("recipe.json", "events.jsonl", "checkpoint.pt", "model.safetensors", "result.json")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a .toml file.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of data sets; LISSOM_DATA_DIR if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/RECIPE by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, order and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old run.")] = False,
) -> None:
    """Train a recipe into a run directory: recipe, events, checkpoint, result."""
    with _told():
        read = read_recipe(recipe, changes or [])
        run = out or Path("runs") / Path(recipe).stem
        record = {"recipe": read.model_dump(by_alias=True, exclude_none=True), "seed": seed}
        _prepare(run, record, resume=resume, overwrite=overwrite)
        data = make_data(read, data_dir, seed=seed)
        with Progress(console, read) as progress:
            trainer = make_trainer(
                read, data, seed=seed, device=device, out=run, report=progress.report
            )
            save_json(record, run / "recipe.json")
            if resume and (run / "checkpoint.pt").exists():
                trainer.resume()
            event = trainer.fit()
        _save_model(trainer.model, run)
        result = {
            "title": read.title,
            **event,
            "command": " ".join(["lissom", *sys.argv[1:]]),
            "seed": seed,
            "versions": _versions(),
        }
        save_json(result, run / "result.json")
        console.print(measure_model(trainer.model).table())
        console.print(f"test error {100 * event['inacc_test']:.2f} %, epoch {event['epochAfter']}")
        console.print(f"kept in {run}")


@app.command()
def recipes() -> None:
    """List the recipes that come with lissom."""
    rows = []
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
) -> None:
    """Count the non-zero weights of a run, variable by variable (Henrikson's table)."""
    with _told():
        record = load_json(run / "recipe.json")
        model = _load_model(run, Recipe.model_validate(record["recipe"]))
        counted = measure_model(model, tolerance=tolerance)
        if as_json:
            typer.echo(json.dumps(counted.to_dict(), indent=2))
        else:
            console.print(counted.table())


def _prepare(run: Path, record: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Make the run directory, or check that an old one is to be resumed or replaced."""
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it: choose one")
    if (run / "recipe.json").exists():
        if resume:
            _same_recipe(load_json(run / "recipe.json"), record, run)
        elif overwrite:
            for name in RUN_FILES:
                (run / name).unlink(missing_ok=True)
        else:
            raise RunError(
                f"{run} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "--out DIR writes elsewhere"
            )
    elif resume and not run.exists():
        raise RunError(f"there is no run {run} to resume; without --resume it is started")
    elif run.exists() and any(run.iterdir()) and not resume:
        raise RunError(f"{run} is not empty and not a run; choose another --out")
    run.mkdir(parents=True, exist_ok=True)


def _same_recipe(old: Any, new: Any, run: Path) -> None:
    before, now = _leaves(old), _leaves(new)
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


def _save_model(model: nn.Module, run: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, run / "model.safetensors")


def _load_model(run: Path, recipe: Recipe) -> nn.Module:
    """The finished network of a run, or of its last checkpoint while it is not finished."""
    model = make_model(recipe, make_data(recipe))
    if (run / "model.safetensors").exists():
        model.load_state_dict(load_file(run / "model.safetensors"))
    else:
        model.load_state_dict(load_state(run / "checkpoint.pt", "cpu")["model"])
        console.print(f"[dim]{run} is not finished; this is its last checkpoint[/dim]")
    return model


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("lissom", "torch", "numpy")}
    return {"python": platform.python_version(), **packages}


@contextmanager
def _told() -> Iterator[None]:
    """Tell the user's mistakes in red, without a traceback."""
    try:
        yield
    except LissomError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from error
