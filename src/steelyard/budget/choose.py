"""Which format a fit is written in."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.budget.options import FitOptions
from steelyard.budget.planning import Planner
from steelyard.budget.request import Budget
from steelyard.errors import UserError
from steelyard.formats import get as get_format
from steelyard.formats.container import bound
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress

AUTO = "auto"

_OTHER = {"steelyard": "compressed-tensors", "compressed-tensors": "steelyard"}
"""What a format is compared with."""


@dataclass(frozen=True)
class ChosenFormat:
    """The format a fit is written in.

    Attributes:
        planner: plans under it.
        other: plans under the format it is compared with; None where that cannot meet the budget.
        notes: why it was chosen, in sentences.
    """

    planner: Planner
    other: Planner | None
    notes: tuple[str, ...]


def choose_format(
    opened: OpenModel, options: FitOptions, budget: Budget, progress: Progress = SILENT
) -> ChosenFormat:
    """Choose the format before any calibration.

    Named by the user, that one. For `auto` compressed-tensors, which plain transformers loads, wherever it can meet
    the budget; Steelyard's own where it cannot.

    Raises:
        UserError: if the budget is below the smallest feasible size.
    """
    if options.format == "gguf":
        gguf = Planner(opened, bound(get_format("gguf"), opened.checkpoint, opened.spec), options)
        gguf.require_feasible(budget.nbytes, progress)
        return ChosenFormat(gguf, _comparable("steelyard", opened, options, budget), ())
    if options.format != AUTO:
        chosen = Planner(opened, get_format(options.format), options)
        chosen.require_feasible(budget.nbytes, progress)
        other = _OTHER.get(options.format)
        beside = None if other is None else _comparable(other, opened, options, budget)
        return ChosenFormat(chosen, beside, ())
    ecosystem = _comparable("compressed-tensors", opened, options, budget)
    if ecosystem is not None:
        return ChosenFormat(ecosystem, _comparable("steelyard", opened, options, budget), ())
    native = Planner(opened, get_format("steelyard"), options)
    native.require_feasible(budget.nbytes, progress)
    try:
        smallest = f"its smallest is {Planner(opened, get_format('compressed-tensors'), options).smallest_size():,}"
        why = f"compressed-tensors cannot meet {budget.nbytes:,} bytes for this model ({smallest})"
    except UserError as error:
        why = str(error).removesuffix("; use --format steelyard")
    return ChosenFormat(native, None, (f"{why}, so the result is in Steelyard's own format",))


def _comparable(format: str, opened: OpenModel, options: FitOptions, budget: Budget) -> Planner | None:
    """Return what plans in a format; None if that cannot hold what a policy asks for, or meet the budget."""
    try:
        planner = Planner(opened, get_format(format), options)
        planner.require_feasible(budget.nbytes)
    except UserError:
        return None
    return planner
