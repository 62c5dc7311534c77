"""Codes and continuous parameters of matrices in torch, for steps that change codes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from steelyard.codecs import CodebookCodec, Codec
from steelyard.edits.tune._fake import as_stored
from steelyard.edits.tune._grid import Grid
from steelyard.edits.tune.trainable import Group
from steelyard.formats.native.torch_decoding import TORCH_TYPES

# Distances held at a time in a search for the nearest codewords.
_DISTANCES = 1 << 24


class QuantizedCodewords:
    """A matrix of codewords: tables and scales are continuous, a unit is a vector.

    Args:
        codec: how it is stored.
        parts: what is stored.
        shape: of the matrix, (out, in).
    """

    def __init__(self, codec: CodebookCodec, parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> None:
        self.codec, self.shape = codec, shape
        codes, tables, scale = codec.to_codes(parts, shape)
        self.codes = torch.from_numpy(codes.astype(np.int64)).reshape(-1, codec.codebooks)
        self.tables = torch.from_numpy(np.array(tables)).requires_grad_()
        self.scale = torch.from_numpy(np.array(scale)).requires_grad_()
        self._sign = torch.copysign(torch.ones(()), self.scale.detach())
        self._columns = codec.groups(shape[1]) * codec.group

    def groups(self) -> Sequence[Group]:
        """Return tables and scales, which move at the rate of steps."""
        size = max(float(self.tables.detach().square().mean().sqrt()), 1e-12)
        return [
            Group({"tables": self.tables}, size, "step"),
            Group({"scale": self.scale}, float(self.scale.detach().abs().mean()), "step"),
        ]

    def dequantize(self) -> Tensor:
        """Return scale * (sum of codewords), added in the order of the tables as every reader does."""
        tables = as_stored(self.tables, self._stored_tables())
        sums = functional.embedding(self.codes[:, 0], tables[0])
        for index in range(1, self.codec.codebooks):
            sums = sums + functional.embedding(self.codes[:, index], tables[index])
        scale = as_stored(self.scale, self._stored_scale())
        return sums.view(self.shape[0], self._columns)[:, : self.shape[1]] * scale[:, None]

    def units(self, matrix: Tensor) -> Tensor:
        """Return the vectors of a matrix, [out * groups, group]."""
        short = self._columns - self.shape[1]
        wide = functional.pad(matrix, (0, short)) if short else matrix
        return wide.reshape(-1, self.codec.group)

    def project(self, target: Tensor, chosen: Tensor) -> Tensor:
        """Return each code chosen anew, the others held: the nearest codeword to what they leave of the target."""
        tables = self._stored_tables()
        codes = self.codes[chosen].clone()
        wanted = target / self._row_scale(chosen)[:, None]
        inside = self._inside(chosen)
        left = wanted - self._sums(tables, codes)
        for index, table in enumerate(tables):
            left = left + table[codes[:, index]]
            codes[:, index] = _nearest(left, table, inside)
            left = left - table[codes[:, index]]
        return codes

    def values(self, codes: Tensor, chosen: Tensor) -> Tensor:
        """Return what codes stand for, 0 beyond the last column."""
        found = self._sums(self._stored_tables(), codes) * self._row_scale(chosen)[:, None]
        inside = self._inside(chosen)
        return found if inside is None else found * inside

    def tidy(self) -> None:
        """Keep the sign of every scale."""
        with torch.no_grad():
            self.scale.copy_((self.scale * self._sign).clamp(min=1e-30) * self._sign)

    def parts(self) -> dict[str, np.ndarray]:
        """Return codes, scales and tables."""
        codes = self.codes.numpy().reshape(self.shape[0], -1, self.codec.codebooks)
        tables, scale = self._stored_tables().numpy(), self._stored_scale().numpy()
        return self.codec.from_codes(codes, tables, scale, self.shape)

    def _sums(self, tables: Tensor, codes: Tensor) -> Tensor:
        found = tables[0][codes[:, 0]]
        for index in range(1, self.codec.codebooks):
            found = found + tables[index][codes[:, index]]
        return found

    def _row_scale(self, chosen: Tensor) -> Tensor:
        return self._stored_scale()[torch.div(chosen, self._columns // self.codec.group, rounding_mode="floor")]

    def _inside(self, chosen: Tensor) -> Tensor | None:
        """Return 1 where a unit has columns and 0 beyond them, [chosen, group]; None if all are inside."""
        if self._columns == self.shape[1]:
            return None
        groups = self._columns // self.codec.group
        column = (chosen % groups)[:, None] * self.codec.group + torch.arange(self.codec.group)
        return (column < self.shape[1]).float()

    def _stored_tables(self) -> Tensor:
        kind = TORCH_TYPES[self.codec.table_dtype]
        most = torch.finfo(kind).max
        return self.tables.detach().clamp(-most, most).to(kind).float()

    def _stored_scale(self) -> Tensor:
        kind = TORCH_TYPES[self.codec.scale_dtype]
        info = torch.finfo(kind)
        magnitude = self.scale.detach().abs().clamp(info.smallest_normal, info.max)
        return torch.copysign(magnitude.to(kind).float(), self.scale.detach())


class QuantizedGrid:
    """A matrix on a grid: scales are continuous, zero points stay, a unit is one weight.

    Args:
        codec: how it is stored.
        parts: what is stored.
        shape: of the matrix, (out, in).

    Raises:
        TypeError: if the codec has no grid of groups in rows.
    """

    def __init__(self, codec: Codec, parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> None:
        self.grid = Grid.of(codec, shape)
        codes, scale, self._zero = self.grid.read(parts)
        self.codes = self.grid.unfold(codes).reshape(-1, 1).long()
        self.scale = scale.clone().requires_grad_()
        self._sign = torch.copysign(torch.ones(()), scale)
        self._zeros = self._spread(self._zero)

    def groups(self) -> Sequence[Group]:
        """Return the scales."""
        return [Group({"scale": self.scale}, float(self.scale.detach().abs().mean()), "step")]

    def dequantize(self) -> Tensor:
        """Return (code - zero) * scale."""
        codes = self.grid.fold(self.codes.view(self.grid.shape).float())
        return self.grid.unfold((codes - self._zero) * as_stored(self.scale, self._stored_scale()))

    def units(self, matrix: Tensor) -> Tensor:
        """Return every weight by itself."""
        return matrix.reshape(-1, 1)

    def project(self, target: Tensor, chosen: Tensor) -> Tensor:
        """Return the nearest codes."""
        scale = self._spread(self._stored_scale())[chosen]
        return (target / scale + self._zeros[chosen]).round().clamp(self.grid.low, self.grid.high).long()

    def values(self, codes: Tensor, chosen: Tensor) -> Tensor:
        """Return (code - zero) * scale."""
        return (codes - self._zeros[chosen]) * self._spread(self._stored_scale())[chosen]

    def tidy(self) -> None:
        """Keep the sign of every scale."""
        with torch.no_grad():
            self.scale.copy_((self.scale * self._sign).clamp(min=1e-30) * self._sign)

    def parts(self) -> dict[str, np.ndarray]:
        """Return codes, scales and zero points."""
        codes = self.grid.fold(self.codes.view(self.grid.shape).float())
        return self.grid.write(codes, self._stored_scale(), self._zero)

    def _spread(self, values: Tensor) -> Tensor:
        """Return one value for each weight from one for each group, [units, 1]."""
        wide = values.expand(-1, -1, self.grid.size)
        return self.grid.unfold(wide).reshape(-1, 1)

    def _stored_scale(self) -> Tensor:
        return self.grid.stored_scale(self.scale.detach())


def _nearest(vectors: Tensor, table: Tensor, inside: Tensor | None) -> Tensor:
    """Return the nearest codeword of every vector [n, group]; where `inside` is 0 a coordinate does not count."""
    step = max(1, _DISTANCES // len(table))
    found = []
    squares = table.square()
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        part = vectors[rows] if inside is None else vectors[rows] * inside[rows]
        norms = squares.sum(1) if inside is None else inside[rows] @ squares.T
        found.append((norms - 2 * part @ table.T).argmin(dim=1))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
