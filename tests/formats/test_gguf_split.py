"""GGUF files in several parts: those of gguf-py's writer are read, ours are such as it writes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

import steelyard
from formats.test_gguf_experts import build
from steelyard.budget.audit import audit
from steelyard.errors import UserError, VerificationError
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


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_our_splits_are_such_as_gguf_py_writes(tmp_path: Path, kind: str) -> None:
    """Each part below the size unless it is one tensor, the keys in the first, and every tensor as in one file."""
    source = (
        write_tiny(tmp_path / "model", dtype="bfloat16") if kind == "llama" else build(kind, tmp_path / "model")
    )
    limit = 24_000
    steelyard.convert(source, out=tmp_path / "one", format="gguf")
    steelyard.convert(source, out=tmp_path / "many", format="gguf", max_shard_size=limit)
    files = sorted((tmp_path / "many").glob("*.gguf"))
    assert len(files) > 2
    names = [f"model-{number:05d}-of-{len(files):05d}.gguf" for number in range(1, len(files) + 1)]
    assert [file.name for file in files] == names
    whole = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "one" / "model.gguf").tensors}
    readers = [GGUFReader(file) for file in files]
    assert [tensor.name for reader in readers for tensor in reader.tensors] == list(whole)
    data = []
    for number, reader in enumerate(readers):
        said = [reader.fields[f"split.{key}"] for key in ("no", "count", "tensors.count")]
        assert [field.contents() for field in said] == [number, len(files), len(whole)]
        assert [field.types[0].name for field in said] == ["UINT16", "UINT16", "INT32"]
        data.append([-(-int(tensor.n_bytes) // 32) * 32 for tensor in reader.tensors])
        assert sum(data[-1]) <= limit or len(data[-1]) == 1
        for tensor in reader.tensors:
            assert np.array_equal(tensor.data, whole[tensor.name].data), tensor.name
    assert all(sum(part) + after[0] > limit for part, after in itertools.pairwise(data))
    one = set(GGUFReader(tmp_path / "one" / "model.gguf").fields)
    assert one < set(readers[0].fields)
    assert all(
        {key for key in reader.fields if not key.startswith("GGUF.")}
        == {"split.no", "split.count", "split.tensors.count"}
        for reader in readers[1:]
    )
    with steelyard.open(tmp_path / "one") as before, steelyard.open(tmp_path / "many") as after:
        for name in before.names:
            assert np.array_equal(before.tensor(name), after.tensor(name)), name


def test_a_budget_counts_every_part(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", dtype="bfloat16")
    settings = {"ratio": 0.5, "format": "gguf", "effort": "quick", "data": "none", "max_shard_size": "20kB"}
    result = steelyard.fit(model, out=tmp_path / "out", verify="load", **settings)
    files = sorted((tmp_path / "out").glob("*.gguf"))
    budget = result.report.sizes.budget
    assert budget is not None and len(files) > 2
    assert sum(file.stat().st_size for file in files) == result.nbytes <= budget
    (loads,) = [c for c in result.report.certificates if c.name == "loads in transformers"]
    assert loads.status == "skipped"
    # The second part calls itself the third.
    data = bytearray(files[1].read_bytes())
    place = data.index(b"split.no") + len("split.no") + 4
    assert data[place] == 1
    data[place] = 2
    files[1].write_bytes(data)
    with pytest.raises(VerificationError, match="has changed"):
        audit(tmp_path / "out", str(model))
