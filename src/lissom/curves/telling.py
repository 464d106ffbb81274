"""What a path says while it runs: which point is next, what came of it, and how long is left."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from time import monotonic
from typing import Literal

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from lissom.curves.point import ErrorScale, Point
from lissom.curves.storing import AGAIN, FAILED
from lissom.tables import plain_console

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that a path begins, or is done with; `progress` is called with it.

    Attributes:
        kind: "begin" and "end" of a point, or "latency": all networks are timed now.
        point: which one; until its end it has neither error nor sizes. None for "latency".
        done: how many points are finished, of all seeds.
        total: how many there may be; fewer, where nothing is left to be seen.
        seconds: since the call of `lissom.path`.
        left: about how many seconds are left, by those that points of the same kind took (from
            an untrained network, or from another point); None before the first one is finished.
    """

    kind: Literal["begin", "end", "latency"]
    point: Point | None
    done: int
    total: int
    seconds: float
    left: float | None


Listener = Callable[[Event], object]


class Telling:
    """Counts the points of a path, and tells a listener about them.

    Args:
        listener: is called with each event.
        seeds: how many.
        points: of each seed, without those from scratch.
        from_scratch: how many more begin with an untrained network.
        beside: how many are made at a time.
    """

    def __init__(
        self, listener: Listener, *, seeds: int, points: int, from_scratch: int, beside: int
    ) -> None:
        self._listener, self._beside, self._began = listener, beside, monotonic()
        self._due = {True: seeds * (1 + from_scratch), False: seeds * (points - 1)}  # by untrained
        self._taken: dict[bool, list[float]] = {True: [], False: []}  # seconds of finished ones

    def count(self, point: Point) -> None:
        """A point that is finished, now or by an earlier call."""
        self._taken[point.strength is None or point.from_scratch].append(point.seconds)

    def tell(self, kind: Literal["begin", "end", "latency"], point: Point | None = None) -> None:
        """Tell the listener."""
        done, total = sum(map(len, self._taken.values())), sum(self._due.values())
        seconds = monotonic() - self._began
        self._listener(Event(kind, point, done, total, seconds, self._left()))

    def _left(self) -> float | None:
        every = [seconds for taken in self._taken.values() for seconds in taken]
        if not every:
            return None
        dues = ((max(0, self._due[kind] - len(t)), t or every) for kind, t in self._taken.items())
        return sum(due * fmean(taken) for due, taken in dues) / self._beside


@contextmanager
def listening(progress: Listener | Literal[False] | None, scale: ErrorScale) -> Iterator[Listener]:
    """The listener that was asked for.

    Args:
        progress: a function of one's own; None for a bar in a terminal, and lines elsewhere; False
            for none, but for points that failed, which the log has.
        scale: what errors are.
    """
    if progress is None:
        with _Shown(plain_console(stderr=True), scale) as shown:
            yield shown
    else:
        yield progress or _logged


def _logged(event: Event) -> None:
    if event.kind == "end" and event.point is not None and event.point.failed:
        log.warning("the point at %s %s", event.point, _failure(event.point))


def _failure(point: Point) -> str:
    return f"failed: {point.failed}. {point.folder / FAILED} has the traceback; {AGAIN}"


class _Shown:
    """A line for each point; in a terminal a bar below them, with what is being made."""

    def __init__(self, console: Console, scale: ErrorScale) -> None:
        self._console, self._scale = console, scale
        self._running: list[str] = []
        self._bar = bars.Progress(
            bars.BarColumn(bar_width=30),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.description}", markup=False),
            _Left(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what `fit` prints stays where it was sent
        )
        self._task: bars.TaskID | None = None

    def __enter__(self) -> "_Shown":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=event.total)
            if event.done and event.point is not None:
                self._print(f"{event.done} of {event.total} points are there already")
        if event.point is None:
            self._running = [f"latency of {event.done} networks"]
            self._print(f"timing {event.done} networks, which take turns")
        elif event.kind == "begin":
            self._running.append(str(event.point))
        else:
            self._running.remove(str(event.point))
            self._print(self._line(event, event.point))
        self._bar.update(
            self._task,
            completed=event.done,
            description=" · ".join(self._running),
            ends=None if event.left is None else monotonic() + event.left,
        )

    def _line(self, event: Event, point: Point) -> str:
        found = (
            _failure(point)
            if point.failed
            else f"{self._scale.name} {self._scale.text(point.error)}, {point.size():,} nonzeros"
        )
        left = "" if event.left is None or event.done == event.total else _about(event.left)
        count = f"[{event.done:{len(str(event.total))}}/{event.total}]"
        return f"{count} {point}: {found}, {_duration(point.seconds)}{left and f'; {left}'}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class _Left(bars.ProgressColumn):
    """The time left, counted down between events."""

    def render(self, task: bars.Task) -> Text:
        left = (task.fields.get("ends") or 0.0) - monotonic()
        return Text(_about(left) if left > 0 else "")  # nothing is known of what takes longer


def _about(seconds: float) -> str:
    return f"about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    """1.4 s, 38 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"
