"""The page of trade-off curves: what each degree of simplicity costs, and its networks."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lissom.arguments import as_annotated
from lissom.curves import Curve
from lissom.curves.storing import PATH_KIND
from lissom.errors import LissomError, PathError
from lissom.recipes.runs import RECIPE_KIND, RESULT_KIND
from lissom.report.curve_data import names_of, page_data
from lissom.report.curves import trade_off
from lissom.report.figures import svg
from lissom.report.page import render
from lissom.report.series import Scale
from lissom.report.table import WITHIN, answers, axes_of, file_sizes, rows
from lissom.report.words import OF_CURVES, glossary
from lissom.storage import load_json, replace

RECORDS = {  # how it was made, as far as it is known
    "path.json": PATH_KIND,
    "recipe.json": RECIPE_KIND,
    "result.json": RESULT_KIND,
}


@as_annotated(LissomError)
def write_curve_report(folders: Sequence[Path], out: Path) -> Path:
    """Write one page about one or several paths that holds everything it shows.

        write_curve_report([Path("runs/l0"), Path("runs/lc")], Path("runs/report.html"))

    The curves come first, then the point that is chosen with its layers and its network, then all
    points. Networks are embedded if all of them together have at most 2 MB, and otherwise linked
    by a relative path. Accuracies of classes are shown where `ClassAccuracy.save` left them.

    Args:
        folders: that `lissom.path(out=…)` wrote; finished or not.
        out: the file to be written; a folder gets a report.html.

    Returns:
        The file.

    Raises:
        RunError: if a folder holds no path.
        PathError: if there is no folder, or in one of them no point worked.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise PathError("a report is of at least one folder that lissom.path(out=…) wrote")
    path = out / "report.html" if out.is_dir() else out
    names = names_of(folders)
    curves = {name: Curve.load(folder) for name, folder in zip(names, folders, strict=True)}
    scale = Scale.of(curves.values())
    files = file_sizes(curves.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = axes_of(curves.values())
    page = render(
        "curve.html",
        title=", ".join(names),
        data=page_data(curves, scale, files, path.parent),
        answers=answers(curves, scale, files),
        tables=rows(curves, scale, files),
        scale=scale,
        near=f"{100 * WITHIN:g}" if scale.percent else "5 %",
        words=glossary([*OF_CURVES, *axes, *(["file"] if files else [])]),
        drawn=Markup(svg(trade_off(curves if len(curves) > 1 else next(iter(curves.values()))))),
        commands={name: _command(curve.out) for name, curve in curves.items()},
        records={name: _records(curve.out) for name, curve in curves.items()},
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in ("lissom", "torch")},
        },
    )
    replace(path, page.encode(errors="replace"))  # file names may be no Unicode
    return path


def _command(out: Path) -> str | None:
    """What made a recipe's curve, as it was typed; None for one of Python, or not finished."""
    if not (out / "result.json").exists():
        return None
    command: str | None = load_json(out / "result.json", RESULT_KIND).get("command")
    return command


def _records(out: Path) -> dict[str, str]:
    """The files that say how a path was made, as text."""
    found: dict[str, Any] = {
        name: load_json(out / name, kind)
        for name, kind in RECORDS.items()
        if os.path.exists(out / name)
    }
    return {
        name: json.dumps(record, indent=2, ensure_ascii=False) for name, record in found.items()
    }
