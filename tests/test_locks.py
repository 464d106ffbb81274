"""One writer for a folder: refused with the other's name, free when it dies, readers not kept."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from path_cases import make, path
from products import few
from training_cases import trainer
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.curves import Curve
from lissom.errors import RunError, StorageError
from lissom.storage import LOCK, alone_in, locking


@contextmanager
def another_in(folder: Path) -> Iterator[int]:
    """A process that has the folder to itself."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_in(folder):
            os.write(there, b"x")
            signal.pause()
    os.read(here, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(here)
        os.close(there)


WRITERS: dict[str, Callable[[Path], object]] = {
    "path": lambda out: path((1e-3, 1.0), points=3, seeds=1, out=out),
    "a point of a path": lambda out: path((1e-3, 1.0), points=3, seeds=1, out=out.parents[1]),
    "training": lambda out: trainer(out=out, epochs=1).fit(),
}


@pytest.mark.parametrize("kind", few(WRITERS, ["path", "training"]))
def test_a_second_process_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out = tmp_path / "out" / "seed0" / "dense"
    monkeypatch.setattr(locking, "PATIENCE", 0.05)
    with another_in(out) as other:
        before = sorted(out.rglob("*"))
        with pytest.raises(RunError, match=rf"{out} is in use by process {other} on "):
            WRITERS[kind](out)
        assert sorted(out.rglob("*")) == before == [out / LOCK]
    WRITERS[kind](out)  # it was killed, and has left its lock file
    assert not list(tmp_path.rglob(LOCK))


@pytest.mark.parametrize("command", ["train digits-demo", "path digits-path"])
def test_commands_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.05)
    with another_in(run := tmp_path / "run") as other:
        done = CliRunner().invoke(app, [*command.split(), "--out", str(run)])
        assert done.exit_code == 2
        assert f"error: {run} is in use by process {other} on " in done.stderr
        assert [file.name for file in run.iterdir()] == [LOCK]


def test_readers_are_not_kept(tmp_path: Path) -> None:
    whole = path((1e-3, 1.0), points=3, seeds=1, out=tmp_path)
    with another_in(tmp_path):
        assert Curve.load(tmp_path, make).points == whole.points
        lissom.report.write_curve_report([tmp_path], tmp_path / "report.html")


def test_a_second_process_waits_for_one_that_is_ending(tmp_path: Path) -> None:
    with another_in(tmp_path) as other:
        threading.Timer(0.2, os.kill, (other, signal.SIGKILL)).start()
        with alone_in(tmp_path):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_a_thread_has_a_folder_once_and_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.05)
    said: list[str] = []

    def other() -> None:
        try:
            with alone_in(tmp_path):
                said.append("two at once")
        except RunError as error:
            said.append(str(error))

    with alone_in(tmp_path), alone_in(tmp_path / "x" / ".."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1 and f"in use by process {os.getpid()} on" in said[0]
    with alone_in(tmp_path):  # it was given up by the outer of the two
        assert (tmp_path / LOCK).exists()


def test_many_at_once_have_it_one_after_another(tmp_path: Path) -> None:
    """Each removes the lock file that the next one may have opened already."""
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(20):
                    with alone_in(tmp_path):
                        os.close(os.open(tmp_path / "mine", os.O_CREAT | os.O_EXCL))
                        os.unlink(tmp_path / "mine")
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking, "_lock", none)
    told = pytest.warns(UserWarning, match="has no locks .No locks available.: nothing keeps")
    with told as warned, alone_in(tmp_path), alone_in(tmp_path):
        assert [w.filename for w in warned] == [__file__]


def test_a_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/run cannot be made: Not a directory"):
        trainer(out=tmp_path / "file" / "run").fit()

    def full(*args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StorageError, match=rf"{LOCK} cannot be written: No space left on device"):
        trainer(out=tmp_path / "run").fit()
