"""The gradients of learned steps, the low-rank sum, oscillation and annealing, each against the papers' words."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import Codec, IntegerCodec, TernaryCodec
from steelyard.edits.tune import registry
from steelyard.edits.tune.l4q import L4qOptions
from steelyard.edits.tune.ofq import OfqOptions
from steelyard.edits.tune.trainable import Moment, Start

torch = pytest.importorskip("torch")

CODECS: tuple[Codec, ...] = (
    IntegerCodec(2, 16, True, "BF16"),
    IntegerCodec(3, 16, False, "F16"),
    IntegerCodec(4, None, True, "F32"),
    TernaryCodec(1, None, "BF16"),
    TernaryCodec(None, None, "F16"),
)


def start_of(codec: Codec, shape: tuple[int, int] = (6, 40), seed: int = 3) -> Start:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return Start("weight", codec, codec.encode(weight), weight)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
@pytest.mark.parametrize("name", ["lsq", "ofq", "l4q"])
def test_training_begins_at_what_is_stored_and_stores_what_it_computes(name: str, codec: Codec) -> None:
    start = start_of(codec)
    tuner = registry.get(name)
    trainable = tuner.function(start, tuner.build(()))
    stored = codec.decode(start.parts, (6, 40))
    np.testing.assert_array_equal(trainable.weight().detach().numpy(), stored)
    target = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32))
    values = [value for group in trainable.groups() for value in group.tensors.values()]
    optimizer = torch.optim.Adam(values, lr=0.05)
    for step in range(8):
        moment = Moment(step, 8)
        trainable.begin(moment)
        (trainable.weight() - target).square().sum().backward()
        trainable.before_update(moment)
        optimizer.step()
        optimizer.zero_grad()
        trainable.after_update(moment)
    seen = trainable.weight().detach().numpy()
    parts = trainable.parts()
    assert {key: (value.dtype, value.shape) for key, value in parts.items()} == {
        key: (value.dtype, value.shape) for key, value in start.parts.items()
    }
    np.testing.assert_array_equal(codec.decode(parts, (6, 40)), seen)
    wanted = target.numpy()
    assert np.square(seen - wanted).sum() < 0.95 * np.square(stored - wanted).sum()


def test_gradients_of_learned_steps_are_those_of_the_paper() -> None:
    from steelyard.edits.tune._fake import round_to_grid

    # Equation 3 of LSQ by hand: one group of four weights, step 0.5, codes from -2 to 1.
    weight = torch.tensor([[[-3.0, -0.3, 0.1, 2.0]]], requires_grad=True)
    step = torch.tensor([[[0.5]]], requires_grad=True)
    scale = torch.tensor([[[0.25]]])
    out = round_to_grid(weight, step, torch.zeros(1, 1, 1), -2, 1, scale)
    np.testing.assert_allclose(out.detach().numpy(), [[[-1.0, -0.5, 0.0, 0.5]]])
    out.backward(torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]))
    # v = -6, -0.6, 0.2, 4: beyond, inside, inside, beyond.
    assert weight.grad is not None and step.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), [[[0.0, 2.0, 4.0, 0.0]]])
    expected = 1 * -2 + 2 * (-1 + 0.6) + 4 * (0 - 0.2) + 8 * 1
    assert float(step.grad) == pytest.approx(0.25 * expected, rel=1e-6)


def test_the_step_gradient_is_the_derivative_where_codes_do_not_change() -> None:
    """Beyond the range the rounded weight is linear in step and zero point, so finite differences are exact."""
    from steelyard.edits.tune._fake import round_to_grid

    weight = torch.full((1, 1, 5), 9.0, dtype=torch.float64)
    values = [torch.tensor([[[0.5]]], dtype=torch.float64), torch.tensor([[[1.0]]], dtype=torch.float64)]

    def loss(step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        one = torch.ones((), dtype=torch.float64)
        return round_to_grid(weight, step, zero, -4, 3, one).square().sum()

    leaves = [value.clone().requires_grad_() for value in values]
    loss(*leaves).backward()
    for which in (0, 1):
        moved = [[v + (sign * 1e-6 if i == which else 0) for i, v in enumerate(values)] for sign in (1, -1)]
        slope = float(loss(*moved[0]) - loss(*moved[1])) / 2e-6
        grad = leaves[which].grad
        assert grad is not None and float(grad) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("codec", [IntegerCodec(3, 16, False, "F32"), IntegerCodec(2, 16, True, "F32")])
def test_the_low_rank_sum_has_the_gradients_of_plain_autograd(codec: IntegerCodec) -> None:
    from steelyard.edits.tune._fake import round_to_grid
    from steelyard.edits.tune._merged import MergedLowRank

    trainable = MergedLowRank(start_of(codec), L4qOptions(rank=3, alpha=0.7))
    with torch.no_grad():
        trainable.b.copy_(torch.linspace(-1, 1, 18).reshape(6, 3))
    wanted = torch.linspace(-2, 2, 240).reshape(6, 40)
    (trainable.weight() * wanted).sum().backward()
    a, b = trainable.a.detach().clone().requires_grad_(), trainable.b.detach().clone().requires_grad_()
    grid, scale = trainable.grid, trainable.scale.detach().clone().requires_grad_()
    merged = trainable.origin + grid.fold(0.7 * (b @ a))
    plain = round_to_grid(merged, scale, trainable.zero, grid.low, grid.high, trainable.step_gradient)
    (grid.unfold(plain) * wanted).sum().backward()
    for found, expected in ((trainable.a, a), (trainable.b, b), (trainable.scale, scale)):
        assert found.grad is not None and expected.grad is not None
        np.testing.assert_allclose(found.grad.numpy(), expected.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_the_low_rank_optimizer_keeps_no_moments_of_the_matrix() -> None:
    codec = IntegerCodec(3, 16, False, "BF16")
    trainable = registry.get("l4q").function(start_of(codec, (64, 256)), L4qOptions(rank=2))
    counts = {name: v.numel() for group in trainable.groups() for name, v in group.tensors.items()}
    assert counts == {"b": 128, "a": 512, "scale": 64 * 16, "zero": 64 * 16}


def test_oscillations_are_counted_exactly() -> None:
    from steelyard.edits.tune._oscillation import Oscillation

    # One row a step. Column 0 jumps to and fro, 1 climbs, 2 rests, 3 climbs, waits, and falls once.
    script = [[1, 1, 0, 1], [0, 2, 0, 1], [1, 3, 0, 0], [0, 3, 0, 0], [1, 3, 0, 0]]
    watched = Oscillation(torch.zeros(4), momentum=0.5)
    for row in script:
        watched.observe(torch.tensor(row))
    assert watched.turns.tolist() == [4, 0, 0, 1]
    # The running frequency of equation 3 by hand.
    frequency = 0.0
    for turned in (0, 1, 1, 1, 1):
        frequency = 0.5 * turned + 0.5 * frequency
    assert watched.frequency[0].item() == pytest.approx(frequency)
    assert watched.report()["turned"] == 0.5


def test_statistical_steps_follow_the_weights() -> None:
    from steelyard.edits.tune._statistical import StatisticalSteps

    codec = IntegerCodec(2, 16, True, "F32")
    trainable = StatisticalSteps(start_of(codec, (4, 32)), OfqOptions(statistic="paper"))
    weight = trainable.float.detach()
    _, scale, _ = trainable.placed()
    # Half of the paper's 2 E|w| for two bits: its levels are half steps of 1/n with n = 2.
    np.testing.assert_allclose(scale.abs().numpy()[..., 0], weight.abs().mean(-1).numpy(), rtol=1e-6)
    with torch.no_grad():
        trainable.float.mul_(3)
    np.testing.assert_allclose(trainable.placed()[1].numpy(), 3 * scale.numpy(), rtol=1e-6)


def test_annealing_moves_only_undecided_weights() -> None:
    from steelyard.edits.tune._statistical import StatisticalSteps

    start = start_of(IntegerCodec(2, 16, True, "F32"), (16, 64))
    trainable = StatisticalSteps(start, OfqOptions(anneal=0.5, boundary=0.3))
    optimizer = torch.optim.Adam([trainable.float], lr=0.01)
    for step in range(4):
        moment = Moment(step, 4)
        free, before = trainable.undecided(), trainable.float.detach().clone()
        trainable.weight().square().sum().backward()
        trainable.before_update(moment)
        optimizer.step()
        optimizer.zero_grad()
        trainable.after_update(moment)
        moved = trainable.float.detach() != before
        assert bool(moved.any())
        if step < 2:
            assert bool((moved & ~free).any())
        else:
            assert not bool((moved & ~free).any())
