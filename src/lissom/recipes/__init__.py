"""The papers' experiments as small TOML files, and the way from a recipe to a training run."""

from lissom.recipes.making import (
    make_data,
    make_model,
    make_optimizer,
    make_prices,
    make_trainer,
)
from lissom.recipes.reading import read_recipe, recipe_names
from lissom.recipes.specs import Recipe

__all__ = [
    "Recipe",
    "make_data",
    "make_model",
    "make_optimizer",
    "make_prices",
    "make_trainer",
    "read_recipe",
    "recipe_names",
]
