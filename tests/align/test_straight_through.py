"""Matching by the loss of the mean: never worse than where it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steelyard.edits.align.barrier import BarrierOptions, measure_barrier
from steelyard.edits.align.job import align_folder
from steelyard.edits.align.options import AlignOptions
from steelyard.errors import UserError

from .networks import family


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_mean_does_better_than_where_it_began(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    first, second = (family(tmp_path / str(seed), name, seed) for seed in (1, 2))
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 96, 256) // 3)
    data = str(tmp_path / "tokens.npy")
    middle = []
    for steps in (1, 12):
        options = AlignOptions(
            method="straight-through", data=data, sequences=8, sequence_length=32, steps=steps, learning_rate=0.1
        )
        done = align_folder(second, first, tmp_path / f"out{steps}", options)
        assert done.same < 1e-12
        path = BarrierOptions(data=data, points=3, sequences=8, sequence_length=32)
        middle.append(measure_barrier([first, done.out], path).places[1].loss)
    assert middle[1] < middle[0]
    twice = align_folder(second, first, tmp_path / "twice", options)
    assert (twice.out / "model.safetensors").read_bytes() == (done.out / "model.safetensors").read_bytes()


def test_an_encoder_has_no_loss(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = family(tmp_path / "encoder", "encoder")
    with pytest.raises(UserError, match="no loss to match by; match activations"):
        align_folder(folder, folder, tmp_path / "out", AlignOptions(method="straight-through"))
