"""Maps, channel by channel: pooling, upsampling, padding by neighbours, patches, and grids."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissom.coupling.constants import NAN, Constants, Known, uniform, zeros_where
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, placed
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, operator


@operator(
    *(f"{a}{b}_pool{n}d" for a in ("", "adaptive_") for b in ("max", "avg") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"{name}_pad{n}d" for name in ("reflection", "replication") for n in (1, 2, 3)),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *(f"{name}{n}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
    *"""
    upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
    _upsample_bicubic2d_aa upsample_trilinear3d
    """.split(),
)
class Pooling(Operator):
    """Channels go through one by one; the spatial dims stay."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        c.rigid(call.first, *range(-call.spatial, 0))
        axes = c.axes(call.first)
        return axes if isinstance(call.result, Tensor) else [axes, axes]

    def constant(self, k: Constants, call: Call) -> Any:
        """A constant channel stays what it is, unless zeros are averaged in."""
        x = k.get(call.first)
        if x is None:
            return None
        channels = uniform(x, tuple(range(-call.spatial, 0)))
        padded = call.name.startswith("avg_pool") and any(concrete(call["padding"]) or [0])
        if padded or call["divisor_override"] is not None:
            channels = torch.where(channels == 0, channels, NAN)
        if isinstance(call.result, Tensor):
            return channels.expand(call.shape)
        return [channels.expand(shape(call.result[0])), None]


@operator("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
class GridSample(Operator):
    """Each channel at the places of a grid, zero outside of it."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, grid = call["input"], call["grid"]
        c.pin(grid)
        c.rigid(x, *range(2, len(c.trace.shape(x))))
        return c.axes(x)

    def constant(self, k: Constants, call: Call) -> Known:
        """A channel of zeros stays one."""
        x = k.of(call["input"])
        channels = uniform(x, tuple(range(2, x.ndim)))
        return zeros_where(channels == 0).expand(call.shape)


@operator("max_unpool2d", "max_unpool3d")
class Unpool(Operator):
    """Each entry where its index says, and zeros between."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        for node in (call["self"], call["indices"]):
            c.rigid(node, *range(-call.spatial, 0))
        return c.meet([call["self"], call["indices"]])

    def constant(self, k: Constants, call: Call) -> Known:
        """A channel of zeros stays one."""
        channels = uniform(k.of(call["self"]), tuple(range(-call.spatial, 0)))
        return zeros_where(channels == 0).expand(call.shape)


@operator("im2col")
class Patches(Operator):
    """[…, C, H, W] → […, C·kh·kw, places]: the entries of a patch of one channel go together."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        c.rigid(call["self"], -2, -1)
        rows = prod(call["kernel_size"])
        return tuple(
            np.repeat(axis[..., 0], rows, -2) if axis.shape[-3] > 1 else axis[..., 0]
            for axis in c.axes(call["self"])
        )

    def constant(self, k: Constants, call: Call) -> Known:
        """A channel of zeros, since it may be padded with them."""
        channels = uniform(k.of(call["self"]), (-2, -1))[..., 0]
        rows = zeros_where(channels == 0)
        return rows.repeat_interleave(prod(call["kernel_size"]), -2).expand(call.shape)


@operator("col2im")
class SumOfPatches(Operator):
    """[…, C·kh·kw, places] → […, C, H, W], summed where patches overlap."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x = call["self"]
        c.rigid(x, -1)
        rows = c.vector(x, -2)
        if rows is None:
            return ()
        channels = rows.reshape(-1, prod(call["kernel_size"]))
        c.labels.union(channels, channels[:, :1])
        return (placed(c.labels.find(channels[:, 0]), -3, len(call.shape)),)

    def constant(self, k: Constants, call: Call) -> Known:
        """A channel whose patches are zeros."""
        x = uniform(k.of(call["self"]), (-1,))
        zero = (x == 0).unflatten(-2, (-1, prod(call["kernel_size"]))).all(-2, keepdim=True)
        return zeros_where(zero).expand(call.shape)


@operator("affine_grid_generator")
class AffineGrid(Operator):
    """A grid of places for each example."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        c.pin(call["theta"])
        return ()
