"""The loss along a path between models: is there a barrier between them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import resolve
from steelyard.progress import SILENT, Progress


class BarrierOptions(BaseModel):
    """The path, and what the loss is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Literal["straight", "bezier"] = Field(
        "straight",
        description="straight from model to model, or the curve that the models between the ends pull towards them",
    )
    points: int = Field(11, ge=3, description="places along the whole path, ends included")
    data: str | None = Field(None, description="text to measure on: a file, a folder, JSONL or tokens")
    sequences: int = Field(64, ge=1, description="windows to measure on")
    sequence_length: int = Field(256, ge=8, description="tokens in a window")
    seed: int = Field(0, description="seed of what is drawn")


@dataclass(frozen=True)
class Place:
    """One place on the path.

    Attributes:
        at: from 0, the first model, to 1, the last.
        loss: nats per token.
        low: lower end of its 95 % interval over documents.
        high: upper end.
        above: loss less what a straight line between the losses of the ends has here.
    """

    at: float
    loss: float
    low: float
    high: float
    above: float


@dataclass(frozen=True)
class Barrier:
    """The loss along a path.

    Attributes:
        models: the path leads through, or is pulled towards.
        places: in order.
        data: in words, the texts.
    """

    models: tuple[str, ...]
    places: tuple[Place, ...]
    data: str

    @property
    def height(self) -> float:
        """The greatest loss above the straight line between the losses of the ends; at least 0.

        Source: Frankle et al. 2020, arXiv 1912.05671; Entezari et al. 2022, arXiv 2110.06296, definition 2.
        """
        return max(place.above for place in self.places)

    @property
    def above_mean(self) -> float:
        """The greatest loss above the mean of the ends' losses.

        Source: Ainsworth et al. 2022, arXiv 2209.04836, definition 2.2.
        """
        return max(place.loss for place in self.places) - (self.places[0].loss + self.places[-1].loss) / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "models": list(self.models),
            "barrier": self.height,
            "above_mean": self.above_mean,
            "places": [vars(place) for place in self.places],
            "data": self.data,
        }


def shares(path: str, count: int, at: float) -> np.ndarray:
    """Return how much of each model is in the one at a place of a path, float64 [count]; they sum to 1.

    Args:
        path: "straight" or "bezier".
        count: models.
        at: from 0 to 1.

    Source: of the curve, Garipov et al. 2018, arXiv 1802.10026, section 3.2, with any number of bends.
    """
    found = np.zeros(count)
    if path == "bezier":
        from math import comb

        degree = count - 1
        for number in range(count):
            found[number] = comb(degree, number) * at**number * (1 - at) ** (degree - number)
        return found
    segment = min(int(at * (count - 1)), count - 2)
    inside = at * (count - 1) - segment
    found[segment], found[segment + 1] = 1 - inside, inside
    return found


class _Mixed:
    """The weighted sum of several models, made tensor by tensor."""

    def __init__(self, models: Sequence[LogicalCheckpoint], weights: np.ndarray) -> None:
        self._models, self._weights = models, weights

    @property
    def config(self) -> Mapping[str, Any]:
        return self._models[0].config

    @property
    def names(self) -> list[str]:
        return self._models[0].names

    def tensor(self, name: str) -> np.ndarray:
        total: np.ndarray | None = None
        for model, weight in zip(self._models, self._weights, strict=True):
            if weight != 0:
                part = model.tensor(name).astype(np.float32) * np.float32(weight)
                total = part if total is None else total + part
        assert total is not None
        return total


def measure_barrier(
    models: Sequence[str | Path], options: BarrierOptions | None = None, progress: Progress = SILENT
) -> Barrier:
    """Measure the loss at places along a path between models.

    Args:
        models: two or more folders of any format that can be read, of the same tensors.
        options: the path, and what is measured on.
        progress: advanced by batches.

    Raises:
        UserError: if the models do not hold the same tensors, or have no loss.
    """
    options = options or BarrierOptions()
    if len(models) < 2:
        raise UserError("a path needs two models at least")
    from steelyard.measure.defaults import default_corpora
    from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows
    from steelyard.measure.model import open_model
    from steelyard.measure.texts import load_documents

    settings = EvaluationOptions(
        sequences=options.sequences, sequence_length=options.sequence_length, seed=options.seed
    )
    with ExitStack() as stack:
        opened = [stack.enter_context(LogicalCheckpoint.open(resolve(model))) for model in models]
        _compare(models, opened)
        first = open_model(resolve(models[0]))
        if first.task == "encoder":
            raise UserError(f"{models[0]} is an encoder and has no loss along a path")
        texts = (
            default_corpora(first, options.seed, progress).held_out
            if options.data is None
            else load_documents(options.data)
        )
        data = held_out_windows(first, texts, settings)
        found = []
        places = np.linspace(0, 1, options.points)
        for at in places:
            mixed = first.with_source(_Mixed(opened, shares(options.path, len(opened), float(at))))
            with Evaluator(mixed, data, settings, progress) as evaluator:
                loss = evaluator.measure_base().loss
            assert loss is not None
            found.append(loss)
    begin, end = found[0].value, found[-1].value
    return Barrier(
        tuple(map(str, models)),
        tuple(
            Place(float(at), loss.value, loss.low, loss.high, loss.value - ((1 - at) * begin + at * end))
            for at, loss in zip(places.tolist(), found, strict=True)
        ),
        data.description,
    )


def _compare(models: Sequence[str | Path], opened: Sequence[LogicalCheckpoint]) -> None:
    for location, model in zip(models[1:], opened[1:], strict=True):
        held = set(model.names)
        for name in opened[0].names:
            if name not in held:
                raise UserError(f"{location} has no tensor {name}, which {models[0]} has; there is no path between")
            shapes = opened[0].shape(name), model.shape(name)
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{name} is {list(shapes[0])} in {models[0]}, {list(shapes[1])} in {location}; there is no "
                    "path between"
                )
        if len(held) > len(opened[0].names):
            extra = sorted(held - set(opened[0].names))[0]
            raise UserError(f"{location} has a tensor {extra}, which {models[0]} has not; there is no path between")
