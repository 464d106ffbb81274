"""A path on disk: one folder for each point, which is finished when its point.json is there.

out/path.json                    the arguments
out/seed0/dense/                 the dense point; strength-0.001/ and scratch-0.001/ are others
    network.safetensors          the trained network, with its zeros
    small.safetensors            the shrunk one; small.pt2 where it is a graph
    state.pt                     what fit returned
    fit/                         files of fit's own
    point.json                   written last
    failed.txt                   of a point that failed: where
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.checkpoints import (
    load_json,
    load_state,
    load_tensors,
    save_json,
    save_state,
    save_tensors,
)
from lissom.curves.point import Point
from lissom.errors import PathError
from lissom.running import named_tensors
from lissom.saving import save

FORMAT = "lissom path 3"
NETWORK, STATE, POINT, PATH = "network.safetensors", "state.pt", "point.json", "path.json"
SMALL = ("small.safetensors", "small.pt2")


def folder_of(out: Path, seed: int, strength: float | None, from_scratch: bool) -> Path:
    """Where a point is kept: its name says what it is, whenever it was made."""
    kind = "scratch" if from_scratch else "strength"
    name = "dense" if strength is None else f"{kind}-{strength!r}"
    return out / f"seed{seed}" / name


def begin(out: Path, arguments: Mapping[str, Any]) -> None:
    """Write the arguments down, or see that they are the same as before.

    Raises:
        PathError: if `out` holds a path of other arguments, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise PathError(f"out is a folder for all points, and {out} is a file")
    if not (out / PATH).exists():
        out.mkdir(parents=True, exist_ok=True)
        save_json({"format": FORMAT, **arguments}, out / PATH)
        return
    before = load_path(out)
    for name, value in arguments.items():
        if before.get(name) != value:
            raise PathError(
                f"{out} holds a path with {name}={before.get(name)!r}, and this call has "
                f"{name}={value!r}: give the same arguments to go on, or another out to begin anew"
            )


def load_path(out: Path) -> dict[str, Any]:
    """The arguments of a path.

    Raises:
        RunError: if `out` holds no path.
        PathError: if it is one of another version.
    """
    record: dict[str, Any] = load_json(out / PATH)
    if record.get("format") != FORMAT:
        raise PathError(
            f"{out / PATH} has the format {record.get('format')!r}, this lissom reads {FORMAT!r}"
        )
    return record


def save_network(net: nn.Module, small: nn.Module, state: dict[str, Any] | None, to: Path) -> None:
    """Write all that a point leaves, besides point.json."""
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in named_tensors(net)}
    save_tensors(tensors, to / NETWORK)
    save(small, to / SMALL[small.shrinkage.as_graph])  # type: ignore[union-attr, index]
    try:
        save_state({"state": state}, to / STATE)
        load_state(to / STATE)  # what cannot be read again must fail here, not at the next point
    except Exception as error:  # pickle and torch raise many types
        raise PathError(
            "fit returns None or a dict of tensors and plain values (numbers, words, lists, "
            f"dicts), and what it returned cannot be kept: {str(error).splitlines()[0]}"
        ) from error


def fill(net: nn.Module, folder: Path) -> None:
    """Give a network the weights of a point."""
    tensors = load_tensors(folder / NETWORK)
    with torch.no_grad():
        for name, tensor in named_tensors(net):
            tensor.copy_(tensors[name])


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a point's trained network, on the CPU."""
    return load_tensors(folder / NETWORK)


def state_in(folder: Path) -> dict[str, Any] | None:
    """What a point's `fit` returned."""
    state: dict[str, Any] | None = load_state(folder / STATE)["state"]
    return state


def small_in(folder: Path) -> Path:
    """The file of a point's shrunk network."""
    return next(folder / name for name in SMALL if (folder / name).exists())


def save_point(point: Point) -> None:
    """Say that a point is finished: nothing is written after this."""
    save_json(point.to_dict(), point.folder / POINT)


def load_point(folder: Path) -> Point | None:
    """A finished point, or None."""
    if not (folder / POINT).exists():
        return None
    record = load_json(folder / POINT)
    error = math.nan if record["error"] is None else record["error"]
    return Point(**{**record, "folder": folder, "error": error})


def load_points(out: Path) -> list[Point]:
    """All finished points of a path."""
    found = (load_point(path.parent) for path in out.glob(f"seed*/*/{POINT}"))
    return [point for point in found if point is not None]
