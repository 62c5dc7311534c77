from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.errors import UserError
from steelyard.reference import corpus


def write(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return [file.name for split in corpus.SPLITS for file in corpus.files(split, folder)]


def test_splits_of_the_library_are_disjoint_and_of_the_stated_shares() -> None:
    found = {split: {file.name for file in corpus.files(split)} for split in corpus.SPLITS}
    everything = set.union(*found.values())
    assert sum(map(len, found.values())) == len(everything)
    assert 0.85 < len(found["train"]) / len(everything) < 0.97
    assert found["calibration"] and found["held-out"]


def test_a_file_stays_in_its_split_whatever_lies_beside_it(tmp_path: Path) -> None:
    for number in range(200):
        write(tmp_path, f"package/module_{number}.py", b"x = 1\n")
    before = {split: {file.name for file in corpus.files(split, tmp_path)} for split in corpus.SPLITS}
    for number in range(200):
        write(tmp_path, f"other/module_{number}.py", b"x = 1\n")
    for split in corpus.SPLITS:
        assert before[split] == {
            file.name for file in corpus.files(split, tmp_path) if file.name.startswith("package/")
        }


def test_what_is_no_library_source_is_left_out(tmp_path: Path) -> None:
    for number in range(200):
        write(tmp_path, f"kept_{number}.py", "ä = 1\n".encode())
    write(tmp_path, "site-packages/thing.py", b"x = 1\n")
    write(tmp_path, "deep/dist-packages/thing.py", b"x = 1\n")
    write(tmp_path, "latin.py", "ä = 1\n".encode("latin-1"))
    write(tmp_path, "empty.py", b" \n")
    write(tmp_path, "table.py", b"#" * 400_001)
    write(tmp_path, "notes.txt", b"x = 1\n")
    assert sorted(names(tmp_path)) == sorted(f"kept_{number}.py" for number in range(200))


def test_no_sources_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Python sources in"):
        corpus.files("train", tmp_path)
