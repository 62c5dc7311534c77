"""Training of codes: what is stored is what was trained, and a V step never goes against its quadratic model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from steelyard.codecs import CodebookCodec, Codec, IntegerCodec, TernaryCodec  # noqa: E402
from steelyard.edits.tune import registry  # noqa: E402
from steelyard.edits.tune._discrete import DiscreteTraining, Reach, discrete_step  # noqa: E402
from steelyard.edits.tune.protocol import quantized  # noqa: E402
from steelyard.edits.tune.trainable import Moment, Start, Trainable  # noqa: E402

CODECS: tuple[Codec, ...] = (
    CodebookCodec(1, 4, 4),
    CodebookCodec(2, 3, 5, "F32", "F8_E4M3"),
    IntegerCodec(2, 16, False),
    IntegerCodec(3, None, True, "F16"),
    TernaryCodec(1, None),
)
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(codec: Codec, shape: tuple[int, int] = (24, 48)) -> Start:
    weight = (np.random.default_rng(1).standard_normal(shape) * 0.05).astype(np.float32)
    return Start("w", codec, codec.encode(weight), weight)


def quadratic(codec: Codec) -> tuple[Start, Tensor, Tensor]:
    """A start, the optimum of 1/2 (x - t) A (x - t)^T, and A with largest eigenvalue 1."""
    begun = start(codec)
    draw = torch.Generator().manual_seed(3)
    mixing = torch.randn(48, 48, generator=draw)
    curvature = mixing @ mixing.T
    curvature /= torch.linalg.eigvalsh(curvature)[-1]
    target = torch.from_numpy(begun.weight) + 0.03 * torch.randn(24, 48, generator=draw)
    return begun, target, curvature


def value(weight: Tensor, target: Tensor, curvature: Tensor) -> Tensor:
    miss = weight - target
    return 0.5 * ((miss @ curvature) * miss).sum()


@every_codec
def test_what_is_stored_is_what_training_sees(codec: Codec) -> None:
    begun = start(codec)
    matrix = quantized(begun)
    np.testing.assert_array_equal(matrix.dequantize().detach().numpy(), codec.decode(begun.parts, (24, 48)))
    everything = torch.arange(len(matrix.codes))
    seen = matrix.units(matrix.dequantize().detach())
    torch.testing.assert_close(matrix.values(matrix.codes, everything), seen, rtol=1e-6, atol=1e-8)
    for key, part in matrix.parts().items():
        np.testing.assert_array_equal(part, begun.parts[key])


@every_codec
def test_projection_is_the_nearest_by_brute_force_and_never_further(codec: Codec) -> None:
    matrix = quantized(start(codec))
    target = matrix.units(0.05 * torch.randn(24, 48, generator=torch.Generator().manual_seed(0)))
    chosen = torch.arange(0, len(matrix.codes), 3)
    codes = matrix.project(target[chosen], chosen)

    def distance(codes: Tensor) -> Tensor:
        return (matrix.values(codes, chosen) - target[chosen]).square().sum(1)

    assert (distance(codes) <= distance(matrix.codes[chosen]) + 1e-9).all()
    if matrix.codes.shape[1] == 1:
        low, high = {"codebook": (0, 15)}.get(codec.name, getattr(codec, "code_range", (-1, 1)))
        every = torch.stack([distance(torch.full_like(codes, code)) for code in range(low, high + 1)])
        torch.testing.assert_close(distance(codes), every.min(0).values, rtol=1e-5, atol=1e-9)


@every_codec
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_v_step_never_raises_a_quadratic(codec: Codec, share: float) -> None:
    # Projecting x - g / L onto the codes of a subspace minimises an upper bound that touches the loss at x.
    begun, target, curvature = quadratic(codec)
    matrix = quantized(begun)
    values = []
    for _ in range(6):
        weight = matrix.dequantize().detach()
        values.append(float(value(weight, target, curvature)))
        discrete_step(matrix, weight - (weight - target) @ curvature, Reach(share, None))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(values))
    # Small subspaces may find no better code; all of them together do.
    assert share < 1 or values[-1] < values[0]


@every_codec
def test_a_step_stays_within_its_reach(codec: Codec) -> None:
    begun, target, _ = quadratic(codec)
    matrix = quantized(begun)
    before, codes = matrix.dequantize().detach(), matrix.codes.clone()
    changed = discrete_step(matrix, target, Reach(0.05, None))
    assert changed == float((codes != matrix.codes).any(1).float().mean()) or changed <= 0.05 + 1 / len(codes)
    assert changed <= 0.05 + 1 / len(codes)
    matrix = quantized(begun)
    discrete_step(matrix, target, Reach(1.0, 0.02))
    moved = matrix.units(matrix.dequantize().detach() - before).square().sum(1)
    # All changes but one lie within the trust.
    assert float((moved.sum() - moved.max()).clamp(min=0).sqrt()) <= 0.02 * float(before.norm()) * (1 + 1e-5)
    assert discrete_step(matrix, target, Reach(0.0, None)) == 0.0


def train(trainable: Trainable, target: Tensor, curvature: Tensor, steps: int, first: int = 0) -> float:
    """Train as the loop does; return the value at the end."""
    groups = [{"params": list(g.tensors.values()), "lr": 0.01 * g.scale} for g in trainable.groups()]
    optimizer = torch.optim.Adam(groups)
    for step in range(first, steps):
        moment = Moment(step, steps)
        trainable.begin(moment)
        value(trainable.weight(), target, curvature).backward()
        trainable.before_update(moment)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        trainable.after_update(moment)
    return float(value(trainable.weight().detach(), target, curvature))


@every_codec
def test_both_learn_with_the_same_bytes_and_pv_beats_continuous_parameters_alone(codec: Codec) -> None:
    begun, target, curvature = quadratic(codec)
    first = float(value(torch.from_numpy(codec.decode(begun.parts, (24, 48))), target, curvature))
    reached = {}
    for label, name, settings in (
        ("pv", "pv", ("share=0.05", "trust=0.1", "travel=1")),
        ("p", "pv", ("share=0",)),
        ("straight-through", "straight-through", ("travel=1",)),
    ):
        tuner = registry.get(name)
        assert tuner.takes(codec)
        trained = tuner.function(begun, tuner.settings(settings))
        reached[label] = train(trained, target, curvature, 40)
        parts = trained.parts()
        assert sum(part.nbytes for part in parts.values()) == codec.nbytes((24, 48))
        np.testing.assert_array_equal(codec.decode(parts, (24, 48)), trained.weight().detach().numpy())
        assert trained.report()["moved"] == 0.0 if label == "p" else trained.report()["moved"] > 0.0
    assert reached["pv"] < reached["p"] < first
    assert reached["straight-through"] < first


def test_a_run_goes_on_where_it_was_saved() -> None:
    begun, target, curvature = quadratic(CODECS[0])
    reach = Reach(0.1, 0.1)

    def fresh() -> DiscreteTraining:
        return DiscreteTraining(quantized(begun), reach, 0.01, 0.5, 0.7)

    def steps(trained: DiscreteTraining, first: int, last: int) -> None:
        for step in range(first, last):
            value(trained.weight(), target, curvature).backward()
            trained.before_update(Moment(step, 8))
            for group in trained.groups():
                for tensor in group.tensors.values():
                    tensor.grad = None
            trained.after_update(Moment(step, 8))

    whole, half = fresh(), fresh()
    steps(whole, 0, 8)
    steps(half, 0, 4)
    other = fresh()
    other.load({name: tensor.clone() for name, tensor in half.state().items()})
    steps(other, 4, 8)
    assert torch.equal(whole.matrix.codes, other.matrix.codes)
    assert whole.report() == other.report()
