"""Rotation: turn the residual stream and the values of each head, so that no channel stands out."""

from __future__ import annotations

from typing import Literal

import numpy as np

from steelyard.edits.prepare.changes import Changes, Read
from steelyard.edits.prepare.network import EMBED, FINAL_NORM, HEAD, Network
from steelyard.errors import UserError
from steelyard.seeds import generator

Kind = Literal["hadamard", "orthogonal"]


def rotate(
    network: Network, read: Read, kind: Kind = "hadamard", heads: bool = True, untie: bool = False, seed: int = 0
) -> Changes:
    """Return the changes that rotate a model.

    The weights of each norm move into the linear maps behind it. RMS norm without weights commutes with every
    orthogonal Q, so that what writes to the stream may be multiplied by Q^T and what reads from it by Q. Values are
    weighed alike in all channels of a head, so that they may be rotated before they are written out.

    Args:
        network: of the model.
        read: its tensors.
        kind: a Hadamard matrix with random signs, or a random orthogonal matrix.
        heads: whether values are rotated too.
        untie: whether a head that is the embedding table becomes a tensor of its own.
        seed: of the draws.

    Raises:
        UserError: if the head is tied, the last norm has weights of its own, and `untie` is not set: the norm's
            weights would have to be in the head but not in the table.

    Source: Ashkboos et al. 2024, QuaRot, arXiv 2404.00456, section 3; random rotations as in Chee et al. 2023,
        QuIP, arXiv 2307.13304. Rotations that need work while the model runs are not made.
    """
    changes = Changes(network)
    if network.tied:
        if not untie:
            raise UserError(
                "the head of this model is its embedding table, and a rotation must move the last norm's weights "
                "into the head alone; pass --untie to store a head of its own, or prepare by scales"
            )
        changes.untied = True
    turn = orthogonal(network.hidden, kind, seed, "stream")
    for norm, readers in network.readers_of_the_stream():
        weights = read(norm)
        changes.of(norm).ones = True
        for reader in readers:
            changes.of(reader).columns += [weights, turn]
    changes.of(EMBED).columns.append(turn)
    for writer in network.writers_to_the_stream():
        changes.rows(writer, turn.T)
    if heads:
        for layer in range(network.layers):
            names = network.block(layer)
            inside = orthogonal(network.head_dim, kind, seed, f"values.{layer}")
            changes.rows(names["v"], inside.T)
            changes.of(names["o"]).columns.append(inside)
    assert FINAL_NORM in changes.names() and HEAD in changes.names()
    return changes


def orthogonal(size: int, kind: Kind, seed: int, name: str) -> np.ndarray:
    """Return an orthogonal matrix, float64 [size, size].

    Args:
        size: channels.
        kind: "orthogonal" is uniform over all rotations and reflections. "hadamard" is Sylvester's matrix with
            random signs of the channels; where the size is an odd number m times a power of two, it is that of the
            power of two, times a random orthogonal one of size m.
        seed: of the draw.
        name: of the draw.
    """
    draw = generator(seed, f"rotation.{name}")
    if kind == "orthogonal":
        return _haar(draw, size)
    power = size & -size
    matrix = np.ones((1, 1))
    while len(matrix) < power:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= np.sqrt(power)
    if power < size:
        matrix = np.kron(_haar(draw, size // power), matrix)
    signed: np.ndarray = draw.choice([-1.0, 1.0], size)[:, None] * matrix
    return signed


def _haar(draw: np.random.Generator, size: int) -> np.ndarray:
    q, r = np.linalg.qr(draw.standard_normal((size, size)))
    uniform: np.ndarray = q * np.sign(np.diagonal(r))
    return uniform
