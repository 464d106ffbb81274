"""The data of the page about curves, as JSON has it: no NaN, and all that the script draws."""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from lissom.curves import Curve, Point, Setting
from lissom.curves.point import TRAINED, number_or_dense, strength_text
from lissom.curves.results import none_for_nan, spread
from lissom.curves.storing import small_in
from lissom.errors import LissomError, PathError
from lissom.report.classes import ClassAccuracy
from lissom.report.networks import first_layer, readers
from lissom.report.series import Scale, axis_words, dense_size, halvings, knee_of
from lissom.report.table import Files, axes_of

EMBEDDED = 2_000_000  # bytes of all networks together that a page may carry
INPUTS = 16_384  # of a pattern; a picture of more would be longer than the rest of the page
OF_PYTHON = """\
import lissom
# make_model() makes the network as it was before training, whatever its weights
net = lissom.load("{name}", make_model)"""
OF_RECIPE = """\
import lissom
from pathlib import Path
from lissom.recipes import make_model, read_record
record = read_record(Path({record!r}))
net = lissom.load(
    "{name}",
    lambda: make_model(record.recipe, record.shape, record.classes),
)"""


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart.

    Raises:
        PathError: if a folder comes twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise PathError(f"each folder is shown once, got {', '.join(map(str, folders))}")
    for length in range(1, max(map(len, parts)) + 1):
        # A name of a folder may be no Unicode, and a page has to be.
        names = ["/".join(part[-length:]).encode(errors="replace").decode() for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, folders))


def page_data(
    curves: Mapping[str, Curve], scale: Scale, files: Files, beside: Path
) -> dict[str, Any]:
    """All that the script of the page needs.

    Args:
        curves: by name.
        scale: how errors are read.
        files: bytes of each point's shrunk network.
        beside: the folder of the page, which links to networks begin at.
    """
    embed = sum(files.values()) <= EMBEDDED
    points = [point for curve in curves.values() for point in curve.points]
    links = {
        point.folder: {**_link(point, beside, embed=embed), "bytes": files[point.folder]}
        for point in points
        if point.folder in files
    }
    return {
        "percent": scale.percent,
        "accuracy": scale.accuracy,
        "what": scale.what,
        "unit": scale.unit,
        "test": scale.test,
        "axes": axes_of(curves.values()),
        "words": {axis: axis_words(axis, curves.values()) for axis in axes_of(curves.values())},
        "curves": [_curve(name, curve, links) for name, curve in curves.items()],
    }


def _curve(name: str, curve: Curve, links: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    settings = (*curve.settings, *curve.from_scratch)
    places = {id(setting): place for place, setting in enumerate(settings)}
    classes = ClassAccuracy.load(curve.out)
    layout: dict[str, Any] = {}
    points = []
    for setting in settings:
        networks = []
        for point in setting.points:
            tensors, why = _tensors(curve, point)
            layout = layout or (_layout(curve, tensors) if tensors else {})
            told = {
                "classes": classes.of(point) if classes else None,
                "link": links.get(point.folder),
                "why": why,
            }
            networks.append({**_result(point), **_inside(layout, tensors), **told})
        points.append({**_setting(setting, curve.strength_label), "networks": networks})
    return {
        "name": name,
        "dense": {axis: dense_size(curve, axis) for axis in curve.axes},
        "points": points,
        "axes": {axis: _on(curve, axis, places) for axis in curve.axes},
        "layers": layout.get("layers"),
        "pattern": layout.get("pattern"),
        "classes": classes.names if classes else None,
        "failed": [[str(point), point.failed] for point in curve.failed],
    }


def _result(point: Point) -> dict[str, Any]:
    """What a network was measured to be."""
    return {
        "seed": point.seed,
        "error": point.error,
        "test": point.test_error,
        "sizes": dict(point.sizes or {}),
        "empty": point.empty,
        "seconds": point.seconds,
    }


def _layout(curve: Curve, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What all networks of a curve share: their layers, and what their patterns are of."""
    layers = [
        {"name": name, "shape": list(tensors[name].shape), "weights": tensors[name].numel()}
        for name in curve.parameters
    ]
    first = first_layer(curve, tensors)
    if first is None or (seen := readers(tensors[first])).counts.numel() > INPUTS:
        return {"layers": layers, "pattern": None}
    height, width = seen.counts.shape
    pattern = {"name": first, "height": height, "width": width, "units": seen.units}
    return {"layers": layers, "pattern": pattern}


def _inside(layout: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The non-zeros of each layer, and how many units read each input."""
    if not tensors:
        return {"nonzero": None, "readers": None}
    nonzero = [int(tensors[layer["name"]].count_nonzero()) for layer in layout["layers"]]
    if layout["pattern"] is None:
        return {"nonzero": nonzero, "readers": None}
    seen = readers(tensors[layout["pattern"]["name"]])
    return {"nonzero": nonzero, "readers": seen.counts.flatten().tolist()}


def _setting(setting: Setting, strength_label: str) -> dict[str, Any]:
    """Means and spreads; each error and size as [mean, standard deviation or null]."""
    tests = [p.test_error for p in setting.points if p.test_error is not None]
    test = [setting.test_error, none_for_nan(spread(tests))]
    made = "" if setting.made == TRAINED else f", {setting.made}"
    return {
        "strength": setting.strength,
        "title": strength_text(setting.strength, strength_label) + made,
        "from_scratch": setting.from_scratch,
        "failed": [point.seed for point in setting.failed],
        "error": [setting.error, none_for_nan(setting.error_std)],
        "test": None if setting.test_error is None else test,
        "sizes": {
            axis: [setting.size(axis), none_for_nan(setting.size_std(axis))]
            for axis in setting.points[0].sizes or {}
        },
    }


def _on(curve: Curve, axis: str, places: Mapping[int, int]) -> dict[str, Any]:
    """The front and the knee on one axis, as places in the list of points."""
    knee = knee_of(curve, axis)
    settings = (*curve.settings, *curve.from_scratch)
    return {
        "front": [places[id(setting)] for setting in curve.front(axis)],
        "knee": None if knee is None else places[id(knee.setting)],
        "range": list(knee.range) if knee is not None and knee.range is not None else None,
        "halvings": [halvings(curve, setting.size(axis), axis) for setting in settings],
    }


def _tensors(curve: Curve, point: Point) -> tuple[dict[str, Tensor], str | None]:
    """The trained network; or none and why, since the curve outlives the files."""
    try:
        return curve.tensors(point), None
    except LissomError as error:
        return {}, str(error)


def _link(point: Point, beside: Path, *, embed: bool) -> dict[str, str]:
    """Where the network is, what its file is called once saved, and the lines that load it."""
    file = small_in(point.folder)
    out = point.folder.parent.parent
    kept = re.sub(r"[^A-Za-z0-9._]+", "-", out.resolve().name).strip("-.") or "network"
    kind = "scratch-" if point.from_scratch else ""
    name = f"{kept}-{kind}{number_or_dense(point.strength)}-seed{point.seed}{file.suffix}"
    known = {"name": name, "code": _code(name, out)}
    if embed:
        text = base64.b64encode(file.read_bytes()).decode("ascii")
        return {**known, "href": f"data:application/octet-stream;base64,{text}"}
    relative = Path(os.path.relpath(file.resolve(), beside.resolve())).as_posix()
    # "./": a name may look like a scheme
    return {**known, "href": "./" + quote(os.fsencode(relative))}


def _code(name: str, out: Path) -> str:
    """Python that loads the network from the folder where its file was saved."""
    if (out / "recipe.json").exists():
        return OF_RECIPE.format(
            record=os.fsencode(out / "recipe.json").decode(errors="replace"), name=name
        )
    return OF_PYTHON.format(name=name)
