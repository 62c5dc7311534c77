"""The house's exceptions: one clear line each, naming the file or tensor and the way out."""

from __future__ import annotations


class SteelyardError(Exception):
    """Base of everything Steelyard raises on purpose."""


class UserError(SteelyardError):
    """Something the caller can put right: a missing file, a wrong shape, an impossible budget.

    The message is one line that names what is wrong and the nearest way out. The command line prints it
    and exits with code 2.
    """


class WeightError(UserError):
    """A weight that cannot be kept, such as NaN: the model has to change, so work begun on it is of no use."""


class VerificationError(SteelyardError):
    """What was written is not what was planned. The output folder does not take its final name."""
