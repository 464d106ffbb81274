"""lissom trains PyTorch networks to exact zeros, removes them, and shows what simplicity costs."""

from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from lissom import schedules
from lissom.compressions import (
    Binary,
    Codebook,
    Compression,
    LowRank,
    RankSelection,
    ScaledBinary,
    ScaledTernary,
    factorize,
)
from lissom.coupling import channels, heads, neurons, units
from lissom.curves import Curve, path
from lissom.errors import LissomError, nearest
from lissom.exporting import export
from lissom.groups import Groups, blocks, columns, kernels, partition, tiles, weights
from lissom.measuring import measure
from lissom.methods import Budget, Method
from lissom.methods.gates import gate
from lissom.methods.lc import lc
from lissom.methods.proximal import proximal
from lissom.methods.subgradient import subgradient
from lissom.penalties import L0, L1, L2, MCP, L1Ball, Lq, NonNegative, Penalty, Threshold, TopK
from lissom.saving import load, save
from lissom.shrinking import shrink
from lissom.training import Trainer

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "Binary",
    "Budget",
    "Codebook",
    "Compression",
    "Curve",
    "Groups",
    "L1Ball",
    "LissomError",
    "LowRank",
    "Lq",
    "Method",
    "NonNegative",
    "Penalty",
    "RankSelection",
    "ScaledBinary",
    "ScaledTernary",
    "Threshold",
    "TopK",
    "Trainer",
    "blocks",
    "channels",
    "columns",
    "export",
    "factorize",
    "gate",
    "heads",
    "kernels",
    "lc",
    "load",
    "measure",
    "neurons",
    "partition",
    "path",
    "proximal",
    "save",
    "schedules",
    "shrink",
    "subgradient",
    "tiles",
    "units",
    "weights",
]

if TYPE_CHECKING:
    from lissom import attacks as attacks
    from lissom import distill as distill
    from lissom import ensemble as ensemble
    from lissom import models as models
    from lissom import recipes as recipes
    from lissom import report as report
else:

    def __getattr__(name: str) -> Any:
        """A room that nothing has imported yet, or the version."""
        if name == "__version__":
            return version("lissom")
        rooms = _rooms()
        if name in rooms:
            return import_module(f"lissom.{name}")
        hint = "" if name.startswith("_") else nearest(name, [*__all__, *rooms])
        raise AttributeError(f"module 'lissom' has no attribute {name!r}.{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_rooms(), "__version__"})


def _rooms() -> list[str]:
    return [room.name for room in iter_modules(__path__) if not room.name.startswith("_")]
