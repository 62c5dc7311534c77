"""The block types of GGUF, as llama.cpp reads them. The search for what they hold is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, matrix
from steelyard.codecs.by_rows import RowCodec
from steelyard.codecs.gguf.layouts import Fields, pack, unpack
from steelyard.codecs.gguf.types import LEVELS, NUMBERS, TYPES
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError, WeightError

# Share of the full range below which shrinking has never paid, by bits of a code, and how many shares are tried.
_SHARES = {2: (0.3, 20), 3: (0.45, 20), 4: (0.6, 20), 5: (0.75, 14), 6: (0.85, 8), 8: (0.96, 4)}
# A range a little wider than the weights' own may put more of them near a level.
_WIDEST = 1.15
_LARGEST = 65504.0
_LEAST_IMPORTANCE = 1e-6


@dataclass(frozen=True)
class GgufCodec(RowCodec):
    """Blocks of one of GGUF's types along each row.

    Attributes:
        kind: the type as GGUF calls it, such as "Q4_K".

    Parts: blocks U8 [out, bytes of a row]. A last block that a row does not fill is filled with zeros, which GGUF's
    own files cannot have.
    """

    kind: str

    name: ClassVar[str] = "gguf"

    def __post_init__(self) -> None:
        if self.kind not in LEVELS:
            raise UserError(f"{self.kind} is no type of GGUF that can be written; available: {', '.join(LEVELS)}")

    @property
    def label(self) -> str:
        """GGUF's own name."""
        return self.kind

    @property
    def block(self) -> int:
        """Weights of a block."""
        return TYPES[NUMBERS[self.kind]].numbers

    @property
    def row_quantum(self) -> int:
        """Every row stands alone."""
        return 1

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the blocks."""
        out, columns = matrix(self, shape)
        return {"blocks": ("U8", (out, -(-columns // self.block) * TYPES[NUMBERS[self.kind]].nbytes))}

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Search the blocks of least squared error."""
        require_finite(name, rows, first_row)
        return self.from_fields(self.search(rows, name=name))

    def search(self, rows: np.ndarray, importance: np.ndarray | None = None, name: str = "weight") -> Fields:
        """Choose scales, minima and codes that lose the least.

        For every group many shares of its range are tried, each moved to the least squares of its codes. Where
        scales are whole numbers times a float of the block, the whole numbers are then chosen by what they lose,
        and the floats moved to the least squares of all that, in turn.

        Args:
            rows: float [out, in], finite.
            importance: [in], what a squared error costs at each column, such as the mean square of its input; all
                alike if absent.
            name: what errors call the tensor.

        Raises:
            UserError: if the scales lie beyond float16.
        """
        from steelyard.codecs.gguf import _search

        levels = LEVELS[self.kind]
        weight, costs = self._padded(rows, _costs(importance, rows.shape[1]))
        out, columns = weight.shape
        groups = columns // levels.each if levels.scale_high else 0
        floats = np.zeros((2, out, columns // self.block), np.float32)
        whole = np.zeros((2, out, groups), np.int16)
        codes = np.zeros((out, columns), np.uint8)
        bits = max(2, (levels.high - levels.low).bit_length()) if not levels.table else 4
        lowest, count = _SHARES[bits]
        _search.search(
            weight,
            costs.astype(np.float32),
            self.block,
            levels.each,
            3 if levels.power else {"": 0, "any": 1, "below": 2}[levels.minimum],
            np.array([levels.low, levels.high, levels.scale_low, levels.scale_high], np.float32),
            _table(levels.table),
            np.geomspace(lowest, _WIDEST if not levels.minimum else 1.0, count, dtype=np.float32),
            floats,
            whole,
            codes,
        )
        if not levels.power and np.abs(floats).max(initial=0.0) >= _LARGEST:
            raise WeightError(f"{name} holds weights beyond the scales of {self.kind}; store it in a wider type")
        return Fields(floats, whole, codes)

    def from_fields(self, fields: Fields) -> Parts:
        """Pack what the blocks hold."""
        return {"blocks": pack(self.kind, fields)}

    def to_fields(self, parts: Mapping[str, np.ndarray], shape: Shape) -> Fields:
        """Undo `from_fields`."""
        check_parts(self, parts, shape)
        return unpack(self.kind, parts["blocks"])

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return level * (float * whole number), less the minimum, in float32 as llama.cpp does."""
        decoded = self.decode_fields(self.to_fields(parts, shape))
        return np.ascontiguousarray(decoded[:, : shape[1]])

    def decode_fields(self, fields: Fields) -> np.ndarray:
        """Return the matrix that fields stand for, float32 [out, columns of whole blocks]."""
        levels = LEVELS[self.kind]
        # Other writers may use a code beyond ours: Q8_0's 255 is -128, TQ2_0's 3 is 2.
        beyond = -128 if self.kind == "Q8_0" else levels.high + 1
        values = np.array(levels.table or [*range(levels.low, levels.high + 1), beyond], np.float32)
        scale, least = self.scales(fields)
        out, columns = fields.codes.shape
        decoded: np.ndarray = values[fields.codes].reshape(out, -1, levels.each)
        decoded *= scale[..., None]
        if levels.minimum == "any":
            decoded += least[..., None]
        elif levels.minimum:
            decoded -= least[..., None]
        return decoded.reshape(out, columns)

    def scales(self, fields: Fields) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale and the minimum, or its negative, of each group: float32 [out, groups] each."""
        if not LEVELS[self.kind].scale_high:
            return fields.floats[0], fields.floats[1]
        repeats = self.block // LEVELS[self.kind].each
        products = np.repeat(fields.floats, repeats, axis=2) * fields.whole.astype(np.float32)
        return products[0], products[1]

    def _padded(self, rows: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = -rows.shape[1] % self.block
        if missing:
            rows = np.pad(rows.astype(np.float32), ((0, 0), (0, missing)))
            costs = np.pad(costs, (0, missing), constant_values=_LEAST_IMPORTANCE)
        return np.ascontiguousarray(rows, np.float32), costs


def _costs(importance: np.ndarray | None, columns: int) -> np.ndarray:
    """Return costs above zero: what costs nothing still breaks ties."""
    if importance is None:
        return np.ones(columns)
    costs = np.ascontiguousarray(importance, np.float64)
    mean = float(costs.mean())
    return np.maximum(costs / mean, _LEAST_IMPORTANCE) if mean > 0 else np.ones(columns)


def _table(levels: tuple[int, ...]) -> np.ndarray:
    """Return 16 levels and the 15 numbers midway between them; none where levels are whole numbers in a row."""
    if not levels:
        return np.empty(0, np.float32)
    padded = np.full(16, np.inf)
    padded[: len(levels)] = levels
    middles = (padded[1:] + padded[:-1]) / 2
    return np.concatenate([padded, middles]).astype(np.float32).astype(np.float32)
