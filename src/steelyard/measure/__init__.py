"""Calibration statistics and evaluation with intervals. Torch is imported only when a model is run.

Texts: `load_documents` and `default_corpora` give a `Corpus`; `cut` makes windows of tokens of it.
Calibration: `calibrate` runs a model over texts and writes one file; `Calibration` reads it.
Evaluation: `Evaluator` measures models beside one base, `evaluate.evaluate` a folder in one call, `measure_loaded`
a folder as plain transformers loads it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from steelyard.packages import make_verb

if TYPE_CHECKING:
    from steelyard.measure.calibration import Calibration, CalibrationOptions, DamageTerm
    from steelyard.measure.collect import calibrate
    from steelyard.measure.defaults import default_corpora
    from steelyard.measure.estimates import Estimate
    from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows
    from steelyard.measure.identity import model_identity
    from steelyard.measure.loaded import Loaded, measure_loaded
    from steelyard.measure.measurement import QUANTITIES, Measurement
    from steelyard.measure.model import Model, Overlay, WeightSource, open_model
    from steelyard.measure.texts import Corpora, Corpus, Document, load_documents
    from steelyard.measure.windows import TokenSet, cut

_WHERE = {
    "calibration": ("Calibration", "CalibrationOptions", "DamageTerm"),
    "collect": ("calibrate",),
    "defaults": ("default_corpora",),
    "estimates": ("Estimate",),
    "evaluate": ("EvaluationOptions", "Evaluator", "held_out_windows"),
    "identity": ("model_identity",),
    "loaded": ("Loaded", "measure_loaded"),
    "measurement": ("QUANTITIES", "Measurement"),
    "model": ("Model", "Overlay", "WeightSource", "open_model"),
    "texts": ("Corpora", "Corpus", "Document", "load_documents"),
    "windows": ("TokenSet", "cut"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "QUANTITIES",
    "Calibration",
    "CalibrationOptions",
    "Corpora",
    "Corpus",
    "DamageTerm",
    "Document",
    "Estimate",
    "EvaluationOptions",
    "Evaluator",
    "Loaded",
    "Measurement",
    "Model",
    "Overlay",
    "TokenSet",
    "WeightSource",
    "calibrate",
    "cut",
    "default_corpora",
    "held_out_windows",
    "load_documents",
    "measure_loaded",
    "model_identity",
    "open_model",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


make_verb(__name__)
