"""Dense models as the experts of a mixture: mergekit-moe's recipes, its gates, Mixtral and Qwen-MoE outputs."""

from steelyard.edits.merge.moe.job import forecast_mixture, merge_mixture
from steelyard.edits.merge.moe.recipe import Expert, MoeRecipe, is_mixture, read_mixture

__all__ = ["Expert", "MoeRecipe", "forecast_mixture", "is_mixture", "merge_mixture", "read_mixture"]
