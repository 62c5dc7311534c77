"""Vocabularies in GGUF, against the tokenizers they come from, run as llama.cpp would run them."""

from __future__ import annotations

import itertools
import json
import struct
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

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
    assert vocabulary_keys(lambda name: None, 9, {}) == {"tokenizer.ggml.model": "no_vocab"}


def charsmap(rules: dict[str, str]) -> bytes:
    """Return SentencePiece's compiled form of replacements: a double array of bytes, and the texts they lead to.

    An entry's label lies in bits 0-7, whether a text ends there in bit 8, its offset from bit 10 on. What follows
    an entry at p lies at p ^ offset ^ label. Here the followers of every entry have 256 places of their own.
    """
    texts = b""
    tree: dict[int, Any] = {}
    for key, text in rules.items():
        place = tree
        for byte in key.encode():
            place = place.setdefault(byte, {})
        place[0] = len(texts)
        texts += text.encode() + b"\0"
    units = [0] * 256

    def lay(at: int, children: dict[int, Any]) -> None:
        begin = len(units)
        units.extend([0] * 256)
        units[at] |= (at ^ begin) << 10 | (1 << 8 if 0 in children else 0)
        for label, inside in children.items():
            units[begin ^ label] = label if label else 1 << 31 | inside
            if label:
                lay(begin ^ label, inside)

    lay(0, tree)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


def unigram(precompiled: bool = False) -> Tokenizer:
    """Pieces with scores, as XLM-RoBERTa and its likes have them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    steps: list[Any] = [normalizers.Replace(Regex(" {2,}"), " ")]
    if precompiled:
        steps.insert(0, normalizers.Precompiled(charsmap({"\n": " ", "\t": " ", "ä": "a", "ﬁ": "fi", "…": "..."})))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def chosen(text: str, keys: dict[str, Any]) -> list[int]:
    """Return the pieces of the highest sum of scores by trying every way, unknown characters in a row as one."""
    place = {token: i for i, token in enumerate(keys["tokenizer.ggml.tokens"])}
    scores, types = keys["tokenizer.ggml.scores"], keys["tokenizer.ggml.token_type"]
    worst = min(score for score, kind in zip(scores, types, strict=True) if kind == 1) - 10
    unknown = keys["tokenizer.ggml.unknown_token_id"]
    escaped = "".join("▁" + word for word in text.split())
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, len(escaped) + 1):
        ways = []
        for begin in range(end):
            score, found = best[begin]
            piece = place.get(escaped[begin:end])
            if piece is not None and types[piece] == 1:
                ways.append((score + scores[piece], [*found, piece]))
            elif end == begin + 1:
                ways.append((score + worst, [*found, unknown]))
        best.append(max(ways, key=lambda way: way[0]))
    return [i for i, _ in itertools.groupby(best[-1][1], lambda i: i)] if unknown in best[-1][1] else best[-1][1]


def test_scores_choose_pieces_as_unigram_does() -> None:
    tokenizer = unigram()
    keys = keys_of(tokenizer)
    assert keys["tokenizer.ggml.model"] == "t5" and keys["tokenizer.ggml.remove_extra_whitespaces"] is True
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")] == [0, 2, 3]
    assert keys["tokenizer.ggml.add_bos_token"] is True and keys["tokenizer.ggml.add_eos_token"] is True
    assert keys["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 2, 1]
    for text in (TEXT[0], "banana cat", "the ant  sat on a mob", "döög the"):
        assert chosen(text, keys) == tokenizer.encode(text, add_special_tokens=False).ids


def test_normalization_goes_along_as_it_is() -> None:
    keys = keys_of(unigram(precompiled=True))
    again = Tokenizer(models.Unigram([("<unk>", 0.0)], 0))
    again.normalizer = normalizers.Precompiled(keys["tokenizer.ggml.precompiled_charsmap"])
    assert again.normalizer.normalize_str("Bär\tﬁt…\n") == "Bar fit... "


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": {"type": "NFKC"}}, "normalizes text by NFKC"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text by Whitespace"),
        ({"pre_tokenizer": None}, "splits text by nothing"),
        ({"model": {"byte_fallback": True}}, "falls back to bytes"),
        ({"model": {"unk_id": None}}, "without an unknown token"),
        ({"model": {"vocab": [["<unk>", 0.0], ["a▁b", -1.0]], "unk_id": 0}}, "spans words"),
    ],
)
def test_unigrams_that_llama_cpp_would_split_otherwise_are_refused(change: dict[str, Any], words: str) -> None:
    tokenizer = json.loads(unigram().to_str())
    changed = {**tokenizer, **change, "model": {**tokenizer["model"], **change.get("model", {})}}
    with pytest.raises(UserError, match=words):
        vocabulary_keys({"tokenizer.json": json.dumps(changed).encode()}.get, 400, {})
