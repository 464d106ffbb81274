"""Seeds beside one another in processes of their own, or one after another in this one."""

import os
import pickle
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from traceback import format_exc
from typing import Protocol

import torch

from lissom.curves.point import Point
from lissom.curves.running import Job, planned, run_point
from lissom.curves.storing import folder_of_seed, load_point
from lissom.curves.telling import Telling
from lissom.errors import PathError
from lissom.storage import alone_in

Answer = tuple[Point | None, Exception | None, str]  # a point, or an error and its traceback


class Makers(Protocol):
    """Who makes points."""

    def begin(self, point: Point) -> None:
        """Begin to make a planned point."""

    def made(self) -> list[Point]:
        """The points that are ready, one or more; none where none was begun."""


@dataclass(frozen=True)
class Rounds:
    """Makes the points of all seeds at some strengths.

    Attributes:
        job: what all points share.
        seeds: how many.
        jobs: how many points are made at a time.
        makers: make them.
        telling: is told about each.
    """

    job: Job
    seeds: int
    jobs: int
    makers: Makers
    telling: Telling

    def __call__(
        self,
        strengths: Sequence[float | None],
        done: Sequence[Point],
        *,
        from_scratch: bool = False,
    ) -> list[Point]:
        """The new points, by seed and in the order of the strengths.

        Args:
            strengths: from dense to empty.
            done: earlier points of any seed, to start from.
            from_scratch: start from untrained networks instead.
        """
        new: list[list[Point]] = [[] for _ in range(self.seeds)]
        idle, running = deque(range(self.seeds)), 0
        while idle or running:
            while idle and running < self.jobs:
                seed = idle.popleft()
                for strength in strengths[len(new[seed]) :]:
                    earlier = [*done, *new[seed]]
                    point = planned(self.job, seed, strength, earlier, from_scratch=from_scratch)
                    if finished := load_point(point.folder):
                        self.telling.count(finished)
                        new[seed].append(finished)
                        continue
                    self.telling.tell("begin", point)
                    self.makers.begin(point)
                    running += 1
                    break
            for point in self.makers.made():
                running -= 1
                new[point.seed].append(point)
                self.telling.count(point)
                self.telling.tell("end", point)
                idle.appendleft(point.seed)
        return [point for points in new for point in points]


@contextmanager
def rounds(job: Job, seeds: int, jobs: int, telling: Telling) -> Iterator[Rounds]:
    """What makes one round of points after another, with `jobs` processes for the seeds.

    Raises:
        PathError: if something cannot be sent to a process, or one of them dies.
    """
    for folder in (folder_of_seed(job.out, seed) for seed in range(seeds)):
        if folder.exists():  # also where all is finished, what a killed writer left is cleared away
            with alone_in(folder):
                pass
    if min(seeds, jobs) == 1:
        yield Rounds(job, seeds, 1, Here(job), telling)
        return
    processes = Processes(_packed(job), jobs)
    try:
        yield Rounds(job, seeds, jobs, processes, telling)
    finally:
        processes.end()


class Here:
    """Makes points in this process, when they are asked for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = deque[Point]()

    def begin(self, point: Point) -> None:
        self._begun.append(point)

    def made(self) -> list[Point]:
        return [run_point(self._job, self._begun.popleft())] if self._begun else []


class Processes:
    """Makes points in processes, which are started as they are needed.

    Each has a pipe of its own. A pool's share queues and their locks, and one that is killed with
    such a lock, as by a machine that runs out of memory, leaves the others waiting for ever.
    """

    def __init__(self, parcel: bytes, jobs: int) -> None:
        self._parcel, self._jobs = parcel, jobs
        self._processes: list[BaseProcess] = []
        self._idle: list[Connection] = []
        self._busy: list[Connection] = []

    def begin(self, point: Point) -> None:
        try:
            connection = self._idle.pop() if self._idle else self._started()
            connection.send(point)
        except OSError as error:
            raise self._died() from error
        self._busy.append(connection)

    def made(self) -> list[Point]:
        points = []
        for connection in wait(self._busy):
            assert isinstance(connection, Connection)
            try:
                point, error, told = connection.recv()
            except (EOFError, OSError) as end:
                raise self._died() from end
            if error is not None:
                raise error from PathError(f"in a process of jobs={self._jobs}:\n{told}")
            self._busy.remove(connection)
            self._idle.append(connection)
            points.append(point)
        return points

    def end(self) -> None:
        """Nobody waits for what some still make; a process may end at any moment."""
        for process in self._processes:
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

    def _died(self) -> PathError:
        return PathError(
            f"a process of jobs={self._jobs} died. If this is a script, its call of path belongs "
            "under `if __name__ == '__main__':`, since each process reads the script again; "
            "otherwise memory may have run out. The points that were finished are kept"
        )


def _work(parcel: bytes, threads: int, connection: Connection) -> None:
    """Make the points that come, as the parent would, and not longer than it lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    torch.set_num_threads(threads)
    # If the parent is killed, the same call may go on at once, and finds the same folders.
    Thread(target=_end_with_parent, daemon=True).start()
    job: Job | None = None  # opened once, since what it holds may have read its data by then
    while True:
        point = connection.recv()
        try:
            job = job or pickle.loads(parcel)
            answer: Answer = run_point(job, point), None, ""
        except Exception as error:
            answer = None, _sendable(error), format_exc()
        connection.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _packed(job: Job) -> bytes:
    """The job as bytes, with the name of what cannot be sent."""
    for field in fields(job):
        try:
            pickle.dumps(getattr(job, field.name))
        except Exception as error:  # pickle raises a different type for each obstacle
            raise PathError(
                f"with jobs > 1 everything is sent to other processes, and {field.name} cannot be "
                f"({error}): take functions that are defined at the top of a module, not lambdas "
                "or functions within functions; or jobs=1"
            ) from error
    return pickle.dumps(job)


def _sendable(error: Exception) -> Exception:
    """It, or one that says the same, where its class cannot cross to the parent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = OSError if isinstance(error, OSError) else RuntimeError
        notes = getattr(error, "__notes__", ())
        return kind("\n".join([f"{type(error).__name__}: {error}", *notes]))
    return error
