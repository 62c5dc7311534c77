from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import UserError
from steelyard.measure.model import open_model
from steelyard.measure.texts import Corpus, Document
from steelyard.measure.tokenizer import ModelTokenizer, open_tokenizer
from steelyard.measure.windows import IGNORED, Task, TokenSet, cut
from steelyard.weights import Checkpoint

from .models import VOCABULARY, save_tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, ModelTokenizer]:
    """Without and with special tokens around a sequence."""
    made = {}
    for special in (False, True):
        folder = tmp_path_factory.mktemp("tokenizer")
        save_tokenizer(folder, special)
        (folder / "config.json").write_text("{}")

        class Files:
            location = str(folder)

            def __init__(self, folder: Path) -> None:
                self.folder = folder

            def has_other(self, name: str) -> bool:
                return (self.folder / name).exists()

            def read_other(self, name: str) -> bytes:
                return (self.folder / name).read_bytes()

        tokenizer = open_tokenizer(Files(folder), {})
        assert tokenizer is not None
        made[special] = tokenizer
    return made


texts = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=4, unique=True
)


@given(texts, st.sampled_from(["causal", "masked"]), st.integers(8, 24))
def test_every_token_is_scored_once(
    tokenizers: dict[bool, ModelTokenizer], contents: list[str], task: Task, length: int
) -> None:
    tokenizer = tokenizers[task == "masked"]
    corpus = Corpus(tuple(Document(f"{i}", text) for i, text in enumerate(contents)), "some")
    data = cut(corpus, tokenizer, task, VOCABULARY, sequences=1000, length=length)
    assert all(len(window.inputs) <= length for window in data.windows)
    for number, name in enumerate(data.names):
        text = contents[int(name)]
        windows = [window for window in data.windows if window.document == number]
        scored = np.concatenate([w.labels[w.labels != IGNORED] for w in windows])
        assert scored.tolist() == tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert sum(w.nbytes or 0 for w in windows) == len(text.encode())


def test_causal_windows_see_what_precedes_them(tokenizers: dict[bool, ModelTokenizer]) -> None:
    data = cut(
        Corpus((Document("d", "abcdefghijkl"),), "d"), tokenizers[False], "causal", 260, sequences=9, length=8
    )
    ids = tokenizers[False].encode("abcdefghijkl").tokens.tolist()
    first, second = data.windows
    assert first.inputs.tolist() == [256, *ids[:7]] and first.labels.tolist() == ids[:8]
    assert second.inputs.tolist() == ids[7:11] and second.labels.tolist() == ids[8:]


def test_a_tokenizer_that_starts_sequences_starts_every_window(tokenizers: dict[bool, ModelTokenizer]) -> None:
    data = cut(
        Corpus((Document("d", "abcdefghijkl"),), "d"), tokenizers[True], "causal", 260, sequences=9, length=8
    )
    ids = tokenizers[True].encode("abcdefghijkl").tokens.tolist()
    assert [w.inputs.tolist() for w in data.windows] == [[257, *ids[:7]], [257, *ids[8:11]]]
    assert [w.labels.tolist() for w in data.windows] == [ids[:8], ids[8:]]


def test_windows_are_spread_over_documents(tokenizers: dict[bool, ModelTokenizer]) -> None:
    corpus = Corpus(tuple(Document(f"{i}", chr(97 + i) * 500) for i in range(5)), "five")
    data = cut(corpus, tokenizers[False], "causal", 260, sequences=12, length=16)
    counts = np.bincount([window.document for window in data.windows])
    assert len(data.windows) == 12 and sorted(counts.tolist()) == [2, 2, 2, 3, 3]
    other = cut(corpus, tokenizers[False], "causal", 260, sequences=12, length=16, seed=1)
    assert other.names != data.names and sorted(other.names) == sorted(data.names)


def test_token_documents_need_no_tokenizer() -> None:
    corpus = Corpus((Document("t", tokens=np.arange(30)),), "tokens")
    data = cut(corpus, None, "causal", 40, sequences=5, length=10)
    assert np.concatenate([w.labels for w in data.windows]).tolist() == list(range(1, 30))
    assert all(w.nbytes is None for w in data.windows)
    with pytest.raises(UserError, match="token 29; the model knows 20 tokens"):
        cut(corpus, None, "causal", 20, sequences=5, length=10)
    with pytest.raises(UserError, match="has no tokenizer; pass token files"):
        cut(Corpus((Document("a", "text"),), "a"), None, "causal", 40, sequences=5, length=10)


def test_batches_hold_every_window_once(tokenizers: dict[bool, ModelTokenizer]) -> None:
    corpus = Corpus(tuple(Document(f"{i}", "x" * (10 + 7 * i)) for i in range(9)), "nine")
    data = cut(corpus, tokenizers[False], "causal", 260, sequences=50, length=32)
    batches = data.batches(100)
    assert sorted(np.concatenate([b.windows for b in batches]).tolist()) == list(range(len(data.windows)))
    assert all(b.inputs.size <= 100 for b in batches)
    for batch in batches:
        for row, number in enumerate(batch.windows):
            window = data.windows[number]
            assert batch.inputs[row][batch.valid[row]].tolist() == window.inputs.tolist()
            assert (batch.labels[row][~batch.valid[row]] == IGNORED).all()


def test_sets_are_saved_and_loaded(tokenizers: dict[bool, ModelTokenizer], tmp_path: Path) -> None:
    corpus = Corpus((Document("a", "x" * 50), Document("t", tokens=np.arange(20))), "two")
    data = cut(corpus, tokenizers[True], "masked", 260, sequences=50, length=16)
    data.save(tmp_path / "w.npz")
    again = TokenSet.load(tmp_path / "w.npz")
    assert again.identity() == data.identity() and again.names == data.names
    assert [w.nbytes for w in again.windows] == [w.nbytes for w in data.windows]
    assert [w.document for w in again.windows] == [w.document for w in data.windows]


def test_a_folder_without_tokenizer(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert open_model(folder, Checkpoint.open(folder)).tokenizer is None
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        open_model(folder, Checkpoint.open(folder))
