"""GPTQ's layout, both versions; `reading/gptq.py` describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, IntegerCodec, PermutedCodec, pack
from steelyard.errors import UserError
from steelyard.formats.writing.common import LinearFormat, commonest, half_scales
from steelyard.spec import ModelSpec

_BITS = (2, 3, 4, 8)


class GptqFormat(LinearFormat):
    """Integers of 2, 3, 4 and 8 bits by group or row, groups of neighbouring columns or of any.

    Args:
        name: as `--format` takes it.
        version: 1 stores zero points less one, 2 as they are.
    """

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version

    def holds(self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
        """Tell whether rows, columns and zero points fill whole words."""
        base = _base(codec)
        return (
            base is not None
            and base.bits in _BITS
            and base.scale_dtype in ("F16", "BF16")
            and not any(side * base.bits % 32 for side in shape)
            and (base.group_size is None or shape[1] % base.group_size == 0)
        )

    def layout(
        self, spec: ModelSpec, codec: Codec, shape: tuple[int, int]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the four tensors."""
        base = _base(codec)
        assert base is not None
        (out, columns), groups = shape, base.groups(shape[1])
        return {
            "qweight": ("I32", (columns * base.bits // 32, out)),
            "qzeros": ("I32", (groups, out * base.bits // 32)),
            "scales": ("F16", (groups, out)),
            "g_idx": ("I32", (columns,)),
        }

    def arrays(
        self, spec: ModelSpec, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int], where: str
    ) -> dict[str, np.ndarray]:
        """Return the four tensors."""
        base = _base(codec)
        assert base is not None
        inner = {key: part for key, part in parts.items() if key != "column_order"}
        codes, _, zero = base.to_codes(inner, shape)
        groups = np.arange(shape[1], dtype=np.int32) // (base.group_size or shape[1])
        if "column_order" in parts:
            order = parts["column_order"].reshape(-1)
            codes, groups = _put(codes, order), _put(groups[None], order)[0]
        scale = half_scales(parts["weight_scale"], where)
        zero = np.zeros(scale.shape, np.int8) if zero is None else zero
        if self.version == 1:
            lowest = -(1 << (base.bits - 1))
            if (zero == lowest).any():
                raise UserError(
                    f"{where}: a zero point of 0 has no place in version 1, which stores it less one; "
                    "use --format gptq-v2"
                )
            zero = zero - np.int8(1)
        return {
            "qweight": np.ascontiguousarray(pack(np.ascontiguousarray(codes), base.bits).T),
            "qzeros": pack(np.ascontiguousarray(zero.T), base.bits),
            "scales": np.ascontiguousarray(scale.T),
            "g_idx": groups,
        }

    def quantization(self, spec: ModelSpec, codecs: Mapping[str, Codec], plain: list[str]) -> dict[str, Any]:
        """Return GPTQ's own keys; modules that differ, and those left plain, under `dynamic`."""
        kinds = {module: _kind(codec) for module, codec in codecs.items()}
        bits, size, act = common = commonest(kinds.values())
        dynamic: dict[str, dict[str, Any]] = {}
        for module, kind in kinds.items():
            if kind != common:
                dynamic[f"+:^{re.escape(module)}$"] = {"bits": kind[0], "group_size": kind[1], "desc_act": kind[2]}
        for module in plain:
            if module != "lm_head":
                dynamic[f"-:^{re.escape(module)}$"] = {}
        found: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": size,
            "desc_act": any(kind[2] for kind in kinds.values()) or act,
            "sym": all(base is not None and base.symmetric for base in map(_base, codecs.values())),
            "checkpoint_format": "gptq" if self.version == 1 else "gptq_v2",
            "lm_head": "lm_head" in codecs,
        }
        return {**found, "dynamic": dynamic} if dynamic else found


def _base(codec: Codec) -> IntegerCodec | None:
    if isinstance(codec, PermutedCodec):
        return codec.base
    return codec if isinstance(codec, IntegerCodec) else None


def _kind(codec: Codec) -> tuple[int, int, bool]:
    base = _base(codec)
    assert base is not None
    return base.bits, base.group_size or -1, isinstance(codec, PermutedCodec)


def _put(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    placed = np.empty_like(values)
    placed[:, order] = values
    return placed
