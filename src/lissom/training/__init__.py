"""A training loop for people who have none: any task, seeds, checkpoints, early stopping."""

from lissom.training.augment import Augment
from lissom.training.evaluation import (
    Count,
    Evaluation,
    Part,
    evaluate,
    logits_of,
    loss_and_error,
)
from lissom.training.feeding import steps_per_epoch
from lissom.training.options import TrainOptions, usable_device
from lissom.training.task import Score, Task
from lissom.training.teacher import Teacher
from lissom.training.trainer import Report, Trainer

__all__ = [
    "Augment",
    "Count",
    "Evaluation",
    "Part",
    "Report",
    "Score",
    "Task",
    "Teacher",
    "TrainOptions",
    "Trainer",
    "evaluate",
    "logits_of",
    "loss_and_error",
    "steps_per_epoch",
    "usable_device",
]
