"""Which channels stand out: the shape of every matrix's weights and inputs, and what rounding makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.codecs import IntegerCodec, relative_error

if TYPE_CHECKING:
    from steelyard.jobs import OpenModel
    from steelyard.measure.calibration import Calibration

STANDS_OUT = 6.0
"""A channel stands out if it is this many times the median one. LLM.int8() (arXiv 2208.07339) takes |x| >= 6 where
the median |x| is near 1."""

_TOP = 0.01


@dataclass(frozen=True)
class Channels:
    """How unequal the channels of something are.

    Attributes:
        largest_by_median: root mean square of the strongest channel over that of the median one.
        top_share: share of all energy in the strongest hundredth of the channels (one of them at least).
        outliers: the channels that stand out, strongest first.
    """

    largest_by_median: float
    top_share: float
    outliers: tuple[int, ...]

    @classmethod
    def of(cls, power: np.ndarray) -> Channels:
        """Return that of mean squares by channel [n]."""
        order = np.argsort(-power, kind="stable")
        total, median = float(power.sum()), float(np.median(power))
        ratio = np.sqrt(power / median) if median > 0 else np.where(power > 0, np.inf, 1.0)
        top = power[order[: max(1, int(_TOP * len(power)))]]
        return cls(
            float(ratio.max()),
            float(top.sum()) / total if total else 0.0,
            tuple(int(channel) for channel in order if ratio[channel] >= STANDS_OUT),
        )


@dataclass(frozen=True)
class Diagnosis:
    """What makes one matrix hard to round, or easy.

    Attributes:
        name: of the tensor.
        role: as the spec has it.
        kurtosis: excess kurtosis of its weights; 0 for a normal distribution.
        peak: largest |weight| over the root mean square.
        columns: of the weight: channels of its input.
        rows: of the weight: channels of its output.
        inputs: mean squares of what enters it on text; None where the model was not run.
        range_by_rms: largest |input| over the root mean square of all; None likewise.
        int8: relative error of 8-bit integers with one scale a row.
        int4: of 4-bit integers.
    """

    name: str
    role: str
    kurtosis: float
    peak: float
    columns: Channels
    rows: Channels
    inputs: Channels | None
    range_by_rms: float | None
    int8: float
    int4: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def diagnose(opened: OpenModel, calibration: Calibration | None = None) -> Iterator[Diagnosis]:
    """Yield a diagnosis of every linear map of a model, in its order.

    Args:
        opened: the model; plain floats.
        calibration: of it; without one its inputs are left out.

    Source: Zeng et al. 2022, GLM-130B, arXiv 2210.02414, section 4 and appendix: weight-only INT4 by one scale a
        row costs next to nothing where the weights of a matrix are narrowly spread, which those of GLM-130B are
        and those of BLOOM are not; outliers of activations stand in the way of rounding those.
    """
    spec = opened.spec
    quantizable = set(spec.quantizable())
    for name, tensor in spec.tensors.items():
        if name in quantizable and tensor.kind == "linear" and tensor.is_plain_float:
            weight = opened.checkpoint.tensor(name).astype(np.float32)
            yield _of_one(name, tensor.role or "", weight.T if tensor.transposed else weight, calibration)


def _of_one(name: str, role: str, weight: np.ndarray, calibration: Calibration | None) -> Diagnosis:
    wide = weight.reshape(len(weight), -1).astype(np.float64)
    square = (wide - wide.mean()) ** 2
    variance = float(square.mean())
    inputs = reach = None
    if calibration is not None and name in calibration.about["owner"]:
        power = np.diag(calibration.second_moment(name)).astype(np.float64)
        inputs = Channels.of(power)
        largest = max(float(np.abs(bound).max()) for bound in calibration.input_range(name))
        reach = largest / float(np.sqrt(power.mean()) or 1.0)
    plain = np.ascontiguousarray(wide, np.float32)
    lost = [relative_error(codec, plain, codec.encode(plain, name)) for codec in map(_integers, (8, 4))]
    energy = wide**2
    return Diagnosis(
        name=name,
        role=role,
        kurtosis=float((square**2).mean()) / variance**2 - 3.0 if variance else 0.0,
        peak=float(np.abs(wide).max()) / (float(np.sqrt(energy.mean())) or 1.0),
        columns=Channels.of(energy.mean(axis=0)),
        rows=Channels.of(energy.mean(axis=1)),
        inputs=inputs,
        range_by_rms=reach,
        int8=lost[0],
        int4=lost[1],
    )


def _integers(bits: int) -> IntegerCodec:
    return IntegerCodec(bits, None, True, "F32")


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Return Spearman's correlation of two lists: of their ranks, ties in their order."""
    if len(first) < 3:
        return 0.0
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (first, second)]
    found = np.corrcoef(ranks[0], ranks[1])[0, 1]
    return float(found)
