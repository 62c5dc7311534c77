"""A matrix of codewords while it is fitted, and the continuous problems of the fit: tables and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.codecs import CodebookCodec, Codec
from steelyard.errors import UserError

# Where the squared residual has fallen this far, what is left is rounding, which further steps would amplify:
# tables that are added have directions that change nothing.
_CONVERGED = 1e-20


@dataclass(frozen=True)
class Codewords:
    """Codewords that stand for a matrix.

    Attributes:
        codec: how they are stored.
        codes: uint16 [out, groups, codebooks].
        tables: float32 [codebooks, entries, group], holding only numbers of the codec's table dtype.
        scale: float32 [out], holding only numbers of its scale dtype.
        columns: of the matrix.
    """

    codec: CodebookCodec
    codes: np.ndarray
    tables: np.ndarray
    scale: np.ndarray
    columns: int

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts, as the codec packs them."""
        return self.codec.from_codes(self.codes, self.tables, self.scale, (len(self.codes), self.columns))

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return np.ascontiguousarray(self.sums(self.tables)[:, : self.columns] * self.scale[:, None])

    def sums(self, tables: np.ndarray) -> np.ndarray:
        """Return the sums of codewords of given tables, [out, groups * group] in the type of the tables."""
        found = tables[0][self.codes[..., 0]]
        for index in range(1, len(tables)):
            found = found + tables[index][self.codes[..., index]]
        shaped: np.ndarray = found.reshape(len(self.codes), -1)
        return shaped


def codebook_of(codec: Codec, name: str) -> CodebookCodec:
    """Return the codec itself.

    Raises:
        UserError: if it is of another kind.
    """
    if not isinstance(codec, CodebookCodec):
        raise UserError(f"{name} rounds to codebooks, not to {codec.label}; use gptq, or a codebook codec")
    return codec


def losses(fit: Codewords, weight: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return e^T H e of every row with e = weight - decoded, float64 [out]."""
    miss = weight.astype(np.float64) - fit.decode()
    found: np.ndarray = np.einsum("ij,ij->i", miss @ hessian, miss)
    return found


def fitted_scale(fit: Codewords, weight: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return the scale of every row that is best for its codewords, as stored; where none is, that it has."""
    sums = fit.sums(fit.tables)[:, : fit.columns].astype(np.float64)
    image = sums @ hessian
    power = np.einsum("ij,ij->i", image, sums)
    along = np.einsum("ij,ij->i", image, weight)
    best = np.where(power > 0, along / np.where(power > 0, power, 1.0), fit.scale)
    return fit.codec.round_scale(np.where(best == 0, fit.scale, best))


def fitted_tables(fit: Codewords, weight: np.ndarray, hessian: np.ndarray, steps: int) -> np.ndarray:
    """Return all codewords moved towards their joint optimum, as stored: float32 [codebooks, entries, group].

    The codewords that minimise sum over rows of e^T H e solve one linear system; conjugate gradients with its
    diagonal as preconditioner lower the error at every step, from the tables as they are.

    Args:
        fit: with the codes and scales that stay.
        weight: [out, in].
        hessian: float64 [in, in].
        steps: of conjugate gradients.
    """
    codec, columns = fit.codec, fit.columns
    used = np.stack([fit.codes[..., m].astype(np.int64) + m * codec.entries for m in range(codec.codebooks)])
    scale = fit.scale.astype(np.float64)
    count = codec.codebooks * codec.entries
    padding = codec.groups(columns) * codec.group - columns

    def add_up(image: np.ndarray) -> np.ndarray:
        """Return what the rows [out, in] say of every codeword, [codewords, group]."""
        padded = np.pad(image * scale[:, None], ((0, 0), (0, padding))) if padding else image * scale[:, None]
        vectors = padded.reshape(-1, codec.group)
        found = np.empty((count, codec.group))
        for j in range(codec.group):
            column = np.ascontiguousarray(vectors[:, j])
            found[:, j] = sum(np.bincount(each.reshape(-1), column, count) for each in used)
        return found

    def apply(words: np.ndarray) -> np.ndarray:
        sums = fit.sums(words.reshape(fit.tables.shape))[:, :columns]
        return add_up((sums * scale[:, None]) @ hessian)

    tables = fit.tables.reshape(count, -1).astype(np.float64)
    diagonal = add_up(scale[:, None] * np.diagonal(hessian))
    inverse = np.where(diagonal > 0, 1.0 / np.where(diagonal > 0, diagonal, 1.0), 0.0)
    left = add_up((weight - fit.decode().astype(np.float64)) @ hessian)
    turned = inverse * left
    direction, power = turned, float(np.vdot(left, turned))
    enough = _CONVERGED * power
    for _ in range(steps):
        image = apply(direction)
        curvature = float(np.vdot(direction, image))
        if not curvature > 0.0 or power <= enough:
            break
        tables = tables + (power / curvature) * direction
        left = left - (power / curvature) * image
        turned = inverse * left
        power, before = float(np.vdot(left, turned)), power
        direction = turned + (power / before) * direction
    return codec.round_tables(tables.reshape(fit.tables.shape))
