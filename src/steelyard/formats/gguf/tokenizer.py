"""The vocabulary as GGUF's keys, from tokenizer.json.

Four kinds have a place: byte-level BPE, BPE that falls back to bytes (as SentencePiece merges), WordPiece, and
Unigram (SentencePiece's other kind).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from steelyard.errors import UserError
from steelyard.formats.gguf.metadata import Value
from steelyard.formats.gguf.unigram import refusal, unigram_keys

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# How llama.cpp calls the ways of splitting text before merges, by the expressions of tokenizer.json.
_GPT2 = "gpt-2"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TAIL_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASES = _LEAD + _UPPER + "*" + _LOWER + "+@|" + _LEAD + _UPPER + "+" + _LOWER + "*@|"
_SPLITS = {
    _WORDS + r"\p{N}" + _TAIL: "qwen2",
    _WORDS + r"\p{N}{1,3}" + _TAIL: "llama-bpe",
    _CASES.replace("@", "") + r"\p{N}" + _TAIL_SLASH: "tekken",
    _CASES.replace("@", _SHORT + "?") + r"\p{N}{1,3}" + _TAIL_SLASH: "gpt-4o",
}
_SPECIAL = ("bos", "eos", "unk", "pad", "mask", "sep", "cls")
_NAMES = {"unk": "unknown", "pad": "padding", "sep": "seperator"}
_SPACE = "▁"


def vocabulary_keys(read: Callable[[str], bytes | None], rows: int, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of the vocabulary; those of a model without one if there is no tokenizer.json.

    Args:
        read: returns a file of the model's folder, None if it has none of that name.
        rows: of the embedding table; tokens beyond the vocabulary are named and never used.
        config: of the model.

    Raises:
        UserError: if the tokenizer is of a kind that llama.cpp has no name for.
    """
    data = read("tokenizer.json")
    if data is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    tokenizer = json.loads(data)
    settings = json.loads(read("tokenizer_config.json") or b"{}")
    model = tokenizer["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind == "BPE" and model.get("byte_fallback"):
        found = _sentence_pieces(model)
    elif kind == "BPE":
        found = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _split_name(tokenizer.get("pre_tokenizer"))}
    elif kind == "WordPiece":
        found = {"tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "default"}
    elif kind == "Unigram":
        found = unigram_keys(tokenizer)
    else:
        raise UserError(refusal(f"tokenizer.json holds a {kind} model"))
    tokens, types = _tokens(tokenizer, rows, kind)
    if "tokenizer.ggml.scores" in found:
        scores = found["tokenizer.ggml.scores"]
        assert isinstance(scores, list)
        found["tokenizer.ggml.scores"] = [float(scores[i]) if i < len(scores) else 0.0 for i in range(rows)]
    found |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if kind == "BPE" and "tokenizer.ggml.scores" not in found:
        found["tokenizer.ggml.merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    found |= _special(tokenizer, settings, config, {token: i for i, token in enumerate(_raw(tokenizer, rows))})
    if kind == "WordPiece":
        # llama.cpp begins and ends its texts with these, and takes BERT's usual numbers where they are missing.
        for theirs, ours in (("bos", "cls"), ("eos", "seperator")):
            if f"tokenizer.ggml.{ours}_token_id" in found:
                found[f"tokenizer.ggml.{theirs}_token_id"] = found[f"tokenizer.ggml.{ours}_token_id"]
    template = read("chat_template.jinja")
    text = template.decode() if template else settings.get("chat_template")
    if isinstance(text, str):
        found["tokenizer.chat_template"] = text
    return found


def _split_name(pre: Mapping[str, Any] | None) -> str:
    steps = list((pre or {}).get("pretokenizers") or ([pre] if pre else []))
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return _GPT2
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = (steps[0].get("pattern") or {}).get("Regex", "")
        if pattern in _SPLITS:
            return _SPLITS[pattern]
    raise UserError(refusal("tokenizer.json splits text in a way"))


def _raw(tokenizer: Mapping[str, Any], rows: int) -> list[str | None]:
    found: list[str | None] = [None] * rows
    vocabulary = tokenizer["model"]["vocab"]
    pairs = (
        [(piece[0], i) for i, piece in enumerate(vocabulary)]
        if isinstance(vocabulary, list)
        else [*vocabulary.items()]
    )
    pairs += [(item["content"], item["id"]) for item in tokenizer.get("added_tokens") or []]
    for token, place in pairs:
        if not 0 <= place < rows:
            raise UserError(f"tokenizer.json has token {place}, and the embedding table {rows} rows")
        found[place] = token
    return found


def _tokens(tokenizer: Mapping[str, Any], rows: int, kind: str) -> tuple[list[str], list[int]]:
    added = {item["id"]: CONTROL if item.get("special") else USER_DEFINED for item in tokenizer["added_tokens"]}
    model = tokenizer["model"]
    prefix = model.get("continuing_subword_prefix") or "##"
    tokens, types = [], []
    for place, token in enumerate(_raw(tokenizer, rows)):
        if token is None:
            tokens.append(f"[PAD{place}]")
            types.append(UNUSED)
            continue
        label = added.get(place, NORMAL)
        if place == model.get("unk_id") if kind == "Unigram" else kind == "BPE" and token == model.get("unk_token"):
            label = UNKNOWN
        if model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            label = BYTE
        if kind == "WordPiece" and label == NORMAL:
            token = token.removeprefix(prefix) if token.startswith(prefix) else _SPACE + token
        tokens.append(token)
        types.append(label)
    return tokens, types


def _sentence_pieces(model: Mapping[str, Any]) -> dict[str, Value]:
    """Return scores that fall with the merges: llama.cpp joins the highest score, as merges join the first."""
    scores = dict.fromkeys(model["vocab"], 0.0)
    for rank, merge in enumerate(model["merges"], 1):
        joined = "".join(merge.split(" ")) if isinstance(merge, str) else "".join(merge)
        if scores.get(joined) == 0.0:
            scores[joined] = -float(rank)
    size = max(model["vocab"].values()) + 1
    ordered = [0.0] * size
    for token, place in model["vocab"].items():
        ordered[place] = scores[token]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.scores": ordered}


def _special(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[Any, int]
) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name in _SPECIAL:
        token = settings.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        place = ids.get(text) if text is not None else None
        told = config.get(f"{name}_token_id")
        if place is None and isinstance(told, int):
            place = told
        if place is not None:
            found[f"tokenizer.ggml.{_NAMES.get(name, name)}_token_id"] = place
    begins, ends = _framed(tokenizer.get("post_processor"))
    kind = tokenizer["model"].get("type")
    if kind == "Unigram":
        # llama.cpp begins and ends with these alone; what a template has there may be named cls and sep.
        for name, place in (("bos", begins), ("eos", ends)):
            if place is not None and (token := place if isinstance(place, int) else ids.get(place)) is not None:
                found[f"tokenizer.ggml.{name}_token_id"] = token
    if isinstance(settings.get("add_bos_token"), bool):
        found["tokenizer.ggml.add_bos_token"] = settings["add_bos_token"]
    elif kind in ("BPE", "Unigram"):
        found["tokenizer.ggml.add_bos_token"] = begins is not None
    if isinstance(settings.get("add_eos_token"), bool):
        found["tokenizer.ggml.add_eos_token"] = settings["add_eos_token"]
    elif kind == "Unigram":
        found["tokenizer.ggml.add_eos_token"] = ends is not None
    return found


def _framed(post: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the special tokens, or their numbers, with which a text is begun and ended; None where it is not."""
    for step in (post or {}).get("processors") or ([post] if post else []):
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            first, last = (step["single"][place].get("SpecialToken", {}).get("id") for place in (0, -1))
            return first, last
        if step.get("type") in ("RobertaProcessing", "BertProcessing"):
            return step["cls"][1], step["sep"][1]
    return None, None
