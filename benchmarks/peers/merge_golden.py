"""Write what mergekit 0.1.5 makes of drawn tensors, for tests/merge/test_methods_golden.py.

Run in an environment of its own with torch and mergekit==0.1.5:

    python benchmarks/peers/merge_golden.py tests/merge/golden

`deterministic.npz` holds the inputs of each shape, and under each case, written as JSON, the merged
tensor. `random.npz` holds, for methods that draw, the mean and the mean square of every merged entry over many
runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit.merge_methods import TensorGroup, get

SHAPES = {"matrix": (24, 40), "vector": (61,), "stack": (3, 8, 10)}
DRAWN = (4, 12)
RUNS = 4000

W3, D3 = [0.5, 0.9, -0.3], [0.6, 0.35, 1.0]
DETERMINISTIC: list[tuple[str, int, bool, dict[str, Any], dict[str, list[Any]]]] = [
    # name, models beside the base, whether there is a base, options, values for each of these models
    ("linear", 3, False, {}, {"weight": W3}),
    ("linear", 2, False, {"normalize": False}, {"weight": [0.5, 0.7]}),
    ("slerp", 1, True, {"t": 0.3}, {}),
    ("slerp", 1, True, {"t": 1.4}, {}),
    ("nuslerp", 2, False, {}, {"weight": [0.4, 0.8]}),
    ("nuslerp", 2, True, {}, {"weight": [0.4, 0.8]}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False}, {"weight": [0.4, 0.8]}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": [1.0, 0.2]}),
    ("multislerp", 3, False, {}, {"weight": [0.5, 0.9, 0.3]}),
    ("multislerp", 3, True, {}, {"weight": [0.5, 0.9, 0.3]}),
    ("multislerp", 3, True, {"normalize_weights": False}, {"weight": [0.5, 0.9, 0.3]}),
    ("karcher", 3, False, {}, {}),
    ("karcher", 3, True, {"max_iter": 3}, {}),
    ("passthrough", 1, False, {}, {"scale": [0.37]}),
    ("model_stock", 2, True, {}, {}),
    ("model_stock", 3, True, {"filter_wise": True}, {}),
    ("arcee_fusion", 1, True, {}, {}),
    ("task_arithmetic", 3, True, {}, {"weight": W3}),
    ("task_arithmetic", 3, True, {"normalize": True, "lambda": 1.3}, {"weight": W3}),
    ("ties", 3, True, {}, {"weight": W3, "density": D3}),
    ("ties", 3, True, {"rescale": True, "lambda": 0.7}, {"weight": [1, 1, 1], "density": [0.2, 0.2, 0.001]}),
    ("ties", 3, True, {"normalize": False}, {"weight": W3, "density": D3}),
    ("breadcrumbs", 3, True, {}, {"weight": W3, "density": D3, "gamma": [0.1, 0.05, 0.2]}),
    ("breadcrumbs", 2, True, {"rescale": True}, {"weight": [1, 1], "density": [0.9, 0.5], "gamma": [0.3, 0.0]}),
    ("breadcrumbs_ties", 3, True, {}, {"weight": W3, "density": D3, "gamma": [0.1, 0.05, 0.2]}),
    ("sce", 3, True, {}, {}),
    ("sce", 3, True, {"select_topk": 0.4}, {}),
    ("nearswap", 1, True, {"t": 0.02}, {}),
    ("ram", 3, True, {"epsilon": 0.05}, {}),
    ("ramplus_tl", 3, True, {"epsilon": 0.05, "r": 0.4, "alpha": 0.9}, {}),
]
RANDOM: list[tuple[str, int, bool, dict[str, Any], dict[str, list[Any]]]] = [
    ("dare_linear", 2, True, {}, {"weight": [0.7, 0.5], "density": [0.4, 0.8]}),
    ("dare_linear", 1, True, {"rescale": False}, {"weight": [1.0], "density": [0.3]}),
    ("dare_ties", 3, True, {}, {"weight": [1.0, 0.5, 0.8], "density": [0.5, 0.4, 0.6]}),
    ("della", 3, True, {}, {"weight": [1.0, 0.5, 0.8], "density": [0.5, 0.4, 0.6], "epsilon": [0.2, 0.1, 0.3]}),
    ("della_linear", 1, True, {"rescale": False}, {"weight": [1.0], "density": [0.5], "epsilon": [0.3]}),
    ("della_linear", 2, True, {}, {"weight": [0.7, 0.5], "density": [0.4, 0.7], "epsilon": [0.15, 0.2]}),
]


def inputs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a base and three models near it, float32 [4, *shape]."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(shape)
    models = [base + 0.1 * (1 + place) * rng.standard_normal(shape) for place in range(3)]
    return np.stack([base, *models]).astype(np.float32)


def merge(
    name: str, tensors: np.ndarray, base: bool, options: dict[str, Any], per_model: dict[str, Any]
) -> np.ndarray:
    """Return what mergekit makes of the first tensors; the base comes first."""
    group = TensorGroup.from_tensors(
        [torch.from_numpy(tensor.copy()) for tensor in tensors], base_index=0 if base else None
    )
    (merged,) = get(name)([group], parameters={**options, **per_model})
    return merged.numpy()


def main(folder: Path) -> None:
    found: dict[str, np.ndarray] = {}
    for place, (label, shape) in enumerate(SHAPES.items()):
        tensors = found[label] = inputs(shape, place)
        for name, models, base, options, per_model in DETERMINISTIC:
            used = tensors[: models + 1] if base else tensors[1 : models + 1]
            key = json.dumps([name, label, models, base, options, per_model])
            found[key] = merge(name, used, base, options, per_model)
    np.savez_compressed(folder / "deterministic.npz", **found)
    torch.manual_seed(0)
    drawn = {"tensors": inputs(DRAWN, 9)}
    for name, models, base, options, per_model in RANDOM:
        runs = np.stack(
            [merge(name, drawn["tensors"][: models + 1], base, options, per_model) for _ in range(RUNS)]
        ).astype(np.float64)
        key = json.dumps([name, "drawn", models, base, options, per_model])
        drawn[key] = np.stack([runs.mean(axis=0), np.square(runs).mean(axis=0)])
    np.savez_compressed(folder / "random.npz", **drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
