"""A zoo of models: which of them can be merged at all, by architecture and the likeness of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.pieces import cuts
from steelyard.edits.merge.soups import Measure, greedy, mean, uniform
from steelyard.errors import UserError


@dataclass(frozen=True)
class Cluster:
    """Models that can be merged.

    Attributes:
        models: their locations, in the order they were given.
        likeness: by location, how like the cluster's first it is; 1 for the first.
    """

    models: tuple[str, ...]
    likeness: Mapping[str, float]


@dataclass(frozen=True)
class Zoo:
    """Models in clusters."""

    clusters: Sequence[Cluster]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "clusters": [
                {"models": list(cluster.models), "likeness": dict(cluster.likeness)} for cluster in self.clusters
            ]
        }


@dataclass(frozen=True)
class Strategy:
    """How a cluster is merged.

    Attributes:
        name: of the strategy.
        recipe: as plain data.
        scores: mean loss of every strategy that was tried, by its name.
    """

    name: str
    recipe: Mapping[str, Any]
    scores: Mapping[str, float]


def strategy(found: Cluster, measure: Measure | None) -> Strategy:
    """Return what does best for a cluster: its best model alone, all of them, those that help, or their centre.

    Args:
        found: the cluster.
        measure: the judge; None to average all of them.

    Source: as `cluster`; the authors' code too averages, and leaves out what does not help.
    """
    average = uniform(found.models).recipe()
    if measure is None or len(found.models) == 1:
        return Strategy("linear", average, {})
    soup = greedy(found.models, measure)
    best = min(soup.alone, key=lambda name: soup.alone[name])
    centre = {"merge_method": "karcher", "models": [{"model": name} for name in found.models]}
    recipes = {
        "best alone": uniform([best]).recipe(),
        "greedy soup": soup.recipe(),
        "linear": average,
        "karcher": centre,
    }
    scores = {"best alone": soup.alone[best], "greedy soup": mean(soup.losses)}
    scores |= {name: mean(measure(recipes[name])) for name in ("linear", "karcher")}
    chosen = min(scores, key=lambda name: scores[name])
    return Strategy(chosen, recipes[chosen], scores)


def mixture(locations: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of a mixture of experts of merged clusters, as plain data; its routers are drawn.

    Raises:
        UserError: if there are fewer than two.
    """
    if len(locations) < 2:
        raise UserError("a mixture needs at least two experts; there is one cluster, so its merge is all there is")
    experts = [{"source_model": place} for place in locations]
    return {"base_model": locations[0], "gate_mode": "random", "experts": experts}


def cluster(models: Mapping[str, InputModel], threshold: float = 0.95) -> Zoo:
    """Put every model into the first cluster whose first model is like it, or into one of its own.

    Args:
        models: open, by location.
        threshold: the least likeness within a cluster.

    Raises:
        UserError: for a threshold that no two models can meet or miss.

    Source: Zhao et al. 2024, arXiv 2410.05357 (Model-GLUE): clusters by architecture and by the cosine similarity
    of the weights above 0.95, as in the authors' code.
    """
    if not -1 < threshold < 1:
        raise UserError(f"a threshold of likeness lies between -1 and 1, got {threshold}")
    found: list[dict[str, float]] = []
    for name, model in models.items():
        for members in found:
            value = likeness(models[next(iter(members))], model)
            if value > threshold:
                members[name] = value
                break
        else:
            found.append({name: 1.0})
    return Zoo([Cluster(tuple(members), members) for members in found])


def likeness(first: InputModel, second: InputModel) -> float:
    """Return how alike two models' matrices are: the mean cosine of their columns, -1 for other architectures.

    The columns are those of the matrices as they are stored; every matrix counts alike.

    Source: as `cluster`.
    """
    names = _matrices(first)
    if names != _matrices(second) or any(first.shape(name) != second.shape(name) for name in names):
        return -1.0
    if not names:
        return -1.0
    return float(np.mean([_cosine(first, second, name) for name in names]))


def _matrices(model: InputModel) -> list[str]:
    """The matrices within the layers."""
    tensors = model.spec.tensors
    inside = (name for name, tensor in tensors.items() if tensor.layer is not None and len(tensor.shape) == 2)
    return sorted(set(model.names).intersection(inside))


def _cosine(first: InputModel, second: InputModel, name: str) -> float:
    rows, columns = first.shape(name)
    dot, one, two = (np.zeros(columns) for _ in range(3))
    readers = first.reader(name), second.reader(name)
    for start, stop in cuts((rows, columns), "row"):
        a, b = (read(start, stop).astype(np.float64).reshape(-1, columns) for read in readers)
        dot += (a * b).sum(0)
        one += (a * a).sum(0)
        two += (b * b).sum(0)
    # Columns of zeros are like nothing.
    return float((dot / np.sqrt(np.maximum(one * two, 1e-30))).mean())
