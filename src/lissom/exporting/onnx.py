"""ONNX, checked in ONNX Runtime."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lissom.errors import LissomError
from lissom.exporting.checking import Runner
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.exporting.sessions import answers, in_onnxruntime
from lissom.running import Inputs

# A protocol buffer, which an ONNX file is, ends at 2 GiB; the graph itself needs some of it.
ONE_FILE_BYTES = 2**31 - 2**24


def write(
    program: ExportedProgram, path: Path, opset: int | None, inputs: Inputs, dynamic: bool
) -> tuple[int, Callable[[], Runner]]:
    """Write ONNX; its opset, and what loads it again."""
    for needed in ("onnx", "onnxscript"):
        optional(needed)
    rows = ({0: "batch"} if inputs.has_batch(x) else None for x in inputs.tensors)
    names = tuple(rows) if dynamic else None  # ONNX has no inputs but tensors
    try:
        with quiet():
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
            f"{first_line(error)}"
        ) from error
    written = int(onnx_program.model.opset_imports[""])
    if opset not in (None, written):
        raise LissomError(f"torch cannot write opset {opset!r} of this network, but {written}")
    tensors = [*program.state_dict.values(), *program.constants.values()]
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    with quiet():
        onnx_program.save(path, external_data=size > ONE_FILE_BYTES)

    def load() -> Runner:
        return partial(answers, in_onnxruntime(path, torch.get_num_threads()))

    return written, load
