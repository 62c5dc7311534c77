"""Low-rank adapters as peft writes them: applied row by row without loading the base, and extracted from models."""

from steelyard.edits.merge.lora.adapted import AdaptedModel, adapt
from steelyard.edits.merge.lora.adapter import Adapter, LowRank
from steelyard.edits.merge.lora.settings import AdapterSettings

__all__ = ["AdaptedModel", "Adapter", "AdapterSettings", "LowRank", "adapt"]
