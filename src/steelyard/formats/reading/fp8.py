"""8-bit floats with scales by block, row or tensor, as DeepSeek-V3 and its followers store them.

weight F8_E4M3 [out, in], and weight_scale_inv (or weight_scale), which is to multiply with: [ceil(out/rows),
ceil(in/columns)].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Float8Codec, Parts
from steelyard.errors import UserError
from steelyard.formats.entry import Entry
from steelyard.formats.reading.common import matrix, present
from steelyard.weights import Checkpoint

_SCALES = ("weight_scale_inv", "weight_scale")


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return the encoded tensors of a folder.

    Raises:
        UserError: if scales are missing or fit no blocks of the size in the config.
    """
    found = {}
    for name in checkpoint.names:
        module, _, part = name.rpartition(".")
        if part == "weight" and checkpoint.info(name).dtype.startswith("F8_E"):
            found[name] = _entry(checkpoint, module, quantization)
    return found


def _entry(checkpoint: Checkpoint, module: str, quantization: Mapping[str, Any]) -> Entry:
    where = f"{checkpoint.location}: {module}"
    stored = present(checkpoint, module, ("weight", *_SCALES, "input_scale", "activation_scale"))
    told = next((part for part in _SCALES if part in stored), None)
    if told is None:
        raise UserError(f"{where}.weight has no scales; download the weights again")
    weight, scale = checkpoint.info(stored["weight"]), checkpoint.info(stored[told])
    shape = matrix(checkpoint, weight.name, weight.shape)
    block = quantization.get("weight_block_size")
    codec = float8(weight.dtype, shape, scale.shape, scale.dtype, block if isinstance(block, list) else None)
    if codec is None:
        raise UserError(f"{where}: scales {list(scale.shape)} fit no blocks of {block} in {list(shape)}")
    return Entry(codec, shape, stored, "fp8", lambda entry, arrays: parts(entry, arrays, told))


def float8(
    dtype: str, shape: tuple[int, int], scales: tuple[int, ...], scale_dtype: str, block: list[Any] | None
) -> Float8Codec | None:
    """Return the codec of a weight with scales of some shape; None where they fit no blocks."""
    rows: int | None
    columns: int | None
    if all(size == 1 for size in scales):
        rows, columns = None, None
    elif block and len(block) == 2 and len(scales) == 2:
        rows, columns = int(block[0]), int(block[1])
    elif scales in ((shape[0],), (shape[0], 1)):
        rows, columns = 1, None
    else:
        return None
    codec = Float8Codec(dtype, rows, columns, scale_dtype)
    expected = codec.parts(shape)["weight_scale"][1]
    return codec if int(np.prod(scales)) == int(np.prod(expected)) else None


def parts(entry: Entry, arrays: Mapping[str, np.ndarray], told: str = "weight_scale") -> Parts:
    """Return the weight and its scales as a matrix."""
    size = entry.codec.parts(entry.shape)["weight_scale"][1]
    return {"weight": arrays["weight"], "weight_scale": arrays[told].reshape(size)}
