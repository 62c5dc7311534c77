"""What benchmarks of rounding share: texts to calibrate and measure on, decoding in threads, kept tables."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard import formats
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan
from steelyard.budget.planned import PlannedSource
from steelyard.jobs import OpenModel, open_model
from steelyard.measure import EvaluationOptions, Evaluator, default_corpora, held_out_windows
from steelyard.measure import open_model as open_for_measurement
from steelyard.measure.calibration import Calibration, CalibrationOptions
from steelyard.measure.collect import collect
from steelyard.measure.identity import model_identity
from steelyard.measure.model import Model
from steelyard.measure.windows import TokenSet, cut
from steelyard.parallel import single_threaded_blas, stream_threads

SHARD = 5_000_000_000
"""Bytes of a file in plans that are never written."""


@dataclass(frozen=True)
class Setup:
    """A model, and texts that measure what is done to it.

    Attributes:
        opened: its tensors.
        model: as measurement runs it.
        tokens: to calibrate on.
        settings: of calibrations.
        evaluator: measures on held-out text beside the model as it is.
        work: a folder that goes with the benchmark.
    """

    opened: OpenModel
    model: Model
    tokens: TokenSet
    settings: CalibrationOptions
    evaluator: Evaluator
    work: Path

    def calibrate(self, folder: str | Path = "", kept: str | Path = "base.safetensors") -> Calibration:
        """Return statistics on the shared tokens.

        Args:
            folder: of another model; this one if absent.
            kept: file to keep them in and to take them from, in the work folder if it is a bare name.
        """
        model = open_for_measurement(folder) if folder else self.model
        path = self.work / kept
        if path.exists():
            return Calibration.open(path, model_identity(model.source))
        return collect(model, self.tokens, path, self.settings)

    def knowledge(self, known: Calibration) -> KnowledgeBase:
        """Return what a calibration of this model tells about its tensors."""
        return KnowledgeBase(known, self.opened.spec.ties)


@contextmanager
def measured(
    location: str | Path, sequences: int, eval_sequences: int | None = None, window: int | None = None
) -> Iterator[Setup]:
    """Yield a model with its texts.

    Args:
        location: of the model.
        sequences: windows to calibrate on.
        eval_sequences: windows to measure on; as many if absent.
        window: tokens of those; the evaluator's own length if absent.
    """
    settings = CalibrationOptions(sequences=sequences)
    values: dict[str, Any] = {} if window is None else {"sequence_length": window}
    evaluation = EvaluationOptions(sequences=eval_sequences or sequences, **values)
    wanted = max(sequences, evaluation.sequences)
    with tempfile.TemporaryDirectory() as work, open_model(location) as opened:
        model = open_for_measurement(opened.checkpoint.location)
        corpora = default_corpora(model, 0, sequences=wanted, length=settings.sequence_length)
        tokens = cut(
            corpora.calibration,
            model.tokenizer,
            model.task,
            model.vocabulary,
            sequences=sequences,
            length=settings.sequence_length,
            seed=0,
            location=opened.location,
        )
        with Evaluator(model, held_out_windows(model, corpora.held_out, evaluation), evaluation) as evaluator:
            yield Setup(opened, model, tokens, settings, evaluator, Path(work))


def source_of(plan: Plan, opened: OpenModel, knowledge: KnowledgeBase) -> PlannedSource:
    """Return a model under a plan, encoded and decoded tensor by tensor as it is read."""
    return PlannedSource(plan, opened, formats.get(plan.format), knowledge)


def decoded(source: PlannedSource, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return some tensors of a planned model, rounded in threads as a job would."""
    with single_threaded_blas():
        return dict(zip(names, stream_threads(source.tensor, names), strict=True))


def best(work: Callable[[], object], count: int = 2) -> float:
    """Return the least seconds of some runs."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def parser_of(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def keep(rows: Sequence[Mapping[str, Any]], folder: Path | None, name: str) -> None:
    """Write rows as JSON into a folder, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(list(rows), indent=1) + "\n")
