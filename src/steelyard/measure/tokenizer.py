"""A model's own tokenizer, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steelyard.errors import UserError


class Folder(Protocol):
    """The files beside a model's weights, as `weights.Checkpoint` offers them."""

    @property
    def location(self) -> str:
        """Where the model lies."""

    def has_other(self, name: str) -> bool:
        """Tell whether there is such a file."""

    def read_other(self, name: str) -> bytes:
        """Return its content."""


@dataclass(frozen=True)
class Encoding:
    """Tokens of a text, without special ones.

    Attributes:
        tokens: [n] int64.
        byte_ends: [n] int64, the place in the UTF-8 text where each token ends.
    """

    tokens: np.ndarray
    byte_ends: np.ndarray


@dataclass(frozen=True)
class ModelTokenizer:
    """Turns text into tokens and says which special tokens surround a sequence.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        prefix: special tokens it puts before a sequence.
        suffix: special tokens it puts after a sequence.
        start: the token that stands before a document: the first of `prefix`, else the model's beginning-of-text
            or end-of-text token; None if it has neither.
    """

    backend: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    start: int | None

    def encode(self, text: str) -> Encoding:
        """Return the tokens of a text."""
        encoded = self.backend.encode(text, add_special_tokens=False)
        widths = _utf8_widths(text)
        byte_at = np.concatenate([[0], np.cumsum(widths)])
        ends = np.array([end for _, end in encoded.offsets], dtype=np.int64).reshape(-1)
        return Encoding(np.array(encoded.ids, dtype=np.int64), byte_at[np.clip(ends, 0, len(widths))])

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens, special ones left out."""
        return str(self.backend.decode([int(token) for token in tokens]))


def open_tokenizer(folder: Folder, config: Mapping[str, Any]) -> ModelTokenizer | None:
    """Return the tokenizer of a model, None if its folder has none.

    `tokenizer.json` is taken as it is; other kinds go through `transformers.AutoTokenizer`, local files only.

    Raises:
        UserError: if the tokenizer's files are damaged.
    """
    if folder.has_other("tokenizer.json"):
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_str(folder.read_other("tokenizer.json").decode())
        except Exception as error:
            raise UserError(f"{folder.location}/tokenizer.json is damaged ({error}); download it again") from None
    else:
        backend = _converted(folder)
    if backend is None:
        return None
    # Files often carry a padding and a truncation; lengths are decided here.
    backend.no_padding()
    backend.no_truncation()
    return _described(backend, _settings(folder), config)


def require_tokenizer(tokenizer: ModelTokenizer | None, location: str) -> ModelTokenizer:
    """Return the tokenizer.

    Raises:
        UserError: if there is none, with the ways out.
    """
    if tokenizer is None:
        raise UserError(f"{location} has no tokenizer; pass token files (.npy, .bin) as --data, or --data none")
    return tokenizer


def _described(backend: Any, settings: Mapping[str, Any], config: Mapping[str, Any]) -> ModelTokenizer:
    plain = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    for place in range(len(full) - len(plain) + 1):
        if full[place : place + len(plain)] == plain:
            prefix, suffix = tuple(full[:place]), tuple(full[place + len(plain) :])
            break
    begin = _special(backend, settings.get("bos_token"), config.get("bos_token_id"))
    end = _special(backend, settings.get("eos_token"), config.get("eos_token_id"))
    if not prefix and settings.get("add_bos_token") is True and begin is not None:
        prefix = (begin,)
    start = prefix[0] if prefix else begin if begin is not None else end
    return ModelTokenizer(backend, prefix, suffix, start)


def _special(backend: Any, token: Any, number: Any) -> int | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    if isinstance(token, str) and (found := backend.token_to_id(token)) is not None:
        return int(found)
    if isinstance(number, list):
        number = number[0] if number else None
    return int(number) if isinstance(number, int) and number >= 0 else None


def _settings(folder: Folder) -> dict[str, Any]:
    name = "tokenizer_config.json"
    if not folder.has_other(name):
        return {}
    try:
        settings = json.loads(folder.read_other(name))
    except ValueError:
        raise UserError(f"{folder.location}/{name} is not valid JSON; download it again") from None
    return settings if isinstance(settings, dict) else {}


def _converted(folder: Folder) -> Any:
    if not any(map(folder.has_other, ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"))):
        return None
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder.location, local_files_only=True)
        return loaded.backend_tokenizer
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the tokenizer of {folder.location} cannot be read ({reason}); pass token files") from None


def _utf8_widths(text: str) -> np.ndarray:
    """Bytes that each character takes in UTF-8."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
