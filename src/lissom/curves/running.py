"""Making the points of a path: train, check, measure, shrink, keep; then the next one."""

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from lissom.curves.checks import check_functions
from lissom.curves.placing import Plan
from lissom.curves.point import Point, Start
from lissom.curves.seeding import seeded
from lissom.curves.storing import (
    AGAIN,
    FAILED,
    fill,
    folder_of,
    folder_of_seed,
    load_point,
    save_network,
    save_point,
    state_in,
)
from lissom.errors import PathError, machine_failed
from lissom.measuring import latency, measure
from lissom.measuring.macs import forward_pass
from lissom.methods import require_plain
from lissom.running import ExampleInputs, as_inputs, evaluating, leaves, named_tensors
from lissom.shrinking import shrink
from lissom.shrinking.verify import fresh_inputs
from lissom.storage import alone_in, make_folder
from lissom.storage import replace as replace_file

log = logging.getLogger(__name__)

Fit = Callable[[nn.Module, float | None, Start], dict[str, Any] | None]
MakeModel = Callable[[int], nn.Module]
Score = Callable[[nn.Module], Any]  # a number, or a tensor of one
DRAWS = 8  # random inputs, on which an empty network gives one answer


@dataclass(frozen=True)
class Job:
    """What all points of a path share.

    Attributes:
        folders: whether `fit` gets a folder.
    """

    fit: Fit
    make_model: MakeModel
    error: Score
    test: Score | None
    example_inputs: ExampleInputs
    plan: Plan
    latency: bool
    out: Path
    folders: bool


def run_seed(
    job: Job,
    seed: int,
    strengths: Sequence[float | None],
    done: Sequence[Point],
    from_scratch: bool,
) -> list[Point]:
    """The points of one seed at these strengths, one after another.

    Args:
        job: what all points share.
        seed: of all of them.
        strengths: from dense to empty.
        done: earlier points of any seed, to start from; none of them from scratch, since those come
            last.
        from_scratch: start from untrained networks instead.
    """
    new: list[Point] = []
    # With jobs, a process may outlive its parent for a moment.
    with alone_in(folder_of_seed(job.out, seed)):
        for strength in strengths:
            earlier = [p for p in [*done, *new] if p.seed == seed]
            new.append(_point(job, seed, strength, earlier, from_scratch))
    return new


def build(make_model: MakeModel, seed: int) -> nn.Module:
    """The untrained network of a seed.

    Raises:
        PathError: if the function makes something else.
    """
    check_functions(make_model=make_model)
    with seeded("network", seed):
        net = make_model(seed)
    if not isinstance(net, nn.Module):
        raise PathError(f"make_model({seed}) gives a torch.nn.Module, got {net!r}")
    return net


def _point(
    job: Job, seed: int, strength: float | None, earlier: Sequence[Point], from_scratch: bool
) -> Point:
    """One point; read again if it is finished, and with its reason if it failed."""
    folder = folder_of(job.out, seed, strength, from_scratch)
    if done := load_point(folder):
        return done
    order = job.plan.order
    denser = [p for p in earlier if not p.failed and order(p.strength) < order(strength)]
    warm = denser and not from_scratch
    origin = max(denser, key=lambda p: order(p.strength)) if warm else None
    began = perf_counter()
    point = Point(
        strength,
        seed,
        number=0 if from_scratch else len(earlier),
        folder=folder,
        from_scratch=from_scratch,
        origin=None if origin is None else origin.folder.name,
    )
    make_folder(folder)
    net, start = _begun(job, point, origin)  # a damaged file is no failure of this point
    try:
        point = _trained(job, point, net, start)
    except Exception as error:  # fit is the user's, and may raise anything
        if machine_failed(error):  # and not the training: the same call makes this point again
            error.add_note(
                f"the path in {job.out} stopped at {point}; what was finished is kept, and the "
                "same call goes on"
            )
            raise
        replace_file(folder / FAILED, traceback.format_exc())
        point = replace(point, failed=f"{type(error).__name__}: {error}")
    point = replace(point, seconds=perf_counter() - began)
    save_point(point)
    return point


def _begun(job: Job, point: Point, origin: Point | None) -> tuple[nn.Module, Start]:
    """What a point begins with, and a folder for files of `fit`."""
    net = build(job.make_model, point.seed)
    if origin is not None:
        fill(net, origin.folder)
    start = Start(
        point.seed,
        number=point.number if origin is not None else 0,
        state=state_in(origin.folder) if origin is not None else None,
        folder=point.folder / "fit" if job.folders else None,
    )
    if start.folder is not None:
        make_folder(start.folder)
    return net, start


def _trained(job: Job, point: Point, net: nn.Module, start: Start) -> Point:
    """Train, check and measure one point, and keep all of it but point.json."""
    shapes = {name: tensor.shape for name, tensor in named_tensors(net)}
    with seeded("fit", point.seed, point.strength, point.from_scratch):
        state = job.fit(net, point.strength, start)
    _check(net, shapes, state)
    net.eval()
    error = _score(job.error, net, point, "error")
    test_error = None if job.test is None else _score(job.test, net, point, "test")
    small = shrink(net, job.example_inputs)
    save_network(net, small, state, point.folder)
    sizes = _sizes(small, job)
    return replace(
        point,
        error=error,
        test_error=test_error,
        sizes=sizes,
        empty=_empty(net, job.example_inputs),
    )


def _check(net: nn.Module, shapes: dict[str, torch.Size], state: object) -> None:
    """See that `fit` left a network that can be gone on with."""
    if state is not None and not isinstance(state, dict):
        raise PathError(f"fit returns None or a dict of tensors and plain values, got {state!r}")
    require_plain(net, "lissom.path")
    left = {name: tensor.shape for name, tensor in named_tensors(net)}
    if changed := sorted(n for n in shapes.keys() | left.keys() if shapes.get(n) != left.get(n)):
        raise PathError(
            f"fit changes weights in place and no shapes, but {', '.join(changed)} changed: leave "
            "the zeros in, path shrinks the network itself"
        )
    for name, tensor in named_tensors(net):
        # A buffer may hold −∞, as masks of attention do.
        fine = tensor.isfinite() if isinstance(tensor, nn.Parameter) else ~tensor.isnan()
        if not bool(fine.all()):
            raise PathError(f"the training diverged: {name} is not finite")


@torch.no_grad()
def _score(score: Score, net: nn.Module, point: Point, name: str) -> float:
    """What the user's function says of the network in evaluation mode."""
    with evaluating(net), seeded(name, point.seed, point.strength, point.from_scratch):
        value = score(net)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PathError(f"{name}(net) gives a finite number, got {value!r}")
    if number < 0:
        raise PathError(
            f"{name}(net) gives a number ≥ 0 that is smaller for better networks, such as the "
            f"fraction of wrong answers or a loss, got {number!r}"
        )
    return number


def _sizes(small: nn.Module, job: Job) -> dict[str, float]:
    """The sizes of point.AXES."""
    counted = measure(small)
    inputs = as_inputs(job.example_inputs)
    done = forward_pass(small, inputs)
    sizes: dict[str, float] = {
        "nonzeros": counted.nonzeros,
        "weights": counted.weights,
        "macs": done.total / done.examples,
        "bytes": counted.sparse_bytes,
        "bits": 8 * counted.sparse_bytes,
    }
    if job.latency:
        sizes["latency"] = latency({"small": small}, job.example_inputs)["small"].seconds
    return sizes


@torch.no_grad()
def _empty(net: nn.Module, example_inputs: ExampleInputs) -> bool:
    """Whether the answer is the same, bit by bit, for other inputs."""
    draws = [fresh_inputs(as_inputs(example_inputs), seed) for seed in range(DRAWS)]
    answers = [leaves(net(*inputs.args, **inputs.kwargs)) for inputs in draws]
    return all(
        torch.equal(a, b) for answer in answers[1:] for a, b in zip(answers[0], answer, strict=True)
    )


def log_point(point: Point) -> None:
    """Log what came of a point."""
    if point.failed:
        log.warning(
            "the point at %s failed: %s. %s has the traceback; %s",
            point,
            point.failed,
            point.folder / FAILED,
            AGAIN,
        )
    else:
        log.info("%s: error %.4g, %d nonzeros", point, point.error, point.size())
