"""All seeds at some strengths: their points one after another, and seeds beside one another."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lissom.curves.makers import Executors, Here, Makers, Processes, Submitted
from lissom.curves.point import Point
from lissom.curves.running import Job, planned
from lissom.curves.storing import load_point, name_of
from lissom.curves.telling import Telling
from lissom.storage import Store, alone_in


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
        seeds = range(self.seeds)
        chains = [_Chain(seed, list(strengths)) for seed in seeds]
        if from_scratch:  # nothing that one of them begins with is made by another
            chains = [_Chain(seed, [strength]) for seed in seeds for strength in strengths]
        idle = deque(chains)
        running: dict[Path, _Chain] = {}
        while idle or running:
            while idle and len(running) < self.beside:
                chain = idle.popleft()
                for strength in chain.left:
                    earlier = [*done, *chain.made]
                    point = planned(
                        self.job, chain.seed, strength, earlier, from_scratch=from_scratch
                    )
                    if finished := load_point(point.folder):
                        self.telling.count(finished)
                        chain.made.append(finished)
                        continue
                    self.telling.tell("begin", point)
                    self.makers.begin(point)
                    running[point.folder] = chain
                    break
            for point in self.makers.made():
                if self.job.store is not None and self.job.far:
                    Store(self.job.store, self.job.out).pull(name_of(point))
                chain = running.pop(point.folder)
                chain.made.append(point)
                self.telling.count(point)
                self.telling.tell("end", point)
                idle.appendleft(chain)
        return [point for chain in chains for point in chain.made]


@dataclass
class _Chain:
    """Points of a seed, each of which may begin with the one before."""

    seed: int
    strengths: list[float | None]
    made: list[Point] = field(default_factory=list)

    @property
    def left(self) -> list[float | None]:
        """The strengths of those that are still to be made."""
        return self.strengths[len(self.made) :]


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
    for folder in sorted(job.out.glob("seed*/*/")):
        with alone_in(folder):  # also where it is finished, what a killed writer left is cleared
            pass
    makers: Makers
    if executor is not None:
        # Its processes may be in another folder, or on another machine.
        job = replace(job, out=job.out.absolute(), far=job.store is not None)
        makers = Submitted(job, executor)
    else:
        makers = Here(job) if beside == 1 else Processes(job)
    try:
        yield Rounds(job, seeds, beside, makers, telling)
    finally:
        makers.end()
