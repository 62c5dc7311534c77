"""NUPES: integers raised to a power, the exponent searched and then learned together with the codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import PowerCodec
from steelyard.codecs.power import LEAST, MOST
from steelyard.codecs.power import levels as power_levels
from steelyard.edits.quantize import _levels
from steelyard.edits.quantize._grid import number_of
from steelyard.edits.quantize._levels import Levels
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError

# Rows the search for an exponent looks at, spread evenly over the matrix.
_SEEN = 64


class NupesOptions(BaseModel):
    """Options of NUPES."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    block: int = Field(default=128, ge=1, description="columns between two matrix products")
    sweeps: int = Field(default=3, ge=0, description="sweeps of codes over all levels, and of scales")
    rounds: int = Field(default=2, ge=0, description="steps of the exponent, each followed by sweeps")
    step: float = Field(default=0.125, gt=0, le=1, description="distance of the exponents searched at first")


@dataclass(frozen=True)
class Powers:
    """Power codes that stand for a matrix.

    Attributes:
        codec: how they are stored.
        codes: int8 [out, in].
        scale: float32 [out, groups], holding only numbers of the codec's scale dtype.
        exponent: of the levels.
    """

    codec: PowerCodec
    codes: np.ndarray
    scale: np.ndarray
    exponent: float

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts."""
        return self.codec.from_codes(self.codes, self.scale, self.exponent)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return self.codec.decode(self.parts(), self.codes.shape)


@method(
    name="nupes",
    summary="power codes: search the exponent, then learn codes over all levels, scales and exponent together",
    paper="Yvinec et al. 2023, arXiv 2308.05600",
    options=NupesOptions,
)
def nupes(
    weight: np.ndarray,
    codec: PowerCodec,
    statistics: Statistics | None = None,
    options: NupesOptions | None = None,
) -> Powers:
    """Round a matrix to power codes so that its outputs on the calibration inputs change little.

    The loss is that of the matrix's outputs, (w - q)^T H (w - q). Any code may move to any level, as in the paper,
    whose gradient descent on soft codes is replaced by exact descent: one code after the other goes to its best
    level given all the rest. The exponent then takes a Gauss-Newton step given the codes, and everything follows;
    a step that does not pay is cut to a quarter and then dropped. Columns are rounded in GPTQ's order at first.

    Args:
        weight: [out, in], any float dtype.
        codec: power codes; with a given exponent only codes and scales are learned.
        statistics: of the inputs. Without a full second moment (PowerQuant, the case without data) exponent and
            scales are searched for the least weighted squared error.
        options: see `NupesOptions`.

    Returns:
        The codes, scales and exponent.

    Raises:
        UserError: if the codec is another, or the statistics do not fit the matrix.

    Source: Yvinec et al. 2023, NUPES, arXiv 2308.05600; the search without data, PowerQuant, arXiv 2301.09858.
    """
    if not isinstance(codec, PowerCodec):
        raise UserError(f"nupes rounds to power codes, not to {codec.label}")
    options = options or NupesOptions()
    statistics = statistics or Statistics()
    columns = weight.shape[1]
    factor = statistics.factor(columns, options.damping, True)
    importance = statistics.importance(columns) if factor is None else factor.importance
    rows = np.ascontiguousarray(np.asarray(weight, np.float32).T, dtype=np.float64)
    exponent = codec.exponent
    if exponent is None:
        seen = np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // _SEEN)])
        exponent = _search(seen, importance, codec, options.step)
    levels = _levels_of(codec, columns, exponent)
    scale, _ = _levels.scales(rows, importance, levels, True)
    if factor is None:
        return _finish(codec, _levels.nearest(rows, scale, levels), scale, exponent)
    codes = _levels.compensated(rows, scale, levels, factor, options.block, options.sweeps)
    if codec.exponent is None:
        codes, scale, exponent = _learn(rows, codes, scale, exponent, codec, factor, options)
    return _finish(codec, codes, scale, exponent)


def _search(rows: np.ndarray, importance: np.ndarray, codec: PowerCodec, step: float) -> float:
    """Return the exponent on a grid of `step` around 1 whose best scales lose the least; downhill from 1."""

    def loss(place: int) -> float:
        if place not in known:
            exponent = 1 + place * step
            inside = LEAST <= exponent <= MOST
            levels = _levels_of(codec, len(rows), exponent) if inside else None
            known[place] = np.inf if levels is None else _levels.scales(rows, importance, levels, True)[1]
        return known[place]

    known: dict[int, float] = {}
    place = 0
    while True:
        best = min((place, place - 1, place + 1), key=loss)
        if best == place:
            return 1 + place * step
        place = best


def _learn(
    rows: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    exponent: float,
    codec: PowerCodec,
    factor: Factor,
    options: NupesOptions,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Move exponent, scales and codes in turn for as long as the loss falls."""
    levels = _levels_of(codec, len(rows), exponent)
    best = _levels.lost(rows, codes, scale, levels, factor.hessian)
    magnitudes = np.abs(np.arange(len(levels.values)) - len(levels.values) // 2)
    logarithms = np.log(np.maximum(magnitudes, 1))
    for _ in range(options.rounds):
        values = levels.decode(codes, scale)
        # dq / dexponent = q log|code|, and q is linear in it over a small step.
        direction = values * logarithms[codes]
        image = factor.hessian @ direction
        bent = float(np.einsum("ir,ir->", direction, image))
        slope = float(np.einsum("ir,ir->", rows - values, image))
        if bent <= 0.0:
            break
        step = slope / bent
        for share in (1.0, 0.25):
            wanted = float(np.float32(np.clip(exponent + share * step, LEAST, MOST)))
            trial = _levels_of(codec, len(rows), wanted)
            # The largest level keeps its place; all others move under it.
            largest = float(magnitudes.max())
            moved = trial.stored(scale * largest ** (exponent - wanted))
            trial_codes = codes.copy()
            _levels.refined(rows, trial_codes, moved, trial, factor, options.sweeps)
            now = _levels.lost(rows, trial_codes, moved, trial, factor.hessian)
            if now < best:
                codes, scale, exponent, levels, best = trial_codes, moved, wanted, trial, now
                break
        else:
            break
    return codes, scale, exponent


def _levels_of(codec: PowerCodec, columns: int, exponent: float) -> Levels:
    values = power_levels(codec.bits, exponent).astype(np.float64)
    return Levels(values, _levels.bounds_of(columns, codec.group_size), number_of(codec.scale_dtype))


def _finish(codec: PowerCodec, codes: np.ndarray, scale: np.ndarray, exponent: float) -> Powers:
    signed = (codes - (1 << (codec.bits - 1))).astype(np.int8)
    stored = np.ascontiguousarray(scale.T, dtype=np.float32)
    return Powers(replace(codec), np.ascontiguousarray(signed.T), stored, exponent)
