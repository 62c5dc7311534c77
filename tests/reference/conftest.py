"""A tiny corpus and options small enough for a run of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.reference.options import TrainOptions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small Python files."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(40):
        body = "\n".join(
            f"def function_{number}_{line}(value):\n    return value * {number + line} + len(str(value))\n"
            for line in range(12)
        )
        (folder / f"module_{number:02}.py").write_text(body)
    return folder


@pytest.fixture
def tiny() -> TrainOptions:
    """A model of two blocks, 24 steps."""
    return TrainOptions(
        steps=24,
        decay_steps=6,
        warmup_steps=2,
        batch=4,
        sequence=32,
        vocabulary=320,
        hidden=32,
        ffn=64,
        layers=2,
        heads=4,
        kv_heads=2,
        save_every=5,
        threads=1,
        compile=False,
    )
