"""The papers' experiments as small TOML files, and the way from a recipe to a training run."""

from lissom.recipes.making import (
    make_data,
    make_example,
    make_model,
    make_optimizer,
    make_prices,
    make_trainer,
)
from lissom.recipes.reading import read_recipe, read_record, recipe_names
from lissom.recipes.specs import Recipe, Record

__all__ = [
    "Recipe",
    "Record",
    "make_data",
    "make_example",
    "make_model",
    "make_optimizer",
    "make_prices",
    "make_trainer",
    "read_recipe",
    "read_record",
    "recipe_names",
]
