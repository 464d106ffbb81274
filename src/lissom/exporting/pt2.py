"""Torch's own `.pt2`, which `torch.export.load` reads."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch.export import ExportedProgram

from lissom.errors import LissomError
from lissom.exporting.checking import Runner
from lissom.exporting.exporters import first_line, quiet
from lissom.running import Inputs, leaves


def write(
    program: ExportedProgram, path: Path, opset: int | None, inputs: Inputs, dynamic: bool
) -> tuple[None, Callable[[], Runner]]:
    """Write `.pt2`, which has no opset; and what loads it again."""
    if opset is not None:
        raise LissomError(f"only ONNX has an opset, .pt2 has none; got opset={opset!r}")
    # In memory first: torch ends the process where its own writer meets a full disk.
    written = BytesIO()
    try:
        with quiet():
            torch.export.save(program, written)
    except Exception as error:
        raise LissomError(
            f"torch.export.save cannot write the network: {first_line(error)}"
        ) from error
    path.write_bytes(written.getbuffer())

    def load() -> Runner:
        with quiet():
            loaded = torch.export.load(path).module()
        return lambda inputs: leaves(loaded(*inputs.args, **inputs.kwargs))

    return None, load
