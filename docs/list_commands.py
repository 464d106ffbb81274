"""Write the commands of `lissom` and their options into cli.md, from the program itself."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from lissom.cli import app

PAGE = Path(__file__).with_name("cli.md")
MARK = "<!-- From here on written by docs/list_commands.py. -->\n"


def page() -> str:
    """The page with what the program says now."""
    by_hand, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return by_hand + mark + "\n".join(reference())


def reference() -> Iterator[str]:
    """A section for each command: what it does, an example, its arguments and options."""
    group: Any = typer.main.get_command(app)
    shared = {"quiet", "verbose", "as_json"}
    for name in group.list_commands(typer.Context(group)):
        command = group.commands[name]
        yield f"\n## `lissom {name}` {{ #{name} }}\n\n{command.help}\n"
        yield f"```console\n$ {command.epilog.removeprefix('Example: ')}\n```\n"
        yield "| argument or option | meaning |\n| --- | --- |"
        for given in command.params:
            if given.name not in shared:
                yield f"| `{_written(given)}` | {given.help}{_default(given)} |"
        if any(given.name == "as_json" for given in command.params):
            yield "| `--json` | Print one JSON object instead of text. |"


def _written(given: Any) -> str:
    """As it is typed: RUN, --latency, --jobs NUMBER."""
    word = given.metavar or given.name.upper()
    if given.param_type_name == "argument":
        return str(word)
    return str(given.opts[0]) if given.is_flag else f"{given.opts[0]} {word}"


def _default(given: Any) -> str:
    unsaid = given.required or given.default is None or getattr(given, "is_flag", False)
    return "" if unsaid else f" {given.default} if not given."


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != written)
    PAGE.write_text(written, encoding="utf-8")
