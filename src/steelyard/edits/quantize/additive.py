"""Additive codebooks for outputs on the calibration inputs: codes by beam search, codewords by least squares."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from pydantic import Field

from steelyard.codecs import CodebookCodec, clustering
from steelyard.edits.quantize._codewords import Codewords, codebook_of, fitted_scale, fitted_tables, losses
from steelyard.edits.quantize.kmeans import KmeansOptions, clustered
from steelyard.edits.quantize.statistics import Statistics, factorize
from steelyard.edits.registry import method
from steelyard.parallel import map_threads

# Columns between two matrix products of the first pass.
_BLOCK = 128
# Rows of the search worked on at a time: bounds the float64 copies.
_ROWS = 512


class AdditiveOptions(KmeansOptions):
    """Options of additive quantization: those of k-means, which it begins with, and its own."""

    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    rounds: int = Field(default=4, ge=0, description="times that codewords, scales and codes are chosen in turn")
    beam: int = Field(
        default=1, ge=1, le=64, description="ways to choose the codes of a row that are kept at a time"
    )
    steps: int = Field(default=8, ge=1, description="steps of conjugate gradients for the codewords of a round")


@method(
    name="additive",
    summary="codebooks for the calibrated outputs: beam search for codes, least squares for codewords and scales",
    paper="Egiazarian et al. 2024, arXiv 2401.06118",
    options=AdditiveOptions,
)
def additive(
    weight: np.ndarray,
    codec: CodebookCodec,
    statistics: Statistics | None = None,
    options: AdditiveOptions | None = None,
) -> Codewords:
    """Choose codebooks, codes and scales that change the outputs on the calibration inputs little.

    K-means weighted by what an error costs once later columns have made up for it gives the first codebooks.
    A first pass chooses the codes group by group, later groups making up for the errors of earlier ones. Then, in
    turn, the codewords of all codebooks are solved for together, the scale of each row, and the codes of each row
    are searched again. Every step is kept only where it lowers the error (w - q)^T H (w - q).

    Args:
        weight: [out, in], any float dtype.
        codec: the codebooks.
        statistics: of the inputs. Without a full second moment this is `kmeans`.
        options: see `AdditiveOptions`.

    Raises:
        UserError: if the codec is another or the statistics do not fit the matrix.

    Source: Egiazarian et al. 2024, arXiv 2401.06118, sections 3.1 (beam search) and 3.2 (codebooks), which are
        solved by conjugate gradients here; the first pass is that of van Baalen et al. 2024, GPTVQ, arXiv
        2402.15319, algorithm 1.
    """
    codec = codebook_of(codec, "additive")
    options = options or AdditiveOptions()
    statistics = statistics or Statistics()
    columns = weight.shape[1]
    moment = statistics.hessian(columns)
    if moment is None or not float(np.trace(moment)) > 0.0:
        return clustered(weight, codec, statistics.importance(columns), options)
    wide = np.asarray(weight, np.float32)
    order = _group_order(np.diagonal(moment), codec.group)
    factor = factorize(np.ascontiguousarray(moment[np.ix_(order, order)]), options.damping, False)
    hessian = 0.5 * (moment + moment.T)
    hessian[np.diag_indices(columns)] += _added(factor.hessian, moment)
    importance = np.empty(columns)
    importance[order] = factor.importance
    start = clustered(wide, codec, importance, options)
    first = replace(start, codes=_compensated(wide, start, order, factor.lower))
    best = _better_rows(start, first, wide, hessian)
    for _ in range(options.rounds):
        before = float(losses(best, wide, hessian).sum())
        best = _improved(
            best, replace(best, tables=fitted_tables(best, wide, hessian, options.steps)), wide, hessian
        )
        best = _better_rows(best, replace(best, scale=fitted_scale(best, wide, hessian)), wide, hessian)
        best = _better_rows(best, replace(best, codes=searched(wide, best, hessian, options.beam)), wide, hessian)
        if float(losses(best, wide, hessian).sum()) > 0.999 * before:
            break
    return best


def searched(weight: np.ndarray, fit: Codewords, hessian: np.ndarray, width: int) -> np.ndarray:
    """Return codes found by one sweep of beam search, uint16 [out, groups, codebooks]."""
    from steelyard.edits.quantize import _additive_kernels

    codec, columns = fit.codec, fit.columns
    groups = codec.groups(columns)
    padded = np.zeros((groups * codec.group, groups * codec.group))
    padded[:columns, :columns] = hessian
    words = np.ascontiguousarray(fit.tables.transpose(0, 2, 1))
    blocks = np.stack(
        [padded[g : g + codec.group, g : g + codec.group] for g in range(0, len(padded), codec.group)]
    )
    tables = fit.tables.astype(np.float64)
    squares = np.stack([np.einsum("mkj,mkj->mk", tables @ block, tables) for block in blocks]).astype(np.float32)
    codes = fit.codes.copy()
    decoded = fit.decode()

    def run(start: int) -> None:
        rows = slice(start, start + _ROWS)
        image = np.zeros((len(decoded[rows]), len(padded)))
        image[:, :columns] = (weight[rows].astype(np.float64) - decoded[rows]) @ hessian
        _additive_kernels.beam_search(image, padded, words, squares, fit.scale[rows], width, codes[rows])

    map_threads(run, range(0, len(codes), _ROWS))
    return codes


def _compensated(weight: np.ndarray, fit: Codewords, order: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return codes chosen group by group, the groups after it making up for the error of each.

    Args:
        weight: [out, in].
        fit: whose tables and scales stay.
        order: [in], the columns in the order they are rounded: whole groups.
        lower: [in, in] in that order, see `Factor`.
    """
    codec, columns = fit.codec, fit.columns
    work = weight[:, order].astype(np.float64)
    errors = np.empty_like(work)
    codes = np.empty_like(fit.codes)
    firsts = [0, *(np.flatnonzero(np.diff(order // codec.group)) + 1), columns]
    scale = fit.scale.astype(np.float64)[:, None]
    block = 0
    for first, last in pairwise(firsts):
        if first - block >= _BLOCK:
            stop = next((edge for edge in firsts if edge >= first + _BLOCK), columns)
            work[:, first:stop] -= errors[:, :first] @ lower[first:stop, :first].T
            block = first
        elif first > block:
            work[:, first:last] -= errors[:, block:first] @ lower[first:last, block:first].T
        # In these coordinates an error costs its square, whatever is done about it later.
        turn = np.linalg.inv(lower[first:last, first:last])
        vectors = ((work[:, first:last] / scale) @ turn.T).astype(np.float32)
        tables = (fit.tables[:, :, : last - first] @ turn.T).astype(np.float32)
        shaped = clustering.Vectors(
            np.ascontiguousarray(vectors[:, None, :]), np.ones((1, last - first), np.float32), np.ones(len(work))
        )
        chosen = clustering.greedy_codes(shaped, tables)
        group = order[first] // codec.group
        codes[:, group] = chosen[:, 0]
        sums = sum(fit.tables[m][chosen[:, 0, m]] for m in range(codec.codebooks))
        errors[:, first:last] = (work[:, first:last] - scale * np.asarray(sums)[:, : last - first]) @ turn.T
    return codes


def _group_order(power: np.ndarray, group: int) -> np.ndarray:
    """Return the columns by whole groups, those of the largest mean power first."""
    starts = np.arange(0, len(power), group)
    means = np.array([power[start : start + group].mean() for start in starts])
    return np.concatenate(
        [np.arange(s, min(s + group, len(power))) for s in starts[np.argsort(-means, kind="stable")]]
    )


def _added(damped: np.ndarray, moment: np.ndarray) -> float:
    return float((np.trace(damped) - np.trace(moment)) / len(moment))


def _better_rows(now: Codewords, trial: Codewords, weight: np.ndarray, hessian: np.ndarray) -> Codewords:
    """Return the codes and scales of the better of two fits with the same tables, row by row."""
    better = losses(trial, weight, hessian) < losses(now, weight, hessian)
    codes = np.where(better[:, None, None], trial.codes, now.codes)
    return replace(now, codes=codes, scale=np.where(better, trial.scale, now.scale))


def _improved(now: Codewords, trial: Codewords, weight: np.ndarray, hessian: np.ndarray) -> Codewords:
    return trial if losses(trial, weight, hessian).sum() < losses(now, weight, hessian).sum() else now
