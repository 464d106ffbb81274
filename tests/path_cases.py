"""What the tests of the path share: networks that are pruned rather than trained."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lissom
from lissom.curves import Curve, Point, Start

EXAMPLE = torch.linspace(-1, 1, 24).reshape(4, 6)
TOTAL = 6 * 12 + 12 + 12 * 3 + 3


def make(seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


with torch.device("meta"):  # which draws no random numbers
    MADE = str(make(0))


def keep(net: nn.Module, fraction: float) -> None:
    """The largest weights of all tensors together, whatever was there before."""
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    kept = round(fraction * flat.numel())
    threshold = flat.abs().sort(descending=True).values[kept - 1] if kept else math.inf
    with torch.no_grad():
        for p in net.parameters():
            p[p.abs() < threshold] = 0


def fraction_left(strength: float) -> float:
    """Falls from 1 to 0 as the strength grows: 1/2 at 1e-3."""
    return 0.0 if strength >= 1 else 1 / (1 + (strength / 1e-3) ** 1.5)


def fit(net: nn.Module, strength: float | None, start: Start) -> dict[str, Any]:
    """A little noise for training, then the largest weights; weights that are dead stay so."""
    with torch.no_grad():
        for p in net.parameters():
            p += 0.01 * torch.randn(p.shape) * (p != 0)
    if strength is not None:
        keep(net, fraction_left(strength))
    before = start.state or {"strengths": [], "moment": torch.zeros(2)}
    return {
        "strengths": [*before["strengths"], strength],
        "moment": before["moment"] + 1,
    }


def left(net: nn.Module) -> float:
    """The fraction of the weights that is not zero."""
    return sum(int(p.count_nonzero()) for p in net.parameters()) / TOTAL


def error(net: nn.Module) -> float:
    """0.02 for a dense network, 0.9 for an empty one, with a bend near a tenth of the weights."""
    fraction = left(net)
    shift = abs(sum(float(p.detach().sum()) for p in net.parameters()))
    return 0.02 + 0.88 * (1 - fraction) ** 12 + 1e-4 * shift * fraction


def test_error(net: nn.Module) -> Tensor:
    return torch.tensor(1.05 * error(net) + 0.01)  # with a spread of its own


test_error.__test__ = False  # type: ignore[attr-defined]  # no test, though its name says so


def path(strengths: Any = (1e-4, 1.0), **changed: Any) -> Curve:
    given = {"fit": fit, "make_model": make, "error": error, "example_inputs": EXAMPLE, "seeds": 2}
    given |= {"points": 6, **changed}
    with exported_once():
        return lissom.path(given.pop("fit"), strengths, **given)


_exported: dict[Any, Any] = {}


@contextmanager
def exported_once() -> Iterator[None]:
    """The networks of `make` are exported once, which is half of the time of a point.

    What is kept is the graph; the tensors that it reads are those of the network that is given.
    """
    room = import_module("lissom.coupling.trace")
    export = room._exported

    def exporting(model: nn.Module, inputs: Any, **how: Any) -> Any:
        tensors = model.state_dict(keep_vars=True)
        key = str(inputs), *(t.dtype for t in tensors.values())
        if str(model) != MADE:
            return export(model, inputs, **how)
        if key not in _exported:
            _exported[key] = export(model, inputs, **how)
        program, *rest = _exported[key]
        program = copy.copy(program)
        program._state_dict = tensors
        return program, *rest

    room._exported = exporting
    try:
        yield
    finally:
        room._exported = export


def timeless(curve: Curve) -> list[dict[str, Any]]:
    """The points without what may differ between two runs."""
    return [{**point.to_dict(), "seconds": 0} for point in curve.points]


def same_weights(a: Curve, b: Curve) -> bool:
    def networks(curve: Curve) -> list[dict[str, Tensor]]:
        return [curve.tensors(point) for point in curve.points if not point.failed]

    return all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in zip(networks(a), networks(b), strict=True)
    )


def made_up(
    folder: Path, rows: list[tuple[float | None, list[float], list[float]]], strengths: list[float]
) -> Curve:
    """A curve of numbers: (strength, sizes by seed, errors by seed); NaN for a failed point."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": "lissom path 3",
        "strengths": strengths,
        "points": len(rows),
        "strength_name": "strength",
        "parameters": {},
    }
    (folder / "path.json").write_text(json.dumps(record))
    points = []
    for number, (strength, sizes, errors) in enumerate(rows):
        for seed, (size, wrong) in enumerate(zip(sizes, errors, strict=True)):
            bad = math.isnan(wrong)
            at = folder / f"seed{seed}" / str(strength)
            counts = None if bad else {"nonzeros": size, "bytes": 4 * size + 100}
            points.append(
                Point(
                    strength,
                    seed,
                    number,
                    at,
                    error=wrong,
                    sizes=counts,
                    failed="no" if bad else None,
                )
            )
    return Curve(tuple(points), folder, ())


def raising(strength: float | None, message: str) -> Callable[..., Any]:
    """`fit` that fails at one strength."""

    def failing(net: nn.Module, now: float | None, start: Start) -> Any:
        if now == strength:
            raise RuntimeError(message)
        return fit(net, now, start)

    return failing
