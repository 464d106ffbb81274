"""Nested tensors and plain values, such as the state of an optimizer, in torch's own format."""

import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile
from zlib import crc32

import torch

from lissom.errors import RunError, machine_failed
from lissom.storage.formats import FORMAT, opened, plain
from lissom.storage.reading import content_of
from lissom.storage.replacing import replace


def save_state(state: dict[str, Any], path: Path, kind: str) -> None:
    """Write a state of a kind such as "lissom checkpoint 1"; NumPy's numbers become Python's.

    Raises:
        RunError: for what `load_state` would not read, before anything is written.
    """
    content = BytesIO()
    try:
        torch.save({FORMAT: kind, **plain(state)}, content)
        content.seek(0)
        with suppress(RuntimeError):  # of a layout that meta does not know
            torch.load(content, map_location="meta", weights_only=True)  # which reads no tensors
    except Exception as error:  # pickle and torch raise many types
        if machine_failed(error):
            raise
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = found[1] if found else str(error).splitlines()[0]
        raise RunError(
            f"{path} would hold what cannot be read again ({why}): a state is made of tensors and "
            "plain values, which are numbers, words, lists and dicts"
        ) from error
    body = content.getvalue()[:-2] + len(_seal(b"")).to_bytes(2, "little")
    replace(path, body + _seal(body))


def load_state(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save_state` wrote, with `weights_only=True`: nothing in it is executed.

    Returns:
        The state with its tensors on the CPU, from where `load_state_dict` takes them anywhere.

    Raises:
        RunError: if the file is missing, damaged or of another kind.
    """
    content = content_of(path, f"{path.parent} has no {path.name}: nothing was trained there yet")
    try:
        _check_archive(content)
        state: Any = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} is not a readable checkpoint: {why}") from error
    found = opened(state, str(path), (kind,))
    del found[FORMAT]
    return found


def _check_archive(content: bytes) -> None:
    """See that torch's archive is what it was; torch does not look, and believes what it says."""
    body = content[: -len(_seal(b""))]
    if content[len(body) :] != _seal(body):
        raise BadZipFile("it is damaged, or none that this version of lissom wrote")
    with ZipFile(BytesIO(content)) as archive:
        for part in archive.infolist():
            if part.compress_type != ZIP_STORED:  # what is packed could become any size
                raise BadZipFile(f"{part.filename} is packed, and torch packs nothing")


def _seal(body: bytes) -> bytes:
    """The archive's comment, which ends it: a checksum of all before it."""
    return b"lissom crc32 %08x" % crc32(body)
