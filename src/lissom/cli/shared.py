"""What all commands share: the application, where it prints, its options, how mistakes are shown.

Results go to stdout, and everything else to stderr: what goes on, where it was kept, mistakes. No
file of commands imports torch before a command runs, so that help and completion are there at once.
"""

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from lissom.errors import LissomError, machine_failed
from lissom.tables import plain_console

ORDER = "init check recipes train path choose measure shrink export report ensemble distill".split()
MAX_SEED = 2**32 - 1

console = plain_console()  # for results
stderr = plain_console(stderr=True)  # for what goes on; --quiet shuts it
errors = plain_console(stderr=True)
log = logging.getLogger("lissom")


class InOrder(TyperGroup):
    """The commands in the order in which people need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _hush(ctx: typer.Context, quiet: bool) -> bool:
    if quiet:
        stderr.quiet = True
        ctx.call_on_close(partial(setattr, stderr, "quiet", False))
    return quiet


def _tell(ctx: typer.Context, verbose: bool) -> bool:
    if verbose:
        from rich.logging import RichHandler

        before = log.level
        handler = RichHandler(console=stderr, show_path=False, rich_tracebacks=True)
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.debug("lissom %s, torch %s", version("lissom"), version("torch"))
        ctx.call_on_close(partial(log.setLevel, before))
        ctx.call_on_close(partial(log.removeHandler, handler))
    return verbose


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lissom {version('lissom')}")
        raise typer.Exit


def bundled() -> dict[str, str]:
    """The TOML text of the recipes that come with lissom, by name."""
    found = [f for f in files("lissom").joinpath("recipes").iterdir() if f.name.endswith(".toml")]
    return {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in sorted(found, key=str)}


def _recipes_from(incomplete: str) -> list[str]:
    """What a shell completes to a recipe: a name, a TOML file, or a folder on the way to one."""
    here = Path(incomplete if incomplete.endswith("/") else os.path.dirname(incomplete))
    try:
        own = [f"{p}/" if p.is_dir() else str(p) for p in here.iterdir()]
    except OSError:
        own = []
    return [*bundled(), *(name for name in own if name.endswith(("/", ".toml", "recipe.json")))]


def _recipe(known: str) -> Any:
    others = "a .toml file of your own, or the recipe.json of an earlier training"
    what = f"{known}, {others}."
    return typer.Argument(help=what, metavar="RECIPE", autocompletion=_recipes_from)


Recipe = Annotated[str, _recipe("A recipe: one of `lissom recipes`")]
PathRecipe = Annotated[str, _recipe(r"A recipe with a table \[path]: one of `lissom recipes path`")]
Run = Annotated[
    Path, typer.Argument(help="The folder of a run, such as runs/digits-demo.", metavar="RUN")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the recipe, as in train.epochs=5; as often as you like. The value "
        "none takes the key away.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="The folder where data sets lie; that of the environment variable LISSOM_DATA_DIR if "
        "not given.",
        metavar="DIR",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="A trial: a tenth of the epochs, and of a curve 5 points of one seed."
    ),
]


def _trust(given: bool) -> bool:
    """Let recipes that are read from here on name code, wherever they were made."""
    if "lissom.recipes.trust" in sys.modules or given:  # importing it takes seconds
        from lissom.recipes.trust import trusted

        trusted.set(given)
    return given


Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_trust,
        help="Run the Python code that a run from elsewhere names in its recipe.json.",
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print results and mistakes only.", callback=_hush),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Log what goes on, and where a mistake came from.", callback=_tell
    ),
]


@app.callback()
def main(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train PyTorch networks to exact zeros, remove what is zero, and see what each size costs."""
    # A method of one's own, named in a recipe, may lie in the folder where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if not verbose:  # Python's own form names a line, which here is one of typer's
        ctx.call_on_close(partial(setattr, warnings, "formatwarning", warnings.formatwarning))
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def say(line: object, to: Console = stderr) -> None:
    """Tell what goes on; a path is not to be broken."""
    to.print(line, highlight=False, soft_wrap=True)


def print_json(found: Mapping[str, Any]) -> None:
    """Print a result for programs; JSON knows neither NaN nor infinity, which become null."""
    typer.echo(json.dumps(_plain(found), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def mistakes_in_red() -> Iterator[None]:
    """Show the user's mistakes in red, without a traceback."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, LissomError) and not machine_failed(error):
            raise
        log.debug("this is where it went wrong", exc_info=True)
        told = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
        errors.print("error:", style="red", end=" ")
        say(told, to=errors)
        raise typer.Exit(2) from error
