"""Two tiny models of different width and depth, and tokens for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiny_llama import write_tiny

pytest.importorskip("transformers", reason="composed models are networks of transformers")

TEXT = ("--sequences", "8", "--eval-sequences", "4", "--sequence-length", "32")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of 32 channels, the head tied."""
    folder = tmp_path_factory.mktemp("stitch") / "small"
    return write_tiny(folder, tied=True, hidden_size=32, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks of 64 channels, a head of its own."""
    return write_tiny(tmp_path_factory.mktemp("stitch") / "large", num_hidden_layers=3)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that repeat, so that there is something to learn."""
    draw = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    runs = [np.tile(draw.integers(3, 128, 4), 16) for _ in range(24)]
    np.save(path, np.concatenate(runs).astype(np.int64))
    return path


@pytest.fixture(scope="session")
def stitched(small: Path, large: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model stitched to the large one."""
    from steelyard.budget.compose import stitch_models
    from steelyard.edits.stitch.options import StitchOptions

    out = tmp_path_factory.mktemp("made") / "stitched"
    options = StitchOptions(data=str(tokens), sequences=8, eval_sequences=4, sequence_length=32)
    return stitch_models(small, large, out, options).out


@pytest.fixture(scope="session")
def bridged(large: Path, small: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large model with trained bridges to the small one."""
    from steelyard.budget.compose import bridge_models
    from steelyard.edits.stitch.options import BridgeOptions

    out = tmp_path_factory.mktemp("made") / "bridged"
    options = BridgeOptions(
        data=str(tokens), sequences=8, eval_sequences=4, sequence_length=32, steps=6, batch=4, learning_rate=0.01
    )
    return bridge_models(large, small, out, options).out
