"""One page about a run that works offline and opens from a mail."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from lissom.checkpoints import load_json, read_events
from lissom.errors import RunError
from lissom.report.figures import history, svg

__all__ = ["history", "write_report"]


def write_report(run: Path) -> Path:
    """Write `report.html` into a finished run's directory.

    The page holds everything it shows: how error, non-zeros and gates went over training, what is
    left of each variable, the recipe and the command.

    Raises:
        RunError: if the run is not finished.
    """
    if not (run / "result.json").exists():
        raise RunError(f"{run} has no result.json: the run is not finished (lissom train --resume)")
    result: dict[str, Any] = load_json(run / "result.json")
    events = read_events(run / "events.jsonl")
    environment = Environment(
        loader=PackageLoader("lissom.report", "."), autoescape=select_autoescape()
    )
    page = environment.get_template("page.html").render(
        result=result,
        recipe=load_json(run / "recipe.json"),
        history=Markup(svg(history(events))),
        variables=result["num_nonzero"],
    )
    path = run / "report.html"
    path.write_text(page)
    return path
