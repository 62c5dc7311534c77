"""`steelyard fit`: the best model that fits a size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.cli.show import show_fit
from steelyard.cli.step import step_command

if TYPE_CHECKING:
    from steelyard.budget.fit import FitResult


@step_command("fit")
def command(result: FitResult, model: str) -> None:
    """Return the best model that fits a budget of bytes on disk, in a folder that transformers loads.

    MODEL is a folder, an id in the local Hugging Face cache, an fsspec URL, or `reference`.
    """
    show_fit(result)
