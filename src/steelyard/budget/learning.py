"""What a fit learns about its model before it spends anything: the calibration, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from steelyard.errors import UserError
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.calibration import Calibration
    from steelyard.measure.model import Model
    from steelyard.measure.texts import Corpora, Corpus

NO_DATA = "none"


class _Calibrates(Protocol):
    @property
    def data(self) -> str | None:
        """Calibration text; None for texts that fit the model, "none" for no calibration."""

    @property
    def sequences(self) -> int:
        """Calibration sequences."""


class CalibrationRequest(_Calibrates, Protocol):
    """Options that say what to calibrate on; those of `fit` and of `quantize` do."""

    @property
    def eval_data(self) -> str | None:
        """Text to measure on; None to keep a part of `data` for it."""

    @property
    def calibration(self) -> str | None:
        """File to keep the calibration in, and to take it from."""

    @property
    def sequence_length(self) -> int:
        """Tokens in each."""

    @property
    def eval_sequences(self) -> int:
        """Sequences to measure on."""

    @property
    def seed(self) -> int:
        """Seed of everything drawn."""


class NothingHeldOut:
    """The part of a `CalibrationRequest` that is the same for every job that measures nothing."""

    @property
    def eval_data(self: _Calibrates) -> str | None:
        """No text is kept back."""
        return self.data

    @property
    def eval_sequences(self: _Calibrates) -> int:
        """As many as are calibrated on."""
        return self.sequences


@dataclass(frozen=True)
class Learned:
    """What is known about a model; use it in a `with` block.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the calibration file."""
        if self.calibration is not None:
            self.calibration.close()


def learn(opened: OpenModel, options: CalibrationRequest, work: Path, progress: Progress = SILENT) -> Learned:
    """Calibrate a model, or take the calibration that was kept.

    Raises:
        UserError: if there is no text, no tokenizer, or a kept calibration is of another model.
    """
    if options.data == NO_DATA:
        note = "not calibrated (--data none): damage is half the squared relative error of each tensor"
        return Learned(None, None, None, "none", (note,))
    from steelyard.measure.calibration import Calibration, CalibrationOptions
    from steelyard.measure.collect import collect
    from steelyard.measure.identity import model_identity
    from steelyard.measure.model import open_model
    from steelyard.measure.windows import cut

    model = open_model(opened.checkpoint.location)
    corpora = texts_of(model, options, progress)
    kept = Path(options.calibration) if options.calibration else work / "calibration.safetensors"
    if kept.exists():
        identity = model_identity(model.source)
        calibration = Calibration.open(kept, identity)
        return Learned(calibration, model, corpora.held_out, calibration.description, ())
    texts = corpora.calibration
    tokens = cut(
        texts,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=options.sequences,
        length=options.sequence_length,
        seed=options.seed,
        location=opened.location,
    )
    if not tokens.windows:
        raise UserError(f"{texts.description}: not enough text to calibrate on; pass more with --data")
    settings = CalibrationOptions(
        sequences=options.sequences, sequence_length=options.sequence_length, seed=options.seed
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    calibration = collect(model, tokens, kept, settings, progress)
    return Learned(calibration, model, corpora.held_out, calibration.description, ())


def texts_of(model: Model, options: CalibrationRequest, progress: Progress = SILENT) -> Corpora:
    """Return the texts to calibrate on and, disjoint from them, those to measure on."""
    from steelyard.measure.defaults import default_corpora
    from steelyard.measure.texts import Corpora, load_documents

    if options.data is None:
        wanted = max(options.sequences, options.eval_sequences)
        corpora = default_corpora(model, options.seed, progress, sequences=wanted, length=options.sequence_length)
    elif options.eval_data is None:
        corpora = Corpora.of(*load_documents(options.data).split())
    else:
        corpora = Corpora.of(*2 * [load_documents(options.data)])
    if options.eval_data is None:
        return corpora
    held_out = load_documents(options.eval_data)
    return Corpora(lambda: corpora.calibration, lambda: held_out)
