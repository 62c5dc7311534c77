"""bitsandbytes' layouts of 4 and 8 bits; `reading/bitsandbytes.py` describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import BlockwiseCodec, Codec, IntegerCodec, tables
from steelyard.codecs.blockwise import NESTED_BLOCK
from steelyard.errors import UserError
from steelyard.formats.base import load_dtype
from steelyard.formats.reading.bitsandbytes import STATE
from steelyard.formats.writing.common import LinearFormat, only
from steelyard.spec import ModelSpec

_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Digits of a nested offset vary; the text is filled up with spaces so that sizes follow from shapes alone.
_OFFSET_DIGITS = 32


class BitsandbytesFormat(LinearFormat):
    """NF4, FP4 and integers of 8 bits with a scale a row, one kind for all."""

    name = "bitsandbytes"

    def holds(self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
        """Tell whether it is one of the library's two tables and block sizes, or its integers."""
        if isinstance(codec, IntegerCodec):
            return codec.bits == 8 and codec.group_size is None and codec.symmetric
        named = isinstance(codec, BlockwiseCodec) and codec.label.partition(" ")[0] in ("nf4", "fp4")
        return named and isinstance(codec, BlockwiseCodec) and codec.block in _BLOCKS

    def layout(
        self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the codes, scales, tables and the description."""
        if isinstance(codec, IntegerCodec):
            return {"weight": ("I8", shape), "SCB": ("F32", (shape[0],)), "weight_format": ("U8", ())}
        assert isinstance(codec, BlockwiseCodec)
        parts = codec.parts(shape)
        blocks = parts["absmax"][1][0]
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight": parts["weight_packed"],
            "weight.absmax": (parts["absmax"][0], (blocks,)),
            "weight.quant_map": ("F32", (16,)),
        }
        if codec.double:
            found["weight.nested_absmax"] = ("F32", (parts["nested_absmax"][1][0],))
            found["weight.nested_quant_map"] = ("F32", (256,))
        return {**found, f"{STATE}{_kind(codec)}": ("U8", (len(_state(spec, codec, shape, 0.0)),))}

    def arrays(
        self, spec: ModelSpec, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int], where: str
    ) -> dict[str, np.ndarray]:
        """Return the codes, scales, tables and the description.

        Raises:
            UserError: if a row's scale is SCB / 127 for no float32.
        """
        if isinstance(codec, IntegerCodec):
            codes, scale, _ = codec.to_codes(parts, shape)
            return {
                "weight": np.ascontiguousarray(codes, dtype=np.int8),
                "SCB": _largest(scale.astype(np.float32).reshape(-1), where),
                "weight_format": np.zeros((), np.uint8),  # rows one after the other
            }
        assert isinstance(codec, BlockwiseCodec)
        made = {
            "weight": parts["weight_packed"],
            "weight.absmax": parts["absmax"].reshape(-1),
            "weight.quant_map": codec.table,
        }
        offset = 0.0
        if codec.double:
            offset = float(parts["nested_offset"].reshape(()))
            made["weight.nested_absmax"] = parts["nested_absmax"].reshape(-1)
            made["weight.nested_quant_map"] = tables.table("dynamic", 8)
        text = np.frombuffer(_state(spec, codec, shape, offset), np.uint8)
        return {**made, f"{STATE}{_kind(codec)}": text}

    def quantization(self, spec: ModelSpec, codecs: Mapping[str, Codec], plain: list[str]) -> dict[str, Any]:
        """Return the keys transformers writes."""
        if only((isinstance(codec, IntegerCodec) for codec in codecs.values()), "number of bits", self.name):
            return {
                "quant_method": "bitsandbytes",
                "load_in_4bit": False,
                "load_in_8bit": True,
                "llm_int8_threshold": 6.0,
                "llm_int8_skip_modules": plain,
            }
        chosen = [codec for codec in codecs.values() if isinstance(codec, BlockwiseCodec)]
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": only(map(_kind, chosen), "kind", self.name),
            "bnb_4bit_use_double_quant": only((c.double for c in chosen), "way of storing scales", self.name),
            "bnb_4bit_compute_dtype": _DTYPES[load_dtype(spec)],
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": plain,
        }


def _largest(scale: np.ndarray, where: str) -> np.ndarray:
    """Return for every scale the float32 that divided by 127 is that scale, float32 [out].

    A float32 lies between two that are so for some of the scales: about one in 128 is the quotient of none.

    Raises:
        UserError: if there is none for a row.
    """
    near = (scale.astype(np.float64) * 127).astype(np.float32)
    found = np.full_like(near, np.nan)
    for way in (-np.inf, np.inf, None):
        tried = near if way is None else np.nextafter(near, np.float32(way))
        fits = (tried.astype(np.float64) / 127).astype(np.float32) == scale
        found[fits] = tried[fits]
    if (missed := np.isnan(found)).any():
        row = int(np.argmax(missed))
        raise UserError(
            f"{where}: the scale of row {row}, {scale[row]:g}, is a 127th of no float32, which bitsandbytes keeps; "
            "--format steelyard and compressed-tensors keep it"
        )
    return found


def _kind(codec: BlockwiseCodec) -> str:
    return codec.label.partition(" ")[0]


def _state(spec: ModelSpec, codec: BlockwiseCodec, shape: tuple[int, int], offset: float) -> bytes:
    state: dict[str, Any] = {
        "quant_type": _kind(codec),
        "blocksize": codec.block,
        "dtype": _DTYPES[load_dtype(spec)],
        "shape": list(shape),
    }
    if not codec.double:
        return json.dumps(state).encode()
    state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
    return json.dumps({**state, "nested_offset": offset}).ljust(_length(state)).encode()


def _length(state: Mapping[str, Any]) -> int:
    return len(json.dumps({**state, "nested_offset": 0})) - 1 + _OFFSET_DIGITS
