"""Tiny models that were fine-tuned from one another, for merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tiny_llama import write_tiny

Tensors = dict[str, np.ndarray]


def weights(folder: Path) -> Tensors:
    """Every tensor of a folder as stored."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def wide(folder: Path) -> Tensors:
    """Every tensor of a folder in float64."""
    return {name: array.astype(np.float64) for name, array in weights(folder).items()}


def rewrite(folder: Path, tensors: Tensors) -> Path:
    """Replace the weights of a folder of one file."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_sibling(folder: Path, seed: int, size: float = 0.05, **settings: Any) -> Path:
    """Write a tiny Llama that differs from the others by noise of its own."""
    write_tiny(folder, **settings)
    draw = np.random.default_rng(seed)
    moved = {
        name: (array.astype(np.float32) + size * draw.standard_normal(array.shape)).astype(array.dtype)
        for name, array in sorted(weights(folder).items())
    }
    return rewrite(folder, moved)


def config_of(folder: Path) -> dict[str, Any]:
    """A folder's config.json."""
    return dict(json.loads((folder / "config.json").read_text()))
