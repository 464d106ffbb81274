"""Paths in buckets: any file system of fsspec, writes that fail, two that want the same place."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from path_cases import EXAMPLE, fit, make, path, same_weights, timeless

from lissom.curves import Curve, makers
from lissom.errors import PathError, RunError, StorageError
from lissom.storage import stores

FORK = multiprocessing.get_context("fork")
STRENGTHS = [1e-3, 1e-2, 1e-1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BEAT", 0.05)
    monkeypatch.setattr(stores, "SILENCE", 0.5)
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(makers, "get_context", lambda method: FORK)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    return path(STRENGTHS, out=tmp_path_factory.mktemp("here") / "curve")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://bucket/curve" if request.param == "memory" else f"file://{tmp_path}/curve"


def files(url: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return [str(name) for name in system.find(root)]


def test_a_path_in_a_store_is_the_same(url: str, curve: Curve) -> None:
    made = path(STRENGTHS, out=url)
    again = Curve.load(url, make, EXAMPLE)
    for found in (made, again):
        assert timeless(found) == timeless(curve) and same_weights(found, curve)
    assert again.network(again.points[1]) is not None
    assert not any(stores.BESIDE in name or stores.CLAIMS in name for name in files(url))


def test_finished_points_are_not_repeated(url: str, curve: Curve) -> None:
    calls = []

    def stops(net: Any, strength: Any, start: Any) -> Any:
        calls.append((start.seed, strength))
        if len(calls) == 6:
            raise MemoryError("of this machine")
        return fit(net, strength, start)

    with pytest.raises(MemoryError) as told:
        path(STRENGTHS, fit=stops, out=url)
    assert any(url in note for note in told.value.__notes__)
    calls += [()]  # so that it does not stop again
    made = path(STRENGTHS, fit=stops, out=url)
    assert len(calls) == len(made.points) + 2
    assert timeless(made) == timeless(curve) and same_weights(made, curve)


def test_another_experiment_is_told(url: str) -> None:
    path(STRENGTHS, out=url)
    with pytest.raises(PathError, match="holds a path with") as told:
        path(STRENGTHS[1:], out=url)
    assert url in str(told.value)


def test_failed_points_are_made_again(url: str) -> None:
    def fails(net: Any, strength: Any, start: Any) -> Any:
        if strength == 1e-2:
            raise ValueError("no")
        return fit(net, strength, start)

    first = path(STRENGTHS, fit=fails, out=url)
    assert sum(point.failed is not None for point in first.points) == 2
    assert any(name.endswith("failed.txt") for name in files(url))
    made = path(STRENGTHS, out=url, retry_failed=True)
    assert all(point.failed is None for point in made.points)
    assert not any(name.endswith("failed.txt") for name in files(url))
    assert all(point.failed is None for point in Curve.load(url).points)


@pytest.mark.usefixtures("forked_makers")
@pytest.mark.parametrize("by", ["jobs", "pool"])
def test_others_make_the_points(tmp_path: Path, curve: Curve, by: str) -> None:
    place = f"file://{tmp_path}/curve"
    if by == "jobs":
        made = path(STRENGTHS, out=place, jobs=2, from_scratch=[1e-2])
    else:  # with nothing but the store in common
        with ProcessPoolExecutor(3, mp_context=FORK) as executor:
            made = path(STRENGTHS, out=place, executor=executor, from_scratch=[1e-2])
    kept = [point for point in timeless(made) if not point["from_scratch"]]
    assert kept == timeless(curve)
    assert sum(point.from_scratch for point in made.points) == 2


class Flaky(MemoryFileSystem):
    """Every tenth write fails, some of them half-way."""

    protocol = "flaky"
    writes = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
        self._fail(path)
        return super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> Any:
        content = Path(lpath).read_bytes()
        self._fail(rpath, content[: len(content) // 2])
        return super().pipe_file(rpath, content)

    def mv(self, *args: Any, **kwargs: Any) -> Any:
        self._fail(None)
        return super().mv(*args, **kwargs)

    def _fail(self, path: str | None, half: bytes = b"") -> None:
        Flaky.writes += 1
        if Flaky.writes % 10 == 0:
            if path is not None:
                super().pipe_file(path, half)
            raise OSError("the network is unreachable")


def test_a_store_that_fails_every_tenth_write_loses_nothing(curve: Curve) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    made = path(STRENGTHS, out="flaky://bucket/curve")
    assert Flaky.writes > 50
    for found in (made, Curve.load("flaky://bucket/curve", make, EXAMPLE)):
        assert timeless(found) == timeless(curve) and same_weights(found, curve)
    assert not any(stores.BESIDE in name for name in files("flaky://bucket/curve"))


def test_a_store_that_is_gone_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(MemoryFileSystem, "put_file", gone)
    with pytest.raises(StorageError, match=r"memory://bucket/curve.*6 tries.*no route"):
        path(STRENGTHS, out="memory://bucket/curve")


def test_an_address_that_nobody_knows() -> None:
    with pytest.raises(StorageError, match="nowhere://bucket"):
        path(STRENGTHS, out="nowhere://bucket")
    with pytest.raises(RunError, match="there is no path in memory://empty"):
        Curve.load("memory://empty")


def test_two_that_want_the_same_place(url: str, curve: Curve) -> None:
    """The one that was first works, and the other says so."""
    begun, go_on = threading.Event(), threading.Event()
    found: list[Any] = []

    def slow(net: Any, strength: Any, start: Any) -> Any:
        begun.set()
        go_on.wait(20)
        return fit(net, strength, start)

    first = threading.Thread(target=lambda: found.append(path(STRENGTHS, fit=slow, out=url)))
    first.start()
    begun.wait(20)
    with pytest.raises(RunError, match="in use by another process") as told:
        path(STRENGTHS, fit=slow, out=url)
    assert url in str(told.value)
    go_on.set()
    first.join(20)
    assert timeless(found[0]) == timeless(curve)


def test_a_holder_that_is_lost_is_followed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(f"{root}/{stores.CLAIMS}", exist_ok=True)
    system.pipe_file(f"{root}/{stores.CLAIMS}/elsewhere-1-00000000", b'{"beat": 7}')
    started = time.monotonic()
    path(STRENGTHS, out=url)
    assert time.monotonic() - started >= stores.SILENCE
    assert not any("elsewhere" in name for name in files(url))


def _killed(place: str) -> None:
    def dies(net: Any, strength: Any, start: Any) -> Any:
        if strength == 1e-2:
            os.kill(os.getpid(), signal.SIGKILL)
        return fit(net, strength, start)

    path(STRENGTHS, fit=dies, out=place)


def test_a_killed_driver_of_this_machine_is_followed_at_once(
    tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"file://{tmp_path}/curve"
    driver = FORK.Process(target=_killed, args=(place,))
    driver.start()
    driver.join()
    assert any(stores.CLAIMS in name for name in files(place))
    monkeypatch.setattr(stores, "SILENCE", 60.0)
    again: list[Any] = []

    def counted(net: Any, strength: Any, start: Any) -> Any:
        again.append((start.seed, strength))
        return fit(net, strength, start)

    made = path(STRENGTHS, fit=counted, out=place, retry_failed=True)
    assert (0, None) not in again and (0, 1e-3) not in again
    assert timeless(made) == timeless(curve) and same_weights(made, curve)
