"""Torch's own `.pt2`, which `torch.export.load` reads."""

from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from torch import nn

from lissom.errors import LissomError
from lissom.exporting.checking import Runner, Written
from lissom.exporting.exporters import first_line, quiet
from lissom.exporting.tracing import traced
from lissom.running import Inputs, answers


def write(model: nn.Module, inputs: Inputs, path: Path) -> Written:
    """Write `.pt2`."""
    program, dynamic = traced(model, inputs)
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
        return partial(answers, loaded)

    return Written(load, dynamic)
