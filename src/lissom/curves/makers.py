"""Who makes the points of a path: this process, processes of its own, or anybody's executor.

Each point is made by `run_point`, whose result depends on neither; so a maker that is lost with a
point, as one that runs out of memory, costs time and no more: the point is made again elsewhere.
"""

import logging
import os
import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future
from concurrent.futures import wait as wait_for
from dataclasses import fields
from functools import lru_cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock, Thread
from traceback import format_exc
from typing import Protocol

import cloudpickle
import torch

from lissom.arguments import shown
from lissom.curves.point import Point
from lissom.curves.running import Job, run_point
from lissom.errors import PathError

Answer = tuple[Point | None, Exception | None, str]  # a point, or an error and its traceback
Executors = Executor | Callable[[], Executor]
TRIES = 3

log = logging.getLogger(__name__)


class Makers(Protocol):
    """Who makes points."""

    def begin(self, point: Point) -> None:
        """Begin to make a planned point."""

    def made(self) -> list[Point]:
        """Wait for points that are ready, one or more; none where none was begun."""

    def end(self) -> None:
        """Make no more; nobody waits for what is still being made."""


class Here:
    """Makes points in this process, when they are asked for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = deque[Point]()

    def begin(self, point: Point) -> None:
        self._begun.append(point)

    def made(self) -> list[Point]:
        return [run_point(self._job, self._begun.popleft())] if self._begun else []

    def end(self) -> None:
        self._begun.clear()


class Processes:
    """Makes points in processes of this machine, which are started as they are needed.

    Each has a pipe of its own. A pool's share queues and their locks, and one that is killed with
    such a lock leaves the others waiting for ever.
    """

    def __init__(self, job: Job) -> None:
        self._parcel, self._losses = packed(job), Losses()
        self._processes: list[BaseProcess] = []
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Point] = {}

    def begin(self, point: Point) -> None:
        while True:
            try:
                connection = self._idle.pop() if self._idle else self._started()
                connection.send(point)
                break
            except OSError as error:
                self._losses.count(point, error)
        self._busy[connection] = point

    def made(self) -> list[Point]:
        points = []
        for connection in wait(list(self._busy)) if self._busy else ():
            assert isinstance(connection, Connection)
            begun = self._busy.pop(connection)
            try:
                answer = connection.recv()
            except (EOFError, OSError) as end:
                self._losses.count(begun, end)
                self.begin(begun)
                continue
            self._idle.append(connection)
            points.append(_point(answer))
        return points

    def end(self) -> None:
        for process in self._processes:  # a process may end at any moment
            process.terminate()
        for process in self._processes:
            process.join()
        for connection in (*self._idle, *self._busy):
            connection.close()

    def _started(self) -> Connection:
        # Spawned: a forked process cannot use an accelerator, and may hang in torch's threads.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        threads = torch.get_num_threads()  # another number sums in another order
        process = context.Process(target=_work, args=(self._parcel, threads, theirs))
        process.start()
        self._processes.append(process)
        theirs.close()  # so that ours ends when the process does
        return ours


class Submitted:
    """Makes points by an executor, on whatever machines it has; each sees the folder of the path.

    Args:
        job: what all points share.
        executor: one, or a function that makes one, to replace it when it is broken.
    """

    def __init__(self, job: Job, executor: Executors) -> None:
        self._parcel, self._threads, self._losses = packed(job), torch.get_num_threads(), Losses()
        self._make = None if isinstance(executor, Executor) else executor
        self._executor = executor if isinstance(executor, Executor) else _called(executor)
        self._running: dict[Future[Answer], Point] = {}

    def begin(self, point: Point) -> None:
        try:
            future = self._executor.submit(_answer, self._parcel, self._threads, point)
        except BrokenExecutor as error:
            if self._make is None:
                raise PathError(
                    f"{shown(self._executor)} is broken ({error}), and cannot be mended: give a "
                    "function that makes one, as in executor=lambda: ProcessPoolExecutor(4), which "
                    "is called for another one then. The points that were finished are kept"
                ) from error
            self._executor.shutdown(wait=False)
            self._executor = _called(self._make)
            future = self._executor.submit(_answer, self._parcel, self._threads, point)
        self._running[future] = point

    def made(self) -> list[Point]:
        points = []
        for future in wait_for(self._running, return_when=FIRST_COMPLETED).done:
            begun = self._running.pop(future)
            try:
                answer = future.result()
            except Exception as end:  # of the executor; those of the training are answers
                self._losses.count(begun, end)
                self.begin(begun)
                continue
            points.append(_point(answer))
        return points

    def end(self) -> None:
        for future in self._running:
            future.cancel()
        if self._make is not None:
            self._executor.shutdown(wait=not self._running)


class Losses:
    """How often each point was lost with its maker."""

    def __init__(self) -> None:
        self._counts = Counter[Path]()

    def count(self, point: Point, error: BaseException) -> None:
        """One more time.

        Raises:
            PathError: if that is too often.
        """
        self._counts[point.folder] += 1
        why = f" ({type(error).__name__}: {error})" if str(error) else ""
        if self._counts[point.folder] == TRIES:
            raise PathError(
                f"the point at {point} was lost {TRIES} times with the process that made it{why}. "
                "If this is a script, its call of path belongs under `if __name__ == '__main__':`, "
                "since each process reads the script again; otherwise memory may have run out. The "
                "points that were finished are kept"
            ) from error
        log.warning("the point at %s was lost with its process%s: it is made again", point, why)


def packed(job: Job) -> bytes:
    """The job as bytes, functions of notebooks and closures included.

    Raises:
        PathError: with the name of what cannot be sent.
    """
    for field in fields(job):
        try:
            cloudpickle.dumps(getattr(job, field.name))
        except Exception as error:  # a different type for each obstacle
            raise PathError(
                f"everything is sent to other processes, and {field.name} cannot be ({error}): "
                "make in the function itself what it needs of files, locks and connections, or "
                "take jobs=1"
            ) from error
    parcel: bytes = cloudpickle.dumps(job)
    return parcel


def _called(make: Callable[[], Executor]) -> Executor:
    made = make()
    if not isinstance(made, Executor):
        raise PathError(f"executor() gives a concurrent.futures.Executor, got {shown(made)}")
    return made


def _work(parcel: bytes, threads: int, connection: Connection) -> None:
    """Make the points that come, as the parent would, and not longer than it lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    # If the parent is killed, the same call may go on at once, and finds the same folders.
    Thread(target=_end_with_parent, daemon=True).start()
    while True:
        connection.send(_answer(parcel, threads, connection.recv()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _point(answer: Answer) -> Point:
    """The point of an answer, or its error is raised."""
    point, error, told = answer
    if error is not None:
        raise error from PathError(f"in another process:\n{told}")
    assert point is not None
    return point


_one_at_a_time = Lock()  # random generators belong to the whole process, and so to one point


def _answer(parcel: bytes, threads: int, point: Point) -> Answer:
    """A point as the parent would make it, or the reason why there is none."""
    with _one_at_a_time:
        try:
            torch.set_num_threads(threads)
            return run_point(_job(parcel), point), None, ""
        except Exception as error:
            return None, _sendable(error), format_exc()


@lru_cache(1)
def _job(parcel: bytes) -> Job:
    """Once for each process, since what it holds may have read its data by then."""
    job: Job = pickle.loads(parcel)
    return job


def _sendable(error: Exception) -> Exception:
    """It, or one that says the same, where its class cannot cross to the parent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = OSError if isinstance(error, OSError) else RuntimeError
        notes = getattr(error, "__notes__", ())
        return kind("\n".join([f"{type(error).__name__}: {error}", *notes]))
    return error
