"""Points that others make: executors, processes that die, and functions no module has."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from path_cases import fit, path, same_weights, timeless
from products import sampled
from torch import nn

from lissom.curves import Curve, Start, makers
from lissom.errors import PathError

FORK = multiprocessing.get_context("fork")  # as fast as this process, which has imported all
STRENGTHS = [1e-3, 1e-2, 1e-1]


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    return path(STRENGTHS, out=tmp_path_factory.mktemp("here") / "curve")


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=FORK)


def deadly(folder: Path, times: int) -> Callable[..., Any]:
    """A training that kills its process so many times at one point; a closure.

    A pool that breaks loses the other seed's point too, which therefore waits at this strength.
    """
    deaths = [folder / f"died {n}" for n in range(times)]

    def training(net: nn.Module, strength: float | None, start: Start) -> Any:
        if (start.seed, strength) == (1, 1e-3):
            for death in deaths:
                try:
                    death.touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        patience = time.monotonic() + 60
        while strength == 1e-3 and not deaths[-1].exists() and time.monotonic() < patience:
            time.sleep(0.01)
        return fit(net, strength, start)

    return training


@pytest.fixture(params=["threads", "a pool", "a function that makes pools", "jobs"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(makers, "get_context", lambda method: FORK)
    if request.param == "jobs":
        yield {"jobs": 2}
    elif request.param == "a function that makes pools":
        yield {"executor": pool}
    else:
        with ThreadPoolExecutor(3) if request.param == "threads" else pool() as executor:
            yield {"executor": executor}


@sampled(2)
def test_whoever_makes_the_points_they_are_the_same(
    tmp_path: Path, curve: Curve, by: dict[str, Any]
) -> None:
    closure = lambda net, strength, start: fit(net, strength, start)  # noqa: E731
    made = path(STRENGTHS, fit=closure, out=tmp_path / "curve", **by)
    assert timeless(made) == timeless(curve) and same_weights(made, curve)


@pytest.mark.parametrize("by", ["a function that makes pools", "jobs"], indirect=True)
def test_a_point_that_was_lost_is_made_again(
    tmp_path: Path, curve: Curve, by: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = path(STRENGTHS, fit=deadly(tmp_path, 2), out=tmp_path / "curve", **by)
    assert timeless(made) == timeless(curve) and same_weights(made, curve)
    lost = [record.getMessage() for record in caplog.records if "made again" in str(record.msg)]
    assert sum("strength 0.001, seed 1" in line for line in lost) == 2


@pytest.mark.parametrize("by", ["a function that makes pools", "jobs"], indirect=True)
def test_but_not_for_ever(tmp_path: Path, by: dict[str, Any]) -> None:
    with pytest.raises(PathError, match=r"the point at strength 0.001, seed \d was lost 3 times"):
        path(STRENGTHS, fit=deadly(tmp_path, 3), out=tmp_path / "curve", seeds=2, **by)
    made = path(STRENGTHS, fit=deadly(tmp_path, 3), out=tmp_path / "curve")  # it goes on here
    assert len(made.points) == 8


def test_a_broken_pool_that_nobody_can_replace_says_so(tmp_path: Path) -> None:
    with pool() as executor, pytest.raises(PathError, match=r"broken.*give a function that makes"):
        path(STRENGTHS, fit=deadly(tmp_path, 1), out=tmp_path / "curve", executor=executor)


def test_processes_in_another_folder_find_a_relative_one(
    tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    elsewhere = {"initializer": os.chdir, "initargs": (tmp_path / "other",)}
    with ProcessPoolExecutor(2, mp_context=FORK, **elsewhere) as executor:
        made = path(STRENGTHS, out="curve", executor=executor)
    assert timeless(made) == timeless(curve) and same_weights(made, curve)


def failing(net: nn.Module, strength: float | None, start: Start) -> None:
    raise MemoryError("of the graphics card")


def test_what_the_machine_failed_with_comes_back(tmp_path: Path, by: dict[str, Any]) -> None:
    with pytest.raises(MemoryError, match="of the graphics card") as told:
        path(STRENGTHS, fit=failing, out=tmp_path / "curve", **by)
    assert "in failing" in str(told.value.__cause__)  # the traceback of the other process
    assert any("the same call goes on" in note for note in told.value.__notes__)


def test_an_executor_that_is_none_is_told(tmp_path: Path) -> None:
    made: Callable[[], Executor] = partial(print)  # type: ignore[assignment]
    with pytest.raises(PathError, match=r"executor\(\) gives a concurrent.futures.Executor"):
        path(STRENGTHS, executor=made, out=tmp_path / "curve")
