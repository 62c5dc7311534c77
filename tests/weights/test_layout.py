"""Planned bytes against the reference writer, the reference reader and huggingface_hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.weights.dtypes import DTYPES
from steelyard.weights.header import read_header
from steelyard.weights.layout import INDEX_FILE, Layout, StoredTensor, entry_bytes_bound, plan_layout
from steelyard.weights.names import natural_key

# How the reference writer spells the element types it takes.
SPELLED = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32",
    "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip
names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
whole = st.sampled_from(list(SPELLED))
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
tensors = st.lists(st.builds(StoredTensor, names, whole, shapes), max_size=12, unique_by=lambda tensor: tensor.name)
# The types below one byte, in sizes that fill whole bytes.
tensors_of_any_type = st.lists(
    st.builds(StoredTensor, names, st.sampled_from(list(DTYPES)), shapes.map(lambda shape: (*shape, 8))),
    max_size=8,
    unique_by=lambda tensor: tensor.name,
)


def content(layout: Layout, seed: int = 0) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    return {name: rng.bytes(tensor.nbytes) for file in layout.files for name, tensor in file.tensors.items()}


def assemble(layout: Layout, data: dict[str, bytes]) -> dict[str, bytes]:
    """Build the files from the plan alone."""
    files = {}
    for file in layout.files:
        image = bytearray(file.size)
        image[: len(file.header)] = file.header
        for name, tensor in file.tensors.items():
            image[file.offsets[name] : file.offsets[name] + tensor.nbytes] = data[name]
        assert len(image) == file.size
        files[file.name] = bytes(image)
    return files


def reference(stored: list[StoredTensor], data: dict[str, bytes]) -> bytes:
    """The same tensors through the reference writer."""
    specs, alive = {}, []
    for tensor in stored:
        buffer = np.frombuffer(data[tensor.name], np.uint8)
        alive.append(buffer)
        specs[tensor.name] = safetensors.TensorSpec(
            dtype=SPELLED[tensor.dtype],
            shape=tensor.shape,
            data_ptr=buffer.ctypes.data,
            data_len=buffer.nbytes,
        )
    return safetensors.serialize(specs, metadata={"format": "pt"})


@settings(max_examples=80, deadline=None)
@given(tensors)
def test_the_file_is_what_the_reference_writer_writes(stored: list[StoredTensor]) -> None:
    layout = plan_layout(stored)
    data = content(layout)
    ours = assemble(layout, data)["model.safetensors"]
    read = dict(safetensors.deserialize(ours))
    assert set(read) == {tensor.name for tensor in stored}
    for tensor in stored:
        assert bytes(read[tensor.name]["data"]) == data[tensor.name]
        assert tuple(read[tensor.name]["shape"]) == tensor.shape
        assert read[tensor.name]["dtype"] == tensor.dtype
    assert ours == reference(stored, data)


@settings(max_examples=80, deadline=None)
@given(tensors_of_any_type, st.integers(1, 400))
def test_planned_bytes_are_written_bytes(stored: list[StoredTensor], limit: int) -> None:
    layout = plan_layout(stored, limit)
    files = assemble(layout, content(layout))
    assert layout.total_bytes == sum(map(len, files.values())) + len(layout.index or b"")
    assert (layout.index is None) == (len(files) == 1)
    found = {}
    for file in layout.files:
        image = files[file.name]
        header = read_header(lambda begin, end, image=image: image[begin:end], len(image), file.name)
        assert header.nbytes == len(file.header)
        assert len(file.header) % 8 == 0
        for name, info in header.tensors.items():
            found[name] = (info.dtype, info.shape, info.file)
            assert info.begin == file.offsets[name]
            if DTYPES[info.dtype].bits >= 8:
                assert info.begin % (DTYPES[info.dtype].bits // 8) == 0
    assert found.keys() == {tensor.name for tensor in stored}
    for tensor in stored:
        assert found[tensor.name][:2] == (tensor.dtype, tensor.shape)
    if layout.index is not None:
        index = json.loads(layout.index)
        assert index["weight_map"] == {name: file for name, (_, _, file) in found.items()}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored)


@settings(max_examples=80, deadline=None)
@given(tensors.filter(bool), st.integers(1, 200))
def test_shards_are_cut_as_huggingface_hub_cuts(stored: list[StoredTensor], limit: int) -> None:
    layout = plan_layout(stored, limit)
    peer = split_state_dict_into_shards_factory(
        {tensor.name: tensor for tensor in stored},
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    assert {file.name: set(file.tensors) for file in layout.files} == {
        file: set(held) for file, held in peer.filename_to_tensors.items()
    }
    if layout.index is not None:
        assert json.loads(layout.index)["metadata"]["total_size"] == peer.metadata["total_size"]


@settings(max_examples=60, deadline=None)
@given(tensors.filter(bool))
def test_an_entry_never_takes_more_than_its_bound(stored: list[StoredTensor]) -> None:
    data = sum(tensor.nbytes for tensor in stored)
    bound = sum(entry_bytes_bound(tensor, len(str(data))) for tensor in stored)
    assert len(plan_layout(stored).files[0].header) <= 8 + len('{"__metadata__":{"format":"pt"}}') + bound + 7


def test_names_with_every_kind_of_character(tmp_path: Path) -> None:
    awkward = ["", 'a"b\\c', "tab\there", "ünïcødé", "\x00\x1f\x7f", "🜛", "layer.10", "layer.2"]
    stored = [StoredTensor(name, "U8", (3,)) for name in awkward]
    layout = plan_layout(stored)
    data = content(layout)
    path = tmp_path / "model.safetensors"
    path.write_bytes(assemble(layout, data)["model.safetensors"])
    with safetensors.safe_open(path, framework="np") as opened:
        assert sorted(opened.keys()) == sorted(awkward)
        for name in awkward:
            assert opened.get_tensor(name).tobytes() == data[name]


def test_names_must_be_unique() -> None:
    twice = [StoredTensor("w", "U8", (1,))] * 2
    with pytest.raises(ValueError, match="unique"):
        plan_layout(twice)
    with pytest.raises(ValueError, match="unique"):
        plan_layout([StoredTensor("__metadata__", "U8", (1,))])


def test_elements_must_fill_bytes() -> None:
    with pytest.raises(ValueError, match="12 bits"):
        plan_layout([StoredTensor("w", "F4", (3,))])


def test_index_name_is_the_one_transformers_looks_for() -> None:
    assert INDEX_FILE == "model.safetensors.index.json"


def test_natural_order() -> None:
    ordered = ["a", "a.0", "a.00", "a.2", "a.10", "a.10.b", "a.b", "b"]
    assert sorted(set(ordered), key=natural_key) == ordered
    huge = "9" * 6000
    assert sorted([f"x{huge}", "x1"], key=natural_key) == ["x1", f"x{huge}"]
