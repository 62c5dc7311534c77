"""The curves: what every codec on offer costs in bytes and in predicted damage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steelyard.budget.candidates import Offer
from steelyard.budget.curve import Curve, Point
from steelyard.budget.encoding import encode, rounding_of
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.codecs import Codec, require_finite
from steelyard.formats import Format
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, StoredTensor, entry_bytes_bound

AS_STORED = "as stored"


def stored_by(spec: ModelSpec, format: Format, name: str, codec: Codec | None) -> list[StoredTensor]:
    """Return what is written for a tensor of the result under a codec."""
    if codec is None:
        tensor = spec.tensors[spec.ties.get(name, name)]
        return [StoredTensor(name, tensor.dtype, tensor.shape)]
    return format.stored(spec, name, codec)


def group_bytes(spec: ModelSpec, format: Format, offer: Offer, codec: Codec | None, digits: int) -> int:
    """Return an upper bound of the bytes a group adds to the files: data and header entries.

    Args:
        digits: of the largest offset in a file.
    """
    tensors = [tensor for name in offer.members for tensor in stored_by(spec, format, name, codec)]
    return sum(tensor.nbytes + entry_bytes_bound(tensor, digits) for tensor in tensors)


def byte_curves(spec: ModelSpec, format: Format, menu: Sequence[Offer], digits: int) -> list[Curve]:
    """Return the curves with bytes alone: enough to tell whether a budget is possible at all."""
    return [
        Curve(
            offer.group,
            tuple(Point(group_bytes(spec, format, offer, c, digits), 0.0, label_of(c)) for c in offer.codecs),
        )
        for offer in menu
    ]


def label_of(codec: Codec | None) -> str:
    """Return how people name a way of storing."""
    return AS_STORED if codec is None else codec.label


def measure_curves(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    format: Format,
    menu: Sequence[Offer],
    knowledge: KnowledgeBase,
    rounding: str,
    digits: int,
    progress: Progress = SILENT,
) -> list[Curve]:
    """Encode every group with every codec on offer and predict the damage.

    Raises:
        UserError: if a tensor on offer is not finite.
    """
    work = [len(offer.codecs) * sum(spec.tensors[n].elements for n in offer.members) for offer in menu]
    progress.start("trying codecs", sum(work))
    curves = []
    for offer, amount in zip(menu, work, strict=True):
        damages = np.zeros(len(offer.codecs))
        if any(codec is not None for codec in offer.codecs):
            for name in offer.members:
                damages += _damages(checkpoint, spec, offer, name, knowledge, rounding)
        points = (
            Point(group_bytes(spec, format, offer, codec, digits), float(damage), label_of(codec))
            for codec, damage in zip(offer.codecs, damages, strict=True)
        )
        curves.append(Curve(offer.group, tuple(points)))
        progress.advance(amount)
    progress.finish()
    return curves


def _damages(
    checkpoint: Checkpoint, spec: ModelSpec, offer: Offer, name: str, knowledge: KnowledgeBase, rounding: str
) -> np.ndarray:
    stored = matrix_of(checkpoint, spec, name)
    require_finite(name, stored)
    weight = np.ascontiguousarray(stored, dtype=np.float32)
    known = knowledge.of(name)
    damages = np.zeros(len(offer.codecs))
    for i, codec in enumerate(offer.codecs):
        if codec is not None:
            decoded = encode(weight, codec, rounding_of(codec, rounding), known.statistics).decoded
            damages[i] = known.damage(weight, decoded)
    return damages
