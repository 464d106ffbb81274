"""One writer for a folder: a lock that the system lets go of when its process dies."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lissom.errors import RunError, StorageError, warn
from lissom.storage.replacing import clear_leftovers

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the text, which others are to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCK = ".lock"
PATIENCE = 5.0  # seconds; processes that a killed one had started may outlive it by a moment

_own = threading.local()  # .folders: those that this thread has


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Have a folder, which is made if it is not there, for oneself; whoever only reads is not kept.

    What killed writers left there is cleared away. Within it the same thread may ask for the same
    folder again. On a file system without locks there is a warning instead of a lock.

    Raises:
        RunError: if another process, or thread, has the folder and keeps it.
        StorageError: if the folder cannot be made, or nothing can be written there.
    """
    own: set[Path] = _own.__dict__.setdefault("folders", set())
    place = folder.resolve()
    if place in own:
        yield
        return
    make_folder(folder)
    descriptor = _descriptor(folder)
    own.add(place)
    try:
        clear_leftovers(folder)
        yield
    finally:
        own.discard(place)
        with suppress(OSError):  # the folder is gone; or this is Windows, which keeps open files
            (folder / LOCK).unlink()
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there.

    Raises:
        StorageError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror or error}") from error


def _descriptor(folder: Path) -> int:
    """The folder's lock file, opened and locked, with the name of this process in it."""
    path, until = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            if time.monotonic() > until:
                raise RunError(
                    f"{folder} is in use by {_name_in(path)}: two at work in one folder would mix "
                    "their files. Wait for it, end it, or choose another folder"
                ) from error
            time.sleep(0.02)
            continue
        except OSError as error:
            warn(
                f"the file system of {folder} has no locks ({error.strerror or error}): nothing "
                "keeps a second process from writing there"
            )
        if _is_at(descriptor, path):
            with suppress(OSError):  # it is only for messages, so the disk may be full
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file is still there: who had it before removes it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _name_in(path: Path) -> str:
    """Who has the lock, as well as is known."""
    with suppress(OSError):
        if name := path.read_text(encoding="utf-8", errors="replace").strip():
            return name.splitlines()[0][:200]
    return "another process"
