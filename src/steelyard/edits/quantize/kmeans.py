"""Codebooks by k-means, weighted by the power of the inputs."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import CodebookCodec, clustering
from steelyard.edits.quantize._codewords import Codewords, codebook_of
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method


class KmeansOptions(BaseModel):
    """Options of k-means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(default=12, ge=0, description="rounds of k-means for each codebook")
    seed: int = Field(default=0, description="seed of the first codewords")


@method(
    name="kmeans",
    summary="codebooks by k-means weighted by the calibrated power, each of what those before it leave",
    paper="Lloyd 1982; Arthur and Vassilvitskii 2007",
    options=KmeansOptions,
)
def kmeans(
    weight: np.ndarray,
    codec: CodebookCodec,
    statistics: Statistics | None = None,
    options: KmeansOptions | None = None,
) -> Codewords:
    """Choose codebooks for a matrix, and the nearest codeword of each in turn.

    Args:
        weight: [out, in], any float dtype.
        codec: the codebooks.
        statistics: of the inputs; the mean square of each input weighs its errors. None weighs all alike.
        options: see `KmeansOptions`.

    Raises:
        UserError: if the codec is another or the statistics do not fit the matrix.
    """
    codec = codebook_of(codec, "kmeans")
    importance = (statistics or Statistics()).importance(weight.shape[1])
    return clustered(weight, codec, importance, options or KmeansOptions())


def clustered(
    weight: np.ndarray, codec: CodebookCodec, importance: np.ndarray, options: KmeansOptions
) -> Codewords:
    """Return codebooks by k-means, errors weighted by `importance` [in]; none anywhere counts as one everywhere."""
    counts = importance if importance.any() else np.ones_like(importance)
    scale = codec.row_scale(weight, counts)
    vectors = clustering.Vectors.of(weight, scale, codec.group, counts)
    found = clustering.residual_codebooks(vectors, codec.codebooks, codec.entries, options.iterations, options.seed)
    tables = codec.round_tables(found)
    return Codewords(codec, clustering.greedy_codes(vectors, tables), tables, scale, weight.shape[1])
