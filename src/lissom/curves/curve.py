"""The curve of a path: questions about it, and the networks that answer them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from statistics import fmean
from tempfile import mkdtemp
from typing import Any, TypeGuard
from weakref import finalize

from torch import Tensor, nn

from lissom.arguments import as_annotated, is_number, shown
from lissom.curves import front as fronts
from lissom.curves.cutting import Whole, order_in
from lissom.curves.placing import Plan
from lissom.curves.point import (
    FRACTION,
    TRAINED,
    UNLISTED,
    ErrorScale,
    Point,
    label_of,
    number_or_dense,
)
from lissom.curves.results import Knee, Setting
from lissom.curves.running import MakeModel, build
from lissom.curves.scores import Scores, scores_of
from lissom.curves.storing import (
    FAILED,
    PATH,
    fill,
    load_latencies,
    load_path,
    load_points,
    mirrored,
    name_of,
    small_in,
    state_in,
    tensors_in,
)
from lissom.errors import PathError, RunError, nearest
from lissom.groups import Groups
from lissom.measuring import Latency
from lissom.running import ExampleInputs
from lissom.saving import load
from lissom.storage import Store, is_url
from lissom.tables import table, text
from lissom.turns import time_text


@dataclass(frozen=True)
class Curve:
    """All points of a path; made by `lissom.path`, or read again by `Curve.load`.

    Sizes are on an axis: "nonzeros" (weights and biases of the shrunk network that are not zero),
    "weights" (all of them), "macs" (for one example), "bytes" (each tensor in its smallest format),
    "bits", "coded" (bytes by entropy), or "latency" in seconds, if it was asked for.

    Attributes:
        points: from dense to empty, at each strength by seed; then those from scratch.
        out: where they are saved.
        parameters: names of the networks' parameters.
        strength_name: what the strength is: "λ", "fraction kept", …
        error_name: what the error is: "error", "RMSE", "1 − mIoU", …
        error_unit: "fraction", which is shown in percent, a text such as "°C", or "" for none.
        make_model: make_model(seed), to read networks with; None if not given.
        example_inputs: of the networks, to shrink cuts on; None if not given.
    """

    points: tuple[Point, ...]
    out: Path
    parameters: tuple[str, ...] = field(repr=False)
    strength_name: str = field(default="strength", repr=False)
    error_name: str = field(default="error", repr=False)
    error_unit: str = field(default=FRACTION, repr=False)
    make_model: MakeModel | None = field(default=None, repr=False, compare=False)
    example_inputs: ExampleInputs | None = field(default=None, repr=False, compare=False)
    _latencies: Mapping[str, Latency] = field(default_factory=dict, repr=False)

    @classmethod
    @as_annotated(PathError, "make_model")
    def load(
        cls,
        out: str | os.PathLike[str],
        make_model: MakeModel | None = None,
        example_inputs: ExampleInputs | None = None,
    ) -> "Curve":
        """Read the finished points of a path, without training anything.

        Args:
            out: the folder or URL that `lissom.path` was given.
            make_model: make_model(seed), needed only to get networks.
            example_inputs: of the networks, needed only for `at`.

        Raises:
            RunError: if there is no path in `out`, or its files are damaged or of another version.
            PathError: if no point worked there.
        """
        if isinstance(out, str) and is_url(out):
            folder = Path(mkdtemp(prefix="lissom-path-"))
            try:
                mirrored(Store(out, folder))
                if not (folder / PATH).exists():
                    raise RunError(f"there is no path in {out}")
                curve = cls.load(folder, make_model, example_inputs)
            except BaseException:
                rmtree(folder, ignore_errors=True)
                raise
            finalize(curve, rmtree, folder, ignore_errors=True)
            return curve
        out = Path(out)
        record = load_path(out)
        order = Plan(record.strengths, record.points).order
        latencies = load_latencies(out)
        points = _timed(load_points(out), latencies)
        points.sort(key=lambda p: (p.from_scratch, order(p.strength), p.seed))
        if all(point.failed or point.from_scratch for point in points):
            why = next((p.failed for p in points if p.failed), None)
            raise PathError(
                f"no point of the path in {out} is finished: call lissom.path first"
                if why is None
                else f"every point of the path in {out} failed, the first with {why}. "
                "Once it is mended, call lissom.path again, which tries them all anew; where it "
                f"happened is in {FAILED} of each point's folder"
            )
        # A loss that nobody gave a name.
        odd = record.error_unit == FRACTION and any(point.error > 1 for point in points)
        return cls(
            tuple(points),
            out,
            parameters=tuple(record.parameters),
            strength_name=record.strength_name,
            error_name=record.error_name,
            error_unit="" if odd else record.error_unit,
            make_model=make_model,
            example_inputs=example_inputs,
            _latencies=latencies,
        )

    @property
    def strength_label(self) -> str:
        """As the head of a column has it: "strength", or with its name "strength (λ)"."""
        return label_of(self.strength_name)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The warm-started strengths from dense to empty, over the seeds that worked at each."""
        return self._settings(point for point in self.points if not point.from_scratch)

    @cached_property
    def from_scratch(self) -> tuple[Setting, ...]:
        """The strengths that were trained from untrained networks, as a check."""
        return self._settings(point for point in self.points if point.from_scratch)

    @property
    def failed(self) -> tuple[Point, ...]:
        """The points without a network."""
        return tuple(point for point in self.points if point.failed)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the sizes."""
        return tuple(next(p.sizes for p in self.points if p.sizes is not None))

    @property
    def runtime(self) -> str | None:
        """What ran the networks when their latency was measured; None if it was not."""
        return next((latency.runtime for latency in self._latencies.values()), None)

    @as_annotated(PathError)
    def front(self, axis: str = "nonzeros") -> tuple[Setting, ...]:
        """Settings that no other dominates, from dense to empty.

        One dominates another if its mean size and its mean error are at most the other's, and one
        of them is less. Those from scratch do not take part.
        """
        return _front(self.settings, self._axis(axis))

    def dominated(self, axis: str = "nonzeros") -> tuple[Setting, ...]:
        """The warm-started settings that are not on the front."""
        kept = {id(setting) for setting in self.front(axis)}
        return tuple(setting for setting in self.settings if id(setting) not in kept)

    @as_annotated(PathError)
    def knee(self, axis: str = "nonzeros") -> Knee:
        """The setting of the front that is furthest below a chord.

        The chord runs from the lowest error at the largest size to the last point of the front, in
        x = log₂ size and y = log₂ error, both scaled to [0, 1]; so it depends on where the front
        ends. The same is done for each seed's own points.

        Raises:
            PathError: if the front has fewer than three settings, or is nowhere below its chord.

        Source: Satopää et al. 2011, without smoothing.
        """
        front = self.front(axis)
        if len(front) < 3:
            raise PathError(
                f"a knee needs a front of three settings, and this one has {len(front)}: "
                f"{_listed(front)}. Take more strengths, or an interval from dense to empty"
            )
        found = _knee(self.settings, axis)
        if found is None:
            raise PathError(
                "the front is nowhere below the straight line between its ends, so it has no knee: "
                f"{_listed(front)}. Look at more strengths near the dense network"
            )
        own: dict[int, Point] = {}
        for seed in sorted({point.seed for point in self.points}):
            alone = self._settings(p for p in self.points if p.seed == seed and not p.from_scratch)
            if knee := _knee(alone, axis):
                own[seed] = knee.points[0]
        return Knee(found, axis, own)

    @as_annotated(PathError, "error")
    def within(self, error: float, axis: str = "nonzeros") -> Setting:
        """The smallest setting whose mean error is at most the dense one's + `error`.

        Raises:
            PathError: if there is none, or no dense network to compare with.
        """
        if not _is_number(error):
            raise PathError(f"error is how much more than the dense one's, got {error!r}")
        front = self.front(axis)
        dense = next((s for s in self.settings if s.strength is None), None)
        if dense is None:
            raise PathError("the dense network failed for all seeds: there is no error to add to")
        allowed = [s for s in front if s.error <= dense.error + error]
        if not allowed:
            best = front[0]  # the largest of a front has its lowest error
            raise PathError(
                f"no setting has an error of at most {dense.error:.4g} {error:+g}; the lowest is "
                f"error={best.error - dense.error:.4g} against the dense one, at {best}"
            )
        return allowed[-1]

    def budget(self, /, **budget: float) -> Setting:
        """The setting with the lowest mean error whose size, the largest over seeds, is within.

            curve.budget(nonzeros=20_000), curve.budget(bytes=8192), curve.budget(latency=1e-3)

        Raises:
            PathError: if no setting is so small, or not exactly one axis was given.
        """
        axis, limit = self._limit(budget)
        within = [s for s in self.settings if s.largest(axis) <= limit]
        if not within:
            least = min(self.settings, key=lambda s: s.largest(axis))
            raise PathError(
                f"no setting has at most {axis}={limit:,}; the smallest is "
                f"{axis}={least.largest(axis):,}, at {least}"
            )
        return min(within, key=lambda s: (s.error, s.size(axis)))

    @as_annotated(PathError)
    def at(
        self, *, seed: int = 0, batches: Sequence[Any] | None = None, **budget: float
    ) -> nn.Module:
        """The largest network within a size, cut from one training of all sizes, and shrunk.

            curve.at(nonzeros=5000)    # a size that nobody trained

        It is not fine-tuned, as points of the curve may be.

        Args:
            seed: whose training it is cut from.
            batches: training inputs, where BatchNorm's running statistics have to be made anew:
                those of the training are of networks of all sizes.
            **budget: nonzeros, weights, macs, bytes, bits or coded.

        Raises:
            PathError: if the dense point left no order, no cut is so small, or what the networks
                are made of and shrunk on is not known.
        """
        axis, limit = self._limit(budget)
        dense = [p for p in self.points if p.seed == seed and p.strength is None and not p.failed]
        if not dense:
            raise PathError(f"there is no dense network of seed={seed} to be cut")
        if axis == "latency":
            raise PathError("how long a cut takes is not known before it is there: give macs=…")
        if self.example_inputs is None:
            raise PathError(
                "a cut is shrunk on example inputs: Curve.load(out, make_model, example_inputs)"
            )
        net = build(self._maker(None), seed)
        fill(net, dense[0].folder)
        order, record = order_in(state_in(dense[0].folder), net), load_path(self.out)
        whole = Whole(net.eval(), order, self.example_inputs, record.round_to, record.inputs)
        return whole.within(axis, limit, batches)

    @as_annotated(PathError)
    def slope(self, at: "Setting | Point | Knee | float", axis: str = "nonzeros") -> float:
        """The error, as `error` counts it, that one halving of the size adds around a size.

        E(x − ½) − E(x + ½) for x = log₂ size, where E is the straight line between neighbours on
        the front; at its ends the half that there is, divided by its width.

        Args:
            at: a size, or something that has one.
            axis: of the size.

        Raises:
            PathError: for a size beyond the front, or a front of one size.
        """
        front = self.front(axis)
        sizes = [s.size(axis) for s in front]
        size = _size(at, axis)
        if sizes[0] == sizes[-1]:
            raise PathError(f"a slope needs two settings on the front, got {_listed(front)}")
        if not sizes[-1] <= size <= sizes[0]:
            raise PathError(
                f"the front goes from {sizes[-1]:,.6g} to {sizes[0]:,.6g} {axis}, and {size:,.6g} "
                "is beyond it"
            )
        return fronts.slope(sizes, [s.error for s in front], size)

    @as_annotated(PathError)
    def scores(self, seed: int = 0, groups: Callable[[nn.Module], Groups] | None = None) -> Scores:
        """For each weight, or each group, the strength from which on it is zero; see `Scores`.

            curve.scores().index["fc1.weight"]
            curve.scores(groups=lambda net: lissom.neurons(net, x))    # one for each neuron

        Args:
            seed: whose points.
            groups: groups(net) chooses what is looked at instead of single weights. Further blocks
                of one name are "name[1]", "name[2]", ….

        Raises:
            PathError: if no warm-started point of this seed worked, or nothing makes the network
                whose groups are asked for.
        """
        points = [p for p in self.points if p.seed == seed and not p.from_scratch and not p.failed]
        if not points:
            seeds = sorted({p.seed for p in self.points if not p.failed})
            raise PathError(f"there is no network of seed={seed!r}; seeds: {seeds}")
        if groups is None:
            dead = [self._dead_weights(point) for point in points]
        else:
            net = build(self._maker(None), seed)
            dead = [_dead_groups(net, groups, point) for point in points]
        return scores_of([point.strength for point in points], dead)

    def network(self, point: Point, make_model: MakeModel | None = None) -> nn.Module:
        """The shrunk network of a point, in evaluation mode.

            [curve.network(point) for point in curve.within(error=0.005).points]

        Args:
            point: of this curve.
            make_model: make_model(seed); needed where `Curve.load` was not given it.

        Raises:
            PathError: if the point failed, or nothing makes the network.
        """
        self._check(point)
        maker = self._maker(make_model)
        return load(small_in(point.folder), lambda: build(maker, point.seed))

    def latency(self, point: Point) -> Latency:
        """How long the shrunk network of a point takes, and its ratio to the first dense one's.

        Raises:
            PathError: if the point failed, or latencies were not asked for.
        """
        self._check(point)
        if name_of(point) not in self._latencies:
            raise PathError(f"the networks in {self.out} were not timed: lissom.path(latency=True)")
        return self._latencies[name_of(point)]

    def tensors(self, point: Point) -> dict[str, Tensor]:
        """Parameters and buffers of a point's trained network before it was shrunk, on the CPU.

        Raises:
            PathError: if the point failed.
        """
        self._check(point)
        return tensors_in(point.folder)

    def to_dict(self) -> dict[str, Any]:
        """All points, and all settings with their means, as JSON has them."""
        return {
            "error_name": self.error_name,
            "error_unit": self.error_unit,
            "points": [point.to_dict() for point in self.points],
            "settings": [setting.to_dict() for setting in (*self.settings, *self.from_scratch)],
        }

    def __str__(self) -> str:
        dominated = {id(setting) for setting in self.dominated()}
        rows = [self._row(s, "dominated" if id(s) in dominated else "") for s in self.settings]
        rows += [self._row(s, "from scratch") for s in self.from_scratch]
        error, sizes = self._scale.heading, _columns(self.axes)
        if self.runtime is not None:
            sizes = [f"latency, {self.runtime}" if axis == "latency" else axis for axis in sizes]
        columns = [self.strength_label, error, "test", *sizes, "seconds", ""]
        lines = [text(table(columns, rows))]
        lines += [f"failed: {point}: {point.failed}" for point in self.failed]
        return "\n".join(lines)

    @property
    def _scale(self) -> ErrorScale:
        return ErrorScale(self.error_name, self.error_unit)

    def _settings(self, points: Iterable[Point]) -> tuple[Setting, ...]:
        """Points by strength, in the order in which they come; without those where all failed."""
        by_strength: dict[float | None, list[Point]] = {}
        for point in points:
            by_strength.setdefault(point.strength, []).append(point)
        return tuple(
            Setting(
                strength,
                points=tuple(p for p in found if not p.failed),
                failed=tuple(p for p in found if p.failed),
                from_scratch=found[0].from_scratch,
                scale=self._scale,
            )
            for strength, found in by_strength.items()
            if not all(p.failed for p in found)
        )

    def _row(self, setting: Setting, mark: str) -> list[object]:
        test = "" if setting.test_error is None else self._scale.number(setting.test_error)
        sizes = [self._size(setting, axis) for axis in _columns(setting.points[0].sizes or {})]
        seconds = sum(point.seconds for point in (*setting.points, *setting.failed))
        marks = [mark] if mark else []
        if setting.made != TRAINED:
            marks.append(setting.made)
        if setting.failed:
            marks.append(f"{len(setting.failed)} failed")
        return [
            number_or_dense(setting.strength),
            self._scale.number(setting.error, setting.error_std),
            test,
            *sizes,
            f"{seconds:.1f}",
            ", ".join(marks),
        ]

    def _size(self, setting: Setting, axis: str) -> object:
        size = setting.size(axis)
        if axis != "latency":
            return round(size) if size >= 10 else size
        timed = [self._latencies.get(name_of(point)) for point in setting.points]
        ratios = [latency.ratio for latency in timed if latency is not None]
        return time_text(size) + (f" ({fmean(ratios):.2f}×)" if ratios else "")

    def _dead_weights(self, point: Point) -> dict[str, Tensor]:
        tensors = tensors_in(point.folder)
        return {name: tensors[name] == 0 for name in self.parameters}

    def _maker(self, given: MakeModel | None) -> MakeModel:
        make_model = given or self.make_model
        if make_model is None:
            raise PathError(
                "reading a network needs the function that makes an untrained one: "
                "curve.network(point, make_model) or Curve.load(out, make_model), with what "
                "lissom.path was given as make_model"
            )
        return make_model

    def _limit(self, budget: Mapping[str, float]) -> tuple[str, float]:
        """The one axis of a budget, and its number."""
        if len(budget) != 1:
            got = shown(dict(budget)) if budget else "none"
            raise PathError(
                f"a budget is of one size, such as nonzeros=20_000; got {got}. "
                f"Axes: {', '.join(self.axes)}"
            )
        [(name, limit)] = budget.items()
        axis = self._axis(name)
        if not _is_number(limit):
            raise PathError(f"a budget is a number, got {axis}={shown(limit)}")
        return axis, limit

    def _axis(self, axis: str) -> str:
        if axis not in self.axes:
            raise PathError(f"there is no axis {axis!r}.{nearest(str(axis), self.axes)}")
        return axis

    def _check(self, point: object) -> None:
        if not isinstance(point, Point):
            raise PathError(
                f"a network belongs to a point, one of curve.points or setting.points, got {point}"
            )
        if point.failed:
            raise PathError(f"the point at {point} has no network: {point.failed}")


def _dead_groups(
    net: nn.Module, groups: Callable[[nn.Module], Groups], point: Point
) -> dict[str, Tensor]:
    """Which groups of a point's network are zero, by the names of their blocks."""
    fill(net, point.folder)
    chosen = groups(net)
    if not isinstance(chosen, Groups):
        raise PathError(f"groups(net) gives groups, such as lissom.neurons(net, x), got {chosen!r}")
    dead: dict[str, Tensor] = {}
    for block, norms in zip(chosen.blocks, chosen.norms(), strict=True):
        same = sum(name.partition("[")[0] == block.name for name in dead)
        dead[f"{block.name}[{same}]" if same else block.name] = norms == 0
    return dead


def _timed(points: Iterable[Point], latencies: Mapping[str, Latency]) -> list[Point]:
    """Points with the latency among their sizes, if all that worked have one."""
    points = list(points)
    sizes = {id(p): dict(p.sizes) for p in points if p.sizes is not None}
    for point in points:
        if id(point) in sizes and name_of(point) in latencies:
            sizes[id(point)]["latency"] = latencies[name_of(point)].seconds
    if not all("latency" in of_point for of_point in sizes.values()):
        for of_point in sizes.values():
            of_point.pop("latency", None)
    return [replace(point, sizes=sizes.get(id(point))) for point in points]


def _front(settings: Sequence[Setting], axis: str) -> tuple[Setting, ...]:
    sizes, errors = [s.size(axis) for s in settings], [s.error for s in settings]
    return tuple(settings[i] for i in fronts.pareto(sizes, errors))


def _knee(settings: Sequence[Setting], axis: str) -> Setting | None:
    front, largest = _front(settings, axis), max(s.size(axis) for s in settings)
    place = fronts.knee([s.size(axis) for s in front], [s.error for s in front], largest)
    return None if place is None else front[place]


def _size(at: "Setting | Point | Knee | float", axis: str) -> float:
    if isinstance(at, Knee):
        at = at.setting
    if isinstance(at, Setting | Point):
        return at.size(axis)
    if _is_number(at):
        return float(at)
    raise PathError(f"a slope is asked for at a setting, a point or a size, got {at!r}")


def _is_number(value: object) -> TypeGuard[float]:
    return is_number(value) and value == value


def _listed(settings: Sequence[Setting]) -> str:
    return "; ".join(map(str, settings))


def _columns(axes: Iterable[str]) -> list[str]:
    """The axes that a table has room for."""
    return [axis for axis in axes if axis not in UNLISTED]
