"""A plain training loop for people who have none: seeds, events, checkpoints, early stopping."""

from lissom.training.augment import Augment
from lissom.training.evaluation import entropy_and_inaccuracy, logits_of
from lissom.training.options import Options, usable_device
from lissom.training.teacher import Teacher
from lissom.training.trainer import Report, Trainer, steps_per_epoch

__all__ = [
    "Augment",
    "Options",
    "Report",
    "Teacher",
    "Trainer",
    "entropy_and_inaccuracy",
    "logits_of",
    "steps_per_epoch",
    "usable_device",
]
