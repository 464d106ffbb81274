"""ONNX that other programs read, checked in ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lissom.errors import LissomError
from lissom.exporting.checking import Written
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.exporting.int8 import in_int8
from lissom.exporting.runtime import opened
from lissom.exporting.tracing import traced
from lissom.exporting.widths import fast
from lissom.running import ExampleInputs, Inputs, as_inputs

# A protocol buffer, which an ONNX file is, ends at 2 GiB; the graph itself needs some of it.
ONE_FILE_BYTES = 2**31 - 2**24


def write(
    model: nn.Module,
    inputs: Inputs,
    path: Path,
    *,
    pad: bool,
    batch: int | None,
    int8: ExampleInputs | None,
    opset: int | None,
) -> Written:
    """Write ONNX.

    Args:
        model: the network.
        inputs: what it runs on.
        path: the file.
        pad: whether channels are padded to numbers that ONNX Runtime is fast with.
        batch: that of the inputs, for a file that takes no other; None for any.
        int8: inputs to calibrate on; None for float32.
        opset: the version of ONNX's operators; torch's choice if None.
    """
    calibration = None if int8 is None else as_inputs(int8)
    for needed in ("onnx", "onnxscript"):
        optional(needed)
    program, dynamic = traced(model, inputs, fixed=batch is not None)
    tensors = [*program.state_dict.values(), *program.constants.values()]
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def convert(program: ExportedProgram) -> Any:
        return _converted(program, inputs, dynamic, opset)

    def convert_padded(net: nn.Module) -> Any:
        padded, still_dynamic = traced(net, inputs, fixed=not dynamic)
        if still_dynamic != dynamic:
            raise LissomError("the padded network is tied to its batch size")
        return convert(padded)

    onnx_program = convert(program)
    notes: tuple[str, ...] = ()
    if pad and size <= ONE_FILE_BYTES:
        onnx_program, notes = fast(model, inputs, onnx_program, convert_padded)
    with quiet():
        onnx_program.save(path, external_data=size > ONE_FILE_BYTES)
    version = int(onnx_program.model.opset_imports[""])
    written = Written(lambda: opened(path), dynamic, version, notes)
    if calibration is None:
        return written
    return in_int8(model, inputs, path, calibration, written)


def _converted(program: ExportedProgram, inputs: Inputs, dynamic: bool, opset: int | None) -> Any:
    """Torch's ONNX program of a traced network."""
    rows = ({0: "batch"} if inputs.has_batch(x) else None for x in inputs.tensors)
    names = tuple(rows) if dynamic else None  # ONNX has no inputs but tensors
    try:
        with quiet():
            made: Any = torch.onnx.export(
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
    written = int(made.model.opset_imports[""])
    if opset not in (None, written):
        raise LissomError(f"torch cannot write opset {opset!r} of this network, but {written}")
    for node in made.model.graph:
        _leave_out_the_unusual(node)
    return made


def _leave_out_the_unusual(node: Any) -> None:
    """Without attributes that say what is so anyway, and at which readers such as onnx2c give up.

    `allowzero` is about a size of 0 in a shape; what is computed has none but for an empty batch.
    """
    if node.op_type == "MaxPool" and node.attributes.get_int("storage_order", 0) == 0:
        node.attributes.pop("storage_order", None)
    if node.op_type == "Reshape":
        shape = node.inputs[1].const_value
        if shape is None or 0 not in shape.numpy():
            node.attributes.pop("allowzero", None)
