"""The second reader's part for nested codes and chains of signs; by specification, as the rest of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from steelyard.codecs import AnyPrecisionCodec, Codec, SignChainCodec
from steelyard.formats.independent_floats import Layout, Rows


def layout_of(codec: Codec, shape: tuple[int, int]) -> Layout | None:
    """Return the parts of a codec that this module knows, else None."""
    out, columns = shape
    bits_of_rows = (out, math.ceil(columns / 8))
    found: Layout = []
    if isinstance(codec, AnyPrecisionCodec):
        found += [("row_scale", codec.dtype, (out, 1))] if codec.rows != 1 else []
        tables = math.ceil(out / codec.rows) if codec.rows else 1
        for width in range(1, codec.bits + 1):
            found.append((f"plane{width}", "U8", bits_of_rows))
            found += [(f"table{width}", codec.dtype, (tables, 2**width))] if width >= codec.seed_bits else []
        return found
    if isinstance(codec, SignChainCodec):
        for block in range(1, codec.blocks + 1):
            found.append((f"sign{block}", "U8", bits_of_rows))
            found.append((f"u{block}", codec.dtype, (out, codec.rank)))
            found.append((f"v{block}", codec.dtype, (codec.rank, columns)))
        return found
    return None


def rows_of(codec: Codec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows | None:
    """Return the decoded rows of a codec that this module knows, else None."""
    columns = shape[1]
    if isinstance(codec, AnyPrecisionCodec):
        table = parts[f"table{codec.bits}"].astype(np.float32)

        def looked_up(start: int, stop: int) -> np.ndarray:
            code = np.zeros((stop - start, columns), np.int64)
            for width in range(1, codec.bits + 1):
                code = 2 * code + np.unpackbits(parts[f"plane{width}"][start:stop], axis=1, count=columns)
            lines = np.arange(start, stop) // (codec.rows or shape[0])
            values: np.ndarray = table[lines[:, None], code]
            return values if codec.rows == 1 else values * parts["row_scale"][start:stop].astype(np.float32)

        return looked_up
    if isinstance(codec, SignChainCodec):

        def summed(start: int, stop: int) -> np.ndarray:
            total = np.zeros((stop - start, columns))
            for block in range(1, codec.blocks + 1):
                plus = np.unpackbits(parts[f"sign{block}"][start:stop], axis=1, count=columns)
                u, v = (parts[f"{side}{block}"].astype(np.float64) for side in "uv")
                total += (2.0 * plus - 1.0) * (u[start:stop] @ v)
            return total.astype(np.float32)

        return summed
    return None
