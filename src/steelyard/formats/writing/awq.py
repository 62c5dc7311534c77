"""AWQ's gemm layout; `reading/awq.py` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, IntegerCodec
from steelyard.formats.reading.awq import ORDER
from steelyard.formats.writing.common import LinearFormat, half_scales, only
from steelyard.spec import ModelSpec


class AwqFormat(LinearFormat):
    """Integers of 4 bits by group, one group size for all."""

    name = "awq"

    def holds(self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
        """Tell whether outputs fill whole words."""
        return (
            isinstance(codec, IntegerCodec)
            and codec.bits == 4
            and codec.scale_dtype in ("F16", "BF16")
            and shape[0] % 8 == 0
            and (codec.group_size is None or shape[1] % codec.group_size == 0)
        )

    def layout(
        self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the three tensors."""
        assert isinstance(codec, IntegerCodec)
        (out, columns), groups = shape, codec.groups(shape[1])
        return {
            "qweight": ("I32", (columns, out // 8)),
            "qzeros": ("I32", (groups, out // 8)),
            "scales": ("F16", (groups, out)),
        }

    def arrays(
        self, spec: ModelSpec, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int], where: str
    ) -> dict[str, np.ndarray]:
        """Return the three tensors."""
        assert isinstance(codec, IntegerCodec)
        codes, _, zero = codec.to_codes(parts, shape)
        scale = half_scales(parts["weight_scale"], where)
        zero = np.zeros(scale.shape, np.int8) if zero is None else zero
        return {
            "qweight": pack_words(codes.T),
            "qzeros": pack_words(zero.T),
            "scales": np.ascontiguousarray(scale.T),
        }

    def quantization(self, spec: ModelSpec, codecs: Mapping[str, Codec], plain: list[str]) -> dict[str, Any]:
        """Return AWQ's own keys."""
        sizes = (codec.group_size for codec in codecs.values() if isinstance(codec, IntegerCodec))
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": only(sizes, "group size", self.name) or -1,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": plain,
        }


def pack_words(codes: np.ndarray) -> np.ndarray:
    """Return int32 [rows, columns / 8] of codes + 8 in AWQ's order; undone by `reading.awq.unpack_words`."""
    fields = (codes.reshape(codes.shape[0], -1, 8) + 8).astype(np.uint32)[:, :, ORDER]
    words = np.bitwise_or.reduce(fields << (4 * np.arange(8, dtype=np.uint32)), axis=2)
    return np.ascontiguousarray(words).view(np.int32)
