"""Soups: averages of models fine-tuned from one base, all of them or those that help; and of one run's checkpoints.

A soup is a weighted average, so what is made here is a list of weights: `recipe` turns it into a merge recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steelyard.errors import UserError

Measure = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""Returns the losses, by task, of what a recipe makes."""


@dataclass(frozen=True)
class Soup:
    """An average.

    Attributes:
        weights: share of each model, by its location, in the order they were taken; they sum to 1.
        losses: of the average, by task; empty where nothing was measured.
        alone: the mean loss of every candidate on its own.
        tried: (candidate, mean loss with it, whether it was kept), in the order they were tried.
        barriers: by pair of models, the mean loss half-way between them less that of the two.
    """

    weights: Mapping[str, float]
    losses: Mapping[str, float] = field(default_factory=dict)
    alone: Mapping[str, float] = field(default_factory=dict)
    tried: Sequence[tuple[str, float, bool]] = ()
    barriers: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def recipe(self, dtype: str | None = None) -> dict[str, Any]:
        """Return the average as a recipe for `steelyard merge`, as plain data."""
        models = [{"model": name, "parameters": {"weight": weight}} for name, weight in self.weights.items()]
        recipe: dict[str, Any] = {"merge_method": "linear", "models": models}
        return recipe if dtype is None else {**recipe, "dtype": dtype}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "weights": dict(self.weights),
            "losses": dict(self.losses),
            "alone": dict(self.alone),
            "tried": [{"model": name, "loss": loss, "kept": kept} for name, loss, kept in self.tried],
            "barriers": [{"models": list(pair), "barrier": value} for pair, value in self.barriers.items()],
        }


def uniform(names: Sequence[str]) -> Soup:
    """Return the average of all models with the same weight.

    Source: Wortsman et al. 2022, arXiv 2203.05482, the uniform soup. Of models fine-tuned on the target from bases
    that were first fine-tuned on auxiliary tasks it is Ramé et al. 2023, arXiv 2212.10445, model ratatouille.
    """
    if not names:
        raise UserError("a soup needs at least one model")
    return Soup(dict.fromkeys(names, 1 / len(names)))


def along_run(names: Sequence[str], decay: float | None = None) -> Soup:
    """Return the average of the checkpoints of one run, from the first to the last.

    Args:
        names: of the checkpoints, in the order of the run.
        decay: the share that each checkpoint leaves of what came before, as an exponential moving average; None for
            equal weights, as in latest-weight averaging.

    Raises:
        UserError: for a decay outside (0, 1), or no checkpoint.

    Source: Kaddour 2022, arXiv 2209.14981 (equal weights over the latest checkpoints).
    """
    if decay is None:
        return uniform(names)
    if not 0 < decay < 1:
        raise UserError(f"a decay lies between 0 and 1, got {decay}")
    if not names:
        raise UserError("a soup needs at least one model")
    last = len(names) - 1
    raw = [decay ** (last - i) * (1 - decay if i else 1) for i in range(len(names))]
    return Soup(dict(zip(names, (value / sum(raw) for value in raw), strict=True)))


def greedy(names: Sequence[str], measure: Measure) -> Soup:
    """Return the average of the models that do not make it worse, tried from the best to the worst.

    Args:
        names: the candidates.
        measure: the judge; the mean of the tasks counts.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
    """
    if not names:
        raise UserError("a soup needs at least one model")
    own = {name: measure(uniform([name]).recipe()) for name in names}
    alone = {name: mean(losses) for name, losses in own.items()}
    order = sorted(alone, key=lambda name: alone[name])
    taken, losses = order[:1], own[order[0]]
    tried = [(order[0], alone[order[0]], True)]
    for name in order[1:]:
        found = measure(uniform([*taken, name]).recipe())
        kept = mean(found) <= mean(losses)
        tried.append((name, mean(found), kept))
        if kept:
            taken, losses = [*taken, name], found
    return replace(uniform(taken), losses=losses, alone=alone, tried=tried)


def barriers(names: Sequence[str], measure: Measure) -> dict[tuple[str, str], float]:
    """Return how much worse the middle between every two models is than the two: averaging is sound near zero.

    Source: Frankle et al. 2020, arXiv 1912.05671, who take the largest rise along the way; here it is half-way.
    """
    ends = {name: mean(measure(uniform([name]).recipe())) for name in names}
    found = {}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            middle = mean(measure(uniform([first, second]).recipe()))
            found[first, second] = middle - (ends[first] + ends[second]) / 2
    return found


def mean(losses: Mapping[str, float]) -> float:
    """Return the mean over tasks."""
    return sum(losses.values()) / len(losses)
