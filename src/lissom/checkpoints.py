"""Files of a run that survive a kill at any moment: written beside, then moved into place."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lissom.errors import RunError


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values so that `path` is the old file or the new one, never half."""
    _replace(path, lambda beside: torch.save(state, beside))


def save_json(value: Any, path: Path) -> None:
    """Write JSON in the same way."""
    _replace(path, lambda beside: beside.write_text(json.dumps(value, indent=2) + "\n"))


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, header: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors in the same way, with a few words in the header."""
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    _replace(path, lambda beside: save_file(dense, beside, header))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, with `weights_only=True`: nothing in it is executed.

    Returns:
        The state with its tensors on the CPU, from where `load_state_dict` takes them anywhere.

    Raises:
        RunError: if the file is missing or not such a file.
    """
    if not path.is_file():
        raise RunError(f"{path.parent} has no {path.name}: nothing was trained there yet")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise RunError(f"{path} is not a readable checkpoint: {error}") from error
    return state


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        RunError: if it cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def load_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        RunError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{path.parent} has no {path.name}: is it a run directory?") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}") from error


def append_event(event: dict[str, Any], path: Path) -> None:
    """Add one JSON line."""
    with path.open("a") as file:
        file.write(json.dumps(event) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    events = []
    for i, line in enumerate(lines):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as error:
            if i < len(lines) - 1:
                raise RunError(f"{path}, line {i + 1} is not JSON: {error}") from error
    return events


def save_events(events: Iterable[dict[str, Any]], path: Path) -> None:
    """Write a JSON line for each event, in place of what was there."""
    content = "".join(json.dumps(event) + "\n" for event in events)
    _replace(path, lambda beside: beside.write_text(content))


def keep_events(wanted: Callable[[dict[str, Any]], bool], path: Path) -> None:
    """Drop the events that a resumed run will write again."""
    save_events(filter(wanted, read_events(path)), path)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(path.name + ".part")
    write(beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
