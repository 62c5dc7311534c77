"""YAML recipes: validated steps, run one after the other."""

from steelyard.recipes.recipe import Recipe, Step, read_recipe
from steelyard.recipes.run import run_recipe

__all__ = ["Recipe", "Step", "read_recipe", "run_recipe"]
