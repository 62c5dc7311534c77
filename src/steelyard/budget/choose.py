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


def choose_format(opened: OpenModel, options: FitOptions, budget: Budget) -> ChosenFormat:
    """Choose the format before any work.

    Named by the user, that one. For `auto` compressed-tensors, which plain transformers loads, wherever it can meet
    the budget; Steelyard's own where it cannot.

    Raises:
        UserError: if the budget is below the smallest feasible size.
    """
    ecosystem = Planner(opened, get_format("compressed-tensors"), options)
    native = Planner(opened, get_format("steelyard"), options)
    if options.format == "gguf":
        gguf = Planner(opened, bound(get_format("gguf"), opened.checkpoint, opened.spec), options)
        gguf.require_feasible(budget.nbytes)
        return ChosenFormat(gguf, _if_feasible(native, budget), ())
    if options.format == "dense":
        dense = Planner(opened, get_format("dense"), options)
        dense.require_feasible(budget.nbytes)
        return ChosenFormat(dense, None, ())
    if options.format == "steelyard":
        native.require_feasible(budget.nbytes)
        return ChosenFormat(native, _if_feasible(ecosystem, budget), ())
    if options.format == "compressed-tensors":
        ecosystem.require_feasible(budget.nbytes)
        return ChosenFormat(ecosystem, _if_feasible(native, budget), ())
    if _if_feasible(ecosystem, budget) is not None:
        return ChosenFormat(ecosystem, _if_feasible(native, budget), ())
    native.require_feasible(budget.nbytes)
    note = (
        f"compressed-tensors cannot meet {budget.nbytes:,} bytes for this model (its smallest is "
        f"{ecosystem.smallest_size():,}), so the result is in Steelyard's own format"
    )
    return ChosenFormat(native, None, (note,))


def _if_feasible(planner: Planner, budget: Budget) -> Planner | None:
    try:
        planner.require_feasible(budget.nbytes)
    except UserError:
        return None
    return planner
