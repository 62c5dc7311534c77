"""Sign-gradient rounding against torch's own gradients, and against what it begins with."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.sign_gradient import SignGradientOptions, sign_gradient
from steelyard.edits.quantize.statistics import Statistics

from .matrices import correlated


@pytest.mark.parametrize("symmetric", [True, False])
def test_steps_follow_the_gradients_of_torch(symmetric: bool) -> None:
    torch = pytest.importorskip("torch")
    weight, moment = correlated(5, 12, 64)
    codec = IntegerCodec(3, 32, symmetric, "F32")
    options = SignGradientOptions(iterations=8, rate=0.2, share_rate=0.05, search=False)
    low, high = codec.code_range
    w = torch.tensor(weight, dtype=torch.float64).reshape(12, 2, 32)
    h = torch.tensor(moment + 0.01 * np.trace(moment) / 64 * np.eye(64))
    begun = round_to_nearest(weight, codec, Statistics(moment), RtnOptions(search=False))
    scale0 = torch.tensor(begun.scale, dtype=torch.float64)
    zero0 = torch.zeros_like(scale0) if begun.zero is None else torch.tensor(begun.zero, dtype=torch.float64)
    v = torch.zeros_like(w, requires_grad=True)
    first = torch.ones_like(scale0, requires_grad=True)
    last = torch.ones_like(scale0, requires_grad=True)

    def through(x: torch.Tensor) -> torch.Tensor:
        return x + (x.round() - x).detach()

    best = torch.full((12,), torch.inf, dtype=torch.float64)
    kept = torch.zeros_like(w)
    for step in range(9):
        if symmetric:
            scale, zero = last * scale0, zero0
        else:
            begin, end = first * scale0 * (low - zero0), last * scale0 * (high - zero0)
            scale = (end - begin) / (high - low)
            zero = through(low - begin / scale)
        code = torch.clamp(through(w / scale[..., None] + v + zero[..., None]), low, high)
        q = (code - zero[..., None]) * scale[..., None]
        miss = (q - w).reshape(12, 64)
        loss = torch.einsum("ij,jk,ik->i", miss, h, miss)
        better = loss.detach() < best
        best[better], kept[better] = loss.detach()[better], q.detach()[better]
        gradients = torch.autograd.grad(loss.sum(), [v, last] if symmetric else [v, last, first])
        left = 1 - step / 8
        with torch.no_grad():
            v -= 0.2 * left * gradients[0].sign()
            v.clamp_(-0.5, 0.5)
            for share, gradient in zip((last, first), gradients[1:], strict=False):
                share -= 0.05 * left * gradient.sign()
                share.clamp_(0.5, 1.5)
    found = sign_gradient(weight, codec, Statistics(moment), options).decode()
    np.testing.assert_allclose(found, kept.reshape(12, 64).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("codec", [IntegerCodec(2, 32, False), IntegerCodec(4, 32, True)])
def test_no_row_loses_more_than_under_rounding_to_nearest(codec: IntegerCodec) -> None:
    weight, moment = correlated(6, 32, 96)
    statistics = Statistics(moment)
    damped = moment + 0.01 * np.trace(moment) / 96 * np.eye(96)

    def lost(decoded: np.ndarray) -> np.ndarray:
        miss = decoded.astype(float) - weight
        return np.asarray(np.einsum("ij,jk,ik->i", miss, damped, miss))

    nearest = lost(round_to_nearest(weight, codec, statistics).decode())
    learned = lost(sign_gradient(weight, codec, statistics).decode())
    swept = lost(sign_gradient(weight, codec, statistics, SignGradientOptions(sweeps=2)).decode())
    assert (learned <= nearest * (1 + 1e-4)).all() and learned.sum() < 0.8 * nearest.sum()
    assert (swept <= learned * (1 + 1e-4)).all()
