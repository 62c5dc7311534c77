"""Shape: width and depth beside size and data."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, law, scale


@law(
    name="width-depth",
    formula="E + A_w/width^w + A_d/depth^d + A_p/N^p + B/D^b",
    paper="McLeish et al. 2025, arXiv:2502.06857",
    columns={"width": "log", "depth": "log", "N": "log", "D": "log"},
    parameters=(
        scale("A_w", ("w", "width"), low=-5.0),
        exponent("w"),
        scale("A_d", ("d", "depth"), low=-5.0),
        exponent("d"),
        scale("A_p", ("p", "N"), low=-5.0),
        exponent("p"),
        scale("B", ("b", "D"), low=-5.0),
        exponent("b"),
        scale("E", low=-2.0, high=1.5),
    ),
    data="gemstones",
)
def width_depth(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from the shape of a model, its size and its tokens."""
    wide, deep = np.exp(p.A_w - p.w * x.width), np.exp(p.A_d - p.d * x.depth)
    size, data, floor = np.exp(p.A_p - p.p * x.N), np.exp(p.B - p.b * x.D), np.exp(p.E)
    return wide + deep + size + data + floor, (
        wide,
        -wide * x.width,
        deep,
        -deep * x.depth,
        size,
        -size * x.N,
        data,
        -data * x.D,
        floor,
    )
