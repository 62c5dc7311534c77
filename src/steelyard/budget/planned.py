"""A plan as a model: its decoded tensors, so that it can be measured before it is written, or instead of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.budget.bias import planned_parts
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.codecs import EntropyCodec
from steelyard.formats import Format
from steelyard.jobs import OpenModel
from steelyard.parallel import single_threaded_blas


class PlannedSource:
    """The logical tensors a plan will leave, encoded and decoded when asked for."""

    def __init__(self, plan: Plan, opened: OpenModel, format: Format, knowledge: KnowledgeBase) -> None:
        self._plan, self._opened, self._format, self._knowledge = plan, opened, format, knowledge
        self._apart = any(name in opened.spec.ties for name in plan.tensors)
        self._rounded = replace(plan, tensors={name: _uncoded(item) for name, item in plan.tensors.items()})

    @property
    def config(self) -> dict[str, Any]:
        """The config of the result, without its quantization."""
        config = self._format.config(self._opened.spec, self._opened.checkpoint.config, self._plan.codecs())
        return {key: value for key, value in config.items() if key != "quantization_config"}

    @property
    def names(self) -> list[str]:
        """Names of the result's tensors."""
        return list(self._plan.tensors)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as readers of the result will see it."""
        item = self._rounded.tensors[name]
        if item.codec is None:
            return self._opened.checkpoint.tensor(item.source)
        opened = self._opened
        with single_threaded_blas():
            matrix, parts = planned_parts(
                name, self._rounded, opened.checkpoint, opened.spec, self._knowledge, self._apart
            )
        decoded = item.codec.decode(parts, matrix.shape)
        return decoded.T if self._opened.spec.tensors[item.source].transposed else decoded


def _uncoded(item: TensorPlan) -> TensorPlan:
    """Return the plan without its lossless pass, which no reader of the numbers sees."""
    return replace(item, codec=item.codec.base) if isinstance(item.codec, EntropyCodec) else item
