"""Reading a whole file, once: what is checked is what is used."""

import stat
from pathlib import Path

from lissom.errors import RunError


def content_of(path: Path, missing: str) -> bytes:
    """The bytes of a file.

    Raises:
        RunError: with the words of `missing` if there is none, or if it cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # it may have no end
            raise RunError(f"{path} cannot be read: it is a device or a pipe")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(missing) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a name that no file can have
        raise RunError(f"{str(path)!r} cannot be read: {error}") from error
