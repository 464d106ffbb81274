"""Reading a whole file, once: what is checked is what is used."""

from pathlib import Path

from lissom.errors import RunError


def content_of(path: Path, missing: str) -> bytes:
    """The bytes of a file.

    Raises:
        RunError: with the words of `missing` if there is none, or if it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(missing) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
