"""Widths that a runtime is fast with: channels beside those that are there, which nothing reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd, lcm, prod

import numpy as np
import torch
from torch import nn

from lissom.coupling import Family, Pin, couple, families, pins, trace
from lissom.coupling.constants import Constants
from lissom.coupling.labels import Axis
from lissom.coupling.ops import call
from lissom.coupling.sites import Contraction
from lissom.errors import GroupError
from lissom.parametrized import plain
from lissom.running import Inputs
from lissom.shrinking.decision import Decision
from lissom.shrinking.graph import cut_graph
from lissom.shrinking.surgery import plan
from lissom.shrinking.verify import Check, Reference, other_sizes

ALIGNED = 4  # what a blocked layout asks of the number of channels that a convolution reads
WHOLE = ("max_pool2d", "avg_pool2d", "cat")  # and which operators ask for whole blocks


@dataclass(frozen=True)
class Padded:
    """A network with channels that nothing reads.

    Attributes:
        net: the traced graph on wider tensors; the model itself where nothing was added.
        widths: of the channels that were padded: the weight that makes them, how many there were,
            and how many there are.
        convolutions: how many convolutions have other sizes now, and how many there are.
        weights: how many were added.
        kept: for each convolution that still reads no multiple of `ALIGNED`: its weight, how many
            channels it reads, and what keeps them.
    """

    net: nn.Module
    widths: tuple[tuple[str, int, int], ...]
    convolutions: tuple[int, int]
    weights: int
    kept: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class _Read:
    """A tensor of channels that an operation reads, or a convolution in groups makes.

    Attributes:
        labels: of the channels.
        site: of a convolution; None for pooling and concatenation.
        groups: in which the channels are convolved apart.
    """

    labels: Axis
    site: Contraction | None = None
    groups: int = 1

    def wants(self, block: int, to: int) -> int:
        """Of what the channels, or those of each group, are to be a multiple: `to` at most."""
        width = len(self.labels)
        if self.groups == 1 and self.site is not None:
            # Fewer than a block are read as they are, and cost what so many cost.
            return min(to, ALIGNED) if width > block - ALIGNED else 1
        grouped = 1 < self.groups < width
        fills = 2 * (width // self.groups if grouped else width) >= block
        if self.site is None or grouped:
            return to if to == block and fills else 1
        return to if fills else min(to, ALIGNED)

    def step(self, family: Family, block: int, to: int) -> int:
        """Of what the number of units of a family should be a multiple."""
        times = int(np.isin(self.labels, family.labels).sum()) // len(family.labels)
        wanted = self.wants(block, to) if times else 1
        apart = self.groups if 1 < self.groups < len(self.labels) else 1
        return wanted // gcd(wanted, max(times // apart, 1))


class Padder:
    """What can be padded in a network, found once.

    ONNX Runtime convolves in blocks of channels, and leaves that layout, copying twice, where an
    operation reads a number of channels that does not fit: a convolution wants multiples of
    `ALIGNED`; pooling, concatenation and groups want whole blocks. A channel that is added is a
    copy of one that is there, so it holds a number wherever that one does, and all weights that
    read it get zeros for it. Hence what else reads channels, such as a normalisation over them,
    keeps their number.

    Args:
        model: the network.
        inputs: what it runs on.
        block: the channels of a block.

    Raises:
        GroupError: the model cannot be traced on the inputs.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, block: int) -> None:
        self.model, self.block = model, block
        self._net = plain(model)
        self._coupler = couple(trace(self._net, inputs))
        self._constants = Constants(self._coupler.trace)
        self._reference = Reference(model)
        self._checks = [Check([inputs]), Check([*other_sizes(inputs, resolution=False), inputs])]
        self._reads = [*self._convolutions(), *self._whole_tensors()]
        self._keeps = self._other_readers()
        self._families = [f for f in families(self._coupler, self._net) if self._is_free(f)]

    def padded(self, *, to: int) -> Padded:
        """The network with wider tensors, which computes the same on the inputs and fresh ones.

        Args:
            to: the largest multiple: 1 for no padding, `ALIGNED`, or a block, which is filled where
                pooling, concatenation and groups want it.
        """
        steps = {
            family: step
            for family in self._families
            if len(family.labels)
            % (step := lcm(*(read.step(family, self.block, to) for read in self._reads), 1))
        }
        found = self._tried(steps)
        if found is None:  # one after another; a family with which it fails stays as it is
            passed: dict[Family, int] = {}
            for family, step in steps.items():
                if self._tried(passed | {family: step}) is not None:
                    passed[family] = step
                else:
                    self._keeps |= dict.fromkeys(family.labels.tolist(), "the model's code")
            found = self._tried(passed)
            assert found is not None
        return found

    def _tried(self, steps: Mapping[Family, int]) -> Padded | None:
        """With these families padded to a multiple each; None where that computes otherwise."""
        coupler, size = self._coupler, len(self._coupler.labels)
        copies = np.zeros(size, np.int64)
        for family, step in steps.items():
            copies[family.labels[-1]] = -len(family.labels) % step
        decision = Decision(np.zeros(size, bool), copies)
        surgery = plan(self._net, coupler, decision, self._constants)
        net = self.model
        if steps:
            try:
                net = cut_graph(
                    coupler, decision, self._constants, surgery, coupler.trace.open_sizes
                )
            except GroupError:
                return None
            if not self._reference.compare(net, self._checks).same:
                return None
        convolutions = {
            coupler.trace.names.get(site.other, site.other.name)
            for site in coupler.sites
            if isinstance(site, Contraction) and site.convolves
        }
        added = 0
        for name, parameter in self._net.named_parameters():
            dims = surgery.keep.get(name, {})
            sizes = [len(dims.get(d, range(size))) for d, size in enumerate(parameter.shape)]
            added += prod(sizes) - parameter.numel()
        return Padded(
            net,
            tuple((f.name, n := len(f.labels), n + -n % step) for f, step in steps.items()),
            (len(convolutions & surgery.keep.keys()), len(convolutions)),
            added,
            tuple(self._kept(decision)),
        )

    def _convolutions(self) -> Iterator[_Read]:
        """Those over images in float32, the only ones that ONNX Runtime has blocks for."""
        shape, find = self._coupler.trace.shape, self._coupler.labels.find
        for site in self._coupler.sites:
            if not isinstance(site, Contraction) or not site.convolves:
                continue
            dtype = site.other.meta["val"].dtype
            if len(shape(site.other)) == 4 and dtype == torch.float32 and site.other_dims == (1, 0):
                yield _Read(find(site.labels), site, site.groups)
                if site.groups > 1 and site.rows is not None:
                    yield _Read(find(site.rows), site, site.groups)

    def _whole_tensors(self) -> Iterator[_Read]:
        """What pooling and concatenation read."""
        for node in self._coupler.trace.nodes:
            op = call(node) if node.op == "call_function" else None
            if op is None or op.name not in WHOLE:
                continue
            for source in op.tensors:
                images = len(self._coupler.trace.shape(source)) == 4
                labels = self._coupler.vector(source, 1) if images else None
                if labels is not None:
                    yield _Read(self._coupler.labels.find(labels))

    def _other_readers(self) -> dict[int, str]:
        """For each label what reads it, if that is anything but the columns of a weight."""
        names, place = self._coupler.trace.names, self._coupler.trace.place
        return {
            label: place(site.node)
            for site in self._coupler.sites
            if not isinstance(site, Contraction) or site.other not in names
            for label in self._coupler.labels.find(site.labels).tolist()
        }

    def _is_free(self, family: Family) -> bool:
        return self._keeps.keys().isdisjoint(family.labels.tolist())

    def _kept(self, decision: Decision) -> Iterator[tuple[str, int, str]]:
        """What still reads a number of channels that does not fit, and why."""
        names = self._coupler.trace.names
        for read in self._reads:
            width = int(decision.times[read.labels].sum())
            if read.site is not None and width % read.wants(self.block, ALIGNED):
                reasons = [self._keeps.get(label) for label in read.labels.tolist()]
                reasons += [_place(pin) for pin in pins(self._coupler) if pin.width == width]
                reason = next(filter(None, reasons), "the input")
                yield names.get(read.site.other, read.site.other.name), width, reason


def _place(pin: Pin) -> str:
    return f"{pin.operator} at {pin.module}" if pin.module else pin.operator
