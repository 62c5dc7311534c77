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


def test_a_single_file(single: Path, tensors: dict[str, np.ndarray]) -> None:
    with Checkpoint.open(single / "model.safetensors") as checkpoint:
        assert len(checkpoint) == len(tensors)
        assert checkpoint.config["model_type"] == "llama"
    lone = single.parent / "lone.safetensors"
    shutil.copy(single / "model.safetensors", lone)
    with Checkpoint.open(str(lone)) as checkpoint:
        assert checkpoint.config == {} and checkpoint.other_files == []
        assert checkpoint.weight_files == ["lone.safetensors"]


def test_views_take_no_memory_of_their_own_and_outlive_the_checkpoint(tmp_path: Path) -> None:
    expected = np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)
    save_file({"w": expected}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    array = checkpoint.tensor("w")
    again = checkpoint.tensor("w")
    assert np.shares_memory(array, again) and not array.flags.owndata
    assert np.shares_memory(checkpoint.rows("w", 1, 3), array)
    checkpoint.advise_done("w")
    checkpoint.close()
    assert (array == expected).all()
    with pytest.raises(ValueError, match="closed"):
        checkpoint.tensor("w")


def test_released_pages_are_no_longer_resident(tmp_path: Path) -> None:
    save_file({"w": np.ones((64, 1 << 18), np.uint8)}, tmp_path / "model.safetensors")

    def resident() -> int:
        maps = Path("/proc/self/smaps").read_text().split("model.safetensors")[1]
        return int(maps.split("Rss:")[1].split()[0]) * 1024

    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc/self/smaps on this system")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert int(checkpoint.tensor("w").sum()) == 1 << 24
        before = resident()
        checkpoint.advise_done("w")
        assert before >= 1 << 24 and resident() < 1 << 20
        assert int(checkpoint.tensor("w").sum()) == 1 << 24


def test_misaligned_data_comes_as_an_aligned_copy(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float32)
    text = b'{"w":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}'
    text += b" " * (-len(text) % 4 + 1)
    image = len(text).to_bytes(8, "little") + text + values.tobytes()
    (tmp_path / "model.safetensors").write_bytes(image)
    with Checkpoint.open(tmp_path) as checkpoint:
        array = checkpoint.tensor("w")
        assert array.flags.aligned and not array.flags.writeable
        assert (array == values).all()


def test_types_below_one_byte_come_as_raw_bytes(tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F4","shape":[4,2],"data_offsets":[0,4]}}'
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"abcd")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.tensor("w").tobytes() == b"abcd"
        assert checkpoint.rows("w", 1, 3).tobytes() == b"bc"


def test_rows_outside_the_tensor(single: Path) -> None:
    with Checkpoint.open(single) as checkpoint:
        for start, stop in [(-1, 2), (0, 51), (3, 2)]:
            with pytest.raises(ValueError, match="embed_tokens"):
                checkpoint.rows("model.embed_tokens.weight", start, stop)
        with pytest.raises(ValueError, match="step"):
            checkpoint.rows("step", 0, 1)
        with pytest.raises(UserError, match=r"no tensor 'nope'"):
            checkpoint.tensor("nope")


def test_weights_in_other_formats_are_left_behind(single: Path) -> None:
    for name in ["pytorch_model.bin", "model.gguf", "onnx/model.onnx", "adapter_model.safetensors",
                 "2_Dense/model.safetensors", ".gitattributes", ".git/config", "training_args.bin",
                 "pytorch_model.bin.index.json", "modeling_custom.py", "openvino/openvino_model.xml"]:  # fmt: skip
        (single / name).parent.mkdir(exist_ok=True)
        (single / name).write_bytes(b"")
    with Checkpoint.open(single) as checkpoint:
        assert checkpoint.other_files == [
            "1_Pooling/config.json", "2_Dense/model.safetensors", "config.json", "modeling_custom.py",
            "tokenizer.json",
        ]  # fmt: skip
        assert set(checkpoint.skipped_files) == {
            "pytorch_model.bin", "model.gguf", "onnx/model.onnx", "adapter_model.safetensors",
            "training_args.bin", "pytorch_model.bin.index.json", "openvino/openvino_model.xml",
        }  # fmt: skip


def test_a_single_file_wins_over_an_index_as_in_transformers(sharded: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file({"w": tensors["model.norm.weight"]}, sharded / "model.safetensors")
    with Checkpoint.open(sharded) as checkpoint:
        assert checkpoint.names == ["w"]
        assert checkpoint.index_file is None
        assert "model.safetensors.index.json" in checkpoint.skipped_files


# Bad input


def refused(location: Path | str, *said: str) -> None:
    with pytest.raises(UserError) as caught:
        Checkpoint.open(location)
    assert "\n" not in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def edit_index(folder: Path, change: object) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].update(change)
    path.write_text(json.dumps({**index, "weight_map": {k: v for k, v in index["weight_map"].items() if v}}))


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, str(sharded), "missing shard model-00002-of-00003.safetensors", "download it again")
    (sharded / "model-00003-of-00003.safetensors").unlink()
    refused(sharded, "missing shard model-00002-of-00003.safetensors and 1 more")


def test_truncated_shard(sharded: Path) -> None:
    shard = sharded / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    refused(sharded, str(shard), "truncated: 5 bytes are missing", "download it again")


def test_index_naming_an_absent_tensor(sharded: Path) -> None:
    edit_index(sharded, {"lm_head.weight": "model-00001-of-00003.safetensors"})
    refused(sharded, "'lm_head.weight'", "model-00001-of-00003.safetensors, which does not hold it")


def test_index_placing_a_tensor_in_another_shard(sharded: Path) -> None:
    edit_index(sharded, {"model.embed_tokens.weight": "model-00002-of-00003.safetensors"})
    refused(sharded, "'model.embed_tokens.weight'", "model-00001-of-00003.safetensors")


def test_shard_holding_a_tensor_the_index_lacks(sharded: Path) -> None:
    edit_index(sharded, {"model.norm.weight": None})
    refused(sharded, "'model.norm.weight'", "does not place there")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map":{"a":"x","a":"y"}}']
)
def test_broken_index(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, "model.safetensors.index.json", "again")


@pytest.mark.parametrize(
    "file", ["../../etc/x.safetensors", "/etc/x.safetensors", "pytorch_model.bin", 3, "a\\..\\b.safetensors"]
)
def test_index_pointing_out_of_the_folder(sharded: Path, file: object) -> None:
    edit_index(sharded, {"w": file})
    refused(sharded, "'w'", "not a .safetensors file of this folder")


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, "3 .safetensors files but no model.safetensors.index.json")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "only pickled weights (pytorch_model.bin)", "safetensors")
    refused(tmp_path / "pytorch_model.bin", "not a .safetensors file")


def test_no_weights_and_no_folder(tmp_path: Path) -> None:
    refused(tmp_path, "holds no .safetensors file")
    refused(tmp_path / "absent", "does not exist")
    refused(tmp_path / "absent.safetensors", "does not exist")
    refused("", "empty path")
    refused("~nobody-of-this-name/x/y", "does not exist")
    refused("x" * 5000 + "/y/z", "does not exist")
    refused("/a\0b", "does not exist")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "nul", "[" * 100_000])
def test_broken_config(single: Path, text: str) -> None:
    (single / "config.json").write_bytes(text.encode("latin-1"))
    refused(single, "config.json", "download it again")


# Elsewhere: fsspec and the Hugging Face cache


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_fsspec_url(kind: str, tensors: dict[str, np.ndarray], request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), f"/{kind}-model", recursive=True)
    try:
        with Checkpoint.open(f"memory://{kind}-model") as remote, Checkpoint.open(folder) as local:
            assert remote.names == local.names and remote.config == local.config
            assert remote.folder is None and remote.weight_bytes == local.weight_bytes
            assert remote.other_files == local.other_files
            for name, expected in tensors.items():
                assert remote.tensor(name).tobytes() == expected.tobytes()
                assert not remote.tensor(name).flags.writeable
            assert remote.rows("model.embed_tokens.weight", 3, 5).shape == (2, 8)
            assert remote.content_hash() == local.content_hash()
            assert remote.read_other("tokenizer.json") == b"{}"
    finally:
        memory.rm(f"/{kind}-model", recursive=True)


def test_fsspec_fetches_only_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = np.arange(1 << 20, dtype=np.uint32)
    save_file({"big": big, "small": np.ones(3, np.uint8)}, tmp_path / "model.safetensors")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/lazy", recursive=True)
    fetched: list[int] = []
    original = type(memory).cat_file

    def counted(self: object, path: str, start: int | None = None, end: int | None = None, **rest: object) -> bytes:
        data: bytes = original(self, path, start=start, end=end, **rest)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(type(memory), "cat_file", counted)
    try:
        with Checkpoint.open("memory://lazy/model.safetensors") as checkpoint:
            assert checkpoint.tensor("small").sum() == 3
            assert sum(fetched) <= (1 << 16) + 3
            assert (checkpoint.rows("big", 1000, 1010) == big[1000:1010]).all()
            assert fetched[-1] == 40
    finally:
        memory.rm("/lazy", recursive=True)


def test_urls_of_local_files(single: Path) -> None:
    with Checkpoint.open(f"file://{single}") as checkpoint:
        assert checkpoint.folder == single
        assert not checkpoint.tensor("model.norm.weight").flags.owndata


def test_urls_that_cannot_be_read() -> None:
    refused("memory://nowhere", "memory://nowhere")
    refused("memory://nowhere/model.safetensors", "memory://nowhere/model.safetensors", "does not exist")
    refused("nosuchprotocol://a/b", "nosuchprotocol")


@pytest.fixture
def hub_cache(single: Path, sharded: Path, tmp_path: Path) -> Path:
    """A cache as huggingface_hub lays it out: blobs, links to them, references."""
    cache = tmp_path / "hub"
    model = cache / "models--org--tiny"
    for commit, source in {"a1": single, "b2": sharded}.items():
        for path in source.rglob("*"):
            if path.is_file():
                blob = model / "blobs" / f"{commit}{path.name}{path.parent.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, blob)
                link = model / "snapshots" / commit / path.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
    (model / "refs" / "pr").mkdir(parents=True)
    (model / "refs" / "main").write_text("a1")
    (model / "refs" / "pr" / "1").write_text("b2\n")
    return cache


def test_the_hub_cache(hub_cache: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    for location, files in {"org/tiny": 1, "org/tiny@main": 1, "org/tiny@b2": 3, "org/tiny@pr/1": 3}.items():
        with Checkpoint.open(location, hub_cache=hub_cache) as checkpoint:
            assert len(checkpoint.weight_files) == files and checkpoint.location == location
            assert checkpoint.other_files == ["1_Pooling/config.json", "config.json", "tokenizer.json"]
            for name, expected in tensors.items():
                assert checkpoint.tensor(name).tobytes() == expected.tobytes()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache))
    with Checkpoint.open("org/tiny") as checkpoint:
        assert len(checkpoint) == len(tensors)


def test_what_the_hub_cache_lacks_is_not_downloaded(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache))
    refused("org/other", "org/other", str(hub_cache), "hf download org/other")
    refused("org/tiny@v2", "hf download org/tiny --revision v2")
    refused("org/tiny@../../x", "org/tiny")
    link = hub_cache / "models--org--tiny/snapshots/b2/model-00002-of-00003.safetensors"
    link.resolve().unlink()
    refused("org/tiny@b2", "missing shard model-00002-of-00003.safetensors")
