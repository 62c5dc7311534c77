"""Columns that cost the most are kept as floats, and make up for the errors of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from steelyard.codecs import IntegerCodec
from steelyard.codecs.outliers import OutlierCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError


class OutlierOptions(GptqOptions):
    """Options of columns kept apart: those of GPTQ, which rounds the others."""

    compensate: bool = Field(
        default=True, description="let the columns kept apart make up for errors of the others"
    )


@dataclass(frozen=True)
class Apart:
    """Integers and the columns kept apart from them.

    Attributes:
        codec: how both are stored.
        base: the integers, [out, in - columns].
        kept: the columns kept apart, float32 [out, columns].
        columns: which they are, rising, int32 [columns].
    """

    codec: OutlierCodec
    base: Rounded
    kept: np.ndarray
    columns: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts of both."""
        return self.codec.join(self.base.parts(), self.kept, self.columns)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        out, rest = self.base.codes.shape
        return self.codec.decode(self.parts(), (out, rest + len(self.columns)))


@method(
    name="outliers",
    summary="keep the columns whose rounding costs the most as floats, round the others by GPTQ",
    paper="Lee et al. 2023, arXiv 2306.02272",
    options=OutlierOptions,
)
def keep_outliers(
    weight: np.ndarray,
    codec: OutlierCodec,
    statistics: Statistics | None = None,
    options: OutlierOptions | None = None,
) -> Apart:
    """Round a matrix all but for a few columns.

    Column j is worth H_jj |w_j - round(w_j)|^2, with H the second moment of the inputs. The dearest are kept apart.
    GPTQ rounds the others under the Schur complement H_BB - H_BK H_KK^-1 H_KB: what an error costs once the columns
    kept apart have made up for it as well as they can, W_K + (W_B - Q) H_BK H_KK^-1, which they then do.

    Args:
        weight: [out, in], any float dtype.
        codec: columns kept apart from integers.
        statistics: of the inputs; without a full second moment the others are rounded to nearest.
        options: see `OutlierOptions`.

    Raises:
        UserError: if the statistics do not fit the matrix, or the base is not integers.

    Source: Lee et al. 2023, OWQ, arXiv 2306.02272, equation 5 for the worth of a column. There the columns kept
        apart stay as they are; the compensation is the least-squares solution of the same objective.
    """
    options, statistics = options or OutlierOptions(), statistics or Statistics()
    if not isinstance(codec.base, IntegerCodec):
        raise UserError(f"columns are kept apart from integers when rounding, not from {codec.base.label}")
    codec.inner(weight.shape)
    wide, columns = weight.astype(np.float64), weight.shape[1]
    power = statistics.importance(columns)
    nearest = round_to_nearest(weight, codec.base, statistics, RtnOptions(search=False)).decode()
    apart = codec.strongest(power * ((nearest - wide) ** 2).sum(axis=0))
    rest = codec.others(weight.shape, apart)
    kept = wide[:, apart]
    factor = statistics.factor(columns, options.damping, options.activation_order)
    if factor is None:
        known = None if statistics.second_moment is None else power[rest]
        base = round_to_nearest(weight[:, rest], codec.base, Statistics(known), RtnOptions(search=options.search))
        return Apart(codec, base, kept.astype(np.float32), apart)
    hessian = factor.hessian
    across = np.linalg.solve(hessian[np.ix_(apart, apart)], hessian[np.ix_(apart, rest)])
    left = hessian[np.ix_(rest, rest)]
    if options.compensate:
        left = left - hessian[np.ix_(rest, apart)] @ across
    # What is left has been damped already.
    base = gptq(weight[:, rest], codec.base, Statistics(left), options.model_copy(update={"damping": 1e-6}))
    if options.compensate:
        kept = kept + (wide[:, rest] - base.decode()) @ across.T
    return Apart(codec, base, kept.astype(np.float32), apart)
