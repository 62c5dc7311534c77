"""The dense format: every tensor as numbers of 16 or 32 bits, for any loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec
from steelyard.formats.base import base_config, is_plain, plain_pack, plain_stored
from steelyard.spec import ModelSpec
from steelyard.weights.layout import StoredTensor


class DenseFormat:
    """Casts only."""

    name = "dense"
    packs_tied = True

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether the codec is a cast."""
        return is_plain(codec)

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return the cast tensor under its own name."""
        return plain_stored(spec, name, codec)

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the cast tensor."""
        return plain_pack(spec, name, codec, parts)

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config without any quantization."""
        return base_config(spec, config, codecs)
