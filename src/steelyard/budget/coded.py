"""The bytes of what is entropy-coded: known once it has been coded, so a plan is completed by coding it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steelyard.budget.encoding import encode_parts
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan
from steelyard.codecs import EntropyCodec
from steelyard.jobs import OpenModel
from steelyard.parallel import single_threaded_blas, stream_threads
from steelyard.progress import SILENT, Progress


def with_payloads(plan: Plan, opened: OpenModel, knowledge: KnowledgeBase, progress: Progress = SILENT) -> Plan:
    """Return a plan whose entropy-coded tensors have the payload that they take.

    Raises:
        UserError: if a weight is not finite.
    """
    open_ended = [
        name
        for name, item in plan.tensors.items()
        if isinstance(item.codec, EntropyCodec) and item.codec.payload is None
    ]
    if not open_ended:
        return plan
    apart = any(name in opened.spec.ties for name in plan.tensors)

    def fitted(name: str) -> TensorPlan:
        item = plan.tensors[name]
        assert isinstance(item.codec, EntropyCodec)
        base = replace(item, codec=item.codec.base)
        matrix = matrix_of(opened.checkpoint, opened.spec, item.source)
        parts = encode_parts(base, item.codec.base, np.asarray(matrix), knowledge.of(name, apart))
        return replace(item, codec=item.codec.fitted(parts, matrix.shape))

    tensors = dict(plan.tensors)
    progress.start("counting bytes", len(open_ended))
    with single_threaded_blas():
        for name, item in zip(open_ended, stream_threads(fitted, open_ended), strict=True):
            tensors[name] = item
            progress.advance(1)
    progress.finish()
    return replace(plan, tensors=tensors)
