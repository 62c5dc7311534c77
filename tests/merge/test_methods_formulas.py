"""Merge methods against their papers' formulas, computed plainly, and at the ends of their ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge.cutting import cut_and_merge, merged, task_of
from steelyard.edits.merge.methods import darex as darex_module
from steelyard.edits.merge.registry import get, methods
from steelyard.errors import UserError

_RNG = np.random.default_rng(5)
_MODELS = (_RNG.standard_normal((4, 12, 20)) * [[[1.0]], [[0.9]], [[1.1]], [[1.2]]]).astype(np.float32)
# Task 1 and task 2 of the reference notes on the authors' code.
_TASKS = np.array(
    [
        [0.0] * 10,
        [0.5, -0.2, 0.1, 0.0, 0.3, -0.4, 0.05, 0.25, -0.15, 0.35],
        [-0.1, 0.3, 0.2, 0.4, -0.05, -0.5, 0.15, 0.6, 0.0, -0.25],
    ],
    np.float32,
)


@pytest.mark.parametrize("normalized, expected", [(False, {5: -0.4, 7: 0.5}), (True, {5: -0.45})])
def test_pcb_merging_of_hand_computed_vectors(normalized: bool, expected: dict[int, float]) -> None:
    options = {"ratio": 0.2, "clamp": 0.01, "normalized": normalized}
    for entries in (3, 100):
        found = merged("pcb_merging", _TASKS, 0, options, entries=entries)
        np.testing.assert_allclose(found, [expected.get(index, 0.0) for index in range(10)], rtol=1e-6)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("ratio, clamp", [(0.1, 0.01), (0.5, 0.1), (1.0, 0.0)])
def test_pcb_merging_is_the_published_formula(normalized: bool, ratio: float, clamp: float) -> None:
    weights = [1.2, 0.8, 1.0]
    vectors = (_MODELS[1:] - _MODELS[0]).reshape(3, -1).astype(np.float64)
    size = vectors.shape[1]

    def between(values: np.ndarray, low: int, high: int) -> np.ndarray:
        ranks = np.sort(values, axis=1)
        return np.clip(values, ranks[:, low : low + 1], ranks[:, high : high + 1])

    def spread(values: np.ndarray) -> np.ndarray:
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        return (values - low) / (high - low)

    level = between(np.abs(vectors), int(size * clamp), int(size * (1 - clamp) - 1))
    signed = np.sign(vectors) * spread(level)
    agreement = np.tanh(vectors * (signed if normalized else vectors).sum(axis=0))
    scores = np.exp(3 * spread(level) ** 2) * agreement
    shares = spread(between(scores, int(size * (1 - ratio)), size - 1))
    mixed = (np.sign(vectors) * level * np.array(weights)[:, None] * shares).sum(axis=0)
    expected = mixed / np.maximum(shares.sum(axis=0), 1e-12) + _MODELS[0].reshape(-1)
    options = {"ratio": ratio, "clamp": clamp, "normalized": normalized}
    found = merged("pcb_merging", _MODELS, 0, options, {"weight": weights}, entries=70)
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=2e-4, atol=2e-5)


def test_darex_with_q_of_the_density_is_dare() -> None:
    per_model = {"density": [0.3, 0.5, 0.4], "weight": [1.0, 0.5, 0.7]}
    found = merged("darex", _MODELS, 0, {}, per_model, seed=2)
    dropped = merged(
        "dare_linear",
        _MODELS,
        0,
        {"rescale": False},
        {**per_model, "weight": [1 / 0.3, 0.5 / 0.5, 0.7 / 0.4]},
        seed=2,
    )
    np.testing.assert_allclose(found, dropped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("drop, axis", [("row", 0), ("column", 1)])
def test_darex_drops_whole_rows_or_columns(drop: str, axis: int) -> None:
    tensors = np.stack([np.zeros((200, 300)), np.ones((200, 300))]).astype(np.float32)
    found = merged("darex", tensors, 0, {"drop": drop}, {"density": [0.25], "q": [0.5]}, entries=700)
    across = found.mean(axis=1 - axis)
    assert set(np.unique(across)) == {0.0, 2.0}
    count = found.shape[axis]
    assert abs((across > 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / count)


@pytest.mark.parametrize("inputs", ["columns", "rows"])
def test_darex_takes_the_q_of_least_change_of_outputs(inputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a search over q of the mean square change over drawn inputs with a mean of their own."""
    rng = np.random.default_rng(3)
    drawn = rng.standard_normal((400, 20)) + 1.5
    moment = (drawn.T @ drawn / len(drawn)).astype(np.float32)
    delta = (rng.standard_normal((30, 20)) * 0.1 + 0.03).astype(np.float32)
    monkeypatch.setattr(darex_module, "_moment", lambda path, name: moment)
    stored = delta if inputs == "columns" else delta.T.copy()
    tensors = np.stack([np.zeros_like(stored), stored])
    per_model: dict[str, list[Any]] = {"density": [0.2], "calibration": ["kept"]}
    found = merged("darex", tensors, 0, {"inputs": inputs}, per_model, entries=90)
    plain = merged("darex", tensors, 0, {}, {"density": [0.2], "q": [1.0]})
    if inputs == "rows":
        found, plain = found.T, plain.T

    def change(q: float) -> float:
        return float(np.square(drawn @ (delta - plain / q).T).mean())

    tried = np.linspace(0.2, 1.0, 4001)
    best = tried[int(np.argmin([change(q) for q in tried]))]
    assert 0.25 < best < 0.95
    np.testing.assert_allclose(found, plain / best, rtol=1e-3)
    assert change(best) < 0.9 * change(0.2)  # than DARE


def test_darex_refuses_statistics_of_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darex_module, "_moment", lambda path, name: np.eye(7, dtype=np.float32))
    with pytest.raises(UserError, match=r"layer\.weight has 7 inputs there, not 20"):
        merged("darex", _MODELS[:2], 0, {}, {"calibration": ["kept"]})


def test_darex_refuses_a_file_that_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibration"):
        merged("darex", _MODELS[:2], 0, {}, {"calibration": [str(tmp_path / "none.safetensors")]})


@pytest.mark.parametrize(
    "method, options, per_model, row",
    [
        ("slerp", {"t": 0.0}, {}, 0),
        ("slerp", {"t": 1.0}, {}, 1),
        ("nuslerp", {}, {"weight": [1.0, 0.0]}, 1),
        ("nuslerp", {"nuslerp_flatten": False}, {"weight": [0.0, 1.0]}, 2),
        ("task_arithmetic", {"lambda": 0.0}, {}, 0),
        ("task_arithmetic", {}, {"weight": [1.0]}, 1),
        ("ties", {}, {"density": [1.0]}, 1),
        ("nearswap", {"t": 1e9}, {}, 1),
        ("nearswap", {"t": 0.0}, {}, 0),
        ("sce", {}, {}, 1),
        ("ram", {}, {}, 1),
        ("darex", {}, {"density": [1.0]}, 1),
    ],
)
def test_the_ends_are_the_parents(
    method: str, options: dict[str, Any], per_model: dict[str, Any], row: int
) -> None:
    count = 3 if method == "nuslerp" else 2
    found = merged(method, _MODELS[:count], 0, options, per_model, entries=50)
    np.testing.assert_allclose(found, _MODELS[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [name for name, known in methods().items() if known.most is None])
def test_models_that_are_one_model_stay_it(method: str) -> None:
    """Merging copies of one model, its base among them where there is one, changes nothing."""
    known = get(method)
    if known.base == "required":
        tensors, base = np.stack([_MODELS[0]] * 3), 0
    else:
        tensors, base = np.stack([_MODELS[0]] * 3), None
    found = merged(method, tensors, base, entries=50)
    np.testing.assert_allclose(found, _MODELS[0], rtol=1e-5, atol=1e-6)


def test_passthrough_leaves_every_bit() -> None:
    found = merged("passthrough", _MODELS[1:2], None, entries=50)
    assert found.tobytes() == _MODELS[1].tobytes()


def test_a_tensor_without_axes() -> None:
    tensors = np.array([0.5, 1.5, 2.5], np.float32)
    for method, known in methods().items():
        experts = min(known.most or 2, 2)
        base = None if known.base == "none" else 0
        found = merged(method, tensors[: experts + (base is not None)], base)
        assert np.isfinite(found).all(), method
        assert found.shape == ()


@pytest.mark.parametrize(
    "method, models, options, per_model, message",
    [
        ("multislerp", 3, {}, {"weight": [1.0, -1.0]}, "weights sum to zero"),
        ("della", 2, {}, {"density": [0.1], "epsilon": [0.2]}, "density 0.1 and epsilon 0.2 of model-1 leave"),
        ("model_stock", 2, {}, {}, "needs two models beside the base"),
    ],
)
def test_what_cannot_be_merged(
    method: str, models: int, options: dict[str, Any], per_model: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        merged(method, _MODELS[:models], 0, options, per_model)


def test_passthrough_of_two_models() -> None:
    with pytest.raises(UserError, match=r"takes one model, not 2 \(model-0, model-1\)"):
        merged("passthrough", _MODELS[:2], None)


def test_directions_that_cancel() -> None:
    third = np.array([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]], np.float32)
    with pytest.raises(UserError, match="directions of the models cancel"):
        merged("multislerp", third, None)


def test_a_base_that_is_missing() -> None:
    for method, known in methods().items():
        if known.base == "required" and method != "consensus":  # which leaves that to the preflight
            with pytest.raises(UserError, match="base"):
                merge = known.function(task_of(method, _MODELS[:2], None), known.build({}))
                cut_and_merge(merge, _MODELS[:2], 100)


def test_options_of_mergekit_have_its_defaults() -> None:
    defaults = {
        name: (info["normalize"].default, info["rescale"].default, info["lambda"].default)
        for name in ("task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "della", "della_linear")
        for info in [get(name).options.model_fields]
    }
    assert defaults == {
        "task_arithmetic": (False, False, 1.0),
        "ties": (True, False, 1.0),
        "dare_linear": (False, True, 1.0),
        "dare_ties": (False, True, 1.0),
        "breadcrumbs": (False, False, 1.0),
        "della": (True, True, 1.0),
        "della_linear": (False, True, 1.0),
    }
