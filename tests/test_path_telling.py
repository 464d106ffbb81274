"""What a path says while it runs: lines, a bar with the time left, or events for a function."""

import io
import logging
import re
import sys
import time
from typing import Any

import pytest
from path_cases import path, raising
from rich.console import Console

from lissom.curves import Event
from lissom.curves.point import ErrorScale, Point
from lissom.curves.telling import Telling, _duration, _Shown
from lissom.errors import PathError

STRENGTHS = [1e-3, 1e-2, 1.0]


def test_events_of_a_path() -> None:
    events: list[Event] = []
    found = path(STRENGTHS, seeds=2, from_scratch=[1e-3], progress=events.append)
    assert [event.kind for event in events] == ["begin", "end"] * 10
    begun, ended = events[::2], events[1::2]
    assert [(e.point.seed, e.point.strength) for e in begun] == [  # type: ignore[union-attr]
        (0, None), (1, None), *((s, x) for s in (0, 1) for x in STRENGTHS), (0, 1e-3), (1, 1e-3)
    ]  # fmt: skip
    assert [event.done for event in begun] == list(range(10))
    assert [event.done for event in ended] == list(range(1, 11))
    assert {event.total for event in events} == {10}
    assert {str(e.point): e.point for e in ended} == {str(p): p for p in found.points}
    assert events[0].left is None and all((e.left or 0) >= 0 for e in events[1:])
    assert events[-1].left == 0 and events[-1].seconds >= events[0].seconds >= 0


def test_what_is_there_already_is_counted_and_not_told(tmp_path: Any) -> None:
    given: dict[str, Any] = {"strengths": STRENGTHS, "seeds": 1, "out": tmp_path}
    events: list[Event] = []
    path(**given, progress=False)
    path(**given, progress=events.append)
    assert events == []
    path(**given, from_scratch=[1e-3], progress=events.append)
    assert [(e.kind, e.done, e.total) for e in events] == [("begin", 4, 5), ("end", 5, 5)]
    assert events[0].left is not None


@pytest.mark.exhaustive
@pytest.mark.usefixtures("forked_makers")
def test_events_come_from_other_processes_as_they_happen() -> None:
    events: list[Event] = []
    path(STRENGTHS, seeds=2, jobs=2, progress=events.append)
    assert [event.kind for event in events].count("end") == 8
    assert [event.kind for event in events[:2]] == ["begin", "begin"]
    kinds = [event.kind for event in events[4:]]
    assert kinds.index("end") < 3  # and not only when a round is over


def failing_or_slow(net: Any, strength: float | None, start: Any) -> None:
    if start.seed == 1:
        time.sleep(60)
    raise RuntimeError("no")


@pytest.mark.exhaustive
@pytest.mark.usefixtures("forked_makers")
def test_nobody_waits_for_other_seeds_if_a_dense_network_failed() -> None:
    began = time.monotonic()
    with pytest.raises(PathError, match="dense network of seed 0 failed with RuntimeError: no, at"):
        path(STRENGTHS, seeds=2, jobs=2, fit=failing_or_slow)
    assert time.monotonic() - began < 45


def test_the_time_left_is_that_of_points_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    told = Telling(events.append, seeds=2, points=4, from_scratch=1, beside=2)

    def made(strength: float | None, seconds: float, **more: Any) -> None:
        told.count(Point(strength, 0, 0, None, seconds=seconds, **more))  # type: ignore[arg-type]
        told.tell("end")

    made(None, 30.0)
    made(None, 50.0)
    made(1e-3, 4.0)
    made(1e-3, 8.0)
    made(1e-2, 6.0, from_scratch=True)
    lefts = [event.left for event in events]
    assert lefts == [
        (3 * 30 + 6 * 30) / 2,  # until there is one of its own kind
        (2 * 40 + 6 * 40) / 2,
        (2 * 40 + 5 * 4) / 2,
        (2 * 40 + 4 * 6) / 2,
        (1 * (30 + 50 + 6) / 3 + 4 * 6) / 2,
    ]


def test_a_line_for_each_point_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    found = path(STRENGTHS, seeds=1, fit=raising(1e-2, "out [of] luck"), out=tmp_path)
    told = capsys.readouterr()
    dense, second, failed, last = told.err.splitlines()
    assert told.out == ""
    error = 100 * found.points[0].error
    assert re.fullmatch(
        rf"\[1/4\] dense, seed 0: error {error:.4g} %, 123 nonzeros, [\d.]+ s; "
        r"about [\d.]+ s left", dense
    )  # fmt: skip
    assert second.startswith("[2/4] strength 0.001, seed 0: error ")
    assert "[3/4] strength 0.01, seed 0: failed: RuntimeError: out [of] luck. " in failed
    assert "failed.txt has the traceback; retry_failed=True, on the command line" in failed
    assert last.startswith("[4/4]") and "left" not in last
    path(STRENGTHS, seeds=1, fit=raising(1e-2, "out [of] luck"), out=tmp_path, from_scratch=[1.0])
    there, new = capsys.readouterr().err.splitlines()
    assert there == "4 of 5 points are there already" and "from scratch, strength 1" in new


def test_nothing_is_shown_if_so_asked_but_failures_are_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lissom"):
        path(STRENGTHS, seeds=1, fit=raising(1e-2, "out of luck"), progress=False)
    assert capsys.readouterr() == ("", "")
    [record] = caplog.records
    assert "the point at strength 0.01, seed 0 failed: RuntimeError" in record.getMessage()


def test_a_bar_in_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    point = Point(1e-3, 1, 1, None, error=0.025, sizes={"nonzeros": 1234}, seconds=2.0)  # type: ignore[arg-type]
    stdout = sys.stdout
    with _Shown(console, ErrorScale()) as shown:
        shown(Event("begin", point, 3, 12, 60.0, 300.0))
        shown._bar.refresh()
        during = out.getvalue()
        shown(Event("end", point, 4, 12, 62.0, 280.0))
        shown(Event("latency", None, 12, 12, 62.0, 0.0))
        shown._bar.refresh()
    assert "3/12" in during and "strength 0.001, seed 1" in during and "about 5 min left" in during
    assert (
        "[ 4/12] strength 0.001, seed 1: error 2.5 %, 1,234 nonzeros, 2.0 s; about 5 min left"
        in (out.getvalue())
    )
    assert "timing 12 networks" in out.getvalue() and sys.stdout is stdout
    assert "0.0 s left" not in out.getvalue()


def test_an_error_of_a_function_that_is_told_stops_the_path() -> None:
    def stop(event: Event) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        path(STRENGTHS, seeds=1, progress=stop)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.4, "99 s"), (100, "2 min"),
     (5939, "99 min"), (5980, "1.7 h"), (36000, "10.0 h")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert _duration(seconds) == words
