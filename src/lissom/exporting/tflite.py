"""`.tflite` for LiteRT (TensorFlow Lite), checked in its interpreter on the CPU."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.checking import Runner, Written
from lissom.exporting.exporters import first_line, optional, quiet
from lissom.running import Inputs, attributes_kept, leaves

NARROWER = {torch.float64: torch.float32, torch.int64: torch.int32}  # as the file has them


def write(model: nn.Module, inputs: Inputs, path: Path, *, batch: int | None = None) -> Written:
    """Write `.tflite` for the batch size of the inputs, which is `batch` if that is given."""
    litert = optional("litert_torch", "litert")
    try:
        with attributes_kept(model), quiet():
            litert.convert(model, inputs.args, inputs.kwargs).export(str(path))
    except Exception as error:
        raise LissomError(f"litert_torch cannot write the network: {first_line(error)}") from error

    def load() -> Runner:
        loaded = litert.load(str(path))

        def run_file(inputs: Inputs) -> list[Tensor]:
            arrays = inputs.map(_array)
            found = loaded(*arrays.args, **arrays.kwargs)
            return leaves(torch.utils._pytree.tree_map(torch.from_numpy, found))

        return run_file

    return Written(load, dynamic=False)


def _array(x: Tensor) -> Any:
    return x.cpu().to(NARROWER.get(x.dtype, x.dtype)).numpy()
