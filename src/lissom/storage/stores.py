"""A folder in a bucket, or on any other file system that fsspec knows, with a copy of it here.

Work is done in the copy, which is an ordinary folder. What is finished goes to the store: each file
under another name first, and then to its place; the file that says that all are there comes last.
A write that fails is tried again.
"""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from lissom.errors import RunError, StorageError

TRIES, FIRST_WAIT = 6, 0.05  # of a file; seconds, which double
BEAT, SILENCE = 5.0, 20.0  # seconds between signs of life, and after which a holder is lost
CLAIMS, BESIDE = ".lissom-locks", ".lissom-part-"

log = logging.getLogger(__name__)

T = TypeVar("T")


def is_url(place: object) -> bool:
    """Whether it is an address such as s3://bucket/curve, and not the path of a folder here."""
    return isinstance(place, str) and "://" in place


class Store:
    """A folder at a URL, and its copy in a folder here.

    Args:
        url: as fsspec has them: "s3://bucket/curve", "gs://…", "memory://curve".
        here: the copy, which is filled by `pull`.

    Raises:
        StorageError: if nothing that is installed knows such an address.
    """

    def __init__(self, url: str, here: Path) -> None:
        import fsspec

        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{url} cannot be opened: {error}") from error
        self.url, self.here = url, here
        self._root = str(root).rstrip("/")

    def at(self, here: Path) -> "Store":
        """The same store with another copy."""
        return Store(self.url, here)

    def names(self, last: str) -> list[str]:
        """The folders of the store, such as "seed0/dense", in which a file of this name is."""
        self._files.invalidate_cache()
        found = self._tried(lambda: self._files.find(self._root), "listed")
        below = [str(path)[len(self._root) + 1 :] for path in found]
        return sorted(name.rpartition("/")[0] for name in below if name.endswith(f"/{last}"))

    def pull(self, name: str) -> None:
        """Have a file of the store here, or all of a folder; nothing if it is not there."""
        self._files.invalidate_cache()
        place = f"{self._root}/{name}"
        for path in self._tried(lambda: self._files.find(place), "listed"):
            below = str(path)[len(self._root) + 1 :]
            if BESIDE not in below:
                target = self.here / below
                target.parent.mkdir(parents=True, exist_ok=True)
                self._tried(partial(self._files.get_file, path, str(target)), "read")

    def push(self, name: str, last: str | None = None) -> None:
        """Put a file, or all files of a folder, into the store.

        Args:
            name: below the copy.
            last: the file of the folder that comes after all others.

        Raises:
            StorageError: where a file cannot be written, time and again.
        """
        given = self.here / name
        files = [given] if given.is_file() else sorted(p for p in given.rglob("*") if p.is_file())
        for file in sorted(files, key=lambda path: path.name == last):
            place = f"{self._root}/{file.relative_to(self.here).as_posix()}"
            self._tried(partial(self._put, file, place), "written")

    def remove(self, name: str) -> None:
        """Take a folder out of the store."""
        place = f"{self._root}/{name}"
        if self._tried(lambda: self._files.exists(place), "listed"):
            self._tried(lambda: self._files.rm(place, recursive=True), "removed")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the store for oneself.

        Whoever has it gives a sign of life every few seconds. One that gives none is lost, and the
        next takes over; that is told by watching, since clocks of machines differ.

        Raises:
            RunError: if somebody else has it, naming the machine and the process.
        """
        mine = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        for attempt in range(TRIES):
            self._require_free(mine)
            self._claim(mine, 0)
            if not self._others(mine):
                break
            self._unclaim(mine)  # two came at the same moment
            time.sleep(FIRST_WAIT * 2**attempt * (1 + int(mine[-2:], 16) / 64))
        else:
            raise RunError(f"several processes began in {self.url} at the same time: begin again")
        over = Event()
        life = Thread(target=self._live, args=(mine, over), daemon=True)
        life.start()
        try:
            yield
        finally:
            over.set()
            life.join()
            self._unclaim(mine)

    def _put(self, file: Path, place: str) -> None:
        folder, _, name = place.rpartition("/")
        beside = f"{folder}/{BESIDE}{uuid.uuid4().hex[:8]}-{name}"
        self._files.makedirs(folder, exist_ok=True)
        try:
            self._files.put_file(str(file), beside)
            self._files.mv(beside, place)
        except BaseException:
            with suppress(Exception):
                self._files.rm(beside)
            raise

    def _live(self, mine: str, over: Event) -> None:
        beat = 0
        while not over.wait(BEAT):
            beat += 1
            try:
                self._claim(mine, beat)
            except StorageError as error:
                log.warning("%s: no sign of life could be given: %s", self.url, error)

    def _claim(self, mine: str, beat: int) -> None:
        place = f"{self._root}/{CLAIMS}/{mine}"
        content = json.dumps({"beat": beat}).encode()

        def write() -> None:
            self._files.makedirs(f"{self._root}/{CLAIMS}", exist_ok=True)
            self._files.pipe_file(place, content)

        self._tried(write, "written")

    def _unclaim(self, mine: str) -> None:
        with suppress(Exception):  # it is told to be lost after a while
            self._files.rm(f"{self._root}/{CLAIMS}/{mine}")

    def _others(self, mine: str) -> dict[str, bytes]:
        """What others who have the store, or had, said last."""
        self._files.invalidate_cache()
        places = self._tried(lambda: self._files.find(f"{self._root}/{CLAIMS}"), "listed")
        said = {}
        for place in places:
            name = str(place).rpartition("/")[2]
            if name != mine:
                with suppress(FileNotFoundError):
                    said[name] = self._tried(partial(self._files.cat_file, place), "read")
        return said

    def _require_free(self, mine: str) -> None:
        """Wait until it is known that whoever had the store is lost, or refuse."""
        before = {name: said for name, said in self._others(mine).items() if not _is_dead(name)}
        if before:
            log.warning(
                "%s is in use by %s, or was: waiting %.0f s for a sign of life",
                self.url, ", ".join(before), SILENCE,
            )  # fmt: skip
            end = time.monotonic() + SILENCE
            while time.monotonic() < end:
                time.sleep(min(BEAT / 2, SILENCE))
                now = self._others(mine)
                alive = [n for n, said in now.items() if n not in before or said != before[n]]
                if alive:
                    raise RunError(
                        f"{self.url} is in use by another process ({alive[0]}, which is machine, "
                        "process and a number): wait until it has ended, or take another place"
                    )
        for name in self._others(mine):
            self._unclaim(name)

    def _tried(self, work: Callable[[], T], what: str) -> T:
        """Done again where it fails, as things do on networks."""
        for attempt in range(TRIES):
            try:
                return work()
            except FileNotFoundError:
                if what == "listed":
                    return []  # type: ignore[return-value]
                raise
            except Exception as error:  # each file system raises its own
                if attempt == TRIES - 1:
                    raise StorageError(
                        f"{self.url}: something could not be {what} in {TRIES} tries: {error}"
                    ) from error
                time.sleep(FIRST_WAIT * 2**attempt)
        raise AssertionError


def _is_dead(claim: str) -> bool:
    """Whether it is of a process of this machine that is gone."""
    host, process, _ = claim.rsplit("-", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
