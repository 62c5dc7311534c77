"""Moments of two models' inputs against plain hooks, and orders found by what units do on text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from steelyard.edits.align.activations import windows
from steelyard.edits.align.job import align_folder
from steelyard.edits.align.moments import Moments, collect
from steelyard.edits.align.opened import open_two
from steelyard.edits.align.options import AlignOptions

from .networks import family
from .test_weights import shuffle

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "tokens.npy"
    np.save(file, np.random.default_rng(0).integers(3, 96, 1200))
    return file


@pytest.mark.parametrize("correlate", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert", "encoder"])
def test_a_shuffled_copy_comes_back(tmp_path: Path, tokens: Path, name: str, correlate: bool) -> None:
    original = family(tmp_path / "original", name)
    copy, _ = shuffle(tmp_path / "copy", name, seed=3)
    options = AlignOptions(
        method="activations", data=str(tokens), sequences=16, sequence_length=32, correlate=correlate
    )
    done = align_folder(copy, original, tmp_path / "back", options)
    assert done.same < 1e-12
    if correlate:  # by inner products a loud channel can be worth more than the right one
        assert done.after == 0
        ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("original", "back"))
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    else:
        assert done.after < 0.75 * done.before


def test_moments_are_those_of_plain_hooks(tmp_path: Path, tokens: Path) -> None:
    folders = [family(tmp_path / str(seed), "llama", seed) for seed in (1, 2)]
    with open_two(*folders, same_size=True) as two:
        data = windows(two, str(tokens), 4, 32, 0)
        found = collect(two, data, batch_tokens=64)
    assert len(found) == 2 * 4 + 1
    seen: list[list[np.ndarray]] = [[], []]
    for side, folder in enumerate(folders):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
            lambda _, given, side=side: seen[side].append(given[0].flatten(0, 1).numpy())
        )
        for window in data.windows:
            with torch.no_grad():
                model(torch.from_numpy(window.inputs)[None])
    x, y = (np.concatenate(part).astype(np.float64) for part in seen)
    moments = found["model.layers.1.mlp.down_proj"]
    np.testing.assert_allclose(moments.cross, x.T @ y, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments.second, y.T @ y, rtol=1e-4, atol=1e-3)
    expected = np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]
    np.testing.assert_allclose(moments.likeness(True), expected, atol=1e-4)
    np.testing.assert_allclose(moments.likeness(False), x.T @ y / len(x), rtol=1e-4, atol=1e-4)


def test_moments_of_outputs_are_those_of_the_products() -> None:
    draw = np.random.default_rng(0)
    x, y, w, v = (draw.standard_normal(shape) for shape in ((50, 4), (50, 6), (3, 4), (5, 6)))
    found, expected = Moments.of(x, y).through(w, v), Moments.of(x @ w.T, y @ v.T)
    for name in ("first", "cross", "second", "mean_first", "mean_second"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))
    constant = Moments.of(np.ones((9, 2)), draw.standard_normal((9, 2))).likeness(True)
    assert np.array_equal(constant, np.zeros((2, 2)))
