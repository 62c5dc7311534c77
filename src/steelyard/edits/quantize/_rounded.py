"""The result of rounding one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.codecs import IntegerCodec


@dataclass(frozen=True)
class Rounded:
    """Integers that stand for a matrix: weight = (codes - zero) * scale, group by group.

    Attributes:
        codec: how the integers are stored.
        codes: int8 [out, in].
        scale: float32 [out, groups], holding only numbers of the codec's scale dtype.
        zero: int8 [out, groups], float32 for codes of 1 bit; None for a symmetric codec.
    """

    codec: IntegerCodec
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts, as the codec packs them."""
        return self.codec.from_codes(self.codes, self.scale, self.zero)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        columns = self.codes.shape[1]
        size = self.codec.group_size or columns
        group = np.arange(columns) // size
        # As readers have it: codes from 0, which matters to the last bit of zero points that are no integers.
        half = np.float32(1 << (self.codec.bits - 1))
        levels = self.codes.astype(np.float32) + half
        if self.zero is None:
            levels -= half + np.float32(self.codec.centre)
        else:
            levels -= (half + self.zero.astype(np.float32))[:, group]
        decoded: np.ndarray = levels * self.scale[:, group]
        return decoded


def collect(codec: IntegerCodec, pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Rounded:
    """Join pieces of rows: codes [in, rows], scales and zero points [groups, rows], all in float64."""
    codes, scale, zero = (
        np.ascontiguousarray(np.concatenate(part, axis=1).T) for part in zip(*pieces, strict=True)
    )
    stored = None if codec.symmetric else zero.astype(np.int8 if codec.bits > 1 else np.float32)
    return Rounded(codec, codes.astype(np.int8), scale.astype(np.float32), stored)
