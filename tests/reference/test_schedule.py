from __future__ import annotations

import itertools

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions
from steelyard.reference.schedule import batch_at, rate_factor


def test_rate_rises_stays_and_falls_to_nearly_zero() -> None:
    options = TrainOptions(steps=100, decay_steps=20, warmup_steps=10)
    rates = [rate_factor(step, options) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:80]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[79:]))
    # Of 21 intervals the last step ends after 20: 1 - sqrt(20 / 21).
    assert rates[-1] == pytest.approx(1 - (20 / 21) ** 0.5)


def test_a_longer_run_is_the_same_until_the_shorter_one_decays() -> None:
    stream = np.arange(5000, dtype=np.uint16)
    short = TrainOptions(steps=50, decay_steps=10, batch=4, sequence=16)
    long = TrainOptions(steps=90, decay_steps=10, batch=4, sequence=16)
    for step in range(40):
        assert rate_factor(step, short) == rate_factor(step, long)
        assert (batch_at(stream, step, short) == batch_at(stream, step, long)).all()


def test_an_epoch_sees_every_window_at_most_once_and_epochs_differ() -> None:
    options = TrainOptions(steps=1000, decay_steps=0, batch=4, sequence=16)
    stream = np.arange(1000, dtype=np.uint16)
    per_epoch = ((len(stream) - 17) // 16) // 4
    first = np.concatenate([batch_at(stream, step, options)[:, 0] for step in range(per_epoch)])
    second = np.concatenate([batch_at(stream, step, options)[:, 0] for step in range(per_epoch, 2 * per_epoch)])
    assert len(set(first)) == len(first) == per_epoch * 4
    assert len(set(first // 16)) == len(first)
    assert sorted(first) != sorted(second) or list(first) != list(second)
    windows = batch_at(stream, 3, options)
    assert (np.diff(windows, axis=1) == 1).all(), "a window is a stretch of the stream"


def test_windows_of_the_decay_are_longer_and_fewer() -> None:
    options = TrainOptions(steps=20, decay_steps=5, batch=4, sequence=16, decay_stretch=2)
    stream = np.arange(2000, dtype=np.uint16)
    assert batch_at(stream, 14, options).shape == (4, 17)
    assert batch_at(stream, 15, options).shape == (2, 33)


def test_too_short_a_corpus_is_refused() -> None:
    with pytest.raises(UserError, match="100 tokens, too few"):
        batch_at(np.zeros(100, np.uint16), 0, TrainOptions(steps=10, decay_steps=0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5, "decay_steps": 6}, "decay_steps 6 exceeds steps 5"),
        ({"batch": 3}, "decay_stretch 2 must divide batch 3"),
        ({"heads": 7}, "heads 7 must divide hidden 256"),
    ],
)
def test_options_that_do_not_fit_name_both_values(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainOptions(**values)


def test_trilm_falls_linearly_from_a_lower_peak_after_half_and_decays_no_weights_at_the_end() -> None:
    from steelyard.reference.schedule import decay_factor

    options = TrainOptions(steps=90, warmup_steps=10, decay_steps=0, falling="trilm")
    factors = [rate_factor(step, options) for step in range(90)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1 and factors[30] == pytest.approx(60 / 80)
    assert factors[44] == pytest.approx(46 / 80) and factors[45] == pytest.approx(2 / 3 * 45 / 80)
    assert [decay_factor(step, options) for step in (0, 59, 60, 89)] == [1, 1, 0, 0]
    assert options.context == options.sequence
