"""Tiny bases and experts to merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tests.tiny_llama import write_tiny


def write_experts(
    folder: Path, count: int = 3, dtype: str = "bfloat16", size: float = 0.05
) -> tuple[Path, dict[str, str]]:
    """A tiny base and experts that each change some of its entries; their locations by the names of their tasks."""
    base = write_tiny(folder / "base", dtype=dtype)
    weights = load_file(base / "model.safetensors")
    experts = {}
    for number in range(count):
        draw = np.random.default_rng(number)
        changed = {}
        for name, value in weights.items():
            change = size * draw.standard_normal(value.shape) * (draw.random(value.shape) < 0.4)
            changed[name] = (value.astype(np.float32) + change.astype(np.float32)).astype(value.dtype)
        target = write_tiny(folder / f"expert{number}", dtype=dtype)
        save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
        experts[f"task{number}"] = str(target)
    return base, experts


def load(folder: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a folder, float32."""
    return {name: value.astype(np.float32) for name, value in load_file(Path(folder) / "model.safetensors").items()}
