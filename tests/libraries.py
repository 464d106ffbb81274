"""Import the model libraries of the zoo, or skip the test that wants one."""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

# Whatever defines an operator has to live as long as the operator.
_schemas: list[torch.library.Library] = []


def library(name: str) -> ModuleType:
    """The module of this name; the test is skipped where its library is not installed."""
    _repair_torchvision()
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed")


def _repair_torchvision() -> None:
    """Let torchvision's networks be imported beside a torch that its compiled part does not fit.

    The wheels on the package index are made for CUDA. Beside a CPU build of torch `torchvision._C`
    does not load, and the import fails on two operators which that part would have defined. No
    network needs them, so their schemas are enough.
    """
    found = find_spec("torchvision")
    if _schemas or found is None or found.origin is None:
        return
    try:
        for file in Path(found.origin).parent.glob("_C*.*"):
            torch.ops.load_library(str(file))
    except OSError:
        pass
    if not hasattr(torch.ops.torchvision, "nms"):
        schemas = torch.library.Library("torchvision", "DEF")
        schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(schemas)
