"""Rules for constants: statistics, normalisations, pooling and padding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.coupling import ops
from lissom.coupling.ops import Call, concrete
from lissom.shrinking.constants import NAN, Constants, Known, rule, spread, uniform


@rule("mean", "amax", "amin", "sum", "linalg_vector_norm")
def reduction(k: Constants, op: Call) -> Known:
    """Known if all that is reduced is; sums of what is not zero grow with the number of positions.

    torch carries NaN through all of these.
    """
    x = k.get(op.first)
    if x is None or not x.is_floating_point() or k.fixed(op.node):
        return k.all_known(op)  # type: ignore[no-any-return]
    given = concrete(op["dim"])
    dims = given if isinstance(given, list | tuple) and given else [given]
    every = tuple(range(x.ndim)) if dims in ([None], [[]]) else tuple(int(d) for d in dims)
    alike = uniform(x, every).expand(x.shape)  # what differs by position has another mean elsewhere
    result: Tensor = k.run(op, alike)
    return torch.where(result == 0, 0.0, NAN).double() if op.name in ops.SUMS else result


@rule("pad", "constant_pad_nd")
def pad(k: Constants, op: Call) -> Known:
    """Zeros beside a constant that is not zero make a border: unknown."""
    x = k.get(op["self"])
    if x is None:
        return None
    sizes = concrete(op["pad"])
    padded = {x.ndim - 1 - i for i in range(len(sizes) // 2) if any(sizes[2 * i :][:2])}
    spatial = tuple(d for d in padded if d >= 2)
    if op.name == "pad" and op["mode"] != "constant":
        return spread(uniform(x, tuple(range(2, x.ndim))), op) if padded <= {*spatial} else None
    value = float(concrete(op["value"]) or 0)
    channels = uniform(x, spatial)
    same = torch.where(channels == value, channels, NAN).expand(x.shape) if spatial else x
    return F.pad(same.contiguous(), sizes, value=value)


@rule("layer_norm", "rms_norm", "group_norm")
def normalisation(k: Constants, op: Call) -> Known:
    """The shift alone where the scale is zero, or where what is normalised is known."""
    x, out = k.get(op["input"]), op.shape
    scale, shift = k.get(op["weight"]), k.get(op["bias"])
    nothing = torch.full((), NAN, dtype=torch.float64)
    result = nothing if x is None else k.run(op)
    if scale is not None:
        layout = [1, -1, *[1] * (len(out) - 2)] if op.name == "group_norm" else list(scale.shape)
        shift = torch.zeros_like(scale) if shift is None else shift
        result = torch.where(scale.view(layout) == 0, shift.view(layout), result)
    return result.expand(out)


@rule("batch_norm", "instance_norm")
def batch_norm(k: Constants, op: Call) -> Known:
    """A scale and a shift for each channel."""
    x = uniform(k.of(op["input"]), tuple(range(2, k.of(op["input"]).ndim)))
    channels = x[:1].reshape(-1) if x.shape[0] == 1 or x.stride(0) == 0 else None
    mean, var = k.get(op["running_mean"]), k.get(op["running_var"])
    scale, shift = k.get(op["weight"]), k.get(op["bias"])
    if channels is None:
        channels = torch.where((x == x[:1]).all(0), x[0], NAN).reshape(-1)
    scale = torch.ones_like(channels) if scale is None else scale
    shift = torch.zeros_like(channels) if shift is None else shift
    if op["training"]:
        return k.all_known(op)  # type: ignore[no-any-return]
    if op["use_input_stats"] or mean is None or var is None:
        centred = torch.where(channels.isnan(), NAN, 0.0)
    else:
        centred = (channels - mean) / torch.sqrt(var + float(op["eps"]))
    result = torch.where(scale == 0, 0, centred * scale) + shift
    return spread(result.view(1, -1, *[1] * (x.ndim - 2)), op)


@rule(*ops.POOLING, *ops.UPSAMPLING)
def pooling(k: Constants, op: Call) -> Any:
    """A constant channel stays what it is, unless zeros are averaged in."""
    x = k.get(op.first)
    if x is None:
        return None
    spatial = {**ops.POOLING, **ops.UPSAMPLING}[op.name]
    channels = uniform(x, tuple(range(-spatial, 0)))
    padded = op.name.startswith("avg_pool") and any(concrete(op["padding"]) or [0])
    if padded or op["divisor_override"] is not None:
        channels = torch.where(channels == 0, channels, NAN)
    value = op.node.meta["val"]
    if isinstance(value, Tensor):
        return channels.expand(op.shape)
    return [channels.expand([int(size) for size in value[0].shape]), None]
