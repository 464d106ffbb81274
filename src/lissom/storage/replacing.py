"""The one writer: a file is the old one or the new one, whenever the power goes."""

import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from lissom.errors import RunError, StorageError

try:
    import fcntl
except ImportError:  # Windows, where what a killed process left stays until somebody removes it
    fcntl = None  # type: ignore[assignment]

PART = ".part"
MADE = re.compile(r"\..+\.\w{8}\.part", re.DOTALL)  # as mkdtemp names folders


def replace(path: Path, content: bytes | str) -> None:
    """Write a file's whole content; a text in UTF-8.

    Raises:
        RunError: as `replacing`.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own, whose files take their places at the end.

        with replacing(path) as beside:
            figure.savefig(beside)

    As with `open`, a file that is replaced keeps its mode, and what a link points to is replaced
    instead of the link. If anything goes wrong, or the process is killed, `path` is what it was
    before; nothing but a kill leaves something beside it, which the next writer of the same file
    clears away.

    Raises:
        RunError: if `path` is a directory or a device.
        StorageError: if it is in no directory, or the disk is full, say.
    """
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        _check(place)
        _clear(leftovers(place))
        with _folder_beside(place) as folder:
            beside = folder / path.name
            beside.touch()
            mode = (place if place.exists() else beside).stat().st_mode & 0o777
            beside.unlink()
            yield beside
            others = [file for file in folder.iterdir() if file != beside]
            for file in (*others, beside):
                file.chmod(mode)  # some libraries write by way of private files
                _sync(file)
            for file in others:
                os.replace(file, place.parent / file.name)
            os.replace(beside, place)
            with suppress(OSError):  # not all file systems can, and the file is in its place
                _sync(place.parent)
    except StorageError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise StorageError(f"{path} cannot be written: {why}. It is as it was before") from error


def _check(place: Path) -> None:
    if place.is_dir():
        raise RunError(f"{place} is a directory, and a file is to be written there")
    if place.exists() and not place.is_file():
        raise RunError(f"{place} is a device or a pipe, which a file would replace")
    if not place.parent.is_dir():
        raise StorageError(
            f"{place.parent} is no directory, so {place.name} cannot be written there"
        )


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A new folder, locked as long as its maker lives, and gone afterwards."""
    while True:
        folder = Path(mkdtemp(PART, f".{path.name}.", path.parent))
        with _locked(folder, wait=True):
            if not folder.exists():  # somebody took it for a leftover before it was locked
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def remove(path: Path) -> None:
    """Remove a file, if there is one, and what writers of it left when they were killed."""
    path.unlink(missing_ok=True)
    _clear(leftovers(path))


def leftovers(path: Path) -> list[Path]:
    """The folders beside a file of those who write it, and of those who were killed then."""
    names = glob.glob(f".{glob.escape(path.name)}.*{PART}", root_dir=path.parent)
    return [path.parent / name for name in names]


def clear_leftovers(within: Path) -> None:
    """Remove what killed writers left of any file in a folder, or in those within it."""
    _clear(found for found in within.rglob(f".*{PART}") if MADE.fullmatch(found.name))


def _clear(folders: Iterable[Path]) -> None:
    """Remove the folders of writers that were killed; those of living ones are locked."""
    for folder in list(folders) if fcntl is not None else ():
        with _locked(folder, wait=False) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder, if it is to be had; the system lets go of those of the dead."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # it is gone; or this is Windows, which opens no folders
        yield False
        return
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError:  # another's, or a file system without locks
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
