"""The texts used when none are given: what the model writes itself, and Python's own sources."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Sequence

from steelyard.errors import UserError
from steelyard.measure.generate import WHOLE_MODEL_BYTES, can_generate, generate
from steelyard.measure.model import Model
from steelyard.measure.texts import Corpora, Corpus, Document
from steelyard.measure.windows import cut
from steelyard.progress import SILENT, Progress
from steelyard.reference import corpus
from steelyard.units import format_size

PLAUSIBLE_SHARE = 0.7
"""Sources count as text of the model's kind where its loss on them is below this share of ln(vocabulary)."""

# An embedding of a shorter text says little.
_SHORTEST_DOCSTRING = 200


def default_corpora(
    model: Model, seed: int = 0, progress: Progress = SILENT, *, sequences: int = 128, length: int = 256
) -> Corpora:
    """Choose texts for a model nobody gave texts for.

    A causal model is calibrated half on text it writes itself, half on Python sources of the standard library,
    and measured on other sources; where its loss on them is implausible (see `PLAUSIBLE_SHARE`) both are text it
    writes itself, in different draws. Masked models and encoders get the prose of docstrings. Files are divided
    by a hash of their path; the reference model was trained on neither part.

    Args:
        model: what the texts are for.
        seed: of the text it writes.
        progress: advanced while it writes.
        sequences: number of windows wanted for each purpose.
        length: tokens in a window.

    Raises:
        UserError: if no text can be found.
    """
    length = min(length, model.max_length)
    if model.task != "causal":
        return _docstrings(model)
    able = can_generate(model)
    sources, verdict = _sources(model, length)
    if not able and sources is None:
        raise UserError(
            f"no text to measure {model.location} with: above {format_size(WHOLE_MODEL_BYTES)} it writes none "
            f"itself, and {verdict}; pass text with --data"
        )
    if sources is None:
        return Corpora(
            lambda: _written(model, range(sequences), length, seed, progress, verdict),
            lambda: _written(
                model, range(sequences, 2 * sequences), length, seed, progress, f"{verdict}, other draws"
            ),
        )
    calibration, held_out = sources

    def calibrate() -> Corpus:
        read = Corpus(calibration, f"{len(calibration)} Python sources of the standard library ({verdict})")
        if not able or sequences < 2:
            return read
        own = _written(model, range(sequences // 2), length, seed, progress)
        return Corpus((*own.documents, *read.documents), f"{own.description}, and {read.description}")

    return Corpora(
        calibrate,
        lambda: Corpus(held_out, f"{len(held_out)} other Python sources of the standard library ({verdict})"),
    )


def _written(
    model: Model, numbers: Sequence[int], length: int, seed: int, progress: Progress, remark: str = ""
) -> Corpus:
    documents = generate(model, numbers, length, seed, progress)
    said = f"{len(documents)} texts written by the model itself, {length} tokens each"
    return Corpus(tuple(documents), f"{said} ({remark})" if remark else said)


def _sources(model: Model, length: int) -> tuple[tuple[tuple[Document, ...], tuple[Document, ...]] | None, str]:
    """Sources to calibrate on and to measure with, None if they do not suit the model, and why."""
    from steelyard.measure.evaluate import EvaluationOptions, Evaluator

    if model.tokenizer is None:
        return None, "it has no tokenizer for Python sources"
    try:
        calibration, held_out = (_documents(corpus.files(split)) for split in ("calibration", "held-out"))
    except UserError:
        return None, "there are no Python sources on this machine"
    sample = Corpus(calibration, "Python sources")
    data = cut(
        sample, model.tokenizer, model.task, model.vocabulary, sequences=8, length=length, location=model.location
    )
    with Evaluator(model, data, EvaluationOptions()) as evaluator:
        measured = evaluator.measure_base().loss
    assert measured is not None
    limit = PLAUSIBLE_SHARE * math.log(model.vocabulary)
    found = f"its loss on them is {measured.value:.2f} nats per token"
    if not measured.value < limit:
        return None, f"Python sources are not its kind of text: {found}, not below {limit:.2f}"
    return (calibration, held_out), found


def _docstrings(model: Model) -> Corpora:
    try:
        calibration, held_out = (_prose(corpus.files(split)) for split in ("calibration", "held-out"))
    except UserError:
        raise UserError(f"no text to measure {model.location} with; pass text with --data") from None
    said = "docstrings of Python's standard library"
    return Corpora(
        lambda: Corpus(calibration, f"{len(calibration)} {said}"),
        lambda: Corpus(held_out, f"{len(held_out)} other {said}"),
    )


def _documents(files: Sequence[corpus.SourceFile]) -> tuple[Document, ...]:
    return tuple(Document(file.name, file.text) for file in files)


def _prose(files: Sequence[corpus.SourceFile]) -> tuple[Document, ...]:
    documents: dict[str, Document] = {}
    for file in files:
        try:
            tree = ast.parse(file.text)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            if len(text) >= _SHORTEST_DOCSTRING:
                line = getattr(node, "lineno", 1)
                # The same docstring is copied between modules; once is enough.
                documents.setdefault(text, Document(f"{file.name}:{line}", text, source=file.name))
    return tuple(documents.values())
