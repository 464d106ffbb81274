"""Files are replaced as a whole: modes, kills, full disks, and several writers at once."""

import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from path_cases import fit, path, same_weights, timeless
from torch import nn

import lissom
from lissom.compressions import Dense, save_compressed
from lissom.curves import Start
from lissom.errors import RunError, StorageError
from lissom.report import write_curve_report
from lissom.storage import (
    append_event,
    leftovers,
    load_json,
    load_state,
    load_tensors,
    read_events,
    replace,
    replacing,
    save_events,
    save_json,
    save_state,
    save_tensors,
)

X = torch.linspace(-1, 1, 12).reshape(2, 6)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))


def private(file: Path, text: str) -> None:
    """As tempfile makes files."""
    os.close(os.open(file, os.O_CREAT, 0o600))
    file.write_text(text)


def by_others(file: Path) -> None:
    with replacing(file) as beside:
        private(beside, "x" * 4000)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda file: replace(file, "x" * 4000),
    "library": by_others,
    "json": lambda file: save_json({"x": list(range(1000))}, file, "lissom test 1"),
    "events": lambda file: save_events([{"epoch": n} for n in range(100)], file),
    "state": lambda file: save_state({"x": torch.zeros(1000)}, file, "lissom test 1"),
    "tensors": lambda file: save_tensors({"x": torch.zeros(1000)}, file, "lissom test 1"),
    "network": lambda file: lissom.save(lissom.shrink(net(), X), file),
    "compressed": lambda file: save_compressed(net(), {"0.weight": Dense(torch.ones(40, 6))}, file),
    "page": lambda file: write_curve_report([file.parent / "path"], file),
}
each_writer = pytest.mark.parametrize("kind", WRITERS)


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for the page."""
    return path(out=tmp_path_factory.mktemp("curve") / "path", seeds=1, points=3).out


@pytest.fixture
def file(tmp_path: Path, curve: Path, kind: str) -> Path:
    if kind == "page":
        (tmp_path / "path").symlink_to(curve)
    return tmp_path / "file"


def beside(file: Path) -> list[str]:
    return sorted(found.name for found in file.parent.iterdir() if found.name != "path")


def in_a_child(work: Callable[[], object]) -> int:
    """The exit code of a process that does this: 0 if it is done."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def small_disk(size: int = 1000) -> Iterator[None]:
    """A disk on which files of more bytes do not fit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@each_writer
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_modes_are_those_of_open(file: Path, kind: str, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        WRITERS[kind](file)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == mode


@each_writer
def test_killed_before_it_is_replaced(
    file: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("old")

    def die(*paths: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        assert in_a_child(lambda: WRITERS[kind](file)) == -signal.SIGKILL
    assert file.read_text() == "old"
    [left] = leftovers(file)
    assert (left / file.name).stat().st_size > 1000
    WRITERS[kind](file)  # which clears away what was left
    assert beside(file) == ["file"] and file.stat().st_size > 1000


@each_writer
def test_a_full_disk(file: Path, kind: str) -> None:
    file.write_text("old")
    with small_disk(), pytest.raises(StorageError, match=rf"{file} cannot be written: File too la"):
        WRITERS[kind](file)
    assert file.read_text() == "old" and beside(file) == ["file"]


def test_a_full_disk_while_an_event_is_added(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_event({"epoch": 1}, file)
    with small_disk(100), pytest.raises(StorageError, match="File too large"):
        append_event({"epoch": 2, "more": "x" * 100}, file)
    assert read_events(file) == [{"epoch": 1}]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(KeyError), replacing(file) as here:
        here.write_text("new")
        raise KeyError
    assert file.read_text() == "old" and beside(file) == ["file"]


def test_it_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, moving = [], os.replace

    def sync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def move(*paths: Path) -> None:
        done.append("moved")
        moving(*paths)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    replace(tmp_path / "a.txt", "x")
    file, moved, folder = done
    assert Path(file).name == "a.txt" and file != str(tmp_path / "a.txt")
    assert (moved, folder) == ("moved", str(tmp_path))


def test_files_beside_the_one_come_along(tmp_path: Path) -> None:
    with replacing(tmp_path / "net.onnx") as here:
        here.write_text("graph")
        (here.parent / "net.onnx.data").write_text("weights")
    assert beside(tmp_path / "net.onnx") == ["net.onnx", "net.onnx.data"]


def test_what_cannot_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is a directory"):
        replace(tmp_path, "x")
    with pytest.raises(RunError, match="is no directory, so x cannot be written there"):
        replace(tmp_path / "none" / "x", "x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="is a device or a pipe"):
        replace(tmp_path / "pipe", "x")
    with pytest.raises(StorageError, match="cannot be written: File name too long"):
        replace(tmp_path / ("x" * 300), "x")
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    file = tmp_path / "file"
    private(file, "old")
    replace(file, "new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "link", tmp_path / "disk" / "file"
    link.symlink_to("disk/file")
    if there:
        file.write_text("old")
    replace(link, "new")
    assert link.is_symlink() and file.read_text() == "new"
    assert [len(list(folder.iterdir())) for folder in (tmp_path, tmp_path / "disk")] == [2, 1]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "that is quantised"),
        (torch.eye(2).to_sparse(), r"whose layout is .*to_dense\(\)"),
        (torch.zeros(2, device="meta"), "on the device meta"),
    ],
)
def test_tensors_that_no_file_can_hold(tmp_path: Path, tensor: torch.Tensor, said: str) -> None:
    file = tmp_path / "file"
    with pytest.raises(RunError, match=f"{file} cannot hold scale, a tensor {said}"):
        save_tensors({"scale": tensor}, file, "lissom test 1")
    assert not file.exists()


class Own:
    """What a user's optimizer may keep."""


@pytest.mark.parametrize("bad", [Own(), Own, deque([1]), lambda: 0, {"x": [Own()]}])
def test_states_that_could_not_be_read_again(tmp_path: Path, bad: object) -> None:
    file = tmp_path / "file"
    with pytest.raises(RunError, match=rf"{file} would hold what cannot be read again \(.+\)"):
        save_state({"state": bad}, file, "lissom test 1")
    assert not file.exists()


class Large:
    """What there is no memory for when it is written."""

    def __reduce__(self) -> str:
        raise MemoryError


def test_a_machine_that_fails_says_nothing_of_the_state(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        save_state({"state": Large()}, tmp_path / "file", "lissom test 1")
    assert not (tmp_path / "file").exists()


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path: Path) -> None:
    given = {"lr": np.float32(0.5), "groups": [{"betas": (np.float64(0.9), np.int64(2))}]}
    expected = {"lr": 0.5, "groups": [{"betas": (0.9, 2)}]}
    save_state(given, tmp_path / "state", "lissom test 1")
    found = load_state(tmp_path / "state", "lissom test 1")
    save_json(given, tmp_path / "json", "lissom test 1")
    as_lists = {"lr": 0.5, "groups": [{"betas": [0.9, 2]}]}
    assert found == expected and load_json(tmp_path / "json", "lissom test 1").items() >= (
        as_lists.items()
    )


def test_what_is_read_are_the_numbers_that_were_seen(tmp_path: Path) -> None:
    """Not those in memory, of which a conjugate is a view."""
    x = torch.tensor([1 + 2j, 3 - 4j])
    seen = {"conjugate": x.conj(), "imaginary": x.conj().imag, "one of them": x.conj()[1]}
    save_tensors(seen, tmp_path / "file", "lissom test 1")
    _, read = load_tensors(tmp_path / "file", "lissom test 1")
    assert all(torch.equal(read[name], tensor) for name, tensor in seen.items())


def test_a_writer_leaves_others_alone(tmp_path: Path) -> None:
    """One that is at work is no leftover."""
    file = tmp_path / "file[1]"  # a name that would be a pattern
    with replacing(file) as here:
        here.write_text("first")
        replace(file, "second")
        assert file.read_text() == "second" and leftovers(file) == [here.parent]
    assert file.read_text() == "first" and leftovers(file) == []


def test_a_reader_sees_whole_files(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    pages = ["a" * 300_000, "b" * 200_000]
    replace(file, pages[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(40):
        replace(file, pages[n % 2])
    done.set()
    reader.join()
    assert seen <= set(pages)


def test_two_processes_write_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    pages = ["a" * 30_000, "b" * 20_000]

    def write_both() -> None:
        other = os.fork()
        for _ in range(30):
            replace(file, pages[other == 0])
            assert file.read_text() in pages
        if other == 0:
            os._exit(0)
        assert os.waitpid(other, 0)[1] == 0

    assert in_a_child(write_both) == 0
    assert file.read_text() in pages and beside(file) == ["file"]


def test_a_path_that_met_a_full_disk_goes_on_where_it_was(tmp_path: Path) -> None:
    """It is the machine that failed, and not the training: no point is noted as failed."""

    def fit_on_a_small_disk(net: nn.Module, strength: float | None, start: Start) -> object:
        if strength is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (800, hard))
        return fit(net, strength, start)

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    given = {"seeds": 1, "points": 4, "out": tmp_path / "p"}
    with small_disk(10**9), pytest.raises(StorageError, match=r"network\.safetensors cannot be"):
        path(fit=fit_on_a_small_disk, **given)
    assert len(list((tmp_path / "p").glob("seed0/*/point.json"))) == 1
    resumed, whole = path(**given, retry_failed=True), path(**{**given, "out": None})
    assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)


def test_lack_of_memory_is_no_failure_of_a_point(tmp_path: Path) -> None:
    def fit_without_memory(net: nn.Module, strength: float | None, start: Start) -> object:
        raise MemoryError

    with pytest.raises(MemoryError):
        path(fit=fit_without_memory, out=tmp_path / "p", seeds=1)
    assert list((tmp_path / "p").glob("seed0/*/point.json")) == []
