"""One small output, its plan and its content, shared by the tests of the writer."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from steelyard.weights import FolderWriter, Layout, StoredTensor, dtype_name, plan_layout

OTHERS = {"config.json": b'{"model_type": "llama"}', "1_Pooling/config.json": b"{}"}


def content() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "embed": rng.standard_normal((40, 16)).astype(ml_dtypes.bfloat16),
        "layers.0.w": rng.integers(-9, 9, (16, 24), dtype=np.int32),
        "layers.1.w": rng.integers(-9, 9, (16, 24), dtype=np.int32),
        "norm": rng.standard_normal(16).astype(np.float32),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float16),
    }


def planned(tensors: dict[str, np.ndarray], max_shard_size: int = 2000) -> Layout:
    stored = [StoredTensor(name, dtype_name(array.dtype), array.shape) for name, array in tensors.items()]
    return plan_layout(stored, max_shard_size)


def job(out: Path, resume: bool = False) -> Path:
    """The whole of one output; returns its folder."""
    tensors = content()
    with FolderWriter(out, planned(tensors), resume=resume, plan_hash="job") as writer:
        for name, array in tensors.items():
            if writer.done(name):
                continue
            if array.ndim == 2 and len(array) > 20:  # rows in pieces, not in order
                writer.write_rows(name, 20, array[20:])
                writer.write_rows(name, 0, array[:20])
            else:
                writer.write(name, array)
        for name, data in OTHERS.items():
            writer.add_file(name, data)
        return writer.finish()


def image(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
