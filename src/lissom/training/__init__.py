"""A plain training loop for people who have none: seeds, events, checkpoints, early stopping."""

from lissom.training.augment import Augment
from lissom.training.evaluation import Count, Evaluation, Part, logits_of, loss_and_error
from lissom.training.options import TrainOptions, usable_device
from lissom.training.teacher import Teacher
from lissom.training.trainer import Report, Trainer, steps_per_epoch

__all__ = [
    "Augment",
    "Count",
    "Evaluation",
    "Part",
    "Report",
    "Teacher",
    "TrainOptions",
    "Trainer",
    "logits_of",
    "loss_and_error",
    "steps_per_epoch",
    "usable_device",
]
