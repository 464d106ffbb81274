"""A path on disk: one folder for each point, which is finished when its point.json is there.

out/path.json                    the arguments
out/seed0/dense/                 the dense point; strength-0.001/ and scratch-0.001/ are others
    network.safetensors          the trained network, with its zeros
    small.safetensors            the shrunk one
    state.pt                     what fit returned
    fit/                         files of fit's own
    point.json                   written last
    failed.txt                   of a point that failed: where
out/latencies.json               of all networks, if they were timed
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor, nn

from lissom.curves.checks import ContractError
from lissom.curves.fingerprints import differences
from lissom.curves.point import FRACTION, TRAINED, Point
from lissom.errors import PathError, RunError, StorageError
from lissom.measuring import Latency
from lissom.running import named_tensors
from lissom.saving import save
from lissom.storage import (
    Store,
    checked,
    load_json,
    load_state,
    load_tensors,
    mismatch,
    remove,
    save_json,
    save_state,
    save_tensors,
)

PATH_KIND, POINT_KIND, STATE_KIND = "lissom path 3", "lissom point 1", "lissom state 1"
TENSORS_KIND, LATENCIES_KIND = "lissom tensors 1", "lissom latencies 1"
NETWORK, SMALL, STATE = "network.safetensors", "small.safetensors", "state.pt"
PATH, POINT, FAILED = "path.json", "point.json", "failed.txt"
LATENCIES = "latencies.json"
AGAIN = "retry_failed=True, on the command line --retry-failed, makes it again"


@dataclass(frozen=True)
class PathRecord:
    """The arguments of a path that make its points what they are.

    Those with a default were none when lissom was younger, and may be missing.
    """

    strengths: tuple[float, ...]
    points: int
    parameters: dict[str, list[int]]
    strength_name: str
    error_name: str = "error"
    error_unit: str = FRACTION
    round_to: int = 1
    inputs: bool = False
    cuts: bool = False


@dataclass(frozen=True)
class PointRecord:
    """A point as JSON has it: null for NaN, and without the folder's path.

    `made` was not told when lissom was younger.
    """

    strength: float | None
    seed: int
    number: int
    folder: str
    from_scratch: bool
    origin: str | None
    error: float | None
    test_error: float | None
    sizes: dict[str, float] | None
    empty: bool
    seconds: float
    failed: str | None
    made: str = TRAINED


def folder_of(out: Path, seed: int, strength: float | None, from_scratch: bool) -> Path:
    """Where a point is kept: its name says what it is, whenever it was made."""
    kind = "scratch" if from_scratch else "strength"
    name = "dense" if strength is None else f"{kind}-{strength!r}"
    return folder_of_seed(out, seed) / name


def folder_of_seed(out: Path, seed: int) -> Path:
    """Where the points of a seed are."""
    return out / f"seed{seed}"


def begin(
    out: Path,
    arguments: Mapping[str, Any],
    functions: Mapping[str, str],
    *,
    retry_failed: bool,
    where: str,
) -> None:
    """Write down what is made here, or see that it is the same as before.

    Failed points are forgotten with `retry_failed`, and dense ones always, since they stopped the
    path. Where there are no others, a path begins anew.

    Args:
        out: the folder.
        arguments: of the path.
        functions: fingerprints of those that it was given.
        retry_failed: functions may have been mended, and failed points are made again.
        where: the folder, or the URL of which it is a copy, for messages.

    Raises:
        PathError: if `out` holds a path of other arguments or functions.
    """
    given = {**arguments, "functions": functions}
    if not (out / PATH).exists():
        save_json(given, out / PATH, PATH_KIND)
        return
    defaults = {f.name: f.default for f in fields(PathRecord) if f.default is not MISSING}
    before = {**defaults, **load_json(out / PATH, PATH_KIND)}
    failed = [point for point in load_points(out) if point.failed]
    kept = {file.parent for file in out.glob(f"seed*/*/{POINT}")}
    kept |= {folder.parent for folder in out.glob("seed*/*/fit") if any(folder.iterdir())}
    kept -= {point.folder for point in failed}
    if kept:
        for name, value in arguments.items():
            if before.get(name) != value:
                raise PathError(
                    f"{where} holds a path with {name}={before.get(name)!r}, and this call has "
                    f"{name}={value!r}: give the same arguments to go on, or another out to begin "
                    "anew"
                )
        known = checked(dict[str, str], before.get("functions", {}), out / PATH)
        if not retry_failed and (changed := differences(known, functions)):
            raise PathError(
                f"{where} holds points of another experiment: {'; '.join(changed)}. Go on with the "
                "same functions, or give another out to begin anew; with retry_failed=True these "
                "functions go on with the points that are there, and failed ones are made again"
            )
    for point in failed:
        if retry_failed or not kept or point.strength is None:
            _forget(point)
    if before != given:
        save_json(given, out / PATH, PATH_KIND)


def _forget(point: Point) -> None:
    """Have a point made anew; what says that it is finished goes last."""
    rmtree(point.folder / "fit", ignore_errors=True)
    for name in (FAILED, POINT):
        remove(point.folder / name)


def load_path(out: Path) -> PathRecord:
    """The arguments of a path.

    Raises:
        RunError: if `out` holds no path, or one of another version.
    """
    return checked(PathRecord, load_json(out / PATH, PATH_KIND), out / PATH)


def save_network(net: nn.Module, small: nn.Module, state: dict[str, Any] | None, to: Path) -> None:
    """Write all that a point leaves, besides point.json."""
    save_tensors(dict(named_tensors(net)), to / NETWORK, TENSORS_KIND)
    save(small, to / SMALL)
    try:
        save_state({"state": state}, to / STATE, STATE_KIND)
    except StorageError:
        raise
    except RunError as error:
        raise ContractError(
            "fit returns None or a dict of tensors and plain values (numbers, words, lists, "
            f"dicts), and what it returned cannot be kept: {str(error).splitlines()[0]}"
        ) from error


def fill(net: nn.Module, folder: Path) -> None:
    """Give a network the weights of a point.

    Raises:
        RunError: if they are of another network, which is left as it was.
    """
    own, tensors = dict(named_tensors(net)), tensors_in(folder)
    if why := mismatch(own, tensors):
        raise RunError(f"{folder / NETWORK} is of another network than make_model makes: {why}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a point's trained network, on the CPU."""
    return load_tensors(folder / NETWORK, TENSORS_KIND)[1]


def state_in(folder: Path) -> dict[str, Any] | None:
    """What a point's `fit` returned."""
    state = load_state(folder / STATE, STATE_KIND).get("state", 0)
    if state is not None and not isinstance(state, dict):
        raise RunError(f"{folder / STATE} holds no state that fit returned, but {state!r}")
    return state


def small_in(folder: Path) -> Path:
    """The file of a point's shrunk network."""
    return folder / SMALL


def save_point(point: Point) -> None:
    """Say that a point is finished: nothing is written after this."""
    save_json(point.to_dict(), point.folder / POINT, POINT_KIND)


def load_point(folder: Path) -> Point | None:
    """A finished point, or None.

    Raises:
        RunError: if its file is damaged, or of another version.
    """
    path = folder / POINT
    if not path.exists():
        return None
    record = load_json(path, POINT_KIND)
    told = checked(PointRecord, record, path)
    if told.failed is None and (told.error is None or told.sizes is None):
        raise RunError(f"{path}: a point that did not fail has an error and sizes")
    error = math.nan if told.error is None else told.error
    kept = vars(told) | {name: record[name] for name in vars(told) if name in record}
    return Point(**{**kept, "folder": folder, "error": error})  # whole numbers stay so


def name_of(point: Point) -> str:
    """A point's place in the folder of its path: "seed0/dense"."""
    return f"{point.folder.parent.name}/{point.folder.name}"


def save_latencies(found: Mapping[str, Latency], out: Path) -> None:
    """Write down how long the networks of points take, by `name_of`."""
    record = {name: asdict(latency) for name, latency in found.items()}
    save_json({"latencies": record}, out / LATENCIES, LATENCIES_KIND)


def load_latencies(out: Path) -> dict[str, Latency]:
    """What `save_latencies` wrote; nothing if it was not called.

    Raises:
        RunError: if the file is damaged, or of another version.
    """
    if not (out / LATENCIES).exists():
        return {}
    record = load_json(out / LATENCIES, LATENCIES_KIND)
    return checked(dict[str, Latency], record.get("latencies", {}), out / LATENCIES)


def mirrored(store: Store) -> None:
    """Have all finished points of a store here, and what the path is."""
    store.pull(PATH)
    store.pull(LATENCIES)
    for name in store.names(POINT):
        store.pull(name)


def forget_elsewhere(store: Store) -> None:
    """Take the points out of a store that are finished there and not here any more."""
    for name in store.names(POINT):
        if not (store.here / name / POINT).exists():
            store.remove(name)


def load_points(out: Path) -> list[Point]:
    """All finished points of a path."""
    found = (load_point(path.parent) for path in out.glob(f"seed*/*/{POINT}"))
    return [point for point in found if point is not None]
