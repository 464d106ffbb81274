"""The trade-off curve: what each degree of simplicity costs, and where the knee is."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from statistics import fmean
from tempfile import mkdtemp
from typing import Literal
from weakref import finalize

from torch import nn

from lissom.curves.checks import (
    check_counts,
    check_executor,
    check_flags,
    check_from_scratch,
    check_functions,
    check_latency,
    check_names,
    check_out,
    check_progress,
    check_strengths,
    check_unit,
    notice_upside_down,
)
from lissom.curves.curve import Curve
from lissom.curves.fingerprints import fingerprint
from lissom.curves.front import halvings
from lissom.curves.latencies import time_networks
from lissom.curves.makers import Executors
from lissom.curves.placing import Plan, Seen
from lissom.curves.point import ErrorScale, Point, Start
from lissom.curves.results import Knee, Setting
from lissom.curves.rounds import rounds
from lissom.curves.running import Fit, Job, MakeModel, Score, build
from lissom.curves.scores import Scores
from lissom.curves.storing import LATENCIES, PATH, begin, forget_elsewhere, mirrored
from lissom.curves.telling import Event, Listener, Telling, listening
from lissom.running import ExampleInputs, as_inputs
from lissom.storage import Store, alone_in, is_url

__all__ = ["Curve", "Event", "Knee", "Point", "Scores", "Setting", "Start", "path"]


def path(
    fit: Fit,
    strengths: Sequence[float],
    *,
    make_model: MakeModel,
    error: Score,
    example_inputs: ExampleInputs,
    test: Score | None = None,
    points: int = 12,
    seeds: int = 3,
    from_scratch: Sequence[float] = (),
    cuts: bool = False,
    strength_name: str = "strength",
    error_name: str = "error",
    error_unit: str | None = None,
    round_to: int = 1,
    inputs: bool = False,
    latency: bool | str = False,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    executor: Executors | None = None,
    retry_failed: bool = False,
    progress: Listener | Literal[False] | None = None,
) -> Curve:
    """Networks from dense to empty, each trained on from the last: (size, error) by strength.

        def fit(net, strength, start):     # your own training, of any method, in place
            …                              # strength is None for the dense network
        curve = lissom.path(
            fit, (1e-5, 1e-2), make_model=make_model, error=valid_error, example_inputs=x
        )
        curve.knee(); curve.within(error=0.005); curve.budget(nonzeros=20_000)

    The strength is whatever number makes your networks sparser: a λ that grows, or the fraction of
    the weights that is kept, which falls. The first point is the dense network. Every other one
    begins with the weights of the next denser point of its seed that worked, is trained at its
    strength, measured, shrunk by `lissom.shrink`, which checks the result, and saved. All seeds
    have the same strengths. A point whose `fit` raises, or ends in numbers that are not finite, is
    kept with its reason, and the others go on; but the path stops if a dense network fails, or a
    function returns what it must not.

    Args:
        fit: fit(net, strength, start) trains `net` in place and leaves it plain, with its zeros. It
            returns None, or a dict of tensors and plain values which the next point finds in
            `start.state`. All generators are seeded by the seed and the strength before.
        strengths: a list from dense to empty is taken as it is: λ grows, a fraction falls. (first,
            last) is an interval of positive numbers: two thirds of the strengths are a geometric
            grid, the others are placed where the curve bends. (guess,) is one λ > 0: the interval
            is searched in factors of 8, from where 99 % of the weights are left to where the answer
            does not depend on the input any more, and then filled.
        make_model: make_model(seed) makes the untrained network of a seed.
        error: error(net), a number ≥ 0 that is smaller for better networks, on validation data:
            points are placed and chosen by it. The network is in evaluation mode.
        example_inputs: an input, or a tuple of inputs, to shrink and measure on.
        test: the same on test data, which nothing is chosen by.
        points: how many strengths, with the dense one, for an interval or a guess; it may be fewer
            where nothing is left to be seen.
        seeds: how many: 0, 1, ….
        from_scratch: strengths that are also trained from an untrained network, as the dense point
            is. These points are marked, and not part of the front. They may be added to a path that
            is there.
        cuts: whether one training is for all points, as by `lissom.nested`: that of the dense
            network, with whose weights and state every other point begins, to be cut and maybe
            fine-tuned. Where it returns {"order": method.order()}, `curve.at(nonzeros=5000)` cuts
            at sizes in between.
        strength_name: what the strength is, such as "λ" or "fraction kept", for tables and pages.
        error_name: what `error` gives, such as "RMSE" or "1 − mIoU", for tables and pages.
        error_unit: "fraction", which is shown in percent, a text such as "°C", or "" for none. An
            error without another name is a fraction.
        round_to: as for `lissom.shrink`: widths that are multiples of it.
        inputs: as for `lissom.shrink`: whether inputs that nothing reads may go too.
        latency: measure seconds of a forward pass too, in "torch" (or True), "onnxruntime" or
            "openvino". At the end all networks of the curve take turns, so that their times
            compare. It may be asked for later, or in another runtime, of a path that is there.
        out: a folder for all points, where the same call goes on after a kill, or a fault of the
            machine such as a full disk, and repeats no finished point. It is locked meanwhile, for
            other processes that would write there. Without `out`, the files are temporary and go
            with the curve. A URL that fsspec knows ("s3://bucket/curve") does as well: points are
            made in temporary folders then, and put there as they are finished.
        jobs: processes of this machine, for seeds beside one another, with the same result as one.
            What is given is sent to them by cloudpickle, closures and functions of notebooks too.
            The point of a process that dies is made again, three times at most.
        executor: instead of `jobs`, a `concurrent.futures.Executor` that makes the points of all
            seeds, or a function that makes one, which is called again when its executor is broken.
            Its machines have lissom, and see `out` at the same place, or it is a URL.
        retry_failed: make the points of `out` that failed again. The functions may have been
            changed since, which is refused otherwise; points that worked stay as they are.
        progress: None shows on stderr what is being made and about how long is left: as a bar in a
            terminal, and as a line for each point elsewhere. False shows nothing. A function is
            called with each `lissom.curves.Event` instead, here wherever points are made.

    Raises:
        PathError: for arguments that cannot be, an `out` of other arguments or functions, if a
            dense network could not be trained, or a function returns what it must not.
        RunError: if another process is at work in `out`, or a file in it is damaged.
        OSError, MemoryError, RuntimeError: what the machine failed with, a `StorageError` where
            it was a file of the path; the same call goes on then.
    """
    check_functions(fit=fit, make_model=make_model, error=error)
    if test is not None:
        check_functions(test=test)
    check_counts(points=points, seeds=seeds, jobs=jobs, round_to=round_to)
    check_executor(executor, jobs, out)
    check_flags(inputs=inputs, cuts=cuts, retry_failed=retry_failed)
    runtime = check_latency(latency)
    visited = check_strengths(strengths, points)
    plan = Plan.of(visited, points)
    from_scratch = check_from_scratch(from_scratch)
    check_names(strength_name=strength_name, error_name=error_name)
    scale = ErrorScale(error_name, check_unit(error_unit, error_name))
    check_progress(progress)
    as_inputs(example_inputs)
    arguments = {
        "strengths": list(plan.strengths),
        "points": plan.points,
        "seeds": seeds,
        "test": test is not None,
        "strength_name": strength_name,
        "error_name": scale.name,
        "error_unit": scale.unit,
        "round_to": round_to,
        "inputs": inputs,
        "cuts": cuts,
        "parameters": _shapes(build(make_model, 0)),
    }
    functions = fingerprint(fit=fit, make_model=make_model, error=error, test=test)
    with ExitStack() as temporary, ExitStack() as lock, ExitStack() as showing:
        url = out if isinstance(out, str) and is_url(out) else None
        if out is None or url is not None:
            folder = Path(mkdtemp(prefix="lissom-path-"))
            temporary.callback(rmtree, folder, ignore_errors=True)
        else:
            folder = check_out(out)
        store = None if url is None else Store(url, folder)
        if store is not None:
            lock.enter_context(store.alone())
            mirrored(store)
        lock.enter_context(alone_in(folder))
        where = url or str(folder)
        begin(folder, arguments, functions, retry_failed=retry_failed, where=where)
        if store is not None:
            forget_elsewhere(store)
            store.push(PATH)
        job = Job(
            fit,
            make_model,
            error,
            test,
            example_inputs,
            plan,
            round_to,
            inputs,
            cuts,
            folder,
            folders=out is not None,
            store=url,
        )
        listener = showing.enter_context(listening(progress, scale))
        most = seeds * max(1, len(from_scratch))
        beside = jobs if executor is None else most
        telling = Telling(
            listener,
            seeds=seeds,
            points=plan.points,
            from_scratch=len(from_scratch),
            beside=min(seeds, beside),
        )
        with rounds(job, seeds, beside, executor, telling) as make_points:
            points_made = make_points([None], [])
            tried: list[float] = []
            while following := plan.following(
                tried, _seen(points_made, plan), _dense_halvings(points_made)
            ):
                points_made += make_points(following, points_made)
                tried += following
            if from_scratch:
                make_points(from_scratch, points_made, from_scratch=True)
        if runtime is not None:
            every = Curve.load(folder).points  # also those from scratch of earlier calls
            time_networks(every, example_inputs, make_model, folder, telling, runtime)
            if store is not None:
                store.push(LATENCIES)
        notice_upside_down(points_made)
        curve = Curve.load(folder, make_model, example_inputs)
        finalize(curve, temporary.pop_all().close)
    return curve


def _seen(points: Sequence[Point], plan: Plan) -> list[Seen]:
    """What placing is decided by: points that worked, by strength, from dense to empty."""
    by_strength: dict[float, list[Point]] = {}
    for point in points:
        if point.strength is not None and not point.failed:
            by_strength.setdefault(point.strength, []).append(point)
    return [
        Seen(
            strength,
            halvings=tuple(halvings(p.size()) for p in by_strength[strength]),
            errors=tuple(p.error for p in by_strength[strength]),
            empty=all(p.empty for p in by_strength[strength]),
        )
        for strength in sorted(by_strength, key=plan.order)
    ]


def _dense_halvings(points: Sequence[Point]) -> float | None:
    """log₂ of the dense size, as a mean over the seeds that worked."""
    sizes = [halvings(p.size()) for p in points if p.strength is None and not p.failed]
    return fmean(sizes) if sizes else None


def _shapes(net: nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in net.named_parameters()}
