"""Whether the code that a run folder names may run: it may if the run was made here.

A recipe names classes and functions by their import paths, and to import is to run code. A TOML
file is the user's own word, as a script is. A recipe.json may have come with a folder from
elsewhere, so where it names code it bears a signature with a key that only this user's state folder
has; a run without it, or changed by hand, is not read until the user trusts it.
"""

import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from lissom.errors import RecipeError
from lissom.importing import is_import_path

SIGNATURE = "made_here"  # the key of a recipe.json
WORDS = ("title", "source", "files", "hub")  # of a recipe, which are never imported

trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record to be written, with the signature of this user if it names code."""
    key = _key(make=True) if code_in(record) else None
    return {**record, SIGNATURE: _signature(record, key)} if key else dict(record)


def opened(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record that was read, without its signature.

    Args:
        record: as it stands in a file.
        where: it stands, for messages.

    Raises:
        RecipeError: if it names code, was not made here, and is not trusted.
    """
    rest = {name: value for name, value in record.items() if name != SIGNATURE}
    code = code_in(rest)
    if not code or trusted.get():
        return rest
    key = _key(make=False)
    if key and hmac.compare_digest(_signature(rest, key), str(record.get(SIGNATURE))):
        return rest
    raise RecipeError(
        f"{where} names Python code, {', '.join(code)}, and was not made here by you, or was "
        "changed since: nothing of it is run. If you know what this code does, say so with --trust"
    )


def code_in(value: Any) -> list[str]:
    """The import paths in a record, wherever they stand."""
    return list(dict.fromkeys(_paths(value)))


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str) and is_import_path(value):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(key)
            if key not in WORDS:
                yield from _paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner)


def _signature(record: Mapping[str, Any], key: bytes) -> str:
    text = json.dumps(record, sort_keys=True)
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _key(*, make: bool) -> bytes | None:
    """This user's key, made where it is not there; None where there can be none."""
    state = os.environ.get("XDG_STATE_HOME")
    file = (Path(state) if state else Path.home() / ".local" / "state") / "lissom" / "key"
    if make:
        with suppress(OSError):  # a home that cannot be written: runs from there need --trust
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_hex(32))
    with suppress(OSError):
        text = file.read_text()
        return bytes.fromhex(text) if re.fullmatch(r"[0-9a-f]{64}", text) else None
    return None
