"""Faults of the machine are no failures of a point: the path stops, keeps, and goes on later."""

import errno
import io
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from libraries import library
from path_cases import fit, path, same_weights, timeless
from products import exhaustive, few
from safetensors import SafetensorError
from torch import nn
from typer.testing import CliRunner

import lissom.recipes
from lissom.cli import app
from lissom.curves import Start
from lissom.errors import LissomError, PathError, StorageError, machine_failed
from lissom.integrations.handles import MissingError

KINDS = {*LissomError.__subclasses__(), MissingError, StorageError}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OfTwoError(OSError):
    """As no other process can make it again from what pickle keeps."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def throw(error: BaseException, cause: BaseException | None = None) -> None:
    raise error from cause


def loop() -> None:
    error = RuntimeError("out of memory")
    raise error from error


FAULTS: dict[str, Callable[[], object]] = {
    "full disk": lambda: throw(FULL),
    "read-only folder": lambda: throw(OSError(errno.EROFS, "Read-only file system")),
    "lost folder": lambda: open("/no/such/folder/x"),  # noqa: SIM115
    "a file of lissom's": lambda: throw(StorageError("x cannot be written")),
    "no memory": lambda: throw(MemoryError()),
    "no memory for torch": lambda: torch.empty(2**50),
    "no memory on a GPU": lambda: throw(torch.OutOfMemoryError("CUDA out of memory. Tried")),
    "no memory in cuBLAS": lambda: throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")),
    "torch.save": lambda: throw(RuntimeError("PytorchStreamWriter failed writing file data/0")),
    "safetensors": lambda: throw(SafetensorError("I/O error: No space left (os error 28)")),
    "a loader of data": lambda: throw(
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    ),
    "another's error about it": lambda: throw(ValueError("no data"), FULL),
    "an error of its own cause": loop,
    "an odd class": lambda: throw(OfTwoError("disk ", "gone")),
}  # fmt: skip
MISTAKES: dict[str, Callable[[], object]] = {
    "a shape": lambda: torch.ones(2) + torch.ones(3),
    "a division": lambda: 1 / 0,
    "a word": lambda: throw(ValueError("out of memory cells")),
    "recursion": lambda: MISTAKES["recursion"](),
    "an assertion": lambda: throw(AssertionError()),
    "divergence": lambda: throw(lissom.errors.RunError("training diverged")),
}  # fmt: skip


def faulty(net: nn.Module, strength: float | None, start: Start) -> Any:
    """`fit` that fails as the environment says, at one point of one seed."""
    if strength == 1e-3 and start.seed == 1 and (fault := os.environ.get("FAULT")):
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        (FAULTS | MISTAKES)[fault]()
    return fit(net, strength, start)


GIVEN: dict[str, Any] = {"strengths": (1e-3, 1.0), "points": 3, "fit": faulty}


def interrupted(out: Path, fault: str, monkeypatch: pytest.MonkeyPatch, jobs: int = 1) -> Any:
    given: dict[str, Any] = {**GIVEN, "out": out, "jobs": jobs}
    with monkeypatch.context() as patch:
        patch.setenv("FAULT", fault)
        try:
            path(**given)
        finally:
            finished = list(out.glob("seed*/*/point.json"))
            if fault in FAULTS or fault == "killed":
                assert not list(out.glob("seed*/*/failed.txt"))
                assert 2 <= len(finished) < 6
    return given


@pytest.mark.parametrize("error", [*FAULTS, *MISTAKES])
def test_what_the_machine_is_to_blame_for(error: str) -> None:
    with pytest.raises(Exception) as raised:
        (FAULTS | MISTAKES)[error]()
    assert machine_failed(raised.value) == (error in FAULTS)


@pytest.mark.parametrize("fault", few(FAULTS, ["no memory for torch"]))
def test_a_fault_stops_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    out = tmp_path / "path"
    with pytest.raises(Exception) as raised:
        interrupted(out, fault, monkeypatch)
    assert f"the path in {out} stopped at strength 0.001, seed 1; what" in raised.value.__notes__[0]
    given = GIVEN
    resumed, whole = path(**given, out=out), path(**given)
    assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)


@pytest.mark.parametrize("mistake", few(MISTAKES, []))
def test_a_mistake_fails_the_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    given = interrupted(tmp_path / "path", mistake, monkeypatch)
    [failed] = path(**given).failed
    assert (failed.strength, failed.seed) == (1e-3, 1)


@exhaustive
@pytest.mark.usefixtures("forked_makers")
@pytest.mark.parametrize("fault", ["full disk", "killed"])
def test_across_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    expected = {"full disk": OSError, "an odd class": OSError, "killed": PathError}
    with pytest.raises(expected.get(fault, RuntimeError)) as raised:
        interrupted(tmp_path / "path", fault, monkeypatch, jobs=2)
    said = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    assert ("memory may have run out" if fault == "killed" else "stopped at strength 0.001") in said
    given = GIVEN
    resumed, whole = path(**given, out=tmp_path / "path"), path(**given)
    assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)


def plain(error: LissomError) -> bytes:
    return pickle.dumps(error)


def as_dask(error: LissomError) -> bytes:
    """It has all exceptions of a process pickled by another library."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = {type(error): library("tblib.pickling_support").pickle_exception}
    pickler.dump(error)
    return file.getvalue()


@pytest.mark.parametrize("pickled", [plain, as_dask])
@pytest.mark.parametrize("kind", sorted(KINDS, key=str))
def test_errors_cross_processes(
    kind: type[LissomError], pickled: Callable[[LissomError], bytes]
) -> None:
    error = kind("x", field="y")
    error.add_note("z")
    again = pickle.loads(pickled(error))
    assert (type(again), str(again), again.field) == (kind, "x", "y")
    assert again.__notes__ == ["z"]


@pytest.mark.parametrize("fault", ["no memory", "no memory for torch", "full disk"])
def test_commands_say_it_in_a_line(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(lissom.recipes, "read_recipe", lambda *_, **__: FAULTS[fault]())
    done = CliRunner().invoke(app, ["train", "digits-demo"])
    assert done.exit_code == 2 and done.stderr.startswith("error: ")
    monkeypatch.setattr(lissom.recipes, "read_recipe", lambda *_, **__: 1 / 0)
    assert isinstance(CliRunner().invoke(app, ["train", "digits-demo"]).exception, ArithmeticError)


@pytest.mark.parametrize("file", few(["network.safetensors", "state.pt"], ["state.pt"]))
def test_a_damaged_file_of_the_point_before_stops_the_path(tmp_path: Path, file: str) -> None:
    """What is wrong is not the point that would begin with it."""
    given: dict[str, Any] = {**GIVEN, "seeds": 1, "out": tmp_path / "path"}
    path(**given)
    last, before = (tmp_path / "path" / "seed0" / name for name in ("strength-0.001", "dense"))
    (last / "point.json").unlink()
    whole = (before / file).read_bytes()
    (before / file).write_bytes(whole[:-20])
    with pytest.raises(LissomError, match=file):
        path(**given)
    assert not (last / "point.json").exists() and not (last / "failed.txt").exists()
    (before / file).write_bytes(whole)
    assert not path(**given).failed
