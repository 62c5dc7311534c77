"""mergekit's YAML: references to models, parameters with gradients and filters, and what is merged with what."""

from steelyard.edits.merge.dialect.reading import read_recipes
from steelyard.edits.merge.dialect.recipe import MergeRecipe, Module, Slice, Source
from steelyard.edits.merge.dialect.reference import ModelReference
from steelyard.edits.merge.dialect.settings import Setting, Settings

__all__ = [
    "MergeRecipe",
    "ModelReference",
    "Module",
    "Setting",
    "Settings",
    "Slice",
    "Source",
    "read_recipes",
]
