"""Reading: values against the reference reader, laziness, and every way a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from steelyard.errors import UserError
from steelyard.weights import Checkpoint, file_hash
from steelyard.weights.names import natural_key


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor_as_the_reference_stored_it(
    kind: str, tensors: dict[str, np.ndarray], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.names == sorted(tensors, key=natural_key)
        assert checkpoint.names.index("model.layers.2.mlp.scale") < checkpoint.names.index(
            "model.layers.10.mlp.scale"
        )
        for name, expected in tensors.items():
            array = checkpoint.tensor(name)
            assert array.dtype == expected.dtype and array.shape == expected.shape
            assert array.tobytes() == expected.tobytes()
            assert not array.flags.writeable and array.flags.aligned
        part = checkpoint.rows("model.embed_tokens.weight", 10, 13)
        assert part.tobytes() == tensors["model.embed_tokens.weight"][10:13].tobytes()
        assert checkpoint.config["hidden_size"] == 8
        assert checkpoint.shapes()["model.norm.weight"] == ((8,), "F32")
        assert checkpoint.weight_bytes == sum(
            path.stat().st_size for path in folder.iterdir() if "safetensors" in path.name
        )
        assert checkpoint.other_files == ["1_Pooling/config.json", "config.json", "tokenizer.json"]
        assert checkpoint.read_other("1_Pooling/config.json") == b'{"pool": "mean"}'
        hashes = checkpoint.content_hash()
        assert hashes.keys() == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert all(file_hash(folder / file) == value for file, value in hashes.items())
