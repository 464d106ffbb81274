"""What all commands share: the application, its consoles, options, and how mistakes are shown."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lissom.errors import LissomError, machine_failed

app = typer.Typer(
    help="Train PyTorch networks to exact zeros.", no_args_is_help=True, add_completion=False
)
console = Console()
stderr = Console(stderr=True)

MAX_SEED = 2**32 - 1

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key; none takes it away."),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of data sets; LISSOM_DATA_DIR if not given.")
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="A trial: a tenth of the epochs, and of a curve 5 points of one seed."
    ),
]


def _trust(given: bool) -> bool:
    """Let recipes that are read from here on name code, wherever they were made."""
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
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


def say(line: object, to: Console = console) -> None:
    """Print text as it is: a path may look like markup, and is not to be broken."""
    to.print(line, markup=False, soft_wrap=True)


@app.callback()
def find_own_classes() -> None:
    """Train PyTorch networks to exact zeros."""
    # A method of one's own, named in a recipe, may lie in the folder where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


@contextmanager
def mistakes_in_red() -> Iterator[None]:
    """Show the user's mistakes in red, without a traceback."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, LissomError) and not machine_failed(error):
            raise
        stderr.print("[red]error:[/red]", end=" ")
        told = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
        stderr.print(told, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
