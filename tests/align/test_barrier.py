"""Losses along a path, against transformers' own loss of weights mixed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from steelyard.cli.barrier import command
from steelyard.edits.align.barrier import Barrier, BarrierOptions, Place, measure_barrier, shares
from steelyard.errors import UserError

from .networks import FAMILIES, family, write


@given(st.integers(2, 6), st.floats(0, 1))
def test_shares_of_a_path_sum_to_one(count: int, at: float) -> None:
    for path in ("straight", "bezier"):
        found = shares(path, count, at)
        assert found.sum() == pytest.approx(1) and found.min() >= 0
    assert (shares("straight", count, at) > 0).sum() <= 2
    ends = shares("bezier", count, 0.0), shares("straight", count, 1.0)
    assert ends[0][0] == 1 and ends[1][-1] == 1


def test_a_curve_is_that_of_repeated_halving() -> None:
    """De Casteljau's construction, by scalars."""
    points = np.array([2.0, -1.0, 5.0, 3.0])
    for at in (0.1, 0.5, 0.8):
        level = points
        while len(level) > 1:
            level = (1 - at) * level[:-1] + at * level[1:]
        assert shares("bezier", 4, at) @ points == pytest.approx(level[0])


def test_losses_are_those_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folders = [family(tmp_path / str(seed), "llama", seed) for seed in (1, 2)]
    tokens = np.random.default_rng(0).integers(0, 96, 600)
    np.save(tmp_path / "tokens.npy", tokens)
    options = BarrierOptions(data=str(tmp_path / "tokens.npy"), points=3, sequences=4, sequence_length=32)
    found = measure_barrier(folders, options)
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    middle = {name: (weights[0][name] + weights[1][name]) / 2 for name in weights[0]}
    every = [folders[0], write(tmp_path / "middle", FAMILIES["llama"], middle), folders[1]]
    for place, folder in zip(found.places, every, strict=True):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        total = []
        for start in range(0, 128, 32):
            window = torch.tensor(tokens[start : start + 33])
            with torch.no_grad():
                logits = model(window[None, :-1]).logits[0]
            total.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
        assert place.loss == pytest.approx(float(torch.cat(total).mean()), rel=1e-5)
    result = CliRunner().invoke(
        command,
        [
            *map(str, folders),
            "--data",
            str(tmp_path / "tokens.npy"),
            "--points",
            "3",
            "--sequences",
            "4",
            "--sequence-length",
            "32",
            "--plot",
            str(tmp_path / "path.svg"),
            "--json",
        ],
    )
    told = json.loads(result.output)
    assert told["barrier"] == found.height and [p["loss"] for p in told["places"]] == [p.loss for p in found.places]
    drawing = (tmp_path / "path.svg").read_text()
    assert drawing.count("<polyline") == 3 + 5 + 1 and "<style>" in drawing


def test_heights_of_a_barrier() -> None:
    losses = [2.0, 4.0, 3.5, 3.0]
    places = tuple(Place(i / 3, loss, loss, loss, loss - (2 + i / 3)) for i, loss in enumerate(losses))
    found = Barrier(("a", "b"), places, "")
    assert found.height == pytest.approx(4 - (2 + 1 / 3)) and found.above_mean == pytest.approx(1.5)


def test_models_of_other_tensors_have_no_path(tmp_path: Path) -> None:
    one = family(tmp_path / "one", "llama")
    with pytest.raises(UserError, match="there is no path between"):
        measure_barrier([one, family(tmp_path / "two", "llama", num_hidden_layers=3)])
    with pytest.raises(UserError, match=r"down_proj.weight is \[24, 20\] in .*one, \[24, 32\] in .*three"):
        measure_barrier([one, family(tmp_path / "three", "llama", intermediate_size=32)])
    with pytest.raises(UserError, match="two models at least"):
        measure_barrier([one])
    encoder = family(tmp_path / "encoder", "encoder")
    with pytest.raises(UserError, match="is an encoder and has no loss"):
        measure_barrier([encoder, encoder])
