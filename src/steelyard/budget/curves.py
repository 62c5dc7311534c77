"""The curves: what every codec on offer costs in bytes and in predicted damage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steelyard.budget.candidates import Choice, Offer, label_of
from steelyard.budget.curve import Curve, Point
from steelyard.budget.encoding import ABSMAX, Encoded, encode
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.least import coarsest, offered, with_payloads
from steelyard.budget.menu import Effort, roundings
from steelyard.codecs import Codec, EntropyCodec, GridCodec, IntegerCodec, require_finite
from steelyard.errors import WeightError
from steelyard.formats import Format
from steelyard.formats.base import tensor_of
from steelyard.formats.container import entry_bytes
from steelyard.parallel import map_threads, single_threaded_blas
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, StoredTensor


@dataclass(frozen=True)
class Tried:
    """What came of storing a tensor under a codec.

    Attributes:
        codec: as it would be written: where its bytes depend on the tensor, with those of this one.
        rounding: the method that did the least damage of those tried.
        damage: predicted.
    """

    codec: Codec
    rounding: str
    damage: float


DamageTable = dict[tuple[str, Codec, bool], Tried]
"""By tensor of the result, codec on offer or as written, and whether a tied table and its head are apart."""


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


def byte_curves(
    spec: ModelSpec, format: Format, menu: Sequence[Offer], payloads: Mapping[str, int], digits: int
) -> list[Curve]:
    """Return the curves with bytes alone: enough to tell whether a budget is possible at all.

    Args:
        payloads: bytes of the codes of the coarsest grid, by tensor; finer ones are taken to need about as many.
        digits: of the largest offset in a file.
    """
    return [
        Curve(
            offer.group,
            tuple(
                Point(choice_bytes(spec, format, c, digits), 0.0, label_of(c))
                for c in with_payloads(offer, payloads)
            ),
        )
        for offer in menu
    ]


def measure_curves(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    format: Format,
    menu: Sequence[Offer],
    knowledge: KnowledgeBase,
    effort: Effort,
    digits: int,
    known: DamageTable,
    progress: Progress = SILENT,
) -> tuple[list[Offer], list[Curve]]:
    """Encode every tensor with every codec on offer for it and predict the damage.

    Args:
        effort: how many ways of rounding are tried.
        known: what was tried before, by tensor and codec; what is tried here is added.

    Returns:
        The menu with codecs as they would be written, and its curves.

    Raises:
        UserError: if a tensor on offer is not finite.
    """
    progress.start("trying codecs", sum(_work(spec, offer) for offer in menu))
    curves, tried_menu = [], []
    for offer in menu:
        apart = is_apart(spec, offer)
        for name in offer.names():
            wanted = dict.fromkeys(c for choice in offer.choices for n, c in choice if n == name and c is not None)
            missing = [codec for codec in wanted if (name, codec, apart) not in known]
            if missing:
                least = coarsest(offered(offer, name))
                for codec, tried in _try(checkpoint, spec, name, missing, least, knowledge, effort, apart).items():
                    known[name, codec, apart] = known[name, tried.codec, apart] = tried
        tried_menu.append(replace(offer, choices=tuple(_as_written(c, known, apart) for c in offer.choices)))
        points = [
            Point(
                choice_bytes(spec, format, choice, digits),
                sum(known[name, codec, apart].damage for name, codec in choice if codec is not None),
                label_of(choice),
            )
            for choice in tried_menu[-1].choices
        ]
        curves.append(Curve(offer.group, tuple(points)))
        progress.advance(_work(spec, offer))
    progress.finish()
    return tried_menu, curves


def _as_written(choice: Choice, known: DamageTable, apart: bool) -> Choice:
    return tuple((name, None if codec is None else known[name, codec, apart].codec) for name, codec in choice)


def is_apart(spec: ModelSpec, offer: Offer) -> bool:
    """Tell whether some choice of an offer writes a tied table and its head apart."""
    return any(name in spec.ties for name in offer.names())


def _work(spec: ModelSpec, offer: Offer) -> int:
    return sum(tensor_of(spec, n).elements * (c is not None) for choice in offer.choices for n, c in choice)


def _try(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    name: str,
    codecs: Sequence[Codec],
    least: EntropyCodec | None,
    knowledge: KnowledgeBase,
    effort: Effort,
    apart: bool,
) -> dict[Codec, Tried]:
    source = spec.ties.get(name, name)
    stored = matrix_of(checkpoint, spec, source)
    require_finite(source, stored)
    weight = np.ascontiguousarray(stored, dtype=np.float32)
    known = knowledge.of(name, apart)
    # A lossless pass does no damage of its own: the integers under it are rounded once for both.
    inner = {codec: codec.base if isinstance(codec, EntropyCodec) else codec for codec in codecs}
    coded = {codec.base for codec in codecs if isinstance(codec, EntropyCodec)}

    def one(codec: Codec) -> tuple[Tried, EntropyCodec | None]:
        best: tuple[float, str, Encoded] | None = None
        for rounding in roundings(codec, effort):
            encoded = encode(weight, codec, rounding, known.statistics)
            damage = known.damage(weight, encoded.decoded)
            if best is None or damage < best[0]:
                best = damage, rounding, encoded
        assert best is not None
        written = None
        if codec in coded:
            assert isinstance(codec, IntegerCodec | GridCodec)
            written = EntropyCodec(codec).fitted(best[2].parts, weight.shape)
        if least is not None and codec == least.base:
            # The smallest size that was promised before any calibration must be there after it.
            plain = encode(weight, codec, ABSMAX, known.statistics)
            smaller = EntropyCodec(codec).fitted(plain.parts, weight.shape)
            if written is None or smaller.nbytes(weight.shape) < written.nbytes(weight.shape):
                return Tried(codec, ABSMAX, known.damage(weight, plain.decoded)), smaller
        return Tried(codec, best[1], best[0]), written

    try:
        with single_threaded_blas():
            bases = list(dict.fromkeys(inner.values()))
            found = dict(zip(bases, map_threads(one, bases), strict=True))
    except WeightError as error:
        # A weight beyond the range of the types on offer.
        raise WeightError(f"{source}: {error}, or leave it as it is with --keep '{re.escape(source)}'") from None
    result = {}
    for codec, base in inner.items():
        tried, written = found[base]
        result[codec] = tried if codec == base or written is None else replace(tried, codec=written)
    return result
