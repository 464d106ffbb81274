"""A network as one file for other programs: ONNX, or torch's own `.pt2`, checked on the spot."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from lissom.arguments import as_annotated
from lissom.errors import LissomError
from lissom.methods import require_plain
from lissom.running import (
    ExampleInputs,
    Inputs,
    as_inputs,
    evaluating,
    leaves,
    real_parts,
    require_layers,
    require_numbers,
    run,
)
from lissom.storage import replacing

# A protocol buffer, which an ONNX file is, ends at 2 GiB; the graph itself needs some of it.
ONE_FILE_BYTES = 2**31 - 2**24


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        format: "onnx" or "pt2".
        bytes: of the file, and of ONNX's files of weights beside it if the network is too large
            for one (2 GB).
        difference: the largest |difference| to the model's outputs, relative to the largest
            |output|, over the inputs it was checked with; None if it was not checked.
        dynamic: whether it runs at any batch size; if not, at that of the example inputs only.
        opset: ONNX's version of its operators; None for "pt2".
    """

    path: Path
    format: str
    bytes: int
    difference: float | None
    dynamic: bool
    opset: int | None

    def __str__(self) -> str:
        kind = self.format if self.opset is None else f"{self.format}, opset {self.opset}"
        batch = "any batch size" if self.dynamic else "the batch size of example_inputs only"
        same = "not checked" if self.difference is None else f"difference {self.difference:.1e}"
        return f"{self.path}: {kind}, {self.bytes:,} bytes, {batch}, {same}"


@as_annotated(LissomError, "model", "example_inputs", "opset")
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | os.PathLike[str],
    *,
    check: bool = True,
    tolerance: float | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a network as ONNX or as torch's `.pt2`, and compare what was written with the network.

    The network is exported in eval mode and left as it was found. The first dimension of the first
    input, and of each further input that has the same one, becomes dynamic: the file runs at any
    batch size. A network that is tied to its batch size is exported with that of example_inputs,
    and `dynamic` is False. Nothing is written where the check fails.

    Args:
        model: the network.
        example_inputs: what it runs on: a tensor such as `torch.rand(1, 784)`, a tuple of arguments
            or a dict of keywords. ONNX takes the tensors in them, in their order.
        path: the file, "….onnx" for ONNX and "….pt2" for `torch.export.load`. It is replaced if it
            exists.
        check: run the file on random inputs at two batch sizes and compare it with the network:
            floating-point inputs are normal, integers lie between the least and largest of
            example_inputs. ONNX is run by ONNX Runtime on the CPU.
        tolerance: largest difference allowed, relative to the largest output; half of the digits
            of the output's dtype (√ε, 3e-4 for float32) if not given. Integers must be equal.
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
    if path.suffix not in FORMATS:
        raise LissomError(
            f"the suffix says what to write, {' or '.join(map(repr, FORMATS))}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        wrong = f"{path} is a directory" if path.is_dir() else f"{path.parent} is no directory"
        raise LissomError(f"{wrong}: export writes one file into a directory that exists")
    if tolerance is not None and not tolerance >= 0:
        raise LissomError(f"a tolerance is a size ≥ 0, got {tolerance!r}")
    inputs = as_inputs(example_inputs)
    with evaluating(model), torch.no_grad():
        if not leaves(run(model, inputs)):
            raise LissomError(
                f"{type(model).__name__} returns no tensors, so there is no file of it"
            )
        program, dynamic = _program(model, inputs)
        with replacing(path) as written:  # what fails the check never stands at `path`
            used_opset, load = FORMATS[path.suffix](program, written, opset, inputs, dynamic)
            difference = None
            if check:
                difference = _difference(model, load, inputs, dynamic, tolerance, path)
            size = sum(file.stat().st_size for file in written.parent.iterdir())
    return Exported(path, path.suffix[1:], size, difference, dynamic, used_opset)


Runner = Callable[[Inputs], list[Tensor]]


def _program(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram, bool]:
    """The traced network, and whether its batch is dynamic."""
    if inputs.tensors[0].ndim:
        # torch.export takes a size of 1 for a constant.
        size = 2 if inputs.batch == 1 else inputs.batch
        traced = inputs.with_batch(size).map(torch.clone)
        dims, batch = ShapesCollection(), Dim("batch")
        for x, before in zip(traced.tensors, inputs.tensors, strict=True):
            dims[x] = {0: batch} if inputs.has_batch(before) else {}
        # What torch raises differs by reason; a network tied to its batch size is one of them.
        with suppress(Exception), _quiet():
            other = inputs.with_batch(size + 1)
            model(*other.args, **other.kwargs)  # hooks may refuse it, which export does not call
            shapes = dims.dynamic_shapes(model, traced.args, traced.kwargs)
            program = torch.export.export(model, traced.args, traced.kwargs, dynamic_shapes=shapes)
            return program, True
    try:
        with _quiet():
            return torch.export.export(model, inputs.args, inputs.kwargs), False
    except Exception as error:
        raise LissomError(
            f"{type(model).__name__} cannot be exported by torch.export: {_first_line(error)}"
        ) from error


def _write_pt2(
    program: ExportedProgram, path: Path, opset: int | None, inputs: Inputs, dynamic: bool
) -> tuple[None, Callable[[], Runner]]:
    if opset is not None:
        raise LissomError(f"only ONNX has an opset, .pt2 has none; got opset={opset!r}")
    # In memory first: torch ends the process where its own writer meets a full disk.
    written = BytesIO()
    try:
        with _quiet():
            torch.export.save(program, written)
    except Exception as error:
        raise LissomError(
            f"torch.export.save cannot write the network: {_first_line(error)}"
        ) from error
    path.write_bytes(written.getbuffer())

    def load() -> Runner:
        with _quiet():
            loaded = torch.export.load(path).module()
        return lambda inputs: leaves(loaded(*inputs.args, **inputs.kwargs))

    return None, load


def _write_onnx(
    program: ExportedProgram, path: Path, opset: int | None, inputs: Inputs, dynamic: bool
) -> tuple[int, Callable[[], Runner]]:
    for needed in ("onnx", "onnxscript"):
        _optional(needed)
    rows = ({0: "batch"} if inputs.has_batch(x) else None for x in inputs.tensors)
    names = tuple(rows) if dynamic else None  # ONNX has no inputs but tensors
    try:
        with _quiet():
            onnx_program: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                dynamic_shapes=names,
            )
    except Exception as error:
        raise LissomError(
            f"the network cannot be written as ONNX, opset {opset or 'of torch'}: "
            f"{_first_line(error)}"
        ) from error
    written = int(onnx_program.model.opset_imports[""])
    if opset not in (None, written):
        raise LissomError(f"torch cannot write opset {opset!r} of this network, but {written}")
    tensors = [*program.state_dict.values(), *program.constants.values()]
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    with _quiet():
        onnx_program.save(path, external_data=size > ONE_FILE_BYTES)

    def load() -> Runner:
        runtime = _optional("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        fed = [value.name for value in session.get_inputs()]

        def run_session(inputs: Inputs) -> list[Tensor]:
            arrays = [x.cpu().numpy() for x in inputs.tensors]
            feed = dict(zip(fed, arrays, strict=True))
            return [torch.from_numpy(value) for value in session.run(None, feed)]

        return run_session

    return written, load


FORMATS: dict[str, Callable[..., tuple[int | None, Callable[[], Runner]]]] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
}


def _difference(
    model: nn.Module,
    load: Callable[[], Runner],
    inputs: Inputs,
    dynamic: bool,
    tolerance: float | None,
    path: Path,
) -> float:
    """The largest relative difference between the network and the file."""
    generator = torch.Generator().manual_seed(0)
    largest, written = 0.0, None
    for size in (1, 3) if dynamic else (None, None):
        drawn = inputs.map(partial(_random, inputs, size, generator))
        expected = leaves(run(model, drawn))
        try:
            written = written or load()
            found = written(drawn)
        except LissomError:
            raise
        except Exception as error:
            raise LissomError(
                f"{path.name} cannot be run on inputs of shape "
                f"{[list(x.shape) for x in drawn.tensors]}, so it was not written: "
                f"{_first_line(error)}. check=False writes it all the same"
            ) from error
        if [x.shape for x in found] != [x.shape for x in expected]:
            raise LissomError(
                f"{path.name} gives outputs of shape {[list(x.shape) for x in found]} and "
                f"the network {[list(x.shape) for x in expected]}, so it was not written"
            )
        for number, (there, here) in enumerate(zip(found, expected, strict=True)):
            absolute, relative = _compare(there, here)
            allowed = _allowed(here.dtype) if tolerance is None else tolerance
            if not relative <= allowed:
                raise LissomError(
                    f"{path.name} differs from the network, so it was not written: output "
                    f"{number} by up to {absolute:.3g}, which is {relative:.3g} of the largest "
                    f"output; {allowed:.3g} is allowed (tolerance)"
                )
            largest = max(largest, relative)
    return largest


def _compare(there: Tensor, here: Tensor) -> tuple[float, float]:
    """The largest difference, and the same over the largest |output|; equal NaN and ∞ are none."""
    if here.numel() == 0:
        return 0.0, 0.0
    if here.is_complex() and there.is_complex():
        there, here = real_parts(there), real_parts(here)
    a, b = there.cpu().to(torch.float64), here.cpu().to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    absolute = float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf).max())
    size = float(torch.where(b.isfinite(), b, 0.0).abs().max())
    return absolute, absolute / (size or 1.0)


def _allowed(dtype: torch.dtype) -> float:
    floats = dtype.is_floating_point or dtype.is_complex
    return torch.finfo(dtype).eps ** 0.5 if floats else 0.0


def _random(inputs: Inputs, size: int | None, generator: torch.Generator, x: Tensor) -> Tensor:
    """Fresh numbers of the kind of x, one of the inputs, with another batch size."""
    shape = x.shape if size is None or not inputs.has_batch(x) else (size, *x.shape[1:])
    if x.dtype.is_floating_point or x.dtype.is_complex:
        drawn = torch.randn(shape, generator=generator)
    else:
        low, high = int(x.min()), int(x.max())
        drawn = torch.randint(low, high + 1, shape, generator=generator)
    return drawn.to(x.device, x.dtype)


def _optional(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise LissomError(
            f"writing ONNX needs {name}, which is not installed: pip install 'lissom[onnx]'"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' progress, log and warnings; what goes wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
