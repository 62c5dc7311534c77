"""The search itself: a budget of measurements, a journal to resume from, the best and the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.search.evolution import Evolution
from steelyard.edits.merge.search.space import Space
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator
from steelyard.weights import bytes_hash

Measure = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""Returns the losses, by task, of what a recipe makes."""


class SearchOptions(BaseModel):
    """How a recipe is searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluations: int = Field(60, ge=1, description="recipes measured, the one given among them")
    algorithm: Literal["cma", "random"] = Field("cma", description="how the next recipes are chosen")
    spread: float = Field(0.2, gt=0, le=1, description="cma: first standard deviation, as a share of each range")
    seed: int = Field(0, description="seed of everything drawn")


@dataclass(frozen=True)
class Evaluation:
    """One recipe that was measured.

    Attributes:
        point: of the unit cube.
        losses: by task, in nats per token.
        score: mean over tasks of the loss relative to that of the recipe given; 1 is as good as it.
    """

    point: tuple[float, ...]
    losses: Mapping[str, float]
    score: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        coordinates: what each coordinate of a point is.
        evaluations: all of them, in their order; the first is the recipe given.
        best: number of the best.
        front: numbers of those that no other beats on every task, by the loss on the first task.
        recipe: the best, as plain data.
        numbers: of every evaluated recipe, what each coordinate amounts to.
        resumed: how many evaluations an earlier run had made.
    """

    coordinates: Sequence[str]
    evaluations: Sequence[Evaluation]
    best: int
    front: Sequence[int]
    recipe: Mapping[str, Any]
    numbers: Sequence[Sequence[float]]
    resumed: int = 0

    def values(self, number: int) -> Sequence[float]:
        """Return the numbers of an evaluated recipe, one for each coordinate."""
        return self.numbers[number]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "coordinates": list(self.coordinates),
            "evaluations": [
                {"numbers": list(numbers), "losses": dict(each.losses), "score": each.score}
                for each, numbers in zip(self.evaluations, self.numbers, strict=True)
            ],
            "best": self.best,
            "front": list(self.front),
            "recipe": dict(self.recipe),
            "resumed": self.resumed,
        }


def search(
    space: Space,
    measure: Measure,
    options: SearchOptions | None = None,
    *,
    journal: Path | None = None,
    identity: str = "",
    resume: bool = False,
    progress: Progress = SILENT,
) -> SearchResult:
    """Search the numbers of a recipe for the least mean loss.

    Args:
        space: what is searched.
        measure: measures a recipe.
        options: how.
        journal: file that keeps every measurement as soon as it is made.
        identity: of models and data; a journal of others is refused.
        resume: take the measurements in the journal for made.
        progress: advanced by measurements.

    Raises:
        UserError: if the journal exists and is not resumed, or belongs to another search.
    """
    options = options or SearchOptions()
    start = space.start()
    book = _Journal(journal, _hash(space, options, identity), resume)
    evolution = Evolution(start, options.spread, options.seed)
    made: list[Evaluation] = []
    reference: Mapping[str, float] = {}

    def evaluate(point: np.ndarray) -> float:
        nonlocal reference
        losses = book.known(len(made), point)
        if losses is None:
            losses = dict(measure(space.recipe(point)))
            book.add(point, losses)
        if not made:
            reference = losses
        score = sum(losses[task] / reference[task] for task in reference) / len(reference)
        made.append(Evaluation(tuple(point.tolist()), losses, score))
        progress.advance(1)
        return score

    progress.start("searching", options.evaluations, "recipes")
    evaluate(start)
    while len(made) < options.evaluations:
        if options.algorithm == "random":
            evaluate(generator(options.seed, f"point {len(made)}").random(len(start)))
            continue
        points = evolution.ask()
        scores = [evaluate(point) for point in points[: options.evaluations - len(made)]]
        if len(scores) == len(points):
            evolution.tell(points, np.array(scores))
    progress.finish()
    best = min(range(len(made)), key=lambda number: made[number].score)
    front = pareto([tuple(each.losses.values()) for each in made])
    numbers = [space.values(each.point) for each in made]
    return SearchResult(space.names, made, best, front, space.recipe(made[best].point), numbers, book.taken)


def pareto(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the numbers of the points that no other beats: as low in everything, lower in something."""
    values = np.asarray(points, np.float64)
    front = [
        number
        for number, point in enumerate(values)
        if not ((values <= point).all(1) & (values < point).any(1)).any()
        and not (values[:number] == point).all(1).any()
    ]
    return sorted(front, key=lambda number: tuple(values[number]))


class _Journal:
    """Measurements on disk, one line each after a line that says which search they belong to."""

    def __init__(self, path: Path | None, work: str, resume: bool) -> None:
        self._path, self._lines, self.taken = path, list[Any](), 0
        if path is None:
            return
        if path.exists():
            if not resume:
                raise UserError(f"{path} is left from an earlier search; add --resume to go on, or remove it")
            self._lines = _read(path, work)
            # What a kill cut short is written anew.
            text = "".join(json.dumps(line) + "\n" for line in [{"search": work}, *self._lines])
            path.write_text(text)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"search": work}) + "\n")

    def known(self, number: int, point: np.ndarray) -> dict[str, float] | None:
        """Return what was measured at this place of the search before."""
        if number >= len(self._lines):
            return None
        line = self._lines[number]
        if line["point"] != point.tolist():
            raise UserError(f"{self._path} belongs to another search; remove it to begin anew")
        self.taken += 1
        return dict(line["losses"])

    def add(self, point: np.ndarray, losses: Mapping[str, float]) -> None:
        """Keep a measurement."""
        if self._path is not None:
            with open(self._path, "a") as file:
                file.write(json.dumps({"point": point.tolist(), "losses": dict(losses)}) + "\n")


def _read(path: Path, work: str) -> list[Any]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    if not found or found[0].get("search") != work:
        raise UserError(f"{path} belongs to another search; remove it to begin anew")
    return found[1:]


def _hash(space: Space, options: SearchOptions, identity: str) -> str:
    # How many evaluations are asked for does not change the first ones.
    settings = options.model_dump(exclude={"evaluations"})
    return bytes_hash(json.dumps([settings, identity, space.names, space.recipe(space.start())]).encode())
