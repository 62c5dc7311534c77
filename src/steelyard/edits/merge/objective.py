"""What a merge is judged by: the loss of candidates, not yet written, on the texts of several tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.errors import UserError
from steelyard.weights import bytes_hash

if TYPE_CHECKING:
    from steelyard.measure.evaluate import EvaluationOptions
    from steelyard.measure.model import WeightSource
    from steelyard.measure.texts import Corpus
    from steelyard.measure.windows import TokenSet


class Objective:
    """Measures losses in nats per token, the lower the better.

    Attributes:
        data: by task, the windows that are measured on.

    Args:
        model: a model of the architecture that is measured, for its tokenizer and limits.
        texts: by the name of each task.
        options: how much is measured.

    Raises:
        UserError: for an encoder, which has no loss, or a task without text.
    """

    def __init__(
        self, model: str | Path, texts: Mapping[str, Corpus], options: EvaluationOptions | None = None
    ) -> None:
        from steelyard.jobs import resolve
        from steelyard.measure.evaluate import EvaluationOptions, held_out_windows
        from steelyard.measure.model import open_model

        if not texts:
            raise UserError("nothing to measure on; name text with --data TASK=PATH")
        self._options = options or EvaluationOptions()
        self._model = open_model(resolve(model))
        if self._model.task == "encoder":
            raise UserError(f"{model} is an encoder and has no loss; only models that have one can be searched")
        self.data: dict[str, TokenSet] = {
            task: held_out_windows(self._model, text, self._options) for task, text in texts.items()
        }

    def identity(self) -> str:
        """Return a hash of what is measured on."""
        return bytes_hash(json.dumps({task: found.identity() for task, found in self.data.items()}).encode())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order they were given."""
        return tuple(self.data)

    def loss(self, task: str, source: WeightSource) -> float:
        """Return the loss of these weights on a task.

        Raises:
            UserError: if there is no such task, or the weights do not fit the model.
        """
        from steelyard.measure.evaluate import Evaluator

        if task not in self.data:
            raise UserError(f"there is no text for the task {task!r}; there is for {', '.join(self.data)}")
        with Evaluator(self._model.with_source(source), self.data[task], self._options) as evaluator:
            found = evaluator.measure_base().loss
        assert found is not None
        return float(found.value)

    def losses(self, source: WeightSource) -> dict[str, float]:
        """Return the loss of these weights on every task."""
        return {task: self.loss(task, source) for task in self.data}


def read_texts(given: Sequence[str]) -> dict[str, Corpus]:
    """Read `TASK=PATH` or `PATH` into texts by task; several paths of one task add up.

    Raises:
        UserError: for a path that is missing or holds no text.
    """
    from steelyard.measure.texts import load_documents

    paths: dict[str, list[str]] = {}
    for item in given:
        task, equals, path = item.partition("=")
        if not equals:
            task, path = Path(item).stem or item, item
        paths.setdefault(task, []).append(path)
    return {task: load_documents(each) for task, each in paths.items()}
