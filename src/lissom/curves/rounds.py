"""All seeds at some strengths: their points one after another, and seeds beside one another."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lissom.curves.makers import Executors, Here, Makers, Processes, Submitted
from lissom.curves.point import Point
from lissom.curves.running import Job, planned
from lissom.curves.storing import folder_of_seed, load_point
from lissom.curves.telling import Telling
from lissom.storage import alone_in


@dataclass(frozen=True)
class Rounds:
    """Makes the points of all seeds at some strengths.

    Attributes:
        job: what all points share.
        seeds: how many.
        beside: how many points are made at a time.
        makers: make them.
        telling: is told about each.
    """

    job: Job
    seeds: int
    beside: int
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
            while idle and running < self.beside:
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
def rounds(
    job: Job, seeds: int, beside: int, executor: Executors | None, telling: Telling
) -> Iterator[Rounds]:
    """What makes one round of points after another.

    Args:
        job: what all points share.
        seeds: how many.
        beside: how many points are made at a time.
        executor: what makes them; None for this process, or processes of its own.
        telling: is told about each.

    Raises:
        PathError: if something cannot be sent to a process, or one dies with the same point again
            and again.
    """
    for folder in (folder_of_seed(job.out, seed) for seed in range(seeds)):
        if folder.exists():  # also where all is finished, what a killed writer left is cleared away
            with alone_in(folder):
                pass
    makers: Makers
    if executor is not None:
        job = replace(job, out=job.out.absolute())  # its processes may be in another folder
        makers = Submitted(job, executor)
    else:
        makers = Here(job) if beside == 1 else Processes(job)
    try:
        yield Rounds(job, seeds, beside, makers, telling)
    finally:
        makers.end()
