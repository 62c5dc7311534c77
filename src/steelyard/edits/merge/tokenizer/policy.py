"""What a recipe says under `tokenizer`: the vocabulary of the result, and where embeddings of tokens come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard.edits.catalogue import suggest
from steelyard.edits.merge.dialect import ModelReference
from steelyard.errors import UserError

UNION, BASE = "union", "base"
_KEYS = ("source", "tokens", "pad_to_multiple_of")
_TOKEN_KEYS = ("source", "force")
_KINDS = ("model_token", "zero")


@dataclass(frozen=True)
class TokenSource:
    """Where the embedding of a token comes from in models that lack it.

    Attributes:
        model: whose embedding; None for zeros.
        token: under which name the model has it; None for the same.
        number: its number there, instead of a name.
        force: whether models that have the token take it too.
    """

    model: ModelReference | None
    token: str | None = None
    number: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Policy:
    """The vocabulary of a result.

    Attributes:
        source: "union", "base" or a model.
        tokens: sources of single tokens; those that no model has are added.
        multiple: the number of rows of the embeddings is a multiple of this.
    """

    source: str | ModelReference = UNION
    tokens: Mapping[str, TokenSource] = field(default_factory=dict)
    multiple: int = 1


def read_policy(data: Mapping[str, Any]) -> Policy:
    """Return the policy of a recipe.

    Args:
        data: as written under `tokenizer`.

    Raises:
        UserError: naming the key, what was given and what is accepted.
    """
    _known(data, _KEYS, "tokenizer")
    source = data.get("source", UNION)
    multiple = data.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        raise UserError(f"tokenizer.pad_to_multiple_of: a whole number from 1 is expected, got {multiple!r}")
    tokens = data.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise UserError("tokenizer.tokens: a mapping from tokens to sources is expected")
    return Policy(
        source if source in (UNION, BASE) else _reference(source, "tokenizer.source"),
        {str(token): _token(str(token), value) for token, value in tokens.items()},
        multiple or 1,
    )


def _token(token: str, data: Any) -> TokenSource:
    where = f"tokenizer.tokens.{token}"
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: a mapping with source is expected, got {data!r}")
    _known(data, _TOKEN_KEYS, where)
    force = data.get("force", False)
    if not isinstance(force, bool):
        raise UserError(f"{where}.force: true or false is expected, got {force!r}")
    source = data.get("source")
    if source is None:
        raise UserError(f"{where}: source is missing; give a model, or kind: zero")
    if not isinstance(source, Mapping) or "kind" not in source:
        return TokenSource(_reference(source, f"{where}.source"), force=force)
    kind = source["kind"]
    if kind not in _KINDS:
        raise UserError(f"{where}.source.kind: {suggest(str(kind), _KINDS)}")
    if kind == "zero":
        return TokenSource(None, force=force)
    _known(source, ("kind", "model", "token", "token_id"), f"{where}.source")
    name, number = source.get("token"), source.get("token_id")
    if (name is None) == (number is None):
        raise UserError(f"{where}.source: give either token or token_id")
    if number is not None and (type(number) is not int or number < 0):
        raise UserError(f"{where}.source.token_id: a number from 0 is expected, got {number!r}")
    model = _reference(source.get("model"), f"{where}.source.model")
    return TokenSource(model, None if name is None else str(name), number, force)


def _known(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"{where}: unknown key {suggest(str(key), known)}")


def _reference(value: Any, where: str) -> ModelReference:
    try:
        return ModelReference.parse(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
