"""What was measured about a fit: the result beside the original, the curve, and the formats at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steelyard.budget.choose import ChosenFormat
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import Learned
from steelyard.budget.loading import agreement_certificate, load_certificate
from steelyard.budget.options import FitOptions
from steelyard.budget.planned import PlannedSource
from steelyard.budget.planning import PlannedFit, Planner
from steelyard.budget.produce import Staged
from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import OpenModel, resolve
from steelyard.progress import SILENT, Progress
from steelyard.report import Certificate, CurvePoint, Damage, FormatRow, Interval, Metric, Series

if TYPE_CHECKING:
    from steelyard.measure.estimates import Estimate
    from steelyard.measure.evaluate import EvaluationOptions, Evaluator
    from steelyard.measure.measurement import Measurement

# Name, unit and better direction of each quantity in tables; the first that applies is the measure of damage.
_SHOWN: Mapping[str, tuple[str, str, Literal["lower", "higher", ""]]] = {
    "kl": ("KL", "nats/token", "lower"),
    "cosine_distance": ("1 - cosine", "", "lower"),
    "loss": ("loss", "nats/token", "lower"),
    "perplexity": ("perplexity", "", "lower"),
    "bits_per_byte": ("bits per byte", "", "lower"),
    "top1_agreement": ("top-1 agreement", "fraction", "higher"),
    "negative_flips": ("negative flips", "fraction", "lower"),
    "cosine": ("cosine", "", "higher"),
    "rank_correlation": ("rank correlation", "", "higher"),
}
# A budget this close to the written one says nothing new.
_SAME_BUDGET = 0.01

_HAS_BASE = ("loss", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured; empty where nothing could be (`--data none`)."""

    metrics: tuple[Metric, ...] = ()
    damage: Damage = field(default_factory=Damage)
    curve: tuple[Series, ...] = ()
    formats: tuple[FormatRow, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    notes: tuple[str, ...] = ()
    description: str = ""


def evaluate_fit(
    opened: OpenModel,
    options: FitOptions,
    chosen: ChosenFormat,
    planned: PlannedFit,
    knowledge: KnowledgeBase,
    learned: Learned,
    staged: Staged,
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure the staged folder as it lies on the disk, then what was asked for beside it."""
    if learned.model is None or learned.held_out is None:
        loaded = [load_certificate(staged.folder, progress)] if options.verify == "load" else []
        return Evaluation(certificates=tuple(loaded), notes=("nothing was measured (--data none)",))
    from steelyard.measure.evaluate import Evaluator, held_out_windows

    settings = _settings(options)
    data = held_out_windows(learned.model, learned.held_out, settings)
    with Evaluator(learned.model, data, settings, progress) as evaluator:
        base = None if learned.model.task == "encoder" else evaluator.measure_base()
        with LogicalCheckpoint.open(staged.folder) as written:
            result = evaluator.measure(written, progress, name="the result")
        bench = _Bench(opened, evaluator, knowledge, progress)
        curve, skipped = bench.curves(chosen, planned, result, options.curve, options.compare_formats)
        formats = bench.formats(chosen, planned, result) if options.compare_formats else ()
    certificates = []
    if options.verify == "load":
        certificates = [load_certificate(staged.folder, progress)]
        if chosen.planner.format.name != "gguf":  # which transformers decodes into a plain model of its own first
            certificates.append(
                agreement_certificate(staged.folder, opened.checkpoint.location, data, result, progress)
            )
    return Evaluation(
        metrics=metrics_of(result, base),
        damage=_damage(result),
        curve=curve,
        formats=formats,
        certificates=tuple(certificates),
        notes=skipped,
        description=result.data,
    )


def measure_folder(
    model: str | Path,
    against: str | Path | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    sequences: int = 128,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Measurement:
    """Measure a model, beside another one where it is given.

    Raises:
        UserError: if a model cannot be run, there is no text, or an encoder has nothing to be compared with.
    """
    from steelyard.measure.evaluate import EvaluationOptions, evaluate
    from steelyard.measure.texts import load_documents

    settings = EvaluationOptions(sequences=sequences, seed=seed)
    documents = None if data is None else load_documents(data)
    base = None if against is None else resolve(against)
    return evaluate(resolve(model), base, documents, settings, progress)


def tensor_errors(model: str | Path, against: str | Path, progress: Progress = SILENT) -> dict[str, float]:
    """Return |tensor - base's| / |base's| of every tensor two folders share, whatever each is stored as.

    Raises:
        UserError: if a folder cannot be read, or two tensors of one name differ in shape.
    """
    with LogicalCheckpoint.open(resolve(model)) as ours, LogicalCheckpoint.open(resolve(against)) as base:
        shared = [name for name in base.names if name in set(ours.names)]
        progress.start("comparing tensors", len(shared))
        errors = {}
        for name in shared:
            first, second = base.tensor(name), ours.tensor(name)
            if first.shape != second.shape:
                raise UserError(
                    f"{name} has shape {list(second.shape)} in {model}, {list(first.shape)} in {against}"
                )
            reference = first.astype(np.float32)
            size = float(np.linalg.norm(reference))
            errors[name] = float(np.linalg.norm(second.astype(np.float32) - reference)) / size if size else 0.0
            progress.advance(1)
        progress.finish()
    return errors


def metrics_of(result: Measurement, base: Measurement | None = None) -> tuple[Metric, ...]:
    """Return a measurement as rows of the report."""
    found = result.estimates()
    before = {} if base is None else base.estimates()
    rows = []
    for key, (name, unit, better) in _SHOWN.items():
        if key not in found:
            continue
        rows.append(
            Metric(
                name=name,
                new=interval_of(found[key]),
                base=interval_of(before[key]) if key in before and key in _HAS_BASE else None,
                change=interval_of(found["loss_increase"]) if key == "loss" and "loss_increase" in found else None,
                unit=unit,
                better=better,
            )
        )
    return tuple(rows)


def interval_of(estimate: Estimate) -> Interval:
    """Return an estimate as the report has it."""
    return Interval(estimate.value, estimate.low, estimate.high)


def _settings(options: FitOptions) -> EvaluationOptions:
    from steelyard.measure.evaluate import EvaluationOptions

    return EvaluationOptions(
        sequences=options.eval_sequences, sequence_length=options.sequence_length, seed=options.seed
    )


def _damage(result: Measurement) -> Damage:
    name, unit, _ = _SHOWN["cosine_distance" if result.task == "encoder" else "kl"]
    return Damage(name, unit or "per sequence")


class _Bench:
    """Measures plans that are not written, beside the one that is."""

    def __init__(
        self, opened: OpenModel, evaluator: Evaluator, knowledge: KnowledgeBase, progress: Progress
    ) -> None:
        self._opened, self._evaluator = opened, evaluator
        self._knowledge, self._progress = knowledge, progress

    def curves(
        self, chosen: ChosenFormat, planned: PlannedFit, result: Measurement, bits: Sequence[float], compare: bool
    ) -> tuple[tuple[Series, ...], tuple[str, ...]]:
        """Return the curves through other budgets, the result among the first points, and what was left out."""
        if not bits:
            return (), ()
        points, skipped = self._points(chosen.planner, bits, planned)
        points.append(replace(_point(planned, result), chosen=True))
        series = [_series(chosen.planner, points)]
        if compare and chosen.other is not None:
            self._learn(chosen)
            series.append(_series(chosen.other, self._points(chosen.other, bits, None)[0]))
        return tuple(series), tuple(skipped)

    def formats(self, chosen: ChosenFormat, planned: PlannedFit, result: Measurement) -> tuple[FormatRow, ...]:
        """Return the result beside the best plan of the other format at the same budget."""
        rows = [_row(chosen.planner.format.name, planned, result, "written")]
        if chosen.other is not None:
            self._learn(chosen)
            other = chosen.other.plan(planned.budget, {})
            measured = self._measure(chosen.other, other)
            rows.append(_row(chosen.other.format.name, other, measured, "for comparison, not written"))
        return tuple(rows)

    def _learn(self, chosen: ChosenFormat) -> None:
        if chosen.other is not None and not chosen.other.learned:
            chosen.other.learn(self._knowledge, chosen.planner.known, self._progress)

    def _points(
        self, planner: Planner, bits: Sequence[float], written: PlannedFit | None
    ) -> tuple[list[CurvePoint], list[str]]:
        """Return a planner's points; budgets that all but equal the written one are not measured twice."""
        points, skipped = [], []
        parameters = self._opened.spec.parameter_count()
        for width in bits:
            budget = int(width * parameters / 8)
            if written is not None and abs(budget - written.budget) < _SAME_BUDGET * written.budget:
                continue
            try:
                other = planner.plan(budget, {})
            except UserError:
                smallest = 8 * planner.smallest_size() / parameters
                skipped.append(
                    f"{width:g} bits per parameter is below the smallest feasible {smallest:.2f} of "
                    f"{planner.format.name}"
                )
                continue
            points.append(_point(other, self._measure(planner, other)))
        return points, skipped

    def _measure(self, planner: Planner, planned: PlannedFit) -> Measurement:
        source: Any = PlannedSource(planned.plan, self._opened, planner.format, self._knowledge)
        return self._evaluator.measure(source, self._progress, name=f"{planned.solution.nbytes:,} bytes")


def _point(planned: PlannedFit, measured: Measurement) -> CurvePoint:
    assert measured.damage is not None
    return CurvePoint(
        nbytes=planned.solution.nbytes,
        damage=interval_of(measured.damage),
        predicted=planned.solution.damage,
        loss=None if measured.loss is None else interval_of(measured.loss),
    )


def _series(planner: Planner, points: list[CurvePoint]) -> Series:
    return Series(f"fit, {planner.format.name}", tuple(sorted(points, key=lambda point: point.nbytes)))


def _row(name: str, planned: PlannedFit, measured: Measurement, detail: str) -> FormatRow:
    assert measured.damage is not None
    return FormatRow(name, planned.solution.nbytes, interval_of(measured.damage), detail)
