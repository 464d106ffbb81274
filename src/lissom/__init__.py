"""lissom trains PyTorch networks to exact zeros, removes them, and shows what simplicity costs."""

from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from lissom.errors import nearest

# The rooms of the names that people type. A name is imported when it is first asked for, so that
# `lissom --help` does not wait for torch.
_NAMES = {
    "compressions": "Binary Codebook Compression LowRank RankSelection ScaledBinary ScaledTernary "
    "factorize",
    "coupling": "channels heads neurons units",
    "curves": "Curve path",
    "errors": "LissomError",
    "exporting": "export",
    "groups": "Groups blocks columns kernels partition tiles weights",
    "measuring": "latency measure",
    "methods": "Budget Method",
    "methods.gates": "gate",
    "methods.lc": "lc",
    "methods.nested": "nested",
    "methods.proximal": "proximal",
    "methods.subgradient": "subgradient",
    "penalties": "L0 L1 L2 MCP L1Ball Lq NonNegative Penalty Threshold TopK",
    "saving": "load save",
    "shrinking": "shrink train_small",
    "training": "Trainer",
}
_HOME = {name: room for room, names in _NAMES.items() for name in names.split()}
__all__ = sorted([*_HOME, "schedules"])

if TYPE_CHECKING:
    from lissom import attacks as attacks
    from lissom import distill as distill
    from lissom import ensemble as ensemble
    from lissom import models as models
    from lissom import recipes as recipes
    from lissom import report as report
    from lissom import schedules as schedules
    from lissom.compressions import Binary as Binary
    from lissom.compressions import Codebook as Codebook
    from lissom.compressions import Compression as Compression
    from lissom.compressions import LowRank as LowRank
    from lissom.compressions import RankSelection as RankSelection
    from lissom.compressions import ScaledBinary as ScaledBinary
    from lissom.compressions import ScaledTernary as ScaledTernary
    from lissom.compressions import factorize as factorize
    from lissom.coupling import channels as channels
    from lissom.coupling import heads as heads
    from lissom.coupling import neurons as neurons
    from lissom.coupling import units as units
    from lissom.curves import Curve as Curve
    from lissom.curves import path as path
    from lissom.errors import LissomError as LissomError
    from lissom.exporting import export as export
    from lissom.groups import Groups as Groups
    from lissom.groups import blocks as blocks
    from lissom.groups import columns as columns
    from lissom.groups import kernels as kernels
    from lissom.groups import partition as partition
    from lissom.groups import tiles as tiles
    from lissom.groups import weights as weights
    from lissom.measuring import latency as latency
    from lissom.measuring import measure as measure
    from lissom.methods import Budget as Budget
    from lissom.methods import Method as Method
    from lissom.methods.gates import gate as gate
    from lissom.methods.lc import lc as lc
    from lissom.methods.nested import nested as nested
    from lissom.methods.proximal import proximal as proximal
    from lissom.methods.subgradient import subgradient as subgradient
    from lissom.penalties import L0 as L0
    from lissom.penalties import L1 as L1
    from lissom.penalties import L2 as L2
    from lissom.penalties import MCP as MCP
    from lissom.penalties import L1Ball as L1Ball
    from lissom.penalties import Lq as Lq
    from lissom.penalties import NonNegative as NonNegative
    from lissom.penalties import Penalty as Penalty
    from lissom.penalties import Threshold as Threshold
    from lissom.penalties import TopK as TopK
    from lissom.saving import load as load
    from lissom.saving import save as save
    from lissom.shrinking import shrink as shrink
    from lissom.shrinking import train_small as train_small
    from lissom.training import Trainer as Trainer
else:

    def __getattr__(name: str) -> Any:
        """A public name, a room that nothing has imported yet, or the version."""
        if name == "__version__":
            return version("lissom")
        if name in _HOME:
            room = import_module(f"lissom.{_HOME[name]}")
            return globals().setdefault(name, getattr(room, name))
        rooms = _rooms()
        if name in rooms:
            return import_module(f"lissom.{name}")
        hint = "" if name.startswith("_") else nearest(name, [*__all__, *rooms])
        raise AttributeError(f"module 'lissom' has no attribute {name!r}.{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_rooms(), "__version__"})


def _rooms() -> list[str]:
    return [room.name for room in iter_modules(__path__) if not room.name.startswith("_")]
