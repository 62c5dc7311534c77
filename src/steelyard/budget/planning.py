"""Planning: the menu of a model under a format, its curves, and the plan a budget buys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steelyard.budget.bias import BIAS_CORRECTION, correctable, weight_of
from steelyard.budget.candidates import Choice, Offer, offers
from steelyard.budget.curve import Curve
from steelyard.budget.curves import DamageTable, byte_curves, choice_tensors, is_apart, measure_curves
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.least import least_payloads, sure_payloads, with_payloads
from steelyard.budget.options import FitOptions
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.budget.policy_menu import follow
from steelyard.budget.solve import Solution, require_feasible, smallest_choice, solve
from steelyard.codecs import DenseCodec
from steelyard.errors import UserError
from steelyard.formats import Format
from steelyard.formats.container import Container, layout_of, shard_bytes
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress


@dataclass(frozen=True)
class PlannedFit:
    """A plan and how it was found.

    Attributes:
        plan: what will be written.
        solution: the choice behind it.
        budget: the bytes it was given.
    """

    plan: Plan
    solution: Solution
    budget: int


class Planner:
    """Plans budgets for one model under one format; the curves are worked out once."""

    def __init__(self, opened: OpenModel, format: Format, options: FitOptions) -> None:
        self.opened, self.format, self.options = opened, format, options
        self._max_shard_size = shard_bytes(options.max_shard_size)
        self._digits = len(str(opened.checkpoint.weight_bytes * 2))
        fuse = options.fuse and not (isinstance(format, Container) and not format.fuses)
        menu = _without(offers(opened.spec, format, options.effort, fuse, options.entropy), options.keep)
        self.menu = follow(menu, opened.spec, format, options.policy)
        self._curves: list[Curve] | None = None
        self._payloads: dict[str, int] | None = None
        self._calibrated = False
        self.known: DamageTable = {}

    def smallest_size(self, progress: Progress = SILENT) -> int:
        """Return the exact bytes of the smallest result there is; codes not known yet are weighed for it.

        Once the curves are known it may be a few bytes less: a calibration can make the coarsest codes smaller.
        """
        return self._size_with(self._least(progress))

    def require_feasible(self, budget: int, progress: Progress = SILENT) -> None:
        """Refuse an impossible budget before any calibration.

        Raises:
            UserError: naming the smallest feasible size and the tensor that sets it.
        """
        # Codes need to be weighed only where a budget is so small that they decide.
        if self._size_with(sure_payloads(self.opened.spec, self.menu)) > budget:
            payloads = self._least(progress)
            denser = "" if self.format.name == "steelyard" else "allow a denser format with --format steelyard"
            require_feasible(self._bytes(payloads), lambda choice: self._exact(choice, payloads), budget, denser)

    def _least(self, progress: Progress) -> dict[str, int]:
        if self._curves is not None:
            return {}  # The menu holds codecs as they would be written.
        if self._payloads is None:
            opened = self.opened
            self._payloads = least_payloads(opened.checkpoint, opened.spec, self.menu, progress)
        return self._payloads

    def _size_with(self, payloads: Mapping[str, int]) -> int:
        return self._exact(smallest_choice(self._bytes(payloads)), payloads)

    def learn(self, knowledge: KnowledgeBase, known: DamageTable, progress: Progress = SILENT) -> None:
        """Work out the curves; `known` is shared between the planners of one model."""
        self.known = known
        self._calibrated = knowledge.calibrated
        self.menu, self._curves = measure_curves(
            self.opened.checkpoint,
            self.opened.spec,
            self.format,
            self.menu,
            knowledge,
            self.options.effort,
            self._digits,
            known,
            progress,
        )

    @property
    def learned(self) -> bool:
        """Whether the curves are known."""
        return self._curves is not None

    @property
    def curves(self) -> list[Curve]:
        """The curves, of bytes alone until they have been learned."""
        return self._bytes(self._least(SILENT)) if self._curves is None else self._curves

    def exact_size(self, choice: Sequence[int]) -> int:
        """Return the bytes on disk of a choice."""
        return self._size([offer.choices[index] for offer, index in zip(self.menu, choice, strict=True)])

    def _exact(self, choice: Sequence[int], payloads: Mapping[str, int]) -> int:
        choices = [with_payloads(offer, payloads)[index] for offer, index in zip(self.menu, choice, strict=True)]
        return self._size(choices)

    def _size(self, choices: Sequence[Choice]) -> int:
        spec = self.opened.spec
        tensors = [tensor for choice in choices for tensor in choice_tensors(spec, self.format, choice)]
        return layout_of(self.format, tensors, self._max_shard_size).total_bytes

    def plan(self, budget: int, request: Mapping[str, Any]) -> PlannedFit:
        """Return the plan of least predicted damage under a budget.

        Raises:
            UserError: if the budget is below the smallest feasible size.
        """
        if self._curves is None:
            raise RuntimeError("the curves are not known yet; call learn first")
        solution = solve(self._curves, budget, self.exact_size)
        tensors: dict[str, TensorPlan] = {}
        for offer, index in zip(self.menu, solution.choice, strict=True):
            for name, codec in offer.choices[index]:
                source = self.opened.spec.ties.get(name, name)
                if codec is None:
                    tensors[name] = TensorPlan(source, None, "", 0.0)
                    continue
                tried = self.known[name, codec, is_apart(self.opened.spec, offer)]
                tensors[name] = TensorPlan(source, tried.codec, tried.rounding, tried.damage)
        if self._calibrated and self.options.effort == "best" and not isinstance(self.format, Container):
            tensors.update(self._corrected(tensors))
        ordered = {name: tensors[name] for name in sorted(tensors, key=self._order())}
        plan = Plan(self.format.name, ordered, self._max_shard_size, dict(request))
        return PlannedFit(plan, solution, budget)

    def _corrected(self, tensors: Mapping[str, TensorPlan]) -> Iterator[tuple[str, TensorPlan]]:
        """Yield the biases that take back what rounding does to mean outputs: no bytes, and never more damage."""
        for name in correctable(self.opened.spec):
            weight, bias = tensors.get(weight_of(name)), tensors.get(name)
            if weight is not None and weight.rounding and bias is not None and not bias.rounding:
                same = bias.codec or DenseCodec(self.opened.spec.tensors[name].dtype)
                if self.format.supports(self.opened.spec, name, same):
                    yield name, replace(bias, codec=same, rounding=BIAS_CORRECTION)

    def _bytes(self, payloads: Mapping[str, int]) -> list[Curve]:
        return byte_curves(self.opened.spec, self.format, self.menu, payloads, self._digits)

    def _order(self) -> Any:
        """Sort key: the order of the checkpoint, copies of tied tensors last."""
        places = {name: place for place, name in enumerate(self.opened.checkpoint.names)}
        return lambda name: (places.get(name, len(places)), name)


def _without(menu: list[Offer], keep: Sequence[str]) -> list[Offer]:
    """Return the menu with nothing but "as stored" for the groups that a pattern of `keep` names."""
    patterns = []
    for text in keep:
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            raise UserError(f"--keep: {text!r} is not a regular expression: {error}") from None
        if not any(patterns[-1].search(name) for offer in menu for name in offer.names()):
            raise UserError(f"--keep: no tensor matches {text!r}; names are as in: {menu[0].names()[0]}")
    return [
        replace(offer, choices=offer.choices[:1])
        if any(pattern.search(name) for pattern in patterns for name in offer.names())
        else offer
        for offer in menu
    ]
