"""Images cut into patches: how many there are and how large."""

from __future__ import annotations

from steelyard.errors import UserError
from steelyard.spec.settings import Settings


def patch_side(settings: Settings, key: str, side: int) -> int:
    """Return the height (side 0) or width (side 1) that a key gives as one number or as two.

    Raises:
        UserError: if it gives neither.
    """
    value = settings.get(key)
    if not isinstance(value, (list, tuple)):
        return settings.size(key)
    if len(value) != 2 or not all(isinstance(length, int) and length > 0 for length in value):
        raise UserError(f"config.json: {key} must be one whole number or two, got {value!r}")
    length: int = value[side]
    return length


def patch_count(settings: Settings, image: str, patch: str) -> int:
    """Return how many patches an image has.

    Args:
        settings: the config.
        image: key of the image's size.
        patch: key of the patches' size.

    Raises:
        UserError: if an image holds no patch.
    """
    count = 1
    for side in (0, 1):
        count *= patch_side(settings, image, side) // patch_side(settings, patch, side)
    if not count:
        raise UserError(f"config.json: a patch of {patch} is larger than an image of {image}")
    return count
