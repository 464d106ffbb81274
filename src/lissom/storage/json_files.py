"""JSON: one object in a file, or one on each line."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lissom.errors import RunError, StorageError
from lissom.storage.formats import opened, sealed
from lissom.storage.reading import content_of
from lissom.storage.replacing import replace

EVENT = "lissom event 1"
WHOLE = re.compile(rb'"crc32": "[0-9a-f]{8}"}')  # how a line ends


def save_json(record: Mapping[str, Any], path: Path, kind: str) -> None:
    """Write one object, of a kind such as "lissom path 3"."""
    replace(path, json.dumps(sealed(record, kind), indent=2) + "\n")


def load_json(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save_json` wrote.

    Raises:
        RunError: if it is missing, damaged or of another kind.
    """
    content = content_of(path, f"{path.parent} has no {path.name}: is it a run directory?")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {error}") from error
    record = opened(record, str(path), (kind,))
    del record["format"]
    return record


def append_line(record: Mapping[str, Any], path: Path) -> None:
    """Add a line for an object, or leave the file as it was."""
    size = path.stat().st_size if path.exists() else None
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        with suppress(OSError):  # what is not cut off is a line cut short, which no reader takes
            path.unlink(missing_ok=True) if size is None else os.truncate(path, size)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def save_lines(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a line for each object, in place of what was there."""
    replace(path, "".join(json.dumps(record) + "\n" for record in records))


def append_event(event: Mapping[str, Any], path: Path) -> None:
    """Add a line for an event of a run."""
    append_line(sealed(event, EVENT), path)


def save_events(events: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write a line for each event of a run, in place of what was there."""
    save_lines((sealed(event, EVENT) for event in events), path)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line cut short by a kill is left out.

    Raises:
        RunError: if a line is damaged or of another version.
    """
    if not path.exists():
        return []
    lines = content_of(path, f"there is no file {path}").split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            break
        where = f"{path}, line {number}"
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not WHOLE.search(line):
                break
            raise RunError(f"{where} is not JSON: {error}") from error
        event = opened(event, where, (EVENT,))
        del event["format"]
        events.append(event)
    return events


def keep_events(wanted: Callable[[dict[str, Any]], bool], path: Path) -> None:
    """Drop the events that a resumed run will write again."""
    save_events([event for event in read_events(path) if wanted(event)], path)
