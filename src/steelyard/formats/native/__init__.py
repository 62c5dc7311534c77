"""Steelyard's own format: any codec, one stored tensor each, under the tensor's own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, blob
from steelyard.errors import UserError
from steelyard.formats.base import base_config, is_called, is_plain, plain_pack, plain_stored, tensor_of
from steelyard.spec import ModelSpec
from steelyard.weights.layout import StoredTensor

QUANT_METHOD = "steelyard"
VERSION = 1


def require_version(where: str, version: object) -> None:
    """Refuse what a later program wrote.

    Args:
        where: the folder or file, for the message.
        version: as its config has it.

    Raises:
        UserError: if it is not the version this program reads.
    """
    if version != VERSION:
        raise UserError(
            f"{where}: version {version!r} of the steelyard format; this program reads version {VERSION}, "
            "update steelyard"
        )


class NativeFormat:
    """Every encoded tensor is a row of bytes; the config says by which codec and of which shape."""

    name = "steelyard"
    packs_tied = True

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether the tensor is one whose module can decode on use."""
        tensor = tensor_of(spec, name)
        packable = len(tensor.shape) == 2 and tensor.kind in ("linear", "embedding") and name.endswith(".weight")
        return is_plain(codec) or (packable and is_called(spec, name))

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return the row of bytes."""
        if is_plain(codec):
            return plain_stored(spec, name, codec)
        return [StoredTensor(name, "U8", (codec.nbytes(tensor_of(spec, name).matrix_shape),))]

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the row of bytes by the tensor's name."""
        if is_plain(codec):
            return plain_pack(spec, name, codec, parts)
        return {name: blob(parts, codec, tensor_of(spec, name).matrix_shape)}

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config with a codec and a shape for each encoded tensor."""
        changed = base_config(spec, config, codecs)
        tensors = {}
        for name, codec in codecs.items():
            if not is_plain(codec):
                tensor = tensor_of(spec, name)
                entry: dict[str, Any] = {"codec": codec.to_dict(), "shape": list(tensor.matrix_shape)}
                if tensor.transposed:
                    entry["transposed"] = True
                tensors[name] = entry
        if tensors:
            changed["quantization_config"] = {
                "quant_method": QUANT_METHOD,
                "version": VERSION,
                "tensors": tensors,
            }
        return changed
