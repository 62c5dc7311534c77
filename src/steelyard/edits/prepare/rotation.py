"""Rotation: turn the residual stream and the values of each head, so that no channel stands out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from steelyard.edits.prepare.changes import Changes
from steelyard.edits.prepare.hadamard import hadamard, odd_part
from steelyard.edits.prepare.network import Network, Pair, Read
from steelyard.errors import UserError
from steelyard.seeds import generator

Kind = Literal["hadamard", "orthogonal", "klt"]

Moment = Callable[[str], np.ndarray | None]
"""Returns the mean of x x^T over the inputs x of a linear map [in, in] by its weight's name, if it is known."""


def rotate(
    network: Network,
    read: Read,
    kind: Kind = "hadamard",
    heads: bool = True,
    untie: bool = False,
    seed: int = 0,
    moment: Moment | None = None,
) -> Changes:
    """Return the changes that rotate a model.

    The weights of each norm move into the linear maps behind it. RMS norm without weights commutes with every
    orthogonal Q, so that what writes to the stream may be multiplied by Q^T and what reads from it by Q. Values are
    weighed alike in all channels of a head, and time steps of Mamba are a product of two maps, so that these may be
    rotated between the map that writes and the one that reads them.

    Args:
        network: of the model.
        read: its tensors.
        kind: a Hadamard matrix with random signs, a random orthogonal matrix, or the Karhunen-Loeve transform
            followed by Hadamard.
        heads: whether values and time steps are rotated too.
        untie: whether a head that is the embedding table becomes a tensor of its own.
        seed: of the draws.
        moment: of inputs, for klt.

    Raises:
        UserError: if the head is tied, the last norm has weights of its own, and `untie` is not set: the norm's
            weights would have to be in the head but not in the table.

    Source: Ashkboos et al. 2024, QuaRot, arXiv 2404.00456, section 3; random rotations as in Chee et al. 2023,
        QuIP, arXiv 2307.13304; klt: Xu et al. 2025, MambaQuant, arXiv 2501.13484, section 4.2: K H with K the
        eigenvectors of the channels' covariance makes all channels' variances equal. Here second moments stand for
        covariances, so that means are spread as well; and one K serves the whole stream, from the sum over all
        norms. Rotations that need work while the model runs are not made.
    """
    changes = Changes(network)
    if network.tied:
        if not untie:
            raise UserError(
                "the head of this model is its embedding table, and a rotation must move the last norm's weights "
                "into the head alone; pass --untie to store a head of its own, or prepare by scales"
            )
        changes.untied = True
    turn = orthogonal(network.hidden, "hadamard" if kind == "klt" else kind, seed, "stream")
    if kind == "klt":
        assert moment is not None
        turn = eigenvectors(_moment_of_the_stream(network, read, moment)) @ turn
    for norm, readers in network.readers_of_the_stream():
        weights = read(norm)
        changes.of(norm).ones = True
        for reader in readers:
            changes.of(reader).columns += [weights, turn]
    changes.of(network.embed).columns.append(turn)
    for writer in network.writers_to_the_stream():
        changes.rows(writer, turn.T)
    if heads:
        for layer, pair in enumerate(network.inner_spaces()):
            inside = orthogonal(pair.block, "hadamard" if kind == "klt" else kind, seed, f"values.{layer}")
            if kind == "klt":
                assert moment is not None
                inside = eigenvectors(moments_between(pair, read, moment)) @ inside
            changes.mix(pair, inside.reshape(-1, pair.block, pair.block))
    assert network.final_norm in changes.names() and network.head in changes.names()
    return changes


def eigenvectors(moment: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of symmetric matrices [..., n, n] as columns, greatest first, of one sign."""
    vectors: np.ndarray = np.linalg.eigh((moment + moment.swapaxes(-1, -2)) / 2)[1][..., ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=-2, keepdims=True), axis=-2)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def _moment_of_the_stream(network: Network, read: Read, moment: Moment) -> np.ndarray:
    """Return the second moment of what every norm makes before its weights, of one power each, summed."""
    total = np.zeros((network.hidden, network.hidden))
    for norm, readers in network.readers_of_the_stream():
        seen = None if network.head in readers else moment(readers[0])
        if seen is not None:
            weights = read(norm)
            inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=np.abs(weights) > 1e-6)
            plain = inverse[:, None] * seen.astype(np.float64) * inverse
            total += plain / max(float(np.trace(plain)), 1e-300)
    if not total.any():
        raise UserError("nothing is known of the inputs of this model's linear maps; calibrate it on text")
    return total


def moments_between(pair: Pair, read: Read, moment: Moment) -> np.ndarray:
    """Return the second moments of the channels of each head that is written between two maps, [heads, n, n].

    Those of the reader's inputs, summed over the heads that read one; where they are not known, of what the writer
    makes of its own inputs.
    """
    seen, size = moment(pair.readers[0]), pair.block
    if seen is not None:
        heads = seen.reshape(len(seen) // size, size, -1, size)
        blocks = heads[np.arange(len(heads)), :, np.arange(len(heads)), :].astype(np.float64)
        summed: np.ndarray = blocks.reshape(-1, pair.repeat, size, size).sum(axis=1)
        return summed
    weight = pair.written(read(pair.writer)).reshape(-1, size, read(pair.writer).shape[1])
    entering = moment(pair.writer)
    inner = np.eye(weight.shape[2]) if entering is None else entering.astype(np.float64)
    made: np.ndarray = weight @ inner @ weight.swapaxes(-1, -2)
    return made


def orthogonal(size: int, kind: Literal["hadamard", "orthogonal"], seed: int, name: str) -> np.ndarray:
    """Return an orthogonal matrix, float64 [size, size].

    Args:
        size: channels.
        kind: "orthogonal" is uniform over all rotations and reflections. "hadamard" has entries of one size, with
            random signs of the channels; where no such matrix of this size is known here, it is the largest that
            divides it, times a random orthogonal one.
        seed: of the draw.
        name: of the draw.
    """
    draw = generator(seed, f"rotation.{name}")
    if kind == "orthogonal":
        return _haar(draw, size)
    rest = odd_part(size)
    matrix = hadamard(size // rest) / np.sqrt(size // rest)
    if rest > 1:
        matrix = np.kron(_haar(draw, rest), matrix)
    signed: np.ndarray = draw.choice([-1.0, 1.0], size)[:, None] * matrix
    return signed


def _haar(draw: np.random.Generator, size: int) -> np.ndarray:
    q, r = np.linalg.qr(draw.standard_normal((size, size)))
    uniform: np.ndarray = q * np.sign(np.diagonal(r))
    return uniform
