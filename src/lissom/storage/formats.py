"""The one rule of formats: each file says what it is, and has a checksum of what it holds.

{"format": "lissom path 3", …, "crc32": "8c736521"}: a kind, a number that counts up whenever older
versions could not read it, and the CRC-32 of all that stands before it as `json.dumps` writes it,
and of the tensors beside it. It tells damage, not malice; a file that was written by hand may be
without it. The types of what is read are checked on their own.
"""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from pydantic import TypeAdapter, ValidationError

from lissom.arguments import as_python
from lissom.errors import RunError

FORMAT, CHECKSUM = "format", "crc32"

T = TypeVar("T")


def sealed(record: Mapping[str, Any], kind: str, start: int = 0) -> dict[str, Any]:
    """A record with what it is and its checksum, which goes on from that of the tensors."""
    named = plain({FORMAT: kind, **record})
    return {**named, CHECKSUM: _checksum(named, start)}


def plain(value: Any) -> Any:
    """The same with Python's numbers for NumPy's, as those of a grid of learning rates are."""
    if type(value) is dict:
        return {as_python(key): plain(each) for key, each in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else as_python(value)


def opened(record: Any, where: str, kinds: tuple[str, ...], start: int = 0) -> dict[str, Any]:
    """The record that was sealed, with its format.

    Args:
        record: what was read.
        where: it was read, for the message.
        kinds: the formats that are expected.
        start: as in `sealed`.

    Raises:
        RunError: if it is of none of these kinds, or was damaged.
    """
    kind = record.get(FORMAT) if isinstance(record, dict) else None
    if kind not in kinds:
        found = "says no format" if kind is None else f"has the format {reprlib.repr(kind)}"
        raise RunError(f"{where} {found}, this lissom reads {' or '.join(map(repr, kinds))} there")
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    *before, last = record.items()
    # A checksum under another name is one whose name was damaged.
    misnamed = CHECKSUM not in record and _fits(last[1], dict(before), start)
    if misnamed or (CHECKSUM in record and not _fits(record[CHECKSUM], rest, start)):
        raise RunError(
            f"{where} is damaged: it does not fit its checksum. (If it was changed on purpose, its "
            f'"{CHECKSUM}" has to be taken out)'
        )
    return rest


def checked(schema: type[T], record: Mapping[str, Any], where: str | Path) -> T:
    """The record as what it should be: a dataclass or a TypedDict, whose types it must have.

    Raises:
        RunError: naming the first field that has not.
    """
    if not isinstance(record, Mapping):
        raise RunError(f"{where}: what it holds is a table, got {reprlib.repr(record)}")
    given = {key: value for key, value in record.items() if key != FORMAT}
    try:
        return TypeAdapter(schema).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "what it holds"
        what = first["msg"][0].lower() + first["msg"][1:]
        raise RunError(f"{where}: {field}: {what}, got {reprlib.repr(first['input'])}") from error
    except RecursionError as error:
        raise RunError(f"{where}: what it holds is nested too deeply") from error


def _fits(checksum: object, record: Mapping[str, Any], start: int) -> bool:
    try:
        return isinstance(checksum, str) and checksum == _checksum(record, start)
    except (RecursionError, TypeError, ValueError):  # nothing that was ever sealed
        return False


def _checksum(record: Mapping[str, Any], start: int) -> str:
    return f"{crc32(json.dumps(record).encode(), start):08x}"
