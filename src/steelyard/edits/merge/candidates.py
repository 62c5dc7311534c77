"""Candidates of a merge: recipes carried out in memory, tensor by tensor, to be measured before one is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from steelyard.edits.merge import registry
from steelyard.edits.merge.dialect import MergeRecipe, ModelReference
from steelyard.edits.merge.dialect.reading import parse_recipes
from steelyard.edits.merge.inputs import InputModel, StoredModel
from steelyard.edits.merge.pieces import merge_tensor
from steelyard.edits.merge.plan import MergePlan, PlannedTensor
from steelyard.edits.merge.planning import build_plan
from steelyard.edits.merge.problems import Problems
from steelyard.errors import UserError

_FLOATS = ("BF16", "F16", "F32", "F64")


class Candidates:
    """The models that recipes name, opened once, and what recipes make of them; use it in a `with` block.

    Args:
        seed: of everything drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._models: dict[ModelReference, InputModel] = {}

    def plan(self, recipe: Mapping[str, Any]) -> MergePlan:
        """Return what a recipe, as plain data, will do.

        Raises:
            UserError: with everything that stands in its way.
        """
        return self._planned(_parsed(recipe))

    def source(self, recipe: Mapping[str, Any]) -> PlannedSource:
        """Return what a recipe, as plain data, makes: weights to measure.

        Raises:
            UserError: with everything that stands in its way.
        """
        parsed = _parsed(recipe)
        plan = self._planned(parsed)
        return PlannedSource(plan, [self.model(reference) for reference in parsed.references()])

    def model(self, reference: ModelReference) -> InputModel:
        """Return a model, open.

        Raises:
            UserError: if it is not there, or has an adapter, which only `steelyard merge` applies.
        """
        if reference not in self._models:
            if reference.lora_location is not None:
                raise UserError(f"{reference}: write the merged adapter to a folder first, with steelyard merge")
            self._models[reference] = StoredModel.open(reference.location, str(reference))
        return self._models[reference]

    def close(self) -> None:
        """Let go of the models."""
        for model in self._models.values():
            model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _planned(self, recipe: MergeRecipe) -> MergePlan:
        if recipe.tokenizer is not None:
            raise UserError("recipes that change the vocabulary are not searched: merge the tokenizer first")
        problems = Problems()
        models = {reference: self.model(reference) for reference in recipe.references()}
        plan = build_plan(recipe, registry.get(recipe.method), models, self._seed, problems)
        problems.raise_any("recipe")
        return plan


class PlannedSource:
    """The weights a plan makes, each when it is asked for.

    Args:
        plan: what is merged how.
        models: the plan's inputs, in its order.
    """

    def __init__(self, plan: MergePlan, models: list[InputModel]) -> None:
        self._plan, self._models = plan, models
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the result."""
        return self._plan.config

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._tensors)

    def tensor(self, name: str) -> np.ndarray:
        """Return a merged tensor, float32 where it holds floats."""
        planned = self._tensors[name]
        readers = [self._models[origin.model].reader(origin.tensor) for origin in planned.origins]
        if planned.copied or planned.dtype not in _FLOATS:
            return readers[0](0, planned.entries).reshape(planned.shape)

        def read(start: int, stop: int) -> np.ndarray:
            values = np.empty((len(readers), stop - start), np.float32)
            for row, entries in enumerate(readers):
                values[row] = entries(start, stop)
            return values

        return merge_tensor(self._bound(planned), planned.shape, read)

    def _bound(self, planned: PlannedTensor) -> Any:
        plan = self._plan
        return plan.method.function(planned.task(plan.models, plan.seed), planned.options)


def _parsed(recipe: Mapping[str, Any]) -> MergeRecipe:
    # JSON is YAML; one reader for files and for plain data.
    return parse_recipes(json.dumps(dict(recipe)))[0]
