"""Widths with which ONNX Runtime is fast: how the channels of a network are padded, if at all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from lissom.errors import LissomError
from lissom.exporting.exporters import first_line
from lissom.exporting.runtime import opened, timed
from lissom.running import Inputs
from lissom.shrinking.padding import ALIGNED, Padded, Padder

BLOCKS = {"AVX512": 16, "AVX2": 8}  # channels, by what the processor can do
FASTER = 0.9  # of the time with multiples of 4, so that chance decides nothing
SHOWN = 5  # convolutions that keep their widths


@dataclass
class _Way:
    """One way to write a network.

    Attributes:
        to: of what its widths are multiples, in words.
        padded: the network.
        program: torch's ONNX program of it.
        seconds: one call takes; 0 if nothing was timed.
    """

    to: str
    padded: Padded
    program: Any
    seconds: float = 0.0


def fast(
    model: nn.Module, inputs: Inputs, own: Any, convert: Callable[[nn.Module], Any]
) -> tuple[Any, tuple[str, ...]]:
    """A network as ONNX whose channels fit ONNX Runtime's blocks, and what to say of it.

    Convolutions read multiples of 4 channels. Where ONNX Runtime is installed, this is timed beside
    whole blocks, where pooling, concatenation and groups want them, and beside no padding; either
    is taken where it is clearly faster.

    Args:
        model: the network.
        inputs: what it runs on, and is timed with.
        own: torch's ONNX program of it.
        convert: makes one of a padded network.
    """
    if not any(node.op_type == "Conv" for node in own.model.graph):
        return own, ()
    block = BLOCKS.get(torch.backends.cpu.get_cpu_capability(), max(BLOCKS.values()))
    try:
        padder = Padder(model, inputs, block)
        unpadded = _Way("", padder.padded(to=1), own)
        aligned, whole = padder.padded(to=ALIGNED), padder.padded(to=block)
        ways = [unpadded]
        if aligned.widths:
            ways.insert(0, _Way(f"multiples of {ALIGNED}", aligned, convert(aligned.net)))
        if whole.widths != aligned.widths:
            ways.append(_Way(f"multiples of {ALIGNED} and {block}", whole, convert(whole.net)))
    except LissomError as error:  # the network itself has been converted, and is as good as it was
        return own, (f"not padded: {first_line(error)}",)
    if len(ways) > 1 and find_spec("onnxruntime") is not None:
        written = [opened(way.program.model_proto.SerializeToString()) for way in ways]
        for way, seconds in zip(ways, timed(written, inputs), strict=True):
            way.seconds = seconds
    best = min(ways, key=lambda way: way.seconds)
    chosen = best if best.seconds < FASTER * ways[0].seconds else ways[0]
    return chosen.program, tuple(_said(chosen, unpadded, ways[0]))


def _said(chosen: _Way, unpadded: _Way, usual: _Way) -> Iterator[str]:
    """What was padded and what that is good for, and what could not be."""

    def ratio(way: _Way) -> str:
        return f"it would take {way.seconds / chosen.seconds:.2g} × the time here"

    if chosen is not unpadded:
        some, of = chosen.padded.convolutions
        more = f"; unpadded {ratio(unpadded)}" if chosen.seconds else ""
        yield (
            f"{some} of {of} convolutions padded to {chosen.to} "
            f"(+{chosen.padded.weights:,} weights){more}"
        )
    elif usual is not unpadded:
        yield f"not padded: with {usual.to} channels {ratio(usual)}"
    kept = usual.padded.kept
    for weight, width, reason in kept[:SHOWN]:
        yield f"{weight} reads {width} channels, which {reason} keeps"
    if len(kept) > SHOWN:
        yield f"and {len(kept) - SHOWN} more"
