"""What an order does to singular vectors: it turns them and leaves singular values as they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from steelyard.edits.align.maps import Maps, mapped
from steelyard.edits.align.opened import Two

DOMINANT = 0.3
"""Singular values above this share of a matrix's greatest count as dominant."""

_LARGEST = 1 << 24


@dataclass(frozen=True)
class Direction:
    """How far the singular directions of two models agree.

    Attributes:
        all: over all singular vectors.
        dominant: over those whose singular value is at least `DOMINANT` of the matrix's greatest.
        matrices: how many matrices were looked at.
        skipped: how many were left out for their size.
    """

    all: float
    dominant: float
    matrices: int
    skipped: int

    def to_dict(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)


def directions(two: Two, maps: Maps) -> Direction:
    """Return how far the singular directions of two models agree under an order.

    With W_a = U S V^T, P W_b Q^T = U' S' V'^T, the squared distance of two matrices is
    |S|^2 + |S'|^2 - 2 sum_ij s_i s'_j (u_i . u'_j)(v_i . v'_j), and S' is the same under every order. The sum of
    (u_i . u'_j)(v_i . v'_j), divided by the number of i, is what an order can change; it is 1 where the directions
    are the same.

    Args:
        two: the models, of one size.
        maps: order of the second.

    Source: Ito et al. 2024, arXiv 2402.04051: matching weights turns the dominant singular vectors towards each
        other rather than bringing the weights nearer.
    """
    every, dominant, counts, skipped = 0.0, 0.0, [0, 0, 0], 0
    for name in two.symmetry.dims:
        tensor = two.first.spec.tensors[name]
        if tensor.kind != "linear" or len(tensor.shape) != 2:
            continue
        if tensor.elements > _LARGEST:
            skipped += 1
            continue
        ours = two.read_first(name).astype(np.float64)
        theirs = mapped(two.symmetry, maps, name, two.read_second(name)).astype(np.float64)
        u, s, v = np.linalg.svd(ours, full_matrices=False)
        u2, s2, v2 = np.linalg.svd(theirs, full_matrices=False)
        agree = (u.T @ u2) * (v @ v2.T)
        keep, keep2 = s >= DOMINANT * s[0], s2 >= DOMINANT * s2[0]
        every += float(agree.sum())
        dominant += float(agree[np.ix_(keep, keep2)].sum())
        counts = [counts[0] + 1, counts[1] + len(s), counts[2] + int(min(keep.sum(), keep2.sum()))]
    if not counts[0]:
        return Direction(0.0, 0.0, 0, skipped)
    return Direction(every / counts[1], dominant / counts[2], counts[0], skipped)
