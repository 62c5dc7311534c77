"""Vocabularies in GGUF, against the tokenizers they come from, run as llama.cpp would run them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from steelyard.errors import UserError
from steelyard.formats.gguf.tokenizer import vocabulary_keys

TEXT = ["the cat sat on the mat and the dog sat on the cat", "a banana and another banana for the cat"] * 3


def keys_of(tokenizer: Tokenizer, config: dict[str, Any] | None = None, rows: int = 400) -> dict[str, Any]:
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config or {}).encode(),
    }
    return dict(vocabulary_keys(files.get, rows, {"eos_token_id": 2}))


def pieces() -> Tokenizer:
    """Merges that fall back to bytes, as in Llama 2."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary += sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    merges = [tuple(merge) for merge in learnt["merges"]]
    model = models.BPE({t: i for i, t in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def joined(text: str, tokens: list[str], scores: list[float]) -> list[int]:
    """Join the neighbours of the highest score, leftmost first, until none are left: SentencePiece's way."""
    place = {token: i for i, token in enumerate(tokens)}
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[place[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in place
        ]
        if not pairs:
            break
        _, i = min(pairs)
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    found = []
    for symbol in symbols:
        found += [place[symbol]] if symbol in place else [place[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def test_scores_join_as_merges_do() -> None:
    tokenizer = pieces()
    keys = keys_of(tokenizer, {"bos_token": "<s>", "add_bos_token": True})
    assert keys["tokenizer.ggml.model"] == "llama" and keys["tokenizer.ggml.add_bos_token"] is True
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (1, 2)
    for text in (TEXT[0], "banana cat", "the naïve cat sat", "an other ban"):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert joined(text, keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"]) == expected
    types = keys["tokenizer.ggml.token_type"]
    assert types[:4] == [2, 3, 3, 6] and types[258] == 6 and types[259] == 1 and types[-1] == 5


def test_word_pieces_carry_their_place_in_the_word() -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cat": 4, "##s": 5, "dog": 6}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    keys = keys_of(tokenizer, {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": {"content": "[PAD]"}}, 8)
    assert keys["tokenizer.ggml.model"] == "bert"
    assert keys["tokenizer.ggml.tokens"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁cat", "s", "▁dog", "[PAD7]"]
    assert keys["tokenizer.ggml.token_type"] == [3, 3, 3, 3, 1, 1, 1, 5]
    assert keys["tokenizer.ggml.seperator_token_id"] == 3 and keys["tokenizer.ggml.padding_token_id"] == 0


def test_what_llama_cpp_has_no_name_for_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="splits text"):
        keys_of(tokenizer)
    with pytest.raises(UserError, match="Unigram"):
        keys_of(Tokenizer(models.Unigram([("a", 0.0)], 0)))
    assert vocabulary_keys(lambda name: None, 9, {}) == {"tokenizer.ggml.model": "no_vocab"}
