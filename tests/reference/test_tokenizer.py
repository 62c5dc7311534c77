from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.reference.tokenizer import END_OF_TEXT, encode_stream, save_tokenizer, train_tokenizer

TEXTS = ["def f(x):\n    return x + 1\n", "class Größe:\n\tpass\n", "# π ≈ 3.14\r\n"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 320)


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    if END_OF_TEXT not in text:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_stream_is_every_document_behind_its_mark(tokenizer: Any) -> None:
    stream = encode_stream(tokenizer, TEXTS[:3])
    marks = [place for place, token in enumerate(stream) if token == 0]
    assert len(marks) == 3 and marks[0] == 0
    pieces = [stream[a + 1 : b] for a, b in zip(marks, [*marks[1:], len(stream)], strict=True)]
    assert [tokenizer.decode(piece.tolist()) for piece in pieces] == TEXTS[:3]


def test_transformers_loads_the_very_same_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.bos_token == loaded.eos_token == END_OF_TEXT and loaded.bos_token_id == 0
    for text in TEXTS[:3]:
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.encode(text).ids
        assert loaded.decode(ids) == text
    assert loaded(END_OF_TEXT, add_special_tokens=False)["input_ids"] == [0]
