"""Seeds beside one another in processes of their own, or one after another in this one."""

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from threading import Thread

import torch

from lissom.curves.point import Point
from lissom.curves.running import Job, planned, run_point
from lissom.curves.storing import folder_of_seed, load_point
from lissom.curves.telling import Telling
from lissom.errors import PathError
from lissom.storage import alone_in


@dataclass(frozen=True)
class Rounds:
    """Makes the points of all seeds at some strengths.

    Attributes:
        job: what all points share.
        seeds: how many.
        jobs: how many points are made at a time.
        begin: begins to make a planned point.
        telling: is told about each.
    """

    job: Job
    seeds: int
    jobs: int
    begin: Callable[[Point], Future[Point]]
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
        idle, running = deque(range(self.seeds)), dict[Future[Point], int]()
        while idle or running:
            while idle and len(running) < self.jobs:
                seed = idle.popleft()
                for strength in strengths[len(new[seed]) :]:
                    earlier = [*done, *new[seed]]
                    point = planned(self.job, seed, strength, earlier, from_scratch=from_scratch)
                    if finished := load_point(point.folder):
                        self.telling.count(finished)
                        new[seed].append(finished)
                        continue
                    self.telling.tell("begin", point)
                    running[self.begin(point)] = seed
                    break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                seed = running.pop(future)
                new[seed].append(point := future.result())
                self.telling.count(point)
                self.telling.tell("end", point)
                idle.appendleft(seed)
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
        yield Rounds(job, seeds, 1, partial(_here, job), telling)
        return

    parcel = _packed(job)
    # Spawned, since a forked process cannot use an accelerator, and may hang in torch's threads.
    with ProcessPoolExecutor(
        min(seeds, jobs),
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(torch.get_num_threads(),),
    ) as pool:
        try:
            yield Rounds(
                job, seeds, jobs, lambda point: pool.submit(_run_packed, parcel, point), telling
            )
        except BaseException as error:
            # Nobody waits for what the other seeds train; a process may end at any moment.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise PathError(
                f"a process of jobs={jobs} died. If this is a script, its call of path belongs "
                "under `if __name__ == '__main__':`, since each process reads the script again; "
                "otherwise memory may have run out. The points that were finished are kept"
            ) from error


def _here(job: Job, point: Point) -> Future[Point]:
    made = Future[Point]()
    made.set_result(run_point(job, point))
    return made


def _begin(threads: int) -> None:
    """Compute as the parent does, and not longer than it lives."""
    torch.set_num_threads(threads)  # another number of threads sums in another order
    # If the parent is killed, the same call may go on at once, and finds the same folders.
    Thread(target=_end_with_parent, daemon=True).start()


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


def _run_packed(parcel: bytes, point: Point) -> Point:
    try:
        return run_point(_job(parcel), point)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of a class that cannot cross to the parent
            kind = OSError if isinstance(error, OSError) else RuntimeError
            notes = getattr(error, "__notes__", ())
            told = "\n".join([f"{type(error).__name__}: {error}", *notes])
            raise kind(told) from None
        raise


@lru_cache(1)
def _job(parcel: bytes) -> Job:
    """Once for each process, since what it holds may have read its data by then."""
    job: Job = pickle.loads(parcel)
    return job
