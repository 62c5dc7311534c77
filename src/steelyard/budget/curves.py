"""The curves: what every codec on offer costs in bytes and in predicted damage."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from steelyard.budget.candidates import Choice, Offer, label_of
from steelyard.budget.curve import Curve, Point
from steelyard.budget.encoding import encode, rounding_of
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.codecs import Codec, require_finite
from steelyard.errors import WeightError
from steelyard.formats import Format
from steelyard.formats.base import tensor_of
from steelyard.formats.container import entry_bytes
from steelyard.parallel import map_threads, single_threaded_blas
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, StoredTensor

DamageTable = dict[tuple[str, Codec, bool], float]
"""Predicted damage by tensor of the result, its codec, and whether a tied table is written apart from its head."""


def stored_by(spec: ModelSpec, format: Format, name: str, codec: Codec | None) -> list[StoredTensor]:
    """Return what is written for a tensor of the result under a codec."""
    if codec is None:
        tensor = spec.tensors[spec.ties.get(name, name)]
        return [StoredTensor(name, tensor.dtype, tensor.shape)]
    return format.stored(spec, name, codec)


def choice_tensors(spec: ModelSpec, format: Format, choice: Choice) -> list[StoredTensor]:
    """Return what is written for a group under a choice."""
    return [tensor for name, codec in choice for tensor in stored_by(spec, format, name, codec)]


def choice_bytes(spec: ModelSpec, format: Format, choice: Choice, digits: int) -> int:
    """Return an upper bound of the bytes a choice adds to the files: data and header entries.

    Args:
        digits: of the largest offset in a file.
    """
    tensors = choice_tensors(spec, format, choice)
    return sum(tensor.nbytes + entry_bytes(format, tensor, digits) for tensor in tensors)


def byte_curves(spec: ModelSpec, format: Format, menu: Sequence[Offer], digits: int) -> list[Curve]:
    """Return the curves with bytes alone: enough to tell whether a budget is possible at all."""
    return [
        Curve(
            offer.group,
            tuple(Point(choice_bytes(spec, format, c, digits), 0.0, label_of(c)) for c in offer.choices),
        )
        for offer in menu
    ]


def measure_curves(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    format: Format,
    menu: Sequence[Offer],
    knowledge: KnowledgeBase,
    rounding: str,
    digits: int,
    known: DamageTable,
    progress: Progress = SILENT,
) -> list[Curve]:
    """Encode every tensor with every codec on offer for it and predict the damage.

    Args:
        known: damages worked out before, by tensor and codec; what is worked out here is added.

    Raises:
        UserError: if a tensor on offer is not finite.
    """
    progress.start("trying codecs", sum(_work(spec, offer) for offer in menu))
    curves = []
    for offer in menu:
        apart = is_apart(spec, offer)
        for name in offer.names():
            wanted = dict.fromkeys(c for choice in offer.choices for n, c in choice if n == name and c is not None)
            missing = [codec for codec in wanted if (name, codec, apart) not in known]
            if missing:
                damages = _damages(checkpoint, spec, name, missing, knowledge, rounding, apart)
                known.update({(name, codec, apart): damage for codec, damage in damages.items()})
        points = [
            Point(
                choice_bytes(spec, format, choice, digits),
                sum(known[name, codec, apart] for name, codec in choice if codec is not None),
                label_of(choice),
            )
            for choice in offer.choices
        ]
        curves.append(Curve(offer.group, tuple(points)))
        progress.advance(_work(spec, offer))
    progress.finish()
    return curves


def is_apart(spec: ModelSpec, offer: Offer) -> bool:
    """Tell whether some choice of an offer writes a tied table and its head apart."""
    return any(name in spec.ties for name in offer.names())


def _work(spec: ModelSpec, offer: Offer) -> int:
    return sum(tensor_of(spec, n).elements * (c is not None) for choice in offer.choices for n, c in choice)


def _damages(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    name: str,
    codecs: Sequence[Codec],
    knowledge: KnowledgeBase,
    rounding: str,
    apart: bool,
) -> dict[Codec, float]:
    source = spec.ties.get(name, name)
    stored = matrix_of(checkpoint, spec, source)
    require_finite(source, stored)
    weight = np.ascontiguousarray(stored, dtype=np.float32)
    known = knowledge.of(name, apart)

    def damage(codec: Codec) -> float:
        encoded = encode(weight, codec, rounding_of(codec, rounding), known.statistics)
        return known.damage(weight, encoded.decoded)

    try:
        with single_threaded_blas():
            return dict(zip(codecs, map_threads(damage, codecs), strict=True))
    except WeightError as error:
        # A weight beyond the range of the types on offer.
        raise WeightError(f"{source}: {error}, or leave it as it is with --keep '{re.escape(source)}'") from None
