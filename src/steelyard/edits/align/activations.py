"""Activation matching: units belong to each other that do the same on text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from steelyard.edits.align.assignment import assign, assign_attention
from steelyard.edits.align.maps import Map
from steelyard.edits.align.moments import Moments, collect
from steelyard.edits.align.opened import Two
from steelyard.edits.align.options import AlignOptions
from steelyard.edits.align.symmetry import STREAM, Attention, Read
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.windows import TokenSet


def match_activations(two: Two, options: AlignOptions, progress: Progress = SILENT) -> dict[str, Map]:
    """Order the second model's units by what they do on text beside the first's.

    The stream is matched by what all linear maps read of it, inner channels by what `down` reads, heads by their
    queries, keys, values and what they put out. Every space is matched on its own, so one pass is enough.

    Args:
        two: the models, of one size.
        options: the text, and whether by correlation.
        progress: advanced by batches.

    Raises:
        UserError: if there is no text.

    Source: Ainsworth et al. 2022, arXiv 2209.04836, section 3.1, by inner products; correlation after Li et al.
        2015, arXiv 1511.07543.
    """
    data = windows(two, options.data, options.sequences, options.sequence_length, options.seed)
    moments = collect(two, data, progress=progress)
    return match_moments(two, moments, options.correlate)


def windows(two: Two, data: str | None, sequences: int, length: int, seed: int) -> TokenSet:
    """Return windows of text for both models.

    Raises:
        UserError: if the vocabularies differ in size, or there is no text.
    """
    from steelyard.measure.defaults import default_corpora
    from steelyard.measure.model import open_model
    from steelyard.measure.texts import load_documents
    from steelyard.measure.windows import cut

    model = open_model(two.first.checkpoint.location, two.first.checkpoint)
    texts = default_corpora(model, seed).calibration if data is None else load_documents(data)
    return cut(
        texts,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=sequences,
        length=min(length, model.max_length),
        seed=seed,
        location=two.first.location,
    )


def match_moments(two: Two, moments: dict[str, Moments], correlate: bool) -> dict[str, Map]:
    """Return the orders in which the second model's units are most like the first's."""
    likeness = unit_likeness(two, moments, correlate)
    maps: dict[str, Map] = {space: assign(likeness[space]) for space in two.symmetry.plain}
    for attention in two.symmetry.attentions:
        parts = {part: likeness[attention.space(part)] for part in ("query", "key", "value", "attended")}
        maps |= assign_attention(attention, parts)
    return maps


def unit_likeness(two: Two, moments: dict[str, Moments], correlate: bool) -> dict[str, np.ndarray]:
    """Return for every space how alike each two units are, float64 [n, m]."""
    spec = two.first.spec
    found: dict[str, np.ndarray] = {}
    for name, dims in two.symmetry.dims.items():
        tensor = spec.tensors[name]
        if tensor.kind != "linear":
            continue
        reads = dims[1] if not tensor.transposed else dims[0]
        key = spec.input_key(name)
        if key in moments and len(reads) == 1 and spec.input_key(name) == tensor.module:
            # Maps that read the same count once.
            found[reads[0]] = found.get(reads[0], 0.0) + moments[key].likeness(correlate)
    for alias in spec.ties:
        if alias in spec.input_keys and (key := spec.input_key(alias)) in moments and STREAM in two.symmetry.sizes:
            found[STREAM] = found.get(STREAM, 0.0) + moments[key].likeness(correlate)
    for attention in two.symmetry.attentions:
        for part in ("query", "key", "value"):
            found[attention.space(part)] = _written(two, moments, attention, part).likeness(correlate)
    return found


def _written(two: Two, moments: dict[str, Moments], attention: Attention, part: str) -> Moments:
    """Return the moments of queries, keys or values, biases left out."""
    name, dim = next(
        (name, dim)
        for name, dim in two.symmetry.holders(attention.space(part))
        if len(two.symmetry.dims[name]) == 2
    )
    space = attention.space(part)

    def rows(read: Read, first: bool) -> np.ndarray:
        symmetry = two.symmetry if first else two.other
        weight = np.moveaxis(read(name), dim, 0)[symmetry.stretch(name, dim, space)]
        return weight.astype(np.float64)

    return moments[two.first.spec.input_key(name)].through(rows(two.read_first, True), rows(two.read_second, False))
