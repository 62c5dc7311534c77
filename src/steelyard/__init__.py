"""Steelyard: give it a checkpoint and a budget; it returns the best model that fits, with the evidence."""

__version__ = "0.1.0"
