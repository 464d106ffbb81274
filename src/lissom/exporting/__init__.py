"""A network for other programs: ONNX, torch's own `.pt2`, or C; checked on the spot."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lissom.arguments import as_annotated
from lissom.errors import LissomError
from lissom.exporting import c, onnx, pt2
from lissom.exporting.checking import Runner, difference_of
from lissom.exporting.tracing import traced
from lissom.methods import require_plain
from lissom.running import (
    ExampleInputs,
    as_inputs,
    evaluating,
    leaves,
    require_layers,
    require_numbers,
    run,
)
from lissom.storage import replacing

FORMATS: dict[str, Callable[..., tuple[int | None, Callable[[], Runner]]]] = {
    ".onnx": onnx.write,
    ".pt2": pt2.write,
}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        format: "onnx", "pt2" or "c".
        bytes: of the file, and of what lies beside it: a header of C, or ONNX's files of weights
            if the network is too large for one (2 GB).
        difference: the largest |difference| to the model's outputs, relative to the largest
            |output|, over the inputs it was checked with; None if it was not checked.
        dynamic: whether it runs at any batch size; if not, at that of the example inputs only.
        opset: ONNX's version of its operators; None for others.
        cost: what the C takes of a microcontroller; None for others.
    """

    path: Path
    format: str
    bytes: int
    difference: float | None
    dynamic: bool
    opset: int | None
    cost: c.Cost | None = None

    def __str__(self) -> str:
        kind = self.format if self.opset is None else f"{self.format}, opset {self.opset}"
        batch = "any batch size" if self.dynamic else "the batch size of example_inputs only"
        if self.format == "c":
            batch = "one example a call"
        same = "not checked" if self.difference is None else f"difference {self.difference:.1e}"
        return f"{self.path}: {kind}, {self.bytes:,} bytes, {batch}, {same}"


@as_annotated(LissomError, "model", "example_inputs", "opset", "int8")
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    int8: ExampleInputs | None = None,
    check: bool = True,
    tolerance: float | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a network as ONNX, torch's `.pt2` or C, and compare what was written with the network.

    The network is exported in eval mode and left as it was found. The first dimension of the first
    input, and of each further input that has the same one, becomes dynamic: the file runs at any
    batch size. A network that is tied to its batch size is exported with that of example_inputs,
    and `dynamic` is False. Nothing is written where the check fails.

    Args:
        model: the network.
        example_inputs: what it runs on: a tensor such as `torch.rand(1, 784)`, a tuple of arguments
            or a dict of keywords. ONNX takes the tensors in them, in their order.
        path: the file, "….onnx" for ONNX, "….pt2" for `torch.export.load` and "….c" for C99, with
            "….h" beside it. It is replaced if it exists.
        int8: inputs to calibrate on, such as 1,000 images of the training set as one tensor, for a
            network of integers in C; float32 if not given.
        check: run the file on random inputs at two batch sizes and compare it with the network:
            floating-point inputs are normal, integers lie between the least and largest of
            example_inputs. ONNX is run by ONNX Runtime on the CPU. C in integers is compiled, where
            there is a compiler, and must equal its reference bit for bit; the difference is that
            of the reference to the network on the inputs to calibrate on.
        tolerance: largest difference allowed, relative to the largest output; half of the digits
            of the output's dtype (√ε, 3e-4 for float32) if not given, and any for int8. Outputs
            that are integers must be equal.
        opset: ONNX's version of its operators; torch's choice if not given.

    Raises:
        LissomError: the path has another suffix or no directory, example_inputs does not fit, ONNX
            is not installed (`pip install 'lissom[onnx]'`), the network cannot be exported, or what
            was written differs from it, with the largest difference.
    """
    if not isinstance(model, nn.Module):
        raise LissomError(f"export needs a torch.nn.Module, got {model!r}")
    require_plain(model, "export")
    require_layers(model, "export")
    require_numbers(model)
    path = Path(path)
    if path.suffix not in (*FORMATS, ".c"):
        known = " or ".join(map(repr, (*FORMATS, ".c")))
        raise LissomError(f"the suffix says what to write, {known}, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        wrong = f"{path} is a directory" if path.is_dir() else f"{path.parent} is no directory"
        raise LissomError(f"{wrong}: export writes one file into a directory that exists")
    if tolerance is not None and not tolerance >= 0:
        raise LissomError(f"a tolerance is a size ≥ 0, got {tolerance!r}")
    if path.suffix == ".c" and opset is not None:
        raise LissomError(f"only ONNX has an opset, .c has none; got opset={opset!r}")
    if path.suffix != ".c" and int8 is not None:
        raise LissomError(f"int8 is for .c, and {path.suffix} is written in float32")
    inputs = as_inputs(example_inputs)
    calibration = None if int8 is None else as_inputs(int8)
    with evaluating(model), torch.no_grad():
        if not leaves(run(model, inputs)):
            raise LissomError(
                f"{type(model).__name__} returns no tensors, so there is no file of it"
            )
        if path.suffix == ".c":
            with replacing(path) as written:
                difference, cost = c.write(model, inputs, written, calibration, check, tolerance)
                size = sum(file.stat().st_size for file in written.parent.iterdir())
            return Exported(path, "c", size, difference, False, None, cost)
        program, dynamic = traced(model, inputs)
        with replacing(path) as written:  # what fails the check never stands at `path`
            used_opset, load = FORMATS[path.suffix](program, written, opset, inputs, dynamic)
            difference = None
            if check:
                difference = difference_of(model, load, inputs, dynamic, tolerance, path)
            size = sum(file.stat().st_size for file in written.parent.iterdir())
    return Exported(path, path.suffix[1:], size, difference, dynamic, used_opset)
