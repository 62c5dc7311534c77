"""Rounding of matrices to integers of few bits."""
