"""Half-quadratic rounding against a plain version of its equations."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize.hqq import HqqOptions, half_quadratic
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest

from .matrices import correlated


def plain(weight: np.ndarray, codec: IntegerCodec, options: HqqOptions) -> np.ndarray:
    """One group of one row after another, with numpy's own functions."""
    begun = round_to_nearest(weight, codec, options=RtnOptions(search=False))
    low, high = codec.code_range
    grid = Grid.of(codec, weight.shape[1])
    decoded = np.empty(weight.shape)
    for r in range(len(weight)):
        for g in range(grid.groups):
            w = weight[r, grid.bounds[g] : grid.bounds[g + 1]].astype(np.float64)
            s = float(begun.scale[r, g])
            z = 0.0 if begun.zero is None else float(begun.zero[r, g])
            found = []
            for beta in options.strength * options.growth ** np.arange(options.iterations + 1):
                q = np.clip(np.rint(w / s + z), low, high)
                e = w - (q - z) * s
                found.append((float((np.abs(e) ** options.norm).sum()), (q - z) * s))
                size = np.where(e == 0, 1.0, np.abs(e) / abs(s))
                outlier = np.sign(e) * np.maximum(size - size ** (options.norm - 1) / beta, 0) * abs(s)
                t = w - outlier
                if not codec.symmetric:
                    slope, constant = np.polyfit(q, t, 1)
                    z = float(np.clip(np.rint(-constant / slope), low, high))
                s = float(t @ (q - z) / ((q - z) @ (q - z)))
                s = float(grid.stored(np.array([s]))[0])
            decoded[r, grid.bounds[g] : grid.bounds[g + 1]] = min(found, key=lambda item: item[0])[1]
    return decoded


@pytest.mark.parametrize(
    "codec", [IntegerCodec(3, 32, False, "F16"), IntegerCodec(4, 16, True), IntegerCodec(2, 32, False)]
)
def test_as_the_plain_version(codec: IntegerCodec) -> None:
    weight, _ = correlated(3, 8, 80)
    options = HqqOptions(iterations=6)
    np.testing.assert_allclose(
        half_quadratic(weight, codec, options=options).decode(), plain(weight, codec, options), rtol=1e-5, atol=1e-9
    )


def test_small_errors_are_many_and_large_ones_few() -> None:
    weight, _ = correlated(4, 64, 128)
    codec = IntegerCodec(3, 64, False)
    norms = {}
    for name, result in {
        "hqq": half_quadratic(weight, codec),
        "extremes": round_to_nearest(weight, codec, options=RtnOptions(search=False)),
        "squares": round_to_nearest(weight, codec),
    }.items():
        miss = np.abs(result.decode().astype(np.float64) - weight)
        norms[name] = (miss**0.7).sum(), (miss**2).sum()
    assert norms["hqq"][0] < norms["squares"][0] and norms["hqq"][0] < norms["extremes"][0]
    assert norms["squares"][1] < norms["hqq"][1]
