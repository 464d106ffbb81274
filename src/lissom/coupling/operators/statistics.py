"""Statistics: sums, norms, means, normalisations, pooling, and what is sorted or mixed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissom.coupling.constants import NAN, Constants, Known, spread, uniform
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, varying
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, operator
from lissom.coupling.sites import MustVanish


@operator("var", "std", "prod", "logsumexp", "all", "any")
class Reduction(Operator):
    """One number from all along some dims, for which all of them are needed."""

    def loses_nothing(self, call: Call) -> bool:
        """Whether entries that are zero change nothing but rounding."""
        return False

    def couple(self, c: Coupler, call: Call) -> Axes:
        x = call.first
        dims = _dims(call, len(c.trace.shape(x)))
        for dim in dims:
            one = [axis for axis in c.axes(x) if varying(axis) == [dim]]
            if self.loses_nothing(call) and one:
                c.sites.append(MustVanish(call.node, x, dim, one[0].ravel()))
            elif c.alive(call.node):
                c.rigid(x, dim)
        left = [axis for axis in c.axes(x) if not set(varying(axis)) & set(dims)]
        if not call["keepdim"]:
            left = [np.squeeze(axis, tuple(dims)) for axis in left]
        return tuple(left)


@operator("mean", "amax", "amin")
class Mean(Reduction):
    """What does not grow with the number of entries that are alike."""

    def constant(self, k: Constants, call: Call) -> Known:
        """Known if all that is reduced is; torch carries NaN through all of these."""
        x = k.get(call.first)
        if x is None or not x.is_floating_point() or k.fixed(call.node):
            return k.all_known(call)  # type: ignore[no-any-return]
        # What differs by position has another mean elsewhere.
        alike = uniform(x, tuple(_dims(call, x.ndim))).expand(x.shape)
        result: Tensor = k.run(call, {call.first: alike})
        return result


@operator("sum", "nansum", "linalg_vector_norm")
class Sum(Mean):
    """A sum and a norm lose nothing with a zero, and grow with the number of what is not zero."""

    def loses_nothing(self, call: Call) -> bool:
        return call["ord"] in (None, 1, 2)

    def constant(self, k: Constants, call: Call) -> Known:
        x = k.get(call.first)
        if x is None or not x.is_floating_point() or k.fixed(call.node):
            return k.all_known(call)  # type: ignore[no-any-return]
        zero = uniform(x, tuple(_dims(call, x.ndim))).expand(x.shape) == 0
        result = k.run(call, {call.first: torch.where(zero, 0.0, 1.0).double()})
        return torch.where(result == 0, 0.0, NAN).double()


@operator(*"softmax log_softmax _softmax _log_softmax cumsum cumprod logcumsumexp".split())
class Mixing(Operator):
    """What is mixed along a dim needs all of it."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        if c.alive(call.node):
            c.rigid(call.first, int(concrete(call["dim"])))
        return c.axes(call.first)


@operator("sort", "topk", "cummax", "cummin")
class Sorting(Operator):
    """Entries along a dim in another order, and where they were; the dim stays."""

    def couple(self, c: Coupler, call: Call) -> list[Axes]:
        c.rigid(call.first, int(call["dim"]))
        return [c.axes(call.first)] * 2

    def constant(self, k: Constants, call: Call) -> Any:
        """What is the same all along the dim stays what it is."""
        same = uniform(k.of(call.first), (int(call["dim"]),))
        return [same.expand(shape(call.result[0])), None]


@operator(
    *(f"{a}{b}_pool{n}d" for a in ("", "adaptive_") for b in ("max", "avg") for n in (1, 2, 3)),
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


@operator("grid_sampler")
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
        return torch.where(channels == 0, channels, NAN).expand(call.shape)


@operator("batch_norm", "instance_norm")
class BatchNorm(Operator):
    """Every channel with its own scale, shift and statistics."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x = call["input"]
        own = [call[name] for name in ("weight", "bias", "running_mean", "running_var")]
        if call.name == "instance_norm" or call["training"] or call["running_mean"] is None:
            c.rigid(x, *range(2, len(c.trace.shape(x))))  # statistics are taken over them
        c.tie(c.vector(x, 1), *(c.vector(p, 0) for p in own if p is not None))
        return c.axes(x)

    def constant(self, k: Constants, call: Call) -> Known:
        """A scale and a shift for each channel."""
        x = k.of(call["input"])
        x = uniform(x, tuple(range(2, x.ndim)))
        channels = x[:1].reshape(-1) if x.shape[0] == 1 or x.stride(0) == 0 else None
        mean, var = k.get(call["running_mean"]), k.get(call["running_var"])
        scale, shift = k.get(call["weight"]), k.get(call["bias"])
        if channels is None:
            channels = torch.where((x == x[:1]).all(0), x[0], NAN).reshape(-1)
        scale = torch.ones_like(channels) if scale is None else scale
        shift = torch.zeros_like(channels) if shift is None else shift
        if call["training"]:
            return k.all_known(call)  # type: ignore[no-any-return]
        if call["use_input_stats"] or mean is None or var is None:
            centred = torch.where(channels.isnan(), NAN, 0.0)
        else:
            centred = (channels - mean) / torch.sqrt(var + float(call["eps"]))
        result = torch.where(scale == 0, 0, centred * scale) + shift
        return spread(result.view(1, -1, *[1] * (x.ndim - 2)), call)

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        return {"num_features": shape(call["input"])[1]}


@operator("layer_norm", "rms_norm")
class LayerNorm(Operator):
    """Mean and variance are taken over the whole width, which stays."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        normalized = len(concrete(call["normalized_shape"]))
        for node in (call["input"], call["weight"], call["bias"]):
            if node is not None:
                c.rigid(node, *range(-normalized, 0))
        return c.axes(call["input"])

    def constant(self, k: Constants, call: Call) -> Known:
        """The shift alone where the scale is zero, or where what is normalised is known."""
        x, scale, shift = (k.get(call[name]) for name in ("input", "weight", "bias"))
        result = torch.full((), NAN, dtype=torch.float64) if x is None else k.run(call)
        if scale is not None:
            layout = self.layout(call, scale)
            shift = torch.zeros_like(scale) if shift is None else shift
            result = torch.where(scale.view(layout) == 0, shift.view(layout), result)
        return result.expand(call.shape)

    def layout(self, call: Call, scale: Tensor) -> list[int]:
        """The scale's shape beside the input."""
        return list(scale.shape)


@operator("group_norm")
class GroupNorm(LayerNorm):
    """Channels that share mean and variance go together: whole groups."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x = call["input"]
        c.rigid(x, *range(2, len(c.trace.shape(x))))
        labels = c.vector(x, 1)
        if labels is not None:
            rows = labels.reshape(concrete(call["num_groups"]), -1)
            c.labels.union(rows, rows[:, :1])
        c.tie(c.vector(x, 1), *(c.vector(p, 0) for p in (call["weight"], call["bias"]) if p))
        return c.axes(x)

    def layout(self, call: Call, scale: Tensor) -> list[int]:
        return [1, -1, *[1] * (len(call.shape) - 2)]

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        x = call["input"]
        channels, before = shape(x)[1], x.meta["val"].shape[1]
        groups = int(concrete(call["num_groups"])) * channels // before
        return {"num_channels": channels, "num_groups": groups}


def _dims(call: Call, ndim: int) -> list[int]:
    """The dims that are reduced, all where none is given."""
    given = concrete(call["dim"])
    dims = given if isinstance(given, list | tuple) else [] if given is None else [given]
    return [int(d) % ndim for d in dims] or list(range(ndim))
