"""What stands out is found where it was planted, and the figures are those of their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from steelyard.jobs import open_model
from steelyard.measure.outliers import Channels, diagnose, rank_correlation
from tiny_llama import write_tiny

DOWN = "model.layers.1.mlp.down_proj.weight"


def test_planted_columns_are_found(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    draw = np.random.default_rng(0)
    planted = draw.standard_normal(tensors[DOWN].shape)
    planted[:, [100, 3]] *= [50.0, 20.0]
    tensors[DOWN] = planted.astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with open_model(folder) as opened:
        found = {item.name: item for item in diagnose(opened)}
    assert len(found) == 15 and found["lm_head.weight"].role == "head"
    item = found[DOWN]
    assert item.columns.outliers == (100, 3) and item.rows.outliers == () and item.inputs is None
    energy = (planted**2).sum(axis=0)
    assert item.columns.top_share == pytest.approx(energy.max() / energy.sum(), rel=1e-6)
    wide = planted.astype(np.float32).astype(np.float64).ravel()
    fourth = ((wide - wide.mean()) ** 4).mean() / wide.var() ** 2 - 3
    assert item.kurtosis == pytest.approx(fourth) and fourth > 100
    step = np.abs(planted).max(axis=1, keepdims=True) / 7.5
    rough = np.linalg.norm(np.clip(np.round(planted / step), -8, 7) * step - planted) / np.linalg.norm(planted)
    assert item.int8 < item.int4 == pytest.approx(rough, rel=0.2)


def test_channels_of_nothing_and_of_equals() -> None:
    assert Channels.of(np.zeros(8)) == Channels(1.0, 0.0, ())
    assert Channels.of(np.full(200, 3.0)) == Channels(1.0, pytest.approx(0.01), ())
    assert Channels.of(np.array([0.0, 0.0, 0.0, 1.0])).outliers == (3,)


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 100]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 2], [1, 2]) == 0.0


def test_the_verb_and_a_calibration(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import json

    from click.testing import CliRunner

    from steelyard.budget.prepare import PrepareOptions, prepare_folder
    from steelyard.cli import application

    folder = write_tiny(tmp_path / "model")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(3, 128, 900))
    kept = str(tmp_path / "calibration.safetensors")
    options = PrepareOptions(
        method="smooth", data=str(tmp_path / "tokens.npy"), calibration=kept, sequences=4, sequence_length=32
    )
    prepare_folder(folder, tmp_path / "smooth", options)
    done = CliRunner().invoke(application, ["outliers", str(folder), "--calibration", kept, "--json"])
    assert done.exit_code == 0, done.output
    tensors = {item["name"]: item for item in json.loads(done.output)["tensors"]}
    assert tensors[DOWN]["inputs"]["largest_by_median"] > 1 and tensors[DOWN]["range_by_rms"] > 1
    plain = CliRunner().invoke(application, ["outliers", str(folder), "--layers"])
    assert plain.exit_code == 0 and "rank correlation" in plain.output
