"""The command that shows which recipes there are; it reads them without importing torch."""

import tomllib
from typing import Annotated, Any

import typer
from rich.table import Table

from lissom.cli.shared import (
    AsJson,
    Quiet,
    Verbose,
    app,
    bundled,
    console,
    mistakes_in_red,
    print_json,
    say,
)
from lissom.errors import RecipeError, nearest
from lissom.tables import table


@app.command(epilog="Example: lissom recipes digits")
def recipes(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Say what those recipes do that have all of these words in name, data, method or "
            "title.",
            metavar="WORD…",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the recipes that come with lissom, or say what those about something do."""
    with mistakes_in_red():
        known = [_described(name, text) for name, text in bundled().items()]
        found = [one for one in known if all(word.lower() in _text(one) for word in words or [])]
        if not found:
            wanted = " and ".join(map(repr, words or []))
            close = nearest((words or [""])[0], {w for one in known for w in _text(one).split()})
            raise RecipeError(f"no recipe has {wanted} in its name, data, method or title.{close}")
        if as_json:
            print_json({"recipes": found})
        elif words:
            rows = [[one["name"], one["data"], one["epochs"], one["title"]] for one in found]
            console.print(table(["recipe", "data", "epochs", "what it does"], rows))
        else:
            console.print(_by_data(found))
            say("what they do: lissom recipes WORD, with a word such as digits, path or gates")


def _described(name: str, text: str) -> dict[str, Any]:
    read = tomllib.loads(text)
    return {
        "name": name,
        "data": read["data"]["name"],
        "method": read["method"]["name"] if "method" in read else None,
        "epochs": read["train"]["epochs"],
        "command": "lissom path" if "path" in read else "lissom train",
        "title": read["title"],
    }


def _text(recipe: dict[str, Any]) -> str:
    return " ".join(map(str, recipe.values())).lower()


def _by_data(recipes: list[dict[str, Any]]) -> Table:
    """Names in as few lines as they fit into, those with the same data together."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for data in sorted({one["data"] for one in recipes}):
        grid.add_row(data, "  ".join(one["name"] for one in recipes if one["data"] == data))
    return grid
