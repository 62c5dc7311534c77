"""Every method of mergekit 0.1.5 against its own output, see benchmarks/peers/merge_golden.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from merge.cutting import merged
from steelyard.edits.merge.registry import methods

_GOLDEN = Path(__file__).parent / "golden"
_RUNS = 4000


def _cases(file: str) -> list[str]:
    with np.load(_GOLDEN / file) as arrays:
        return [key for key in arrays.files if key.startswith("[")]


@pytest.mark.parametrize("key", _cases("deterministic.npz"))
@pytest.mark.parametrize("entries", [1 << 16, 37])
def test_as_mergekit(key: str, entries: int) -> None:
    name, shape, models, has_base, options, per_model = json.loads(key)
    with np.load(_GOLDEN / "deterministic.npz") as arrays:
        tensors, expected = arrays[shape], arrays[key]
    used = tensors[: models + 1] if has_base else tensors[1 : models + 1]
    found = merged(name, used, 0 if has_base else None, options, per_model, entries=entries)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("key", _cases("random.npz"))
def test_as_mergekit_in_distribution(key: str) -> None:
    """Means and mean squares of every entry over many seeds lie within five standard errors of mergekit's."""
    name, _, models, _, options, per_model = json.loads(key)
    with np.load(_GOLDEN / "random.npz") as arrays:
        tensors, (mean, square) = arrays["tensors"], arrays[key]
    used = tensors[: models + 1]
    runs = 1000
    found = np.stack([merged(name, used, 0, options, per_model, seed=seed) for seed in range(runs)]).astype(float)
    spread = np.sqrt(np.maximum(square - mean**2, 1e-12)) * np.sqrt(1 / runs + 1 / _RUNS)
    assert (np.abs(found.mean(axis=0) - mean) < 5 * spread + 1e-4).all()
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(np.maximum(square - mean**2, 0)), rtol=0.2, atol=0.01)


def test_every_method_of_mergekit_is_compared() -> None:
    compared = {json.loads(key)[0] for file in ("deterministic.npz", "random.npz") for key in _cases(file)}
    known = {method.mergekit for method in methods().values() if method.mergekit}
    assert compared == known
