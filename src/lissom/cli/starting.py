"""Commands to begin with: files for a project of one's own, and a check before training."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from lissom.cli.shared import (
    AsJson,
    Changes,
    DataDir,
    Device,
    Quick,
    Quiet,
    Recipe,
    Verbose,
    app,
    console,
    mistakes_in_red,
    print_json,
    say,
)
from lissom.errors import RunError

FILES = ("kws.toml", "kws.py")


@app.command(epilog="Example: lissom init kws")
def init(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")] = Path(),
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a recipe, a Python file with a network, and synthetic data, as a beginning."""
    from lissom.cli.templates.kws import write
    from lissom.storage import make_folder, replace

    with mistakes_in_red():
        there = [folder / name for name in (*FILES, "kws.npz") if (folder / name).exists()]
        if there:
            raise RunError(f"{there[0]} is there already: name another folder, lissom init kws2")
        make_folder(folder)
        for name in FILES:
            text = files("lissom.cli").joinpath("templates", name).read_text(encoding="utf-8")
            replace(folder / name, text)
        write(folder / "kws.npz")
        cd = "" if folder == Path() else f"cd {folder}\n"
        say(
            f"written: {folder / 'kws.toml'}, a recipe; {folder / 'kws.py'}, its network; "
            f"{folder / 'kws.npz'}, synthetic examples until yours are there\nnext:\n"
            f"{cd}lissom check kws.toml\nlissom path kws.toml --out runs/kws-curve"
        )


@app.command(epilog="Example: lissom check kws.toml")
def check(
    recipe: Recipe,
    changes: Changes = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    quick: Quick = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do everything but train: one batch, groups, expected sizes, seconds an epoch."""
    from lissom.recipes import read_recipe
    from lissom.recipes.checking import check_recipe

    with mistakes_in_red():
        read = read_recipe(recipe, changes or [], quick=quick, told=say)
        found = check_recipe(read, data_dir, device)
        if as_json:
            print_json(found.to_dict())
        else:
            console.print(str(found), highlight=False, soft_wrap=True)
        say("all that training needs is there")
