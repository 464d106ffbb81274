"""The network as torch.export reads it, at any batch size where it allows that."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from lissom.errors import LissomError
from lissom.exporting.exporters import first_line, quiet
from lissom.running import Inputs, answers, attributes_kept


def traced(
    model: nn.Module, inputs: Inputs, *, fixed: bool = False
) -> tuple[ExportedProgram, bool]:
    """The traced network, and whether its batch is dynamic: where it can be and is not `fixed`."""
    if inputs.tensors[0].ndim and not fixed:
        # torch.export takes a size of 1 for a constant.
        size = 2 if inputs.batch == 1 else inputs.batch
        sized = inputs.with_batch(size).map(torch.clone)
        dims, batch = ShapesCollection(), Dim("batch")
        for x, before in zip(sized.tensors, inputs.tensors, strict=True):
            dims[x] = {0: batch} if inputs.has_batch(before) else {}
        # What torch raises differs by reason; a network tied to its batch size is one of them.
        with suppress(Exception), quiet():
            other = inputs.with_batch(size + 1)
            answers(model, other)  # hooks may refuse it, which export does not call
            shapes = dims.dynamic_shapes(model, sized.args, sized.kwargs)
            return _exported(model, sized, shapes), True
    try:
        with quiet():
            return _exported(model, inputs), False
    except Exception as error:
        raise LissomError(
            f"{type(model).__name__} cannot be exported by torch.export: {first_line(error)}"
        ) from error


def _exported(model: nn.Module, inputs: Inputs, shapes: Any = None) -> ExportedProgram:
    with attributes_kept(model):
        return torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=shapes)
