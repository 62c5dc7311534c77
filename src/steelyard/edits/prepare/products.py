"""Query-key reparametrization: the two maps of a product in the basis in which their rounding costs the least."""

from __future__ import annotations

import numpy as np

from steelyard.edits.prepare.changes import Changes
from steelyard.edits.prepare.network import Network, Read
from steelyard.edits.prepare.rotation import orthogonal


def reparametrize(network: Network, read: Read, values: bool = False, seed: int = 0) -> Changes:
    """Return the changes that give the two maps of each product their best common basis, head by head.

    Scores are x W_q^T W_k y: only the product counts, and any invertible M may stand between its factors. So it
    is with values and the output of attention. Rounding adds to row i of a factor an error proportional to its
    length, which the other factor's row i carries on; together sum_i |a_i|^2 |b_i|^2. This is least, (sum of
    singular values of the product)^2 / n, where the factors are U S^(1/2) H and V S^(1/2) H with U S V^T the
    product and H a Hadamard matrix: all rows of one length.

    Args:
        network: of the model. Queries and keys are left alone where rotary positions stand between them.
        read: its tensors.
        values: whether values and outputs are taken as well as queries and keys.
        seed: of the signs of H.

    Source: the freedom is that of Liu et al. 2023, OFQ, arXiv 2302.02210, section 4.3, which trains the product of
        queries and keys as one matrix. That takes hidden^2 numbers a head; the best factors of that product, as
        here, take no more than they did.
    """
    changes = Changes(network)
    for layer, (query, key, size) in enumerate(network.scores()):
        queries, keys = (read(name).reshape(-1, size, read(name).shape[1]) for name in (query, key))
        turn, back = bases(queries, keys, orthogonal(size, "hadamard", seed, f"scores.{layer}"))
        changes.rows(query, turn)
        changes.rows(key, back)
    for layer, pair in enumerate(network.inner_spaces()):
        if not values or pair.rows is not None:
            continue
        size = pair.block
        written = read(pair.writer).reshape(-1, size, read(pair.writer).shape[1])
        reader = read(pair.readers[0])
        by_head = reader.T.reshape(len(written), pair.repeat, size, len(reader))
        taken = by_head.transpose(0, 2, 1, 3).reshape(len(written), size, -1)
        turn, _ = bases(written, taken, orthogonal(size, "hadamard", seed, f"values.{layer}"))
        changes.mix(pair, turn.swapaxes(-1, -2))
    return changes


def bases(first: np.ndarray, second: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return T and the inverse of its transpose, with T first and T^-T second being the best factors.

    Args:
        first: float64 [heads, n, in].
        second: float64 [heads, n, other].
        turn: Hadamard matrix over the root of n, [n, n].

    Returns:
        Two stacks [heads, n, n]. Where a factor has not n independent rows, T is the identity.
    """
    found = []
    for a, b in zip(first, second, strict=True):
        left, right = np.linalg.qr(a.T).R, np.linalg.qr(b.T).R
        u, s, vt = np.linalg.svd(left @ right.T)
        if not s[-1] > 1e-9 * s[0]:
            found.append((np.eye(len(s)), np.eye(len(s))))
            continue
        # T a = H^T S^(1/2) U^T Q^T with a = left^T Q^T.
        root = np.sqrt(s)[:, None]
        found.append(
            (
                turn.T @ (root * np.linalg.solve(left, u).T),
                turn.T @ (root * np.linalg.solve(right, vt.T).T),
            )
        )
    one, other = zip(*found, strict=True)
    return np.stack(one), np.stack(other)
