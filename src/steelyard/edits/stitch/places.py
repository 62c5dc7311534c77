"""Where two models are joined, if nobody says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steelyard.errors import UserError
from steelyard.formats.native.composition import Joint, joint_name, parse_joint


def stitches(first: int, second: int, window: int = 2) -> tuple[Joint, ...]:
    """Return the stitches between two models: blocks of the first run, blocks of the second left out.

    In models of one depth a window moves over the blocks, and within it the state after any block may enter any
    block. In models of different depth each block of the shallower belongs to the nearest of the deeper.

    Args:
        first: blocks of the model that is entered.
        second: blocks of the one that is left.
        window: blocks in a window.

    Example:
        >>> stitches(2, 2)
        ((1, 0), (1, 1), (2, 0), (2, 1))
        >>> stitches(2, 4)
        ((1, 1), (2, 2), (2, 3))

    Source: Pan et al. 2023, arXiv 2302.06586, and its code: paired stitching with a sliding window of stride 1, and
        unpaired stitching; the deeper model first mirrors the published direction.
    """
    if first == second:
        found = {
            (block + 1, entered)
            for start in range(first)
            for block in range(start, min(start + window, first))
            for entered in range(start, min(start + window, first))
        }
    elif first < second:
        found = {(block + 1, entered) for block, entered in _nearest(first, second)}
    else:
        found = {(block + 1, entered) for entered, block in _nearest(second, first)}
    return tuple(sorted(found))


def _nearest(few: int, many: int) -> list[tuple[int, int]]:
    """Return which of the deeper model's blocks, beyond its own place, belong to each of the shallower's."""
    return [(other * few // many, other) for other in range(many) if other * few // many < other]


def bridges(anchor: int, augment: int, count: int) -> tuple[Joint, ...]:
    """Return bridges spread over both models from their first block to their last.

    Source: the published code of Bansal et al. 2024, arXiv 2401.02412, which spaces them evenly.
    """
    count = min(count, anchor)
    ends = [np.linspace(0, depth - 1, count, dtype=int) + 1 for depth in (anchor, augment)]
    return tuple((int(a), int(b)) for a, b in zip(*ends, strict=True))


def named(at: Sequence[str], depths: tuple[int, int], *, entered_from: int) -> tuple[Joint, ...]:
    """Return the joints that were asked for, in order, each once.

    Args:
        at: how they are written.
        depths: blocks of both models.
        entered_from: the least number of the second model's blocks: 0 for stitches, 1 for bridges.

    Raises:
        UserError: naming one that the models do not have.
    """
    found = sorted({parse_joint(text) for text in at})
    last = depths[1] - 1 if entered_from == 0 else depths[1]
    for joint in found:
        if not (1 <= joint[0] <= depths[0] and entered_from <= joint[1] <= last):
            raise UserError(
                f"there is no joint {joint_name(joint)}: the first number is 1 to {depths[0]}, the second "
                f"{entered_from} to {last}"
            )
    return tuple(found)
