"""Decoding blobs that lie in torch tensors: by the compiled kernels on the CPU, by torch's operations elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from steelyard.codecs import (
    AnyPrecisionCodec,
    CodebookCodec,
    Codec,
    DenseCodec,
    EntropyCodec,
    IntegerCodec,
    LowRankCodec,
    OutlierCodec,
    RotatedCodec,
    SignChainCodec,
    SumCodec,
    pack,
    split,
)
from steelyard.codecs.rotated import sylvester

TORCH_TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I32": torch.int32,
    "U8": torch.uint8,
}

_DECODED = (AnyPrecisionCodec, CodebookCodec, DenseCodec, IntegerCodec, LowRankCodec, SignChainCodec)

# Elements unpacked at a time, which bounds the 64-bit scratch of an unpacking.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class PackedMatrix:
    """What the bytes of a blob mean.

    Attributes:
        codec: how the matrix is encoded.
        shape: of the matrix, (out, in) of a linear map or (rows, columns) of a table.
    """

    codec: Codec
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Length of the blob."""
        return self.codec.nbytes(self.shape)

    def decode(self, blob: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the matrix as float32, or some of its rows.

        Args:
            blob: uint8 [nbytes] on any device.
            rows: int64 [n] of rows to decode, on the blob's device; all of them if absent.
        """
        if not _has_decoder(self.codec) or (rows is None and blob.device.type == "cpu"):
            # What torch has no decoder for is decoded whole, by the codec itself.
            parts = split(blob.detach().cpu().numpy(), self.codec, self.shape)
            if rows is not None and isinstance(self.codec, EntropyCodec):
                some = self.codec.decode_rows(parts, self.shape, rows.cpu().numpy())
                return torch.from_numpy(some).to(blob.device)
            decoded = torch.from_numpy(self.codec.decode(parts, self.shape))
            decoded = decoded.to(blob.device)
            return decoded if rows is None else decoded[rows]
        return _decode(self.codec, self.parts(blob), self.shape, rows)

    def parts(self, blob: Tensor) -> dict[str, Tensor]:
        """Return the parts of a blob: views where their alignment allows."""
        found: dict[str, Tensor] = {}
        begin = 0
        for part, (dtype, shape) in self.codec.parts(self.shape).items():
            kind = TORCH_TYPES[dtype]
            end = begin + kind.itemsize * shape[0] * shape[1]
            piece = blob.detach()[begin:end]
            if piece.data_ptr() % kind.itemsize or piece.storage_offset() % kind.itemsize:
                piece = piece.clone()
            found[part] = piece.view(kind).view(shape)
            begin = end
        return found

    def factors(self, blob: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Return B [out, rank] and A [rank, in] where a low-rank product is part of the matrix, else None."""
        if not isinstance(self.codec, LowRankCodec | SumCodec):
            return None
        parts = self.parts(blob)
        return parts["lora_b"].to(dtype), parts["lora_a"].to(dtype)

    def without_factors(self) -> PackedMatrix | None:
        """Return what a low-rank product is added to, None if nothing.

        Its parts come first in the blob, so that it decodes the same bytes.
        """
        if isinstance(self.codec, LowRankCodec):
            return None
        return PackedMatrix(self.codec.base, self.shape) if isinstance(self.codec, SumCodec) else self


def _has_decoder(codec: Codec) -> bool:
    """Tell whether torch decodes a codec and all that it is made of."""
    if isinstance(codec, OutlierCodec | RotatedCodec):
        return _has_decoder(codec.base)
    if isinstance(codec, SumCodec):
        return _has_decoder(codec.base) and _has_decoder(codec.correction)
    return isinstance(codec, _DECODED)


def _decode(codec: Codec, parts: dict[str, Tensor], shape: tuple[int, int], rows: Tensor | None) -> Tensor:
    if isinstance(codec, SumCodec):
        base = _decode(codec.base, parts, shape, rows)
        return base + _decode(codec.correction, parts, shape, rows)
    if isinstance(codec, OutlierCodec):
        apart = parts["outlier_columns"][0].long()
        kept = parts["outlier_weight"] if rows is None else parts["outlier_weight"][rows]
        rest = torch.ones(shape[1], dtype=torch.bool, device=apart.device)
        rest[apart] = False
        whole = torch.empty(len(kept), shape[1], device=apart.device)
        whole[:, apart] = kept.float()
        whole[:, rest] = _decode(codec.base, parts, codec.inner(shape), rows)
        return whole
    if isinstance(codec, RotatedCodec):
        turned = _decode(codec.base, parts, shape, rows)
        end = shape[1] // codec.block * codec.block
        turn = torch.from_numpy(sylvester(codec.block)).to(turned)
        mixed = (turned[:, :end].reshape(len(turned), -1, codec.block) @ turn).reshape(len(turned), end)
        return torch.cat([mixed, turned[:, end:]], dim=1) * parts["column_scale"].float()
    if isinstance(codec, LowRankCodec):
        b = parts["lora_b"] if rows is None else parts["lora_b"][rows]
        return b.float() @ parts["lora_a"].float()
    if isinstance(codec, DenseCodec):
        # 8-bit floats cannot be indexed on every device, their bytes can.
        weight = parts["weight"]
        if rows is not None and weight.element_size() == 1:
            weight = weight.view(torch.uint8)[rows].view(weight.dtype)
        elif rows is not None:
            weight = weight[rows]
        scale = parts.get("weight_scale")
        return weight.float() if scale is None else weight.float() * (scale if rows is None else scale[rows])
    if isinstance(codec, CodebookCodec):
        if rows is None:
            rows = torch.arange(shape[0], device=parts["codes"].device)
        step = max(1, _CHUNK // shape[1])
        chunks = (rows[start : start + step] for start in range(0, max(1, len(rows)), step))
        return torch.cat([_codewords(codec, parts, shape[1], chunk) for chunk in chunks])
    if isinstance(codec, IntegerCodec):
        if rows is not None and rows.device.type == "cpu":
            return _rows_by_kernel(codec, parts, shape[1], rows)
        if rows is None:
            rows = torch.arange(shape[0], device=parts["weight_packed"].device)
        step = max(1, _CHUNK // shape[1])
        chunks = (rows[start : start + step] for start in range(0, max(1, len(rows)), step))
        return torch.cat([_integers(codec, parts, shape[1], chunk) for chunk in chunks])
    assert isinstance(codec, AnyPrecisionCodec | SignChainCodec), f"{codec.label} is for its own decoder"
    return _nested(codec, parts, shape, rows)


def _nested(
    codec: AnyPrecisionCodec | SignChainCodec, parts: dict[str, Tensor], shape: tuple[int, int], rows: Tensor | None
) -> Tensor:
    """Decode nested codes or a chain of signs, float32 [n, columns]."""
    first = next(iter(parts.values()))
    rows = torch.arange(shape[0], device=first.device) if rows is None else rows
    step = max(1, _CHUNK // shape[1])
    found = []
    for start in range(0, max(1, len(rows)), step):
        chunk = rows[start : start + step]
        if isinstance(codec, AnyPrecisionCodec):
            code = torch.zeros(len(chunk), shape[1], dtype=torch.int64, device=first.device)
            for width in range(1, codec.bits + 1):
                code = code << 1 | _bits(parts[f"plane{width}"][chunk], shape[1])
            lines = chunk // (codec.rows or shape[0])
            values = parts[f"table{codec.bits}"].float()[lines].gather(1, code)
            found.append(values if codec.rows == 1 else values * parts["row_scale"][chunk].float())
            continue
        total = torch.zeros(len(chunk), shape[1], device=first.device)
        for block in range(1, codec.blocks + 1):
            magnitude = parts[f"u{block}"][chunk].float() @ parts[f"v{block}"].float()
            total += torch.where(_bits(parts[f"sign{block}"][chunk], shape[1]) > 0, magnitude, -magnitude)
        found.append(total)
    return torch.cat(found)


def _bits(packed: Tensor, columns: int) -> Tensor:
    """Return the bits of uint8 rows, the highest first, int64 [rows, columns]."""
    places = torch.arange(columns, device=packed.device)
    return packed[:, places // 8].long() >> (7 - places % 8) & 1


def _rows_by_kernel(codec: IntegerCodec, parts: dict[str, Tensor], columns: int, rows: Tensor) -> Tensor:
    """Decode some rows as a small matrix of their own."""
    if not len(rows):
        return torch.empty(0, columns)
    taken = {part: parts[part][rows] for part in ("weight_packed", "weight_scale")}
    if not codec.symmetric and codec.bits == 1:
        taken["weight_zero_point"] = parts["weight_zero_point"][rows]
    elif not codec.symmetric:
        # Zero points are packed down the rows, so those of some rows have to be packed anew.
        zeros = _fields(parts["weight_zero_point"].T, codec.bits, rows) - (1 << (codec.bits - 1))
        words = pack(zeros.to(torch.int8).numpy(), codec.bits)
        taken["weight_zero_point"] = torch.from_numpy(words).T.contiguous()
    arrays = {part: _as_numpy(tensor) for part, tensor in taken.items()}
    return torch.from_numpy(codec.decode(arrays, (len(rows), columns)))


def _as_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _integers(codec: IntegerCodec, parts: dict[str, Tensor], columns: int, rows: Tensor) -> Tensor:
    """Return (code - zero) * scale of some rows, float32 [n, columns]."""
    half = 1 << (codec.bits - 1)
    codes = _fields(parts["weight_packed"][rows], codec.bits, torch.arange(columns, device=rows.device)) - half
    if codec.bits == 1:
        zero = parts["weight_zero_point"][rows].float() if "weight_zero_point" in parts else None
        fields = codes.float() + half
        centred = fields - 0.5 if zero is None else fields - (_spread(zero, codec, columns) + half)
        return centred * _spread(parts["weight_scale"][rows].float(), codec, columns)
    if not codec.symmetric:
        zeros = _fields(parts["weight_zero_point"].T, codec.bits, rows).T - half
        codes = codes - _spread(zeros, codec, columns)
    return codes.float() * _spread(parts["weight_scale"][rows].float(), codec, columns)


def _codewords(codec: CodebookCodec, parts: dict[str, Tensor], columns: int, rows: Tensor) -> Tensor:
    """Return scale * (sum of codewords) of some rows, float32 [n, columns]."""
    packed = parts["codes"][rows].int()
    begin = torch.arange(codec.groups(columns) * codec.codebooks, device=rows.device) * codec.bits
    first, last = begin // 8, packed.shape[1] - 1
    # A code of up to 16 bits lies in three bytes at most.
    wide = sum(packed[:, (first + byte).clamp(max=last)] << (8 * byte) for byte in range(3))
    codes = ((wide >> (begin % 8)) & (codec.entries - 1)).view(len(rows), -1, codec.codebooks)
    tables = parts["tables"].float().view(codec.codebooks, codec.entries, codec.group)
    decoded = tables[0][codes[:, :, 0]]
    for index in range(1, codec.codebooks):
        decoded = decoded + tables[index][codes[:, :, index]]
    flat = decoded.view(len(rows), codec.groups(columns) * codec.group)[:, :columns]
    return flat * parts["weight_scale"][rows].float()


def _fields(words: Tensor, bits: int, fields: Tensor) -> Tensor:
    """Return fields of `bits` bits from int32 rows, least significant first, as int64 [rows, fields].

    A field may straddle two words. Where it does not, the second one is shifted out of the mask.
    """
    position = fields * bits
    first, shift = position // 32, position % 32
    second = (first + 1).clamp(max=words.shape[1] - 1)
    wide = words.long() & 0xFFFFFFFF
    return ((wide[:, first] >> shift) | (wide[:, second] << (32 - shift))) & ((1 << bits) - 1)


def _spread(values: Tensor, codec: IntegerCodec, columns: int) -> Tensor:
    """Return one value for each column from one for each group."""
    if codec.group_size is None:
        return values
    return values.repeat_interleave(codec.group_size, dim=1)[:, :columns]
