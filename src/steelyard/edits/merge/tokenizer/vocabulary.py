"""The vocabulary in a `tokenizer.json`: its tokens and their numbers, taken apart and put together."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.errors import UserError
from steelyard.measure.tokenizer import Folder, open_tokenizer

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as its file has it.

    Attributes:
        document: the content of `tokenizer.json`.
        tokens: number of every token.
        added: the entries of added tokens, by token.
        where: what messages call it.
    """

    document: Mapping[str, Any]
    tokens: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    where: str

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str) -> Vocabulary:
        """Return the vocabulary of a file's content.

        Raises:
            UserError: if it is not that of a tokenizer.
        """
        try:
            tokens = dict(_model_tokens(document["model"]))
            added = {str(entry["content"]): entry for entry in document.get("added_tokens") or []}
            tokens.update({token: int(entry["id"]) for token, entry in added.items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{where} is not the file of a tokenizer; download it again") from None
        return cls(document, tokens, added, where)

    @classmethod
    def read(cls, folder: Folder, config: Mapping[str, Any]) -> Vocabulary | None:
        """Return the vocabulary of a model's folder, None if it has no tokenizer.

        Raises:
            UserError: if its file is damaged.
        """
        where = f"{folder.location}/{TOKENIZER_FILE}"
        if folder.has_other(TOKENIZER_FILE):
            try:
                return cls.of(json.loads(folder.read_other(TOKENIZER_FILE)), where)
            except ValueError:
                raise UserError(f"{where} is not valid JSON; download it again") from None
        opened = open_tokenizer(folder, config)
        return None if opened is None else cls.of(json.loads(opened.backend.to_str()), where)

    def within(self, rows: int) -> Vocabulary:
        """Return the vocabulary without tokens that have no row in an embedding table of `rows` rows.

        Raises:
            UserError: if tokens cannot be taken out of this kind of tokenizer.
        """
        beyond = {token for token, number in self.tokens.items() if number >= rows}
        if not beyond:
            return self
        document = copy.deepcopy(dict(self.document))
        model = document["model"]
        document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["content"] not in beyond]
        inner = beyond - self.added.keys()
        if inner:
            if model.get("type") != "BPE":
                raise UserError(
                    f"{self.where} has {len(inner)} tokens beyond the {rows} rows of the embeddings, and tokens "
                    f"cannot be taken out of a {model.get('type')} tokenizer; name another tokenizer source"
                )
            model["merges"] = [merge for merge in model["merges"] if not inner.intersection(_merged(merge))]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {token: number for token, number in model["vocab"].items() if number < rows}
        return Vocabulary.of(document, self.where)

    def extended(self, plain: Iterable[str], added: Iterable[Mapping[str, Any]]) -> Vocabulary:
        """Return the vocabulary with more tokens; those it has keep their numbers.

        Args:
            plain: tokens to be found wherever they stand in a text.
            added: entries of added tokens, with their own settings.
        """
        document = copy.deepcopy(dict(self.document))
        entries: list[dict[str, Any]] = list(document.get("added_tokens") or [])
        tokens, known = dict(self.tokens), set(self.added)
        following = max(tokens.values(), default=-1) + 1
        wanted = [*(_entry(token) for token in plain), *added]
        for entry in wanted:
            token = str(entry["content"])
            if token in known:
                continue
            if token not in tokens:
                tokens[token] = following
                following += 1
            known.add(token)
            entries.append({**entry, "id": tokens[token]})
        document["added_tokens"] = sorted(entries, key=lambda entry: int(entry["id"]))
        return Vocabulary.of(document, self.where)

    @property
    def rows(self) -> int:
        """The number of rows that embeddings need."""
        return max(self.tokens.values(), default=-1) + 1

    def encoded(self) -> bytes:
        """Return the content of the file."""
        return (json.dumps(self.document, ensure_ascii=False, indent=2) + "\n").encode()


def _model_tokens(model: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
        return ((str(token), number) for number, (token, _) in enumerate(vocabulary))
    return ((str(token), int(number)) for token, number in vocabulary.items())


def _merged(merge: Any) -> set[str]:
    """Return the two parts of a merge and what it makes."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {first, second, first + second}


def _entry(token: str) -> dict[str, Any]:
    return {
        "id": 0,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,
        "special": False,
    }
