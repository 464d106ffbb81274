"""The papers' experiments as small TOML files, and the way from a recipe to a training run."""

from lissom.recipes.choosing import keep_chosen
from lissom.recipes.examples import make_example, shape_of
from lissom.recipes.fitting import RecipePath
from lissom.recipes.henrikson import HenriksonLog
from lissom.recipes.making import (
    make_data,
    make_dataset,
    make_groups,
    make_method,
    make_model,
    make_optimizer,
    make_task,
)
from lissom.recipes.reading import read_recipe, read_record, recipe_names
from lissom.recipes.runs import (
    changes,
    changes_of_code,
    keep_record,
    keep_result,
    keep_weights,
    load_weights,
    make_record,
)
from lissom.recipes.sampling import load_checkpoint, load_method
from lissom.recipes.specs import Recipe, Record
from lissom.recipes.trainers import TEACHER, make_teacher, make_trainer

__all__ = [
    "TEACHER",
    "HenriksonLog",
    "Recipe",
    "RecipePath",
    "Record",
    "changes",
    "changes_of_code",
    "keep_chosen",
    "keep_record",
    "keep_result",
    "keep_weights",
    "load_checkpoint",
    "load_method",
    "load_weights",
    "make_data",
    "make_dataset",
    "make_example",
    "make_groups",
    "make_method",
    "make_model",
    "make_optimizer",
    "make_record",
    "make_task",
    "make_teacher",
    "make_trainer",
    "read_recipe",
    "read_record",
    "recipe_names",
    "shape_of",
]
