"""What a fit learns about its model before it spends anything: the calibration, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.budget.options import FitOptions
from steelyard.errors import UserError
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.calibration import Calibration
    from steelyard.measure.model import Model
    from steelyard.measure.texts import Corpus

NO_DATA = "none"


@dataclass(frozen=True)
class Learned:
    """What is known about a model.

    Attributes:
        calibration: None where no data was wanted.
        model: the model as measurement runs it; None where no data was wanted.
        held_out: documents to measure on, none of them in the calibration.
        description: what was calibrated on, in words.
        notes: sentences for the report.
    """

    calibration: Calibration | None
    model: Model | None
    held_out: Corpus | None
    description: str
    notes: tuple[str, ...]

    def close(self) -> None:
        """Let go of the calibration file."""
        if self.calibration is not None:
            self.calibration.close()


def learn(opened: OpenModel, options: FitOptions, work: Path, progress: Progress = SILENT) -> Learned:
    """Calibrate a model, or take the calibration that was kept.

    Raises:
        UserError: if there is no text, no tokenizer, or a kept calibration is of another model.
    """
    if options.data == NO_DATA:
        note = "no calibration (--data none): damage is half the squared relative error of each tensor, from weights alone"
        return Learned(None, None, None, "none", (note,))
    from steelyard.measure.calibration import Calibration, CalibrationOptions
    from steelyard.measure.collect import collect
    from steelyard.measure.defaults import choose_corpora
    from steelyard.measure.identity import model_identity
    from steelyard.measure.model import open_model
    from steelyard.measure.windows import cut

    model = open_model(opened.checkpoint.location)
    calibration_texts, held_out, notes = choose_corpora(
        model, options.data, options.eval_data, seed=options.seed, progress=progress
    )
    kept = Path(options.calibration) if options.calibration else work / "calibration.safetensors"
    if kept.exists():
        identity = model_identity(model.source)
        calibration = Calibration.open(kept, identity)
        return Learned(calibration, model, held_out, calibration.description, tuple(notes))
    tokens = cut(
        calibration_texts,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=options.sequences,
        length=options.sequence_length,
        seed=options.seed,
        location=opened.location,
    )
    if not tokens.windows:
        raise UserError(f"{calibration_texts.description}: not enough text to calibrate on; pass more with --data")
    settings = CalibrationOptions(
        sequences=options.sequences, sequence_length=options.sequence_length, seed=options.seed
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    calibration = collect(model, tokens, kept, settings, progress)
    return Learned(calibration, model, held_out, calibration.description, tuple(notes))
