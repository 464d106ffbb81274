"""A network for other programs: ONNX, `.pt2`, C, `.tflite` or `.pte`; checked on the spot."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissom.arguments import as_annotated, shown
from lissom.errors import LissomError
from lissom.exporting import c, onnx, pt2, pte, tflite
from lissom.exporting.checking import Written, difference_of, require_near
from lissom.methods import require_plain
from lissom.running import (
    ExampleInputs,
    answers,
    as_inputs,
    evaluating,
    full_float32,
    require_layers,
    require_numbers,
)
from lissom.shards import require_whole
from lissom.storage import replacing

FORMATS: dict[str, Callable[..., Written]] = {
    ".onnx": onnx.write,
    ".pt2": pt2.write,
    ".c": c.write,
    ".tflite": tflite.write,
    ".pte": pte.write,
}
# What else each of them can be told.
OPTIONS = {
    ".onnx": {"pad", "batch", "int8", "opset"},
    ".pt2": set[str](),
    ".c": {"int8"},
    ".tflite": {"batch"},
    ".pte": {"batch"},
}
DEFAULTS = {"pad": True, "batch": None, "int8": None, "opset": None}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        format: "onnx", "pt2", "c", "tflite" or "pte".
        bytes: of the file and of what lies beside it: the header of C, or ONNX's files of weights
            if the network is too large for one (2 GB).
        difference: the largest |difference| to an output of the model, relative to the largest
            |entry| of this output, over the inputs it was checked with; None if it was not checked.
        dynamic: whether it runs at any batch size; if not, at `batch` or that of the example
            inputs only.
        opset: ONNX's version of its operators; None for others.
        notes: what else is to be known of the file, in sentences.
        cost: what C takes of a microcontroller, layer by layer; None for others.
    """

    path: Path
    format: str
    bytes: int
    difference: float | None
    dynamic: bool
    opset: int | None
    notes: tuple[str, ...] = ()
    cost: c.Cost | None = None

    def __str__(self) -> str:
        kind = self.format if self.opset is None else f"{self.format}, opset {self.opset}"
        batch = "any batch size" if self.dynamic else "one batch size only"
        if self.cost is not None:
            batch = "one example a call"
        same = "not checked" if self.difference is None else f"difference {self.difference:.1e}"
        return "\n".join(
            [f"{self.path}: {kind}, {self.bytes:,} bytes, {batch}, {same}", *self.notes]
        )


@as_annotated(LissomError, "model", "example_inputs", "int8", "opset")
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    pad: bool = True,
    batch: int | None = None,
    int8: ExampleInputs | None = None,
    check: bool = True,
    tolerance: float | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a network for another program, and compare what was written with the network.

    The network is exported in eval mode and left as it was found. The first dimension of the first
    input, and of each further input that has the same one, becomes dynamic: the file runs at any
    batch size. A network that is tied to its batch size is exported with that of example_inputs,
    as every `.tflite` and `.pte` is, and `dynamic` is False. Nothing is written where the check
    fails.

    Args:
        model: the network.
        example_inputs: what it runs on: a tensor such as `torch.rand(1, 784)`, a tuple of arguments
            or a dict of keywords. ONNX takes the tensors in them, in their order.
        path: the file, "….onnx" for ONNX, "….pt2" for `torch.export.load`, "….c" for C99, with
            "….h" beside it, "….tflite" for LiteRT (TensorFlow Lite) and "….pte" for ExecuTorch. It
            is replaced if it exists.
        pad: for ONNX, give convolutions channels that nothing reads, so that they read multiples of
            4, or of a block where that is measured to be faster: ONNX Runtime takes up to three
            times as long with other numbers. `notes` says what was done.
        batch: the only batch size of the file; for ONNX, `.tflite` and `.pte`.
        int8: for ONNX and C, inputs to calibrate on, such as 1,000 images of the training set as
            one tensor: the file computes in integers of 8 bits, a quarter of the size. Its
            `difference` is that on these inputs, of the output that is furthest off.
            ONNX Runtime's static quantization is slower than float32 for some networks; `notes` has
            the times of both.
        check: run the file on random inputs at two batch sizes, and on example_inputs, and compare
            it with the network: random floating-point inputs are normal, integers lie between the
            least and largest of example_inputs. Each file is run by its own runtime on the CPU. C
            is compiled, where there is a compiler, and must equal its reference, in integers bit
            for bit.
        tolerance: largest difference allowed, relative to the largest output; half of the digits
            of the output's dtype (√ε, 3e-4 for float32), or of the file's where that has fewer, if
            not given, and half of the largest output for int8. Integers must be equal.
        opset: ONNX's version of its operators; torch's choice if not given.

    Raises:
        LissomError: the path has another suffix or no directory, example_inputs does not fit, what
            writes the format is not installed (`pip install 'lissom[onnx]'`, or `litert` or
            `executorch` in its place), the network cannot be exported, or what was written differs
            from it, with the largest difference.
    """
    if not isinstance(model, nn.Module):
        raise LissomError(f"export needs a torch.nn.Module, got {model!r}")
    require_plain(model, "export")
    require_layers(model, "export")
    require_whole(model, "export")
    require_numbers(model)
    path = Path(path)
    if path.suffix not in FORMATS:
        raise LissomError(
            f"the suffix says what to write, {' or '.join(map(repr, FORMATS))}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        wrong = f"{path} is a directory" if path.is_dir() else f"{path.parent} is no directory"
        raise LissomError(f"{wrong}: export writes one file into a directory that exists")
    if tolerance is not None and not tolerance >= 0:
        raise LissomError(f"a tolerance is a size ≥ 0, got {tolerance!r}")
    if batch is not None and batch < 1:
        raise LissomError(f"a batch size is a whole number ≥ 1, got {batch!r}")
    options = _options(path, pad=pad, batch=batch, int8=int8, opset=opset)
    inputs = as_inputs(example_inputs)
    inputs = inputs if batch is None else inputs.with_batch(batch)
    with evaluating(model), full_float32(), torch.no_grad():
        if not answers(model, inputs):
            raise LissomError(
                f"{type(model).__name__} returns no tensors, so there is no file of it"
            )
        with replacing(path) as file:  # what fails the check never stands at `path`
            written = FORMATS[path.suffix](model, inputs, file, **options)
            difference = written.difference if check else None
            if check and difference is None:
                difference = difference_of(
                    model, written.load, inputs, written.dynamic, tolerance, path
                )
            elif difference is not None:
                require_near(model, inputs, difference, tolerance, path)
            size = sum(part.stat().st_size for part in file.parent.iterdir())
    return Exported(
        path,
        path.suffix[1:],
        size,
        difference,
        written.dynamic,
        written.opset,
        written.notes,
        written.cost,
    )


def _options(path: Path, **given: Any) -> dict[str, Any]:
    """Those that the target takes; others must not have been given.

    Raises:
        LissomError: naming the option, and the targets that have it.
    """
    taken = OPTIONS[path.suffix]
    for name, value in given.items():
        if name not in taken and value is not DEFAULTS[name]:
            having = ", ".join(suffix for suffix, names in OPTIONS.items() if name in names)
            raise LissomError(
                f"{path.suffix} takes no {name}, which is for {having}; got {name}={shown(value)}"
            )
    return {name: value for name, value in given.items() if name in taken}
