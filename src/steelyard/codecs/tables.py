"""Tables of values that codes stand for: the k-bit data types, and finding the nearest entry of one.

Source: Dettmers and Zettlemoyer 2023, The case for 4-bit precision; Dettmers et al. 2023, QLoRA (normal floats);
Dettmers 2016, 8-bit approximations (dynamic exponents); Open Compute Project 2023, Microscaling formats.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np

from steelyard.parallel import map_threads

KINDS = ("nf", "float", "dynamic", "fp4", "int")
"""Normal quantiles; sign, exponent, fraction; dynamic exponent; bitsandbytes' own fp4; integers."""

_EXPONENT_BITS = {2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4}
_ROWS = 1 << 14

# The same quantiles as everybody stores them, from an inverse that was a few units less exact in the last place.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@lru_cache(maxsize=32)
def table(kind: str, bits: int) -> np.ndarray:
    """Return the value of every code, float32 [2**bits], the largest magnitude 1; read-only."""
    makers = {"nf": _normal, "float": _float, "dynamic": _dynamic, "fp4": _bitsandbytes_fp4, "int": _integers}
    made = makers[kind](bits)
    values = np.asarray(made, np.float64).astype(np.float32)
    values.setflags(write=False)
    return values


@lru_cache(maxsize=1)
def e2m1() -> np.ndarray:
    """Return the values of 4-bit floats by their bits (sign, two of exponent, one of fraction), float32 [16]."""
    half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([half, -half])
    values.setflags(write=False)
    return values


def encode(weight: np.ndarray, scale: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
    """Return the codes nearest to weight / scale, uint8 [rows, columns], on all processors.

    Args:
        weight: float [rows, columns].
        scale: float [rows, groups].
        group: columns that share a scale.
        values: what each code stands for; of equal values the first code is taken.
    """
    from steelyard.codecs import _lookup

    distinct, first = np.unique(values, return_index=True)
    codes = np.ascontiguousarray(first, np.uint8)
    middles = ((distinct[1:].astype(np.float64) + distinct[:-1]) / 2).astype(np.float32)
    weight, scale = np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(scale, np.float32)
    chosen = np.empty(weight.shape, np.uint8)

    def run(rows: slice) -> None:
        _lookup.nearest(weight[rows], scale[rows], group, middles, codes, chosen[rows])

    map_threads(run, _slices(weight.shape))
    return chosen


def decode(codes: np.ndarray, scale: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
    """Return value * scale of every code, float32 [rows, columns], on all processors."""
    from steelyard.codecs import _lookup

    codes, scale = np.ascontiguousarray(codes), np.require(scale, np.float32, ["C", "A"])
    weight = np.empty(codes.shape, np.float32)

    def run(rows: slice) -> None:
        _lookup.look_up(codes[rows], scale[rows], group, values, weight[rows])

    map_threads(run, _slices(codes.shape))
    return weight


def quantiles(values: np.ndarray, bits: int) -> np.ndarray:
    """Return a table whose entries are used equally often, float32 [2**bits], sorted.

    Entry i is the middle between the quantiles i / 2**bits and (i + 1) / 2**bits.

    Args:
        values: numbers the table is for.
        bits: of a code.

    Source: Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, 2110.02861; the quantile type of
        Dettmers and Zettlemoyer 2023.
    """
    count = 1 << bits
    edges = np.quantile(values.reshape(-1).astype(np.float64), np.arange(count + 1) / count)
    middles: np.ndarray = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
    return middles


def pack_low_first(codes: np.ndarray) -> np.ndarray:
    """Return two 4-bit codes of a row in each byte, the first in its low half: uint8 [rows, ceil(columns / 2)]."""
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // 2) * 2), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return np.ascontiguousarray(padded[:, 0::2] | padded[:, 1::2] << 4)


def unpack_low_first(packed: np.ndarray, columns: int) -> np.ndarray:
    """Undo `pack_low_first`."""
    both = np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
    return np.ascontiguousarray(both[:, :columns])


def _slices(shape: tuple[int, ...]) -> list[slice]:
    step = max(1, _ROWS * 64 // max(1, shape[1]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _normal(bits: int) -> list[float]:
    """QLoRA, equation 4 and appendix E: quantiles of both halves, so that 0 and both ends are exact."""
    half = 1 << (bits - 1)
    offset = 1 - (1 / (2 << bits) + 1 / (2 * ((1 << bits) - 1))) / 2
    if bits == 4:
        return list(_NF4)
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, half + 1)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, half)[:-1]]
    values = sorted([*above, 0.0, *below])
    return [value / values[-1] for value in values]


def _integers(bits: int) -> list[float]:
    """Evenly spaced from -1 to 1 with 0 among them; the one code that is left over is another 0."""
    top = (1 << (bits - 1)) - 1
    return [0.0, *(code / top for code in range(-top, top + 1))] if top else [0.0, 1.0]


def _float(bits: int) -> list[float]:
    """Sign, exponent and fraction with subnormal numbers and neither infinity nor NaN, over the largest."""
    exponent_bits = _EXPONENT_BITS[bits]
    fraction_bits = bits - 1 - exponent_bits
    half = []
    for code in range(1 << (bits - 1)):
        exponent, fraction = code >> fraction_bits, (code & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
        half.append(2.0**exponent * (1 + fraction) if exponent else 2.0 * fraction)
    return [sign * value / half[-1] for sign in (1, -1) for value in half]


def _dynamic(bits: int) -> list[float]:
    """A sign, a run of zeros that counts powers of ten, a one, and what bits remain as a linear fraction."""
    data = [0.0, 1.0]
    for place in range(bits - 1):
        edges = _float32_range(1 << place)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (place - (bits - 2))) * means
        data += [float(sign * value) for value in scaled for sign in (1, -1)]
    return sorted(data)


def _float32_range(steps: int) -> np.ndarray:
    """Return 0.1 to 1 in equal steps, from both ends with one rounding each, as those tables were made."""
    first, last = np.float32(0.1), np.float32(1)
    step = np.float64((last - first) / np.float32(steps))
    places = np.arange(steps + 1)
    up, down = first + step * places, last - step * (steps - places)
    return np.where(places < (steps + 1) // 2, up, down).astype(np.float32)


def _bitsandbytes_fp4(bits: int) -> list[float]:
    assert bits == 4
    half = [0, 0.0625, 8, 12, 4, 6, 2, 3]
    return [value / 12 for value in half] + [-value / 12 for value in half]
