"""lissom trains PyTorch networks to exact zeros and shows what every degree of simplicity costs."""

from lissom.budgets import L1Ball, TopK
from lissom.data import Dataset
from lissom.errors import LissomError
from lissom.groups import Groups, kernels, weights
from lissom.measure import Measurement, measure
from lissom.penalties import L0, L1, L2, Penalty, Threshold
from lissom.proximal import Proximal, penalty_loss, proximal
from lissom.schedules import Schedule, cosine, cubic, exponential, linear
from lissom.training import Trainer

__all__ = [
    "L0",
    "L1",
    "L2",
    "Dataset",
    "Groups",
    "L1Ball",
    "LissomError",
    "Measurement",
    "Penalty",
    "Proximal",
    "Schedule",
    "Threshold",
    "TopK",
    "Trainer",
    "cosine",
    "cubic",
    "exponential",
    "kernels",
    "linear",
    "measure",
    "penalty_loss",
    "proximal",
    "weights",
]
