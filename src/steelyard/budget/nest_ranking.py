"""The order of growth by measurement: what each level of each tensor gains when the model is run with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.native.growth import Growth, growth_order
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.model import Model
    from steelyard.measure.texts import Corpus


class AtLevels:
    """A nested folder as if it had been cut: a source of weights for measurement.

    Args:
        folder: opened.
        growth: its sizes.
        levels: of every nested tensor.
    """

    def __init__(self, folder: LogicalCheckpoint, growth: Growth, levels: Mapping[str, int]) -> None:
        self._folder, self._growth, self._levels = folder, growth, levels

    @property
    def config(self) -> Mapping[str, Any]:
        """The folder's config, without its quantization."""
        return self._folder.config

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return self._folder.names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor, decoded at its level if it is nested."""
        if name not in self._levels:
            return self._folder.tensor(name)
        codec, shape = self._growth.tensors[name]
        level = codec.at(self._levels[name])
        weight = level.decode(level.first_parts(self._folder.parts(name), shape), shape)
        return np.ascontiguousarray(weight.T) if self._folder.entries[name].transposed else weight


def measured_order(
    folder: Path, model: Model, texts: Corpus, sequences: int, progress: Progress = SILENT
) -> tuple[str, ...]:
    """Return the order of growth by measured gain for each byte.

    For every level all tensors are set to it, then each alone is raised by one: the divergence from the model that
    this takes away is the step's gain. Costs (levels - 1) x tensors runs of the texts.

    Args:
        folder: made by `nest`.
        model: what it was made from.
        texts: to run, none of them among those measured on later.
        sequences: windows of them.
        progress: advanced by runs.

    Raises:
        UserError: if there is not enough text.

    Source: Wang et al. 2025, BitStack, arXiv 2410.23918, section 3.2, which sorts within each level by perplexity
    and takes level after level; here gains of all levels are sorted together, for each byte.
    """
    from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows

    settings = EvaluationOptions(sequences=sequences)
    data = held_out_windows(model, texts, settings)
    if not data.windows:
        raise UserError(f"{texts.description}: not enough text to rank on; pass more with --data")
    growth = Growth.of_folder(folder)
    names = list(growth.tensors)
    heights = {name: codec.level - codec.lowest for name, (codec, _) in growth.tensors.items()}
    curves: dict[str, list[float]] = {name: [0.0] for name in names}
    with LogicalCheckpoint.open(folder) as opened, Evaluator(model, data, settings) as evaluator:
        progress.start("ranking", sum(heights.values()))

        def divergence(levels: Mapping[str, int]) -> float:
            measured = evaluator.measure(AtLevels(opened, growth, levels), name="a beginning").damage
            assert measured is not None
            return measured.value

        for step in range(max(heights.values())):
            even = {name: growth.lowest[name] + min(step, heights[name]) for name in names}
            before = divergence(even)
            for name in names:
                if step < heights[name]:
                    gain = before - divergence({**even, name: even[name] + 1})
                    curves[name].append(curves[name][-1] - gain)
                    progress.advance(1)
        progress.finish()
    sizes = {name: [c.nbytes(shape) for c in codec.levels] for name, (codec, shape) in growth.tensors.items()}
    return tuple(names[index] for index in growth_order([(sizes[name], curves[name]) for name in names]))
