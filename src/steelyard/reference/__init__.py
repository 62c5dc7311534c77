"""The reference model: a real, small language model of Python, and how it is trained."""

from __future__ import annotations

from pathlib import Path

from steelyard.errors import UserError


def path() -> Path:
    """Return the folder of the bundled model.

    Raises:
        UserError: if this installation lacks it.
    """
    if not is_available():
        raise UserError(
            "this installation has no reference model; make one with steelyard train-reference OUT --export DIR"
        )
    return _folder()


def is_available() -> bool:
    """Tell whether the bundled model is installed."""
    return (_folder() / "model.safetensors").is_file()


def _folder() -> Path:
    return Path(__file__).parent / "model"
