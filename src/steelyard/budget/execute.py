"""Carrying out a plan: read a tensor, encode it, write it, forget it. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from steelyard.budget.bias import planned_parts
from steelyard.budget.encoding import ABSMAX
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, stored_tensors
from steelyard.codecs import relative_error
from steelyard.formats import Format
from steelyard.jobs import add_model_files
from steelyard.parallel import single_threaded_blas, stream_threads
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint
from steelyard.weights.writer import FolderWriter

Made = Callable[[str], Mapping[str, np.ndarray]]
"""Returns the parts that stand for a tensor, as its codec has them."""


@dataclass(frozen=True)
class Outcome:
    """What was written.

    Attributes:
        errors: relative error |decoded - original| / |original| (Frobenius) of every encoded tensor.
    """

    errors: Mapping[str, float]


def matrix_of(checkpoint: Checkpoint, spec: ModelSpec, source: str) -> np.ndarray:
    """Return a 2-D tensor as a matrix [out, in] in its stored dtype; a view where possible."""
    weight = checkpoint.tensor(source)
    return weight.T if spec.tensors[source].transposed else weight


def write_plan(
    plan: Plan,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    format: Format,
    knowledge: KnowledgeBase,
    writer: FolderWriter,
    progress: Progress = SILENT,
    made: Made | None = None,
) -> Outcome:
    """Write every tensor of the plan and the files that go with them into the writer's staging folder.

    Tensors that an earlier, interrupted run completed are not written again; their errors are worked out anew.

    Args:
        plan: what to write.
        checkpoint: the model.
        spec: the model.
        format: of the result.
        knowledge: what is known about its tensors.
        writer: of the staging folder.
        progress: advanced by the bytes.
        made: the parts of every tensor with a codec, by its name, where they are not to be encoded here.

    Raises:
        UserError: if a tensor to be encoded is not finite, or the disk is full.
    """
    stored = stored_tensors(plan, spec, format)
    apart = any(name in spec.ties for name in plan.tensors)
    errors: dict[str, float] = {}

    def encoded(name: str) -> tuple[dict[str, np.ndarray], float]:
        item = plan.tensors[name]
        assert item.codec is not None
        parts: Mapping[str, np.ndarray]
        if made is not None:
            matrix, parts = matrix_of(checkpoint, spec, item.source), made(name)
        else:
            matrix, parts = planned_parts(name, plan, checkpoint, spec, knowledge, apart)
        return format.pack(spec, name, item.codec, parts), relative_error(item.codec, matrix, parts)

    names = [name for name, item in plan.tensors.items() if item.codec is not None]
    # The streamed path has threads of its own within each tensor, and holds one tensor at a time.
    streamed = all(plan.tensors[name].rounding in ("", ABSMAX) for name in names)
    progress.start("writing", sum(spec.tensors[item.source].nbytes for item in plan.tensors.values()), "B")
    with nullcontext() if streamed else single_threaded_blas():
        results = stream_threads(encoded, names, 1 if streamed else None)
        for name, item in plan.tensors.items():
            missing = [tensor.name for tensor in stored[name] if not writer.done(tensor.name)]
            if item.codec is not None:
                packed, errors[name] = next(results)
                for part in missing:
                    writer.write(part, packed[part])
            elif missing:
                writer.write(name, checkpoint.tensor(item.source))
            checkpoint.advise_done(item.source)
            progress.advance(spec.tensors[item.source].nbytes)
    progress.finish()
    add_model_files(writer, checkpoint, format.config(spec, checkpoint.config, plan.codecs()))
    return Outcome(errors)
