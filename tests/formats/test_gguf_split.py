"""GGUF files split by gguf-py's writer are read as the one file they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

import steelyard
from steelyard.errors import UserError
from tiny_llama import write_tiny

COUNT = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The file of a tiny Llama, and a folder with the same tensors in several files and nothing else."""
    place = tmp_path_factory.mktemp("split")
    steelyard.convert(write_tiny(place / "model", dtype="bfloat16"), out=place / "one", format="gguf")
    reader = GGUFReader(place / "one" / "model.gguf")
    writer = GGUFWriter(None, "llama", split_max_tensors=COUNT)
    for key, field in reader.fields.items():
        name = key.removeprefix("llama.")
        if key.startswith("llama.") and name != "vocab_size":
            value = field.contents()
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for tensor in reader.tensors:
        shape = tensor.data.shape if tensor.tensor_type.name == "BF16" else None
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_shape=shape, raw_dtype=tensor.tensor_type)
    (place / "many").mkdir()
    writer.write_header_to_file(place / "many" / "tiny.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place / "one" / "model.gguf", place / "many"


def test_a_split_is_one_model(made: tuple[Path, Path]) -> None:
    one, many = made
    files = sorted(many.iterdir())
    assert len(files) > 2
    for location in (many, files[0], files[-1]):
        with steelyard.open(one) as whole, steelyard.open(location) as parts:
            assert sorted(parts.names) == sorted(whole.names)
            for name in whole.names:
                assert parts.codec(name) == whole.codec(name)
                assert np.array_equal(parts.tensor(name), whole.tensor(name)), name
            assert parts.checkpoint.weight_bytes == sum(file.stat().st_size for file in files)


def test_a_missing_part_is_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    files = sorted(made[1].iterdir())
    for file in files[:-1]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=rf"{files[-1].name} is missing; .* is one of {len(files)} that belong"):
        steelyard.open(tmp_path)
    renamed = tmp_path / "apart" / "first.gguf"
    renamed.parent.mkdir()
    renamed.write_bytes(files[0].read_bytes())
    with pytest.raises(UserError, match=f"is one of {len(files)} files of a split"):
        steelyard.open(renamed)
