"""Writing: exact bytes, nothing before its time, resuming what is sound and redoing what is not."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from writing import OTHERS, content, image, job, planned

from steelyard.errors import UserError, VerificationError
from steelyard.weights import (
    Checkpoint,
    FolderWriter,
    StoredTensor,
    array_hash,
    check_output,
    file_hash,
    plan_layout,
)


def test_the_folder_is_what_was_planned(tmp_path: Path) -> None:
    tensors = content()
    layout = planned(tensors)
    out = job(tmp_path / "deep" / "er" / "out")
    assert out == tmp_path / "deep" / "er" / "out"
    assert os.listdir(out.parent) == ["out"]  # neither staging nor journal is left
    files = image(out)
    assert files.keys() == {file.name for file in layout.files} | {"model.safetensors.index.json"} | set(OTHERS)
    assert len(layout.files) > 1
    assert sum(len(data) for name, data in files.items() if "safetensors" in name) == layout.total_bytes
    read: dict[str, np.ndarray] = {}
    for file in layout.files:
        read |= load_file(out / file.name)
    assert read.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert read[name].dtype == expected.dtype and read[name].shape == expected.shape
        assert read[name].tobytes() == expected.tobytes()
    with Checkpoint.open(out) as checkpoint:
        assert sorted(checkpoint.names) == sorted(tensors)


def test_the_same_job_gives_the_same_bytes(tmp_path: Path) -> None:
    assert image(job(tmp_path / "a")) == image(job(tmp_path / "b", resume=True))


def test_rows_from_threads_in_any_order(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((64, 33)).astype(np.float32)
    with FolderWriter(tmp_path / "out", planned({"w": array})) as writer:
        starts = np.random.default_rng(1).permutation(np.arange(0, 64, 4))

        def put(start: int) -> bool:
            writer.write_rows("w", start, array[start : start + 4])
            return writer.done("w")

        with ThreadPoolExecutor(8) as pool:
            finished = list(pool.map(put, map(int, starts[:-1])))
        assert not any(finished)
        with pytest.raises(VerificationError, match="never written, such as 'w'"):
            writer.finish()
        assert put(int(starts[-1]))
        assert writer.tensor_hashes() == {"w": array_hash(array)}
        writer.finish()
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tobytes() == array.tobytes()


def test_arrays_that_are_not_contiguous(tmp_path: Path) -> None:
    array = np.arange(35, dtype=np.int16).reshape(5, 7)
    with FolderWriter(tmp_path / "out", planned({"w": np.ascontiguousarray(array.T)})) as writer:
        writer.write("w", array.T)
        writer.finish()
    assert (load_file(tmp_path / "out" / "model.safetensors")["w"] == array.T).all()


def test_types_below_one_byte_are_written_as_raw_bytes(tmp_path: Path) -> None:
    layout = plan_layout([StoredTensor("w", "F4", (4, 2))])
    with FolderWriter(tmp_path / "out", layout) as writer:
        with pytest.raises(ValueError, match="uint8"):
            writer.write("w", np.zeros((4, 2), np.uint8))
        writer.write("w", np.frombuffer(b"abcd", np.uint8))
        writer.finish()
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.info("w").shape == (4, 2) and checkpoint.tensor("w").tobytes() == b"abcd"


def test_what_does_not_match_the_plan_is_refused(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "out", planned({"w": np.zeros((3, 2), np.float32)})) as writer:
        for array in [np.zeros((3, 2), np.float16), np.zeros((2, 3), np.float32), np.zeros(6, np.float32)]:
            with pytest.raises(ValueError, match=r"'w'.*the layout has float32 \(3, 2\)"):
                writer.write("w", array)
        with pytest.raises(ValueError, match="no tensor 'v'"):
            writer.write("v", array)
        with pytest.raises(ValueError, match="rows 2:4"):
            writer.write_rows("w", 2, np.zeros((2, 2), np.float32))
        with pytest.raises(ValueError, match="the layout has"):
            writer.write_rows("w", 1, np.zeros((2, 1), np.float32))
        for name in ["../x", "/x", "", "model.safetensors", "./model.safetensors"]:
            with pytest.raises(ValueError, match=r"folder|layout"):
                writer.add_file(name, b"")
    assert os.listdir(tmp_path) == []


def test_the_name_is_taken_only_after_verification(tmp_path: Path) -> None:
    array = np.ones(4, np.float32)
    seen: list[Path] = []

    def verify(folder: Path) -> None:
        seen.append(folder)
        assert not (tmp_path / "out").exists()
        assert sorted(image(folder)) == ["config.json", "model.safetensors"]
        raise VerificationError("not as planned")

    with FolderWriter(tmp_path / "out", planned({"w": array})) as writer:
        writer.write("w", array)
        writer.add_file("config.json", b"{}")
        with pytest.raises(VerificationError, match="not as planned"):
            writer.finish(verify)
        assert seen == [writer.folder] and writer.staging.exists()
    assert not (tmp_path / "out").exists()


def test_a_file_that_changed_its_size_is_noticed(tmp_path: Path) -> None:
    array = np.ones(4, np.float32)
    with FolderWriter(tmp_path / "out", planned({"w": array})) as writer:
        writer.write("w", array)
        with open(writer.folder / "model.safetensors", "ab") as stream:
            stream.write(b"x")
        with pytest.raises(VerificationError, match=r"model\.safetensors has"):
            writer.finish()
    assert not (tmp_path / "out").exists()


def test_carrying_files_along_and_hashes(single: Path, tmp_path: Path) -> None:
    (single / "tokenizer.model").write_bytes(os.urandom(3 << 20))
    array = np.ones(4, np.float32)
    before = image(single)
    with (
        Checkpoint.open(single) as source,
        FolderWriter(tmp_path / "out", planned({"w": array}), source=source.folder) as writer,
    ):
        writer.write("w", array)
        writer.carry(source)
        writer.add_file("config.json", b'{"changed": true}')
        hashes = writer.file_hashes()
        writer.finish()
    out = image(tmp_path / "out")
    assert hashes == {name: file_hash(tmp_path / "out" / name) for name in out}
    assert out["tokenizer.model"] == before["tokenizer.model"]
    assert out["1_Pooling/config.json"] == before["1_Pooling/config.json"]
    assert json.loads(out["config.json"]) == {"changed": True}
    assert image(single) == before


# Resuming


def interrupted(out: Path, names: list[str], resume: bool = False) -> None:
    tensors = content()
    with (
        pytest.raises(KeyboardInterrupt),
        FolderWriter(out, planned(tensors), plan_hash="job", resume=resume) as writer,
    ):
        for name in names:
            writer.write(name, tensors[name])
        writer.add_file("left-over.txt", b"of the first attempt")
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    expected = image(job(tmp_path / "expected"))
    out = tmp_path / "out"
    interrupted(out, ["embed", "norm", "empty"])
    assert not out.exists() and (tmp_path / ".out.partial").is_dir()
    with FolderWriter(out, planned(content()), resume=True, plan_hash="job") as writer:
        assert [name for name in content() if writer.done(name)] == ["embed", "norm", "empty"]
    assert image(job(out, resume=True)) == expected
    assert not (tmp_path / ".out.partial").exists()


def test_an_unfinished_run_is_neither_mixed_nor_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(out, ["embed"])
    with pytest.raises(UserError, match="unfinished run; add --resume"):
        job(out)
    with pytest.raises(UserError, match="other options"):
        FolderWriter(out, planned(content()), resume=True, plan_hash="another")
    with pytest.raises(UserError, match="other options"):
        FolderWriter(out, planned(content(), 10**6), resume=True, plan_hash="job")
    with FolderWriter(out, planned(content()), resume=True, plan_hash="job") as writer:
        assert writer.done("embed")


def test_a_run_that_finished_nothing_binds_nobody(tmp_path: Path) -> None:
    """Killed before its first tensor: other options may take its place."""
    out = tmp_path / "out"
    first = FolderWriter(out, planned(content()), plan_hash="another")
    copy = tmp_path / "copy"
    shutil.copytree(first.staging, copy)
    first.close()
    assert not first.staging.exists()
    copy.rename(first.staging)
    assert image(job(out, resume=True)) == image(job(tmp_path / "expected"))


@pytest.mark.parametrize("damage", ["data", "journal", "header", "short", "gone"])
def test_what_is_damaged_is_done_again(tmp_path: Path, damage: str) -> None:
    expected = image(job(tmp_path / "expected"))
    out = tmp_path / "out"
    interrupted(out, ["embed", "norm"])
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    file = next(file for file in planned(content()).files if "embed" in file.tensors)
    path = tmp_path / ".out.partial" / "model" / file.name
    if damage == "data":
        data = bytearray(path.read_bytes())
        data[file.offsets["embed"] + 3] ^= 1
        path.write_bytes(data)
    elif damage == "header":
        path.write_bytes(bytes(len(file.header)) + path.read_bytes()[len(file.header) :])
    elif damage == "journal":
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(lines[0] + lines[1][:-7] + b"\n" + lines[2])
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    with FolderWriter(out, planned(content()), resume=True, plan_hash="job") as writer:
        assert writer.done("embed") == (damage == "header")
    assert image(job(out, resume=True)) == expected


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    array = np.ones(4, np.float32)
    with FolderWriter(tmp_path / "out", planned({"w": array})) as writer:
        writer.write("w", array)
        with pytest.raises(UserError, match="another run is writing"):
            FolderWriter(tmp_path / "out", planned({"w": array}), resume=True)
        writer.finish()
    assert image(tmp_path / "out").keys() == {"model.safetensors"}


# Where an output may go


def test_existing_outputs_are_never_touched(tmp_path: Path) -> None:
    layout = planned(content())
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ["out", "file", "dangling"]:
        for resume in [False, True]:
            with pytest.raises(UserError, match=r"already exists.*choose another --out or remove it"):
                FolderWriter(tmp_path / name, layout, resume=resume)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "out"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    array = np.ones(4, np.float32)
    with FolderWriter(tmp_path / "out", planned({"w": array})) as writer:
        writer.write("w", array)
        (tmp_path / "out").mkdir()
        with pytest.raises(UserError, match="already exists"):
            writer.finish()
    assert os.listdir(tmp_path / "out") == [] and (tmp_path / ".out.partial").exists()


def test_the_input_is_never_written_into(single: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(single)
    for out in [
        single / "out",
        single / "a" / "b",
        tmp_path / "link" / "out",
        tmp_path / "x" / ".." / "single" / "y",
    ]:
        with pytest.raises(UserError, match="lies within the input"):
            check_output(out, source=single)
    with pytest.raises(UserError):
        check_output(single, source=single)
    assert check_output(tmp_path / "single-2", source=single) == tmp_path / "single-2"


@pytest.mark.parametrize("out", ["", "/", "..", ".", "s3://bucket/model", "memory://x"])
def test_names_that_are_no_new_folder(out: str) -> None:
    with pytest.raises(UserError, match="--out"):
        check_output(out)


def test_a_file_among_the_parents(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        check_output(tmp_path / "file" / "out")
