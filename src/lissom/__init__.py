"""lissom trains PyTorch networks to exact zeros, removes them, and shows what simplicity costs."""

from lissom import schedules
from lissom.budgets import L1Ball, TopK
from lissom.coupling import channels, heads, neurons
from lissom.errors import LissomError
from lissom.export import export
from lissom.gates import gate
from lissom.groups import kernels, weights
from lissom.learning_compression import lc
from lissom.measure import measure
from lissom.path import path
from lissom.penalties import L0, L1, L2, Threshold
from lissom.proximal import penalty_loss, proximal
from lissom.saving import load, save
from lissom.schedules import geometric
from lissom.shrink import shrink
from lissom.training import Trainer

__all__ = [
    "L0",
    "L1",
    "L2",
    "L1Ball",
    "LissomError",
    "Threshold",
    "TopK",
    "Trainer",
    "channels",
    "export",
    "gate",
    "geometric",
    "heads",
    "kernels",
    "lc",
    "load",
    "measure",
    "neurons",
    "path",
    "penalty_loss",
    "proximal",
    "save",
    "schedules",
    "shrink",
    "weights",
]
