"""Seeds beside one another in processes of their own, or one after another in this one."""

import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Protocol

import torch

from lissom.curves.point import Point
from lissom.curves.running import Job, log_point, run_seed
from lissom.errors import PathError


class Rounds(Protocol):
    """Makes the points of all seeds at some strengths."""

    def __call__(
        self,
        strengths: Sequence[float | None],
        done: Sequence[Point],
        *,
        from_scratch: bool = False,
    ) -> list[Point]:
        """The new points, by seed and in the order of the strengths."""


@contextmanager
def rounds(job: Job, seeds: int, jobs: int) -> Iterator[Rounds]:
    """What makes one round of points after another, with `jobs` processes for the seeds.

    Raises:
        PathError: if something cannot be sent to a process, or one of them dies.
    """
    if min(seeds, jobs) == 1:

        def here(
            strengths: Sequence[float | None],
            done: Sequence[Point],
            *,
            from_scratch: bool = False,
        ) -> list[Point]:
            new: list[Point] = []
            for seed in range(seeds):
                for strength in strengths:
                    new += run_seed(job, seed, [strength], [*done, *new], from_scratch)
                    log_point(new[-1])
            return new

        yield here
        return

    parcel = _packed(job)
    # Spawned, since a forked process cannot use an accelerator, and may hang in torch's threads.
    with ProcessPoolExecutor(
        min(seeds, jobs),
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(torch.get_num_threads(),),
    ) as pool:

        def beside(
            strengths: Sequence[float | None],
            done: Sequence[Point],
            *,
            from_scratch: bool = False,
        ) -> list[Point]:
            running = [
                pool.submit(_run_packed, parcel, seed, strengths, done, from_scratch)
                for seed in range(seeds)
            ]
            new = [point for future in running for point in future.result()]
            for point in new:
                log_point(point)
            return new

        try:
            yield beside
        except BrokenProcessPool as error:
            raise PathError(
                f"a process of jobs={jobs} died. If this is a script, its call of path belongs "
                "under `if __name__ == '__main__':`, since each process reads the script again; "
                "otherwise memory may have run out. The points that were finished are kept"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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


def _run_packed(
    parcel: bytes,
    seed: int,
    strengths: Sequence[float | None],
    done: Sequence[Point],
    from_scratch: bool,
) -> list[Point]:
    try:
        return run_seed(_job(parcel), seed, strengths, done, from_scratch)
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
