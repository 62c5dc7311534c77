"""Unigram vocabularies as GGUF's keys: pieces with scores, and what is done to a text before they are chosen.

llama.cpp chooses the pieces of the highest sum of scores over a whole text whose words begin with an escaped space,
as SentencePiece does. tokenizer.json has the same in steps of its own; those that amount to it are known here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from steelyard.errors import UserError
from steelyard.formats.gguf.metadata import Value

_SPACE = "\u2581"
_MERGED = ({"Regex": " {2,}"}, {"Regex": " +"})


def refusal(reason: str) -> str:
    """Return the message for a tokenizer that cannot be written."""
    return f"{reason}, which llama.cpp has no name for; without the tokenizer's files the weights alone are written"


def unigram_keys(tokenizer: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of a Unigram vocabulary but for its tokens.

    Args:
        tokenizer: the content of tokenizer.json.

    Raises:
        UserError: if it treats texts in a way that llama.cpp does not.
    """
    model = tokenizer["model"]
    if model.get("byte_fallback"):
        raise UserError(refusal("tokenizer.json holds a Unigram model that falls back to bytes"))
    if model.get("unk_id") is None:
        raise UserError(refusal("tokenizer.json holds a Unigram model without an unknown token"))
    steps = _steps(tokenizer.get("normalizer"), "normalizers")
    charsmap = b""
    merged = False
    for step in steps:
        kind = step.get("type")
        if kind == "Precompiled":
            charsmap = base64.b64decode(step.get("precompiled_charsmap") or "")
        elif kind == "Replace" and step.get("pattern") in _MERGED and step.get("content") in (" ", _SPACE):
            merged = True
        elif not (kind == "Strip" and any(s.get("pattern") in _MERGED for s in steps)):
            raise UserError(refusal(f"tokenizer.json normalizes text by {kind}"))
    splits = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in splits]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise UserError(refusal(f"tokenizer.json splits text by {' and '.join(map(str, kinds)) or 'nothing'}"))
    space = splits[-1]
    scheme = space.get("prepend_scheme") or ("always" if space.get("add_prefix_space", True) else "never")
    if space.get("replacement", _SPACE) != _SPACE:
        raise UserError(refusal(f"tokenizer.json writes spaces as {space['replacement']!r}"))
    if len(kinds) == 2 and not charsmap:
        raise UserError(refusal("tokenizer.json splits text at every kind of space and maps none to another"))
    if space.get("split", True):
        _require_words([str(piece[0]) for piece in model["vocab"]])
    found: dict[str, Value] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [float(score) for _, score in model["vocab"]],
        "tokenizer.ggml.unknown_token_id": int(model["unk_id"]),
        "tokenizer.ggml.add_space_prefix": scheme != "never",
        "tokenizer.ggml.remove_extra_whitespaces": merged or len(kinds) == 2,
    }
    if charsmap:
        found["tokenizer.ggml.precompiled_charsmap"] = charsmap
    return found


def _require_words(pieces: list[str]) -> None:
    """Refuse pieces that would span words: llama.cpp does not cut a text into words before it chooses them."""
    for piece in pieces:
        if _SPACE in piece[1:]:
            raise UserError(refusal(f"tokenizer.json never uses the token {piece!r}, which spans words"))


def _steps(found: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if not found:
        return []
    return list(found[name]) if found.get("type") == "Sequence" else [found]
