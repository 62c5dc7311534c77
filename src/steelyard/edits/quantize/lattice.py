"""Round to a grid whose steps follow what errors cost, by row and by column; for codes that are entropy-coded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import GridCodec
from steelyard.codecs.grid import LARGEST, exponents, factors
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method

_ROWS = 1024

# What costs less than this share of the mean is rounded as if it cost that much.
_LEAST = 1e-6


class LatticeOptions(BaseModel):
    """Options of rounding to a grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    block: int = Field(default=128, ge=1, description="columns between two matrix products")
    rows: bool = Field(default=True, description="finer steps for rows whose errors cost more")
    columns: bool = Field(default=True, description="finer steps for columns whose errors cost more")


@dataclass(frozen=True)
class OnGrid:
    """A matrix on a grid.

    Attributes:
        codec: how it is stored.
        stored: its parts.
        shape: of the matrix.
    """

    codec: GridCodec
    stored: Mapping[str, np.ndarray]
    shape: tuple[int, int]

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts."""
        return dict(self.stored)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return self.codec.decode(self.stored, self.shape)


@method(
    name="lattice",
    summary="round column by column to steps that follow what errors cost, for entropy-coded integers",
    paper="reverse water-filling, Cover and Thomas, section 10.3.3; compensation as Frantar et al. 2022",
    options=LatticeOptions,
)
def lattice(
    weight: np.ndarray,
    codec: GridCodec,
    statistics: Statistics | None = None,
    options: LatticeOptions | None = None,
) -> OnGrid:
    """Round a matrix to a grid so that its damage is least for the bits its codes are worth.

    At high rates a weight rounded to a step d costs h - log2(d) bits and an error of d**2 / 12. With compensation
    the damage is the sum of G_i c_j d_ij**2 / 12 over rows i and columns j, c_j = 1 / L_jj**2 for the Cholesky
    factor L of the inverse second moment in the order of rounding. For a given sum of bits it is least where all
    terms are alike: d_ij proportional to (G_i c_j)**(-1/2).

    Args:
        weight: [out, in], any float dtype.
        codec: the grid; its step is the geometric mean of the steps.
        statistics: of the inputs, and what errors of each output cost. Without them all steps are alike.
        options: see `LatticeOptions`.

    Raises:
        UserError: if the statistics do not fit the matrix.
    """
    from steelyard.edits.quantize import _compensation

    options = options or LatticeOptions()
    statistics = statistics or Statistics()
    out, columns = weight.shape
    wide = weight.astype(np.float32)
    factor = statistics.factor(columns, options.damping, True)
    importance = statistics.importance(columns) if factor is None else factor.importance
    cost = statistics.row_weight
    scale = codec.scale_of(wide)
    column_exponent = _steps(importance, options.columns)
    column_step = factors(column_exponent).astype(np.float64)
    row_exponent = _steps(np.ones(out) if cost is None else cost, options.rows)
    # No row may need a code beyond the largest.
    reach = np.abs(wide / column_step.astype(np.float32)).max(axis=1) / (0.95 * LARGEST * scale)
    row_exponent = np.maximum(row_exponent, exponents(reach * 2.0 ** (0.5 / 8)))
    row_step = factors(row_exponent).astype(np.float64) * scale
    codes = np.empty((out, columns), np.int8)
    order = np.arange(columns) if factor is None else factor.order
    lower = None if factor is None else np.ascontiguousarray(factor.lower / column_step[order][:, None])
    for start in range(0, out, _ROWS):
        some = slice(start, start + _ROWS)
        work = np.ascontiguousarray((wide[some] / column_step).T[order], np.float64)
        step = row_step[some][None]
        if lower is None:
            found = np.clip(np.rint(work / step), -LARGEST, LARGEST)
        else:
            found, errors = np.empty_like(work), np.empty_like(work)
            group = np.zeros(columns, np.int64)
            _compensation.compensate(
                work,
                lower,
                0,
                columns,
                options.block,
                np.ascontiguousarray(step),
                np.zeros_like(step),
                group,
                -float(LARGEST),
                float(LARGEST),
                found,
                errors,
            )
        codes[some, order] = found.T
    parts = codec.from_codes(codes, row_exponent, column_exponent, scale)
    return OnGrid(codec, parts, (out, columns))


def _steps(cost: np.ndarray, wanted: bool) -> np.ndarray:
    """Return exponents of steps proportional to cost**(-1/2), their geometric mean 1."""
    floor = _LEAST * max(float(cost.mean()), np.finfo(np.float64).tiny)
    half = -0.5 * np.log2(np.maximum(cost.astype(np.float64), floor))
    return exponents(np.exp2((half - half.mean()) if wanted else np.zeros_like(half)))
