"""Pages about a run and about trade-off curves that work offline and open from a mail; figures."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from lissom.arguments import as_annotated
from lissom.errors import LissomError, RunError
from lissom.recipes.runs import RECIPE_KIND, RESULT_KIND
from lissom.report.adversarial import AdversarialCurve, adversarial_curve
from lissom.report.classes import ClassAccuracy, class_accuracy
from lissom.report.confusion import accuracy_by, confusion_matrix, confusions, per_value
from lissom.report.curve_page import write_curve_report
from lissom.report.curves import per_class, per_radius, rate_distortion, trade_off
from lissom.report.ensembles import ensemble_sizes, reliability
from lissom.report.figures import history, judged_by, svg
from lissom.report.networks import connectivity, log_alpha, patterns
from lissom.report.page import render
from lissom.report.table import kilobytes
from lissom.report.words import OF_RUNS, glossary
from lissom.storage import load_json, read_events, replace
from lissom.training import Evaluation

__all__ = [
    "AdversarialCurve",
    "ClassAccuracy",
    "accuracy_by",
    "adversarial_curve",
    "class_accuracy",
    "confusion_matrix",
    "confusions",
    "connectivity",
    "ensemble_sizes",
    "history",
    "log_alpha",
    "patterns",
    "per_class",
    "per_radius",
    "per_value",
    "rate_distortion",
    "reliability",
    "trade_off",
    "write_curve_report",
    "write_report",
]


@as_annotated(LissomError)
def write_report(run: Path) -> Path:
    """Write `report.html` into a finished run's directory.

    The page holds everything it shows: how error, non-zeros and gates went over training, what is
    left of each variable, the recipe and the command.

    Raises:
        RunError: if it is no run, or is not finished.
    """
    recipe = load_json(run / "recipe.json", RECIPE_KIND)
    if not (run / "result.json").exists():
        raise RunError(f"{run} has no result.json: the run is not finished (lissom train --resume)")
    result: dict[str, Any] = load_json(run / "result.json", RESULT_KIND)
    events = [Evaluation.from_dict(event) for event in read_events(run / "events.jsonl")]
    found = Evaluation.from_dict(result)
    small = run / "small.safetensors"  # of lissom shrink
    name, unit, times = judged_by(found)
    height = times * found.test.error
    page = render(
        "page.html",
        result=result,
        found=found,
        name=name,
        error=f"{height:.2f} %" if unit == "%" else f"{height:.4g} {unit}".rstrip(),
        file=kilobytes(small.stat().st_size) if small.exists() else None,
        recipe=recipe,
        history=Markup(svg(history(events))),
        words=glossary(OF_RUNS),
    )
    path = run / "report.html"
    replace(path, page)
    return path
