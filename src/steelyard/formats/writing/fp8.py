"""8-bit floats by blocks, as DeepSeek-V3 stores them; `reading/fp8.py` describes the layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, Float8Codec
from steelyard.formats.writing.common import LinearFormat, only
from steelyard.spec import ModelSpec


class Fp8Format(LinearFormat):
    """F8_E4M3 with a float32 scale for each block, one size of blocks for all."""

    name = "fp8"

    def holds(self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
        """Tell whether the blocks are of rows and columns; loaders take only blocks that fill the matrix."""
        return (
            isinstance(codec, Float8Codec)
            and (codec.dtype, codec.scale_dtype) == ("F8_E4M3", "F32")
            and codec.rows is not None
            and codec.columns is not None
            and shape[0] % codec.rows == shape[1] % codec.columns == 0
        )

    def layout(
        self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the weight and what to multiply it with."""
        parts = codec.parts(shape)
        return {"weight": parts["weight"], "weight_scale_inv": parts["weight_scale"]}

    def arrays(
        self, spec: ModelSpec, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int], where: str
    ) -> dict[str, np.ndarray]:
        """Return the weight and its scales."""
        return {"weight": parts["weight"], "weight_scale_inv": parts["weight_scale"]}

    def quantization(self, spec: ModelSpec, codecs: Mapping[str, Codec], plain: list[str]) -> dict[str, Any]:
        """Return the keys of DeepSeek-V3's config."""
        blocks = ((c.rows, c.columns) for c in codecs.values() if isinstance(c, Float8Codec))
        return {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": list(only(blocks, "size of blocks", self.name)),
            "modules_to_not_convert": plain,
        }
