"""ONNX that other programs read, checked in ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from lissom.errors import LissomError
from lissom.exporting.checking import Written
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.exporting.runtime import opened
from lissom.exporting.tracing import traced
from lissom.exporting.widths import fast
from lissom.running import Inputs

# A protocol buffer, which an ONNX file is, ends at 2 GiB; the graph itself needs some of it.
ONE_FILE_BYTES = 2**31 - 2**24


def write(
    model: nn.Module, inputs: Inputs, path: Path, *, pad: bool, batch: int | None, opset: int | None
) -> Written:
    """Write ONNX.

    Args:
        model: the network.
        inputs: what it runs on.
        path: the file.
        pad: whether channels are padded to numbers that ONNX Runtime is fast with.
        batch: that of the inputs, for a file that takes no other; None for any.
        opset: the version of ONNX's operators; torch's choice if None.
    """
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
    return Written(lambda: opened(path), dynamic, int(onnx_program.model.opset_imports[""]), notes)


def _converted(program: ExportedProgram, inputs: Inputs, dynamic: bool, opset: int | None) -> Any:
    """Torch's ONNX program of a traced network."""
    for step in program.graph.nodes:
        _select_along_one_dim(step)
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


def _select_along_one_dim(step: fx.Node) -> None:
    """x[:, indices] as one Gather: torch would write GatherND between two transpositions."""
    if step.target is not torch.ops.aten.index.Tensor:
        return
    x, indices = step.args
    assert isinstance(indices, list | tuple)
    given = [(dim, index) for dim, index in enumerate(indices) if isinstance(index, fx.Node)]
    if len(given) == 1:
        [(dim, index)] = given
        along = index.meta["val"]
        if along.ndim == 1 and along.dtype in (torch.int32, torch.int64):  # and no mask
            step.target, step.args = torch.ops.aten.index_select.default, (x, dim, index)


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
