"""Calibration statistics and evaluation with intervals. Torch is imported only when a model is run."""
