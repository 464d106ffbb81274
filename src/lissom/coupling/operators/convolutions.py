"""Convolutions: products that are moved over space."""

from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lissom.coupling.constants import NAN, Constants, Known, uniform, wide, without_nan
from lissom.coupling.contractions import contract
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Layers, Operator, operator


@operator("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
class Convolution(Operator):
    """Channels are contracted with the kernel's columns, group by group."""

    layers: ClassVar[Layers] = {
        nn.Conv1d: ("in_channels", -2),
        nn.Conv2d: ("in_channels", -3),
        nn.Conv3d: ("in_channels", -4),
    }

    def transposed(self, call: Call) -> bool:
        """Whether the weight's first two dims are exchanged."""
        return bool(call["transposed"])

    def spatial(self, call: Call) -> int:
        """How many dims of space there are."""
        return len(shape(call["weight"])) - 2

    def pads(self, call: Call) -> bool:
        """Whether zeros are summed in beside the input, or overlaps make a pattern."""
        if self.transposed(call):
            return True
        padding = concrete(call["padding"])
        return padding != "valid" and (isinstance(padding, str) or any(padding))

    def couple(self, c: Coupler, call: Call) -> Axes:
        x, weight, groups = call["input"], call["weight"], int(concrete(call["groups"]))
        spatial, transposed = self.spatial(call), self.transposed(call)
        c.rigid(x, *range(-spatial, 0))
        c.rigid(weight, *range(2, 2 + spatial))
        return contract(
            c, call, x, weight, columns=1 - transposed, rows=int(transposed),
            dim=-spatial - 1, bias=call["bias"], groups=groups, pads=self.pads(call),
            convolves=True,
        )  # fmt: skip

    def constant(self, k: Constants, call: Call) -> Known:
        """One number for each output channel that sees constants alone, and no padding beside."""
        x, weight, bias = k.of(call["input"]), k.get(call["weight"]), call["bias"]
        if weight is None:
            return None
        spatial, groups = self.spatial(call), int(concrete(call["groups"]))
        first = uniform(x, tuple(range(-spatial, 0))).flatten(-spatial - 1)  # [batch, channels]
        rows = first.reshape(-1, first.shape[-1])
        channels = torch.where((rows == rows[:1]).all(0), rows[0], NAN)
        if self.pads(call):
            channels = torch.where(channels == 0, channels, NAN)
        read = channels.view(groups, -1)  # [groups, in]
        touched = self.by_group(call, k.nonzero(call["weight"]).flatten(2).any(-1), groups)
        bad = torch.einsum("goi,gi->go", touched.float(), read.isnan().float()).reshape(-1) > 0
        if bool(bad.all()):
            return None
        size = self.by_group(call, wide(weight.flatten(2)).sum(-1), groups)
        known = torch.einsum("goi,gi->go", size, wide(without_nan(read)).to(size.dtype)).reshape(-1)
        result = torch.where(bad, NAN, known)
        if bias is not None:
            result = result + k.of(bias)
        return result.view(-1, *[1] * spatial).expand(call.shape)

    def by_group(self, call: Call, weight: Tensor, groups: int) -> Tensor:
        """The weight as [groups, out/groups, in/groups]."""
        parts = weight.view(groups, -1, weight.shape[1])
        return parts.transpose(1, 2) if self.transposed(call) else parts

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        channel = -self.spatial(call) - 1
        read, made = shape(call["input"])[channel], shape(call.node)[channel]
        of_one = shape(call["weight"])[1]
        return {
            "in_channels": read,
            "out_channels": made,
            "groups": (made if self.transposed(call) else read) // of_one,
        }

    def macs(self, call: Call) -> Iterator[tuple[Any, Any, int]]:
        x, weight = call["input"], call["weight"]
        places = shape(x) if self.transposed(call) else call.shape
        yield x, weight, prod(places) * prod(shape(weight)[1:])


@operator("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
class TransposedConvolution(Convolution):
    """As a convolution, with the weight's first two dims exchanged."""

    layers: ClassVar[Layers] = {}

    def transposed(self, call: Call) -> bool:
        return True
