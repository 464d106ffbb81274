"""Disks that are full: at the n-th call that writes, or a small file system of its own."""

import errno
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "replace", "mkdir", "chmod", "truncate")


class FullAt:
    """Counts the calls of the system that write, and fails the n-th of them; 0 fails none."""

    def __init__(self, n: int = 0) -> None:
        self.n, self.calls = n, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _File:
    """A file that may be full: half of what is written is in it then."""

    def __init__(self, file: Any, full: FullAt) -> None:
        self._file, self._full = file, full

    def write(self, content: Any) -> Any:
        try:
            self._full()
        except OSError:
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise
        return self._file.write(content)

    def close(self) -> None:
        closed = self._file.closed
        self._file.close()
        if not closed:
            self._full()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def full_at(n: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FullAt]:
    """A disk that is full at the n-th call."""
    full, real_open, descriptor = FullAt(n), io.open, os.open

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return real_open(file, mode, *args, **kwargs)
        full()
        return _File(real_open(file, mode, *args, **kwargs), full)

    def creating(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            full()
        return descriptor(path, flags, *args, **kwargs)

    def failing(call: Any) -> Any:
        def fail(*args: Any, **kwargs: Any) -> Any:
            full()
            return call(*args, **kwargs)

        return fail

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", opening)
        patch.setattr("builtins.open", opening)
        patch.setattr(os, "open", creating)
        for name in CALLS:
            patch.setattr(os, name, failing(getattr(os, name)))
        yield full


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size at the folder, where one may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """A file that takes all of a file system but so many bytes."""
    filler = folder / "filler"
    with suppress_full(), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - left))
    return filler


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
