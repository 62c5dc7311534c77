from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.measure.texts import Corpus, Document, load_documents


def test_every_kind_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.txt").write_text("alpha ünïcode")
    (tmp_path / "b.py").write_text("beta = 1\n")
    (tmp_path / "empty.md").write_text("  \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.txt").write_text("not this")
    lines = [json.dumps({"text": "one"}), "", json.dumps({"text": "two", "other": 3}), json.dumps({"text": " "})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    np.save(tmp_path / "e.npy", np.array([[5, 6], [7, 8]], dtype=np.uint32))
    np.array([1, 2, 300], dtype="<u2").tofile(tmp_path / "f.bin")

    documents = {Path(d.name).name: d for d in load_documents(tmp_path).documents}
    assert set(documents) == {"a.txt", "b.py", "d.jsonl:1", "d.jsonl:3", "e.npy", "f.bin"}
    assert documents["a.txt"].text == "alpha ünïcode"
    assert documents["d.jsonl:3"].text == "two"
    assert documents["e.npy"].tokens is not None and documents["e.npy"].tokens.tolist() == [5, 6, 7, 8]
    assert documents["f.bin"].tokens is not None and documents["f.bin"].tokens.tolist() == [1, 2, 300]
    # A file that is named is read whatever its suffix.
    odd = tmp_path / "notes"
    odd.write_text("gamma")
    assert [d.text for d in load_documents([odd, tmp_path / "b.py"]).documents] == ["gamma", "beta = 1\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt: no such file"),
        ("empty.txt", b" \n", "empty.txt holds no text"),
        ("latin.txt", b"\xff\xfe\xfd", "latin.txt is not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{oops', r"bad.jsonl:2 is not valid JSON"),
        ("field.jsonl", b'{"body": "a"}', r"field.jsonl:1 has no text in a field 'text'; its fields: body"),
        ("odd.bin", b"abc", "odd number of bytes"),
        ("not.npy", b"abc", "not a .npy file"),
    ],
)
def test_bad_texts_are_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_documents(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "message"), [(np.array([0.5]), "does not hold integers"), (np.array([3, -1]), "negative token -1")]
)
def test_bad_token_files_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(UserError, match=message):
        load_documents(tmp_path / "t.npy")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no text.*--data none"):
        load_documents(tmp_path)


def test_split_is_disjoint_by_content() -> None:
    documents = [Document(f"{i}", f"text {i % 10}") for i in range(30)]
    calibration, held_out = Corpus(tuple(documents), "thirty").split(0.3)
    first, second = ({d.text for d in c.documents} for c in (calibration, held_out))
    assert not first & second and len(first) == 7 and len(second) == 3
    assert len(calibration.documents) + len(held_out.documents) == 30
    again = Corpus(tuple(reversed(documents)), "thirty").split(0.3)
    assert {d.text for d in again[1].documents} == second


def test_one_document_is_cut_in_two() -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    calibration, held_out = Corpus((Document("one", text),), "one").split(0.25)
    first, second = calibration.documents[0].text, held_out.documents[0].text
    assert first is not None and second is not None
    assert first + second == text and first.endswith("\n") and 0.2 < len(second) / len(text) < 0.3
    tokens = Corpus((Document("t", tokens=np.arange(100)),), "t").split(0.25)
    assert tokens[0].documents[0].tokens is not None and tokens[0].documents[0].tokens.tolist() == list(range(75))
    with pytest.raises(UserError, match="too short"):
        Corpus((Document("one", "x"),), "one").split()
