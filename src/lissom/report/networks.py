"""Figures of what is inside of sparse networks: who reads which input, and how gates are set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from lissom.arguments import as_annotated, fits
from lissom.curves import Curve, Point
from lissom.curves.point import strength_text
from lissom.errors import LissomError, PathError, nearest
from lissom.hard_concrete import HardConcrete
from lissom.report.series import halvings, removed

READERS = LinearSegmentedColormap.from_list("readers", ["#b9dcd8", "#0d7d76", "#06302d"])
REACH = 10.0  # |log α| that gates keep to


@as_annotated(LissomError)
def patterns(
    curve: Curve,
    parameter: str | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    number: int = 6,
) -> Figure:
    """From dense to sparse, how many units of a layer read each of its inputs, as images.

    Inputs that nothing reads are transparent. Each image has its own colours, from one reader to
    the most that an input of it has, since they differ by orders of magnitude.

    Args:
        curve: with its folder.
        parameter: a weight [units, inputs] or [maps, inputs, height, width]; by default the first.
        shape: (height, width) of the inputs; by default a square, or one row.
        seed: whose networks.
        number: how many of its warm-started points, from the densest to the sparsest.

    Raises:
        PathError: if there is no such weight, seed or shape.

    Source: Ahmed, fig. 6 and 11.
    """
    images = []
    for point in spaced(curve, seed, number):
        tensors = curve.tensors(point)
        name = first_layer(curve, tensors) if parameter is None else parameter
        if name is None or name not in tensors or tensors[name].ndim < 2:
            known = [key for key, tensor in tensors.items() if tensor.ndim > 1]
            raise PathError(
                f"patterns are of a weight with units and inputs, got {name!r}."
                f"{nearest(str(name), known)}"
            )
        saved = removed(halvings(curve, point.size(), "nonzeros"))
        title = f"{strength_text(point.strength, curve.strength_name)}\n{saved} % removed"
        images.append((title, readers(tensors[name], shape)))
    return _side_by_side(images)


def spaced(curve: Curve, seed: int = 0, number: int = 6) -> list[Point]:
    """Some of a seed's warm-started points, from the densest to the sparsest.

    Raises:
        PathError: if there is no such seed, or for a number < 1.
    """
    points = [p for p in curve.points if p.seed == seed and not p.from_scratch and not p.failed]
    if not points or number < 1:
        seeds = sorted({p.seed for p in curve.points if not p.failed})
        raise PathError(f"patterns of {number} points of seed={seed!r}; there are seeds {seeds}")
    places = np.linspace(0, len(points) - 1, min(number, len(points))).round().astype(int)
    return [points[i] for i in places]


@as_annotated(LissomError, "weights")
def connectivity(weights: Mapping[str, Tensor], shape: tuple[int, int] | None = None) -> Figure:
    """How many units read each input of a layer, as one image for each network.

        connectivity({"ℓ0": a.fc1.weight, "ℓ0 + ℓ2": b.fc1.weight})

    Args:
        weights: by title, each [units, inputs].
        shape: (height, width) of the inputs; by default a square, or one row.

    Raises:
        PathError: for no weights, for one that is no matrix, or another number of inputs than
            `shape` has.

    Source: Idelbayev & Carreira-Perpiñán, connectivity of the first layer.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise PathError("connectivity shows weights by title, such as {'ℓ0': net.fc1.weight}")
    for title, weight in weights.items():
        if not fits(weight, Tensor) or weight.ndim != 2:
            got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise PathError(f"connectivity is of weights [units, inputs], got {got} for {title!r}")
    images = []
    for title, weight in weights.items():
        image = readers(weight.detach().cpu(), shape)
        read = int(image.counts.count_nonzero())
        images.append((f"{title}\n{read} of {image.counts.numel()} inputs read", image))
    return _side_by_side(images)


def _side_by_side(images: Sequence[tuple[str, "Readers"]]) -> Figure:
    """Images in a row, or wide ones in a column, each with colours of its own.

    They are transparent where nothing reads.
    """
    if all(image.wide for _, image in images):
        figure = Figure(figsize=(7.0, 1.5 * len(images)), layout="constrained")
        grid = figure.subplots(len(images), 1, squeeze=False).flat
    else:
        figure = Figure(figsize=(max(3.0, 2.1 * len(images)), 3.0), layout="constrained")
        grid = figure.subplots(1, len(images), squeeze=False).flat
    for axes, (title, image) in zip(grid, images, strict=True):
        most = int(image.counts.max())
        shown = np.ma.masked_equal(image.counts.numpy(), 0)
        axes.imshow(shown, cmap=READERS, vmin=0.5, vmax=max(1, most), aspect=image.aspect)
        axes.set_title(f"{title}\nread by ≤ {most} of {image.units}", fontsize="small")
        axes.set(xticks=[], yticks=[])
    return figure


@dataclass(frozen=True)
class Readers:
    """How many units read each input.

    Attributes:
        counts: [height, width].
        units: how many there are.
        square: whether it is an image; otherwise it is one row of inputs in no order.
    """

    counts: Tensor
    units: int
    square: bool

    @property
    def wide(self) -> bool:
        """Whether it is an image far wider than high."""
        return self.square and self.counts.shape[1] > 3 * self.counts.shape[0]

    @property
    def aspect(self) -> float | str:
        """Of a picture: pixels are square, a row is as high as it is wide."""
        return "equal" if self.square else "auto"


def readers(weight: Tensor, shape: tuple[int, int] | None = None) -> Readers:
    """Σ_u 1[w_ui ≠ 0] for each input i; of a convolution, for each place of its kernel.

    Args:
        weight: [units, inputs, …]; further dims are places of a kernel.
        shape: (height, width) of the inputs; by default a square, or one row.

    Raises:
        PathError: if the shape has another number of inputs.
    """
    kept = weight != 0
    # A kernel's maps are added up: it is the place that makes a picture.
    counts = kept.sum(0) if weight.ndim == 2 else kept.flatten(0, 1).sum(0)
    units = weight.shape[0] if weight.ndim == 2 else weight.shape[0] * weight.shape[1]
    total, side = counts.numel(), math.isqrt(counts.numel())
    if shape is None:
        shape = (side, side) if side**2 == total else (1, total)
        shape = (counts.shape[0], counts.shape[1]) if counts.ndim == 2 else shape
    if math.prod(shape) != total:
        raise PathError(f"shape={tuple(shape)} has {math.prod(shape)} places for {total} inputs")
    return Readers(counts.reshape(shape), units, square=shape[0] > 1)


def first_layer(curve: Curve, tensors: Mapping[str, Tensor]) -> str | None:
    """The first parameter with units and inputs; None if there is none."""
    return next((name for name in curve.parameters if tensors[name].ndim > 1), None)


@runtime_checkable
class HasLogAlpha(Protocol):
    """A method with gates: log α by block, their law, and which gate stands in evaluation mode."""

    law: HardConcrete
    test: str

    def log_alphas(self) -> Mapping[str, Tensor]:
        """log α by the name of each block."""


@as_annotated(LissomError)
def log_alpha(gates: HasLogAlpha) -> Figure:
    """The distribution of log α in each block, and where the test-time gate becomes 0 and 1.

    Left of the left line a gate is shut, and right of the right one its scale is exactly 1; in
    between it multiplies by less. A trained layer has two hills, and few gates between the lines.

    Args:
        gates: that are still on their model.

    Raises:
        GateError: if they were taken away.

    Source: Ahmed, fig. 3.
    """
    found: Mapping[str, Tensor] = gates.log_alphas()
    values = {name: tensor.flatten().cpu().double().numpy() for name, tensor in found.items()}
    lines = thresholds(gates.law, gates.test)
    everything = np.concatenate([*values.values(), [line for line in lines if line is not None]])
    low, high = float(everything.min()), float(everything.max())
    bins = np.linspace(low - 0.25, high + 0.25, 61)
    columns = min(2, len(values))
    rows = math.ceil(len(values) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for (name, alphas), axes in zip(values.items(), grid, strict=False):
        axes.hist(alphas, bins=bins, color="#0d7d76")
        for line, label in zip(lines, ("0", "1"), strict=True):
            if line is not None:
                axes.axvline(line, color="#c4571b", ls="--", lw=1)
                place = (line, 1.0)
                axes.annotate(
                    f"z = {label}", place, xycoords=axes.get_xaxis_transform(), fontsize="x-small",
                    ha="right" if label == "0" else "left", va="top", color="#c4571b",
                )  # fmt: skip
        shut = int((gates.law.test_gate(torch.from_numpy(alphas), gates.test) == 0).sum())
        axes.set_title(f"{name}: {shut:,} of {alphas.size:,} shut", fontsize="small", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel="log α", ylabel="gates")
    for axes in list(grid):
        axes.set_visible(False)
    return figure


def thresholds(law: HardConcrete, test: str) -> tuple[float | None, float | None]:
    """The largest log α at which the test-time gate is 0, and the smallest at which it is 1.

    Found by bisection, since the gate grows with log α whatever its kind is; None where it is not
    reached within |log α| ≤ 10, as by the mean.

    Args:
        law: of the gates.
        test: a name of `lissom.hard_concrete.TEST_GATES`.
    """

    def z(alpha: float) -> float:
        return float(law.test_gate(torch.tensor(alpha, dtype=torch.float64), test))

    def border(above: bool) -> float:
        low, high = -REACH, REACH
        for _ in range(60):
            middle = (low + high) / 2
            beyond = z(middle) >= 1 if above else z(middle) > 0
            low, high = (low, middle) if beyond else (middle, high)
        return (low + high) / 2

    return (
        border(above=False) if z(-REACH) == 0 else None,
        border(above=True) if z(REACH) == 1 else None,
    )
