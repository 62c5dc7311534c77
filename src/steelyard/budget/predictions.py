"""Rounding a whole model by what it predicts: the texts, the codes to begin with, and the parts to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from steelyard.budget.encoding import encode
from steelyard.budget.execute import Made, matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import CalibrationRequest, texts_of
from steelyard.budget.plan import Plan
from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.pd_quant import NAME, Begun, PdQuantOptions, pd_quant
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress


def planned(plan: Plan) -> Plan:
    """Return a plan whose integers are rounded by predictions."""
    tensors = {
        name: replace(item, rounding=NAME) if isinstance(item.codec, IntegerCodec) else item
        for name, item in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)


def made_by_predictions(
    opened: OpenModel,
    plan: Plan,
    knowledge: KnowledgeBase,
    request: CalibrationRequest,
    options: PdQuantOptions | None = None,
    progress: Progress = SILENT,
) -> Made:
    """Round the integers of a plan by PD-Quant, from GPTQ's codes; what lies outside of the blocks keeps those.

    Args:
        opened: the model; it is held in memory in float32.
        plan: from `planned`.
        knowledge: from a calibration.
        request: which texts; those of the calibration.
        options: see `PdQuantOptions`.
        progress: receives how far the work is.

    Raises:
        UserError: for an encoder, or without text.
    """
    from steelyard.measure.model import open_model
    from steelyard.measure.windows import cut

    model = open_model(opened.checkpoint.location)
    data = cut(
        texts_of(model, request, progress).calibration,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=request.sequences,
        length=min(request.sequence_length, model.max_length),
        seed=request.seed,
        location=opened.location,
    )
    begun: dict[str, Begun] = {}
    for name, item in plan.tensors.items():
        if item.rounding == NAME and isinstance(item.codec, IntegerCodec):
            weight = np.ascontiguousarray(matrix_of(opened.checkpoint, opened.spec, item.source), np.float32)
            rounded = gptq(weight, item.codec, knowledge.of(name).statistics)
            begun[name] = Begun(weight, rounded, opened.spec.tensors[item.source].transposed)
    found = pd_quant(model, begun, data, options, progress).rounded

    def made(name: str) -> Mapping[str, np.ndarray]:
        if name in begun:
            return found.get(name, begun[name].rounded).parts()
        item = plan.tensors[name]
        assert item.codec is not None
        matrix = np.ascontiguousarray(matrix_of(opened.checkpoint, opened.spec, item.source), np.float32)
        return encode(matrix, item.codec, item.rounding, knowledge.of(name).statistics).parts

    return made
