"""Making the points of a path: train, check, measure, shrink, keep; then the next one."""

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lissom.arguments import shown
from lissom.curves.checks import ContractError, check_functions
from lissom.curves.placing import Plan
from lissom.curves.point import CUT, FINE_TUNED, TRAINED, Point, Start
from lissom.curves.seeding import seeded
from lissom.curves.storing import (
    FAILED,
    POINT,
    fill,
    folder_of,
    load_point,
    name_of,
    save_network,
    save_point,
    state_in,
)
from lissom.errors import MethodError, PathError, machine_failed
from lissom.measuring import measure
from lissom.measuring.macs import of_one_example
from lissom.methods import require_plain
from lissom.running import ExampleInputs, as_inputs, evaluating, leaves, named_tensors
from lissom.shrinking import shrink
from lissom.shrinking.verify import fresh_inputs
from lissom.storage import Store, alone_in, make_folder
from lissom.storage import replace as replace_file

Fit = Callable[[nn.Module, float | None, Start], dict[str, Any] | None]
MakeModel = Callable[[int], nn.Module]
Score = Callable[[nn.Module], Any]  # a number, or a tensor of one
DRAWS = 8  # random inputs, on which an empty network gives one answer
HERE, LIBRARIES = Path(__file__).parents[1], "site-packages"


@dataclass(frozen=True)
class Job:
    """What all points of a path share.

    Attributes:
        cuts: whether all points begin with the dense network.
        folders: whether `fit` gets a folder.
        store: where the path is kept if not in `out`, which is a copy of it then.
        far: whether points are made where `out` is not at hand, and so in folders of their own.
    """

    fit: Fit
    make_model: MakeModel
    error: Score
    test: Score | None
    example_inputs: ExampleInputs
    plan: Plan
    round_to: int
    inputs: bool
    cuts: bool
    out: Path
    folders: bool
    store: str | None = None
    far: bool = False

    @property
    def where(self) -> str:
        """The path is kept."""
        return self.store or str(self.out)


def planned(
    job: Job, seed: int, strength: float | None, done: Sequence[Point], *, from_scratch: bool
) -> Point:
    """A point before it is made.

    Args:
        job: what all points share.
        seed: of the point.
        strength: of the point.
        done: earlier points of any seed, to start from; none of them from scratch, since those come
            last.
        from_scratch: start from an untrained network instead.
    """
    order = job.plan.order
    earlier = [p for p in done if p.seed == seed]
    denser = [p for p in earlier if not p.failed and order(p.strength) < order(strength)]
    if job.cuts:  # of one training
        denser = [p for p in denser if p.strength is None]
    warm = denser and not from_scratch
    origin = max(denser, key=lambda p: order(p.strength)) if warm else None
    return Point(
        strength,
        seed,
        number=0 if from_scratch else len(earlier),
        folder=folder_of(job.out, seed, strength, from_scratch),
        from_scratch=from_scratch,
        origin=None if origin is None else origin.folder.name,
    )


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


def run_point(job: Job, point: Point) -> Point:
    """Make a planned point; read again if it is finished, and with its reason if it failed.

    Raises:
        PathError: if the dense network failed, without which there is no path; or if a function
            does not keep to what it is called for, and so would not at the next point either.
        OSError, MemoryError, RuntimeError: what the machine failed with.
    """
    if job.store is None:
        return _alone(job, point)
    store = Store(job.store, job.out)
    if not job.far:
        made = _alone(job, point)
        store.push(name_of(made), last=POINT)
        return made
    with TemporaryDirectory(prefix="lissom-point-") as folder:
        here = replace(job, out=Path(folder))
        there = replace(point, folder=Path(folder) / name_of(point))
        store = store.at(here.out)
        if point.origin is not None:
            store.pull(name_of(replace(there, folder=there.folder.parent / point.origin)))
        made = _alone(here, there)
        store.push(name_of(made), last=POINT)
    return replace(made, folder=point.folder)


def _alone(job: Job, point: Point) -> Point:
    # With jobs, a process may outlive its parent for a moment.
    with alone_in(point.folder):
        return load_point(point.folder) or _made(job, point)


def _made(job: Job, point: Point) -> Point:
    began = perf_counter()
    make_folder(point.folder)
    net, start = _begun(job, point)  # a damaged file is no failure of this point
    failure: Exception | None = None
    try:
        point = _trained(job, point, net, start)
    except Exception as error:  # fit is the user's, and may raise anything
        if machine_failed(error):  # and not the training: the same call makes this point again
            _note(error, job, point, "the same call goes on")
            raise
        if isinstance(error, ContractError):
            mended = "" if point.strength is None else " with retry_failed=True"
            _note(error, job, point, f"once it is mended, the same call{mended} goes on")
            raise
        failure = error
        replace_file(point.folder / FAILED, traceback.format_exc())
        point = replace(point, failed=f"{type(error).__name__}: {error}")
    point = replace(point, seconds=perf_counter() - began)
    save_point(point)
    if failure is not None and point.strength is None:
        where = f"; {point.folder / FAILED} has the traceback" if job.folders else ""
        raise PathError(
            f"the dense network of seed {point.seed} failed with {point.failed}"
            f"{_place(failure)}{where}. Nothing can go on from it: once it is mended, call "
            "lissom.path again"
        ) from failure
    return point


def _note(error: Exception, job: Job, point: Point, how: str) -> None:
    kept = f"; what was finished is kept, and {how}" if job.folders else ""
    where = f" in {job.where}" if job.folders else ""
    error.add_note(f"the path{where} stopped at {point}{kept}")


def _place(error: Exception) -> str:
    """The line of the user's own code that an error comes from, if it comes from some."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if not f.filename.startswith(str(HERE)) and LIBRARIES not in f.filename
    ]
    return f", at {own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}" if own else ""


def _begun(job: Job, point: Point) -> tuple[nn.Module, Start]:
    """What a point begins with, and a folder for files of `fit`."""
    net = build(job.make_model, point.seed)
    origin = None if point.origin is None else point.folder.parent / point.origin
    if origin is not None:
        fill(net, origin)
    start = Start(
        point.seed,
        number=point.number if origin is not None else 0,
        state=state_in(origin) if origin is not None else None,
        folder=point.folder / "fit" if job.folders else None,
    )
    if start.folder is not None:
        make_folder(start.folder)
    return net, start


def _trained(job: Job, point: Point, net: nn.Module, start: Start) -> Point:
    """Train, check and measure one point, and keep all of it but point.json."""
    shapes = {name: tensor.shape for name, tensor in named_tensors(net)}
    whole = [p.detach().clone() for p in net.parameters()] if _is_cut(job, point) else None
    with seeded("fit", point.seed, point.strength, point.from_scratch):
        state = job.fit(net, point.strength, start)
    _check(net, shapes, state)
    net.eval()
    error = _score(job.error, net, point, "error")
    test_error = None if job.test is None else _score(job.test, net, point, "test")
    small = shrink(net, job.example_inputs, round_to=job.round_to, inputs=job.inputs)
    save_network(net, small, state, point.folder)
    sizes = sizes_of(small, job.example_inputs)
    return replace(
        point,
        error=error,
        test_error=test_error,
        sizes=sizes,
        empty=_empty(net, job.example_inputs),
        made=TRAINED if whole is None else _how(net, whole),
    )


def _is_cut(job: Job, point: Point) -> bool:
    """Whether a point is cut from another one, and maybe fine-tuned."""
    return job.cuts and point.origin is not None


def _how(net: nn.Module, whole: Sequence[Tensor]) -> str:
    """What was done to a network, by its weights now and before."""
    pairs = zip(net.parameters(), whole, strict=True)
    kept = all(bool(((now == 0) | (now == before.to(now))).all()) for now, before in pairs)
    return CUT if kept else FINE_TUNED


def _check(net: nn.Module, shapes: dict[str, torch.Size], state: object) -> None:
    """See that `fit` left a network that can be gone on with."""
    if state is not None and not isinstance(state, dict):
        raise ContractError(
            f"fit returns None or a dict of tensors and plain values, got {state!r}"
        )
    try:
        require_plain(net, "lissom.path")
    except MethodError as error:
        raise ContractError(str(error)) from error
    left = {name: tensor.shape for name, tensor in named_tensors(net)}
    if changed := sorted(n for n in shapes.keys() | left.keys() if shapes.get(n) != left.get(n)):
        raise ContractError(
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
    except (TypeError, ValueError, RuntimeError) as error:  # the last for several in a tensor
        raise ContractError(f"{name}(net) gives one number, got {shown(value)}") from error
    if not math.isfinite(number):
        raise PathError(f"{name}(net) gives a finite number, got {value!r}")
    if number < 0:
        raise ContractError(
            f"{name}(net) gives a number ≥ 0 that is smaller for better networks, such as the "
            f"fraction of wrong answers or a loss, got {number!r}"
        )
    return number


def sizes_of(small: nn.Module, example_inputs: ExampleInputs) -> dict[str, float]:
    """The sizes of point.AXES, but for the latency."""
    counted = measure(small)
    done = of_one_example(small, as_inputs(example_inputs))
    return {
        "nonzeros": counted.nonzeros,
        "weights": counted.weights,
        "macs": float(done.total),
        "bytes": counted.sparse_bytes,
        "bits": 8 * counted.sparse_bytes,
        "coded": counted.coded_bytes,
    }


@torch.no_grad()
def _empty(net: nn.Module, example_inputs: ExampleInputs) -> bool:
    """Whether the answer is the same, bit by bit, for other inputs."""
    draws = [fresh_inputs(as_inputs(example_inputs), seed) for seed in range(DRAWS)]
    answers = [leaves(net(*inputs.args, **inputs.kwargs)) for inputs in draws]
    return all(
        torch.equal(a, b) for answer in answers[1:] for a, b in zip(answers[0], answer, strict=True)
    )
