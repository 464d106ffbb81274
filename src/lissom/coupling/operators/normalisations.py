"""Normalisations: by statistics of each channel, of groups of them, or of a whole width."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lissom.coupling.constants import NAN, Constants, Known, spread, uniform
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, concrete
from lissom.coupling.records import Operator, operator


class WithStatistics(Operator):
    """A norm that gives its mean and its scale besides, which are read by no network."""

    def couple(self, c: Coupler, call: Call) -> Any:
        return [super().couple(c, call), (), ()]

    def constant(self, k: Constants, call: Call) -> Any:
        return [super().constant(k, replace(call, result=call.result[0])), None, None]


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


@operator("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
class NativeBatchNorm(WithStatistics, BatchNorm):
    """The same, and the statistics it used."""

    def constant(self, k: Constants, call: Call) -> Any:
        return [None, None, None] if call["training"] else super().constant(k, call)


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
        result = torch.full((), NAN, dtype=torch.float64) if x is None else first(k.run(call))
        if scale is not None:
            layout = self.layout(call, scale)
            shift = torch.zeros_like(scale) if shift is None else shift
            result = torch.where(scale.view(layout) == 0, shift.view(layout), result)
        return result.expand(call.shape)

    def layout(self, call: Call, scale: Tensor) -> list[int]:
        """The scale's shape beside the input."""
        return list(scale.shape)


@operator("native_layer_norm")
class NativeLayerNorm(WithStatistics, LayerNorm):
    """The same, and the statistics it used."""


@operator("group_norm")
class GroupNorm(LayerNorm):
    """Channels that share mean and variance go together: whole groups."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        x = call["input"]
        c.rigid(x, *range(2, len(c.trace.shape(x))))
        labels = c.vector(x, 1)
        if labels is not None:
            rows = labels.reshape(self.groups(call), -1)
            c.labels.union(rows, rows[:, :1])
        c.tie(c.vector(x, 1), *(c.vector(p, 0) for p in (call["weight"], call["bias"]) if p))
        return c.axes(x)

    def groups(self, call: Call) -> int:
        """How many."""
        return int(concrete(call["num_groups"] or call["group"]))

    def layout(self, call: Call, scale: Tensor) -> list[int]:
        return [1, -1, *[1] * (len(call.shape) - 2)]

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        x = call["input"]
        channels, before = shape(x)[1], x.meta["val"].shape[1]
        return {"num_channels": channels, "num_groups": self.groups(call) * channels // before}


@operator("native_group_norm")
class NativeGroupNorm(WithStatistics, GroupNorm):
    """The same, and the statistics it used."""

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        sizes = super().sizes(call, shape)
        return {"C": sizes["num_channels"], "group": sizes["num_groups"]}


def first(result: Any) -> Tensor:
    """The normalised tensor of an operator that may give its statistics too."""
    tensor: Tensor = result if isinstance(result, Tensor) else result[0]
    return tensor
