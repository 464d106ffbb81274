"""lissom trains PyTorch networks to exact zeros, removes them, and shows what simplicity costs."""

from lissom import schedules
from lissom.coupling import channels, heads, neurons
from lissom.curves import path
from lissom.errors import LissomError
from lissom.exporting import export
from lissom.groups import blocks, kernels, partition, tiles, weights
from lissom.measuring import measure
from lissom.methods import Budget
from lissom.methods.gates import gate
from lissom.methods.lc import lc
from lissom.methods.proximal import proximal
from lissom.methods.subgradient import subgradient
from lissom.penalties import L0, L1, L2, MCP, L1Ball, Lq, NonNegative, Threshold, TopK
from lissom.saving import load, save
from lissom.shrinking import shrink
from lissom.training import Trainer

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "Budget",
    "L1Ball",
    "LissomError",
    "Lq",
    "NonNegative",
    "Threshold",
    "TopK",
    "Trainer",
    "blocks",
    "channels",
    "export",
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
    "weights",
]
