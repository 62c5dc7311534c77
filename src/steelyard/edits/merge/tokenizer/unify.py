"""Models of different vocabularies in one: the tokenizer of the result, and every model rearranged for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.tokenizer.embeddings import RearrangedModel, vocabulary_tensors
from steelyard.edits.merge.tokenizer.policy import BASE, UNION, Policy, read_policy
from steelyard.edits.merge.tokenizer.rows import assign_rows
from steelyard.edits.merge.tokenizer.vocabulary import TOKENIZER_FILE, Vocabulary
from steelyard.errors import UserError

STALE = frozenset({"vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "added_tokens.json"})
"""Files that hold a vocabulary of their own; `tokenizer.json` stands for them."""

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
"""Files that belong to a tokenizer beside its vocabulary."""

_GENERATION = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Unified:
    """Models in one vocabulary.

    Attributes:
        models: as given, rearranged.
        files: of the tokenizer and what depends on it, by name; they replace those that go along.
        left_out: names of files of that model which would contradict them.
        notes: sentences for people.
    """

    models: dict[ModelReference, InputModel]
    files: Mapping[str, bytes]
    left_out: frozenset[str]
    notes: tuple[str, ...]


def unify(
    models: Mapping[ModelReference, InputModel], base: ModelReference | None, declared: Mapping[str, Any]
) -> Unified:
    """Return models in the vocabulary that a recipe declares.

    Args:
        models: every model of the merge, in the order of the recipe.
        base: its base model; None without one, and then the first counts as the base for the vocabulary.
        declared: as written under `tokenizer`.

    Raises:
        UserError: if a tokenizer is missing or damaged, or the policy names what is not there.
    """
    policy = read_policy(declared)
    return _Unifier(models, base, policy).unify()


class _Unifier:
    def __init__(
        self, models: Mapping[ModelReference, InputModel], base: ModelReference | None, policy: Policy
    ) -> None:
        self._references = list(models)
        self._models = list(models.values())
        self._base = base
        self._lead = self._references.index(base) if base is not None else 0
        self._policy = policy
        self._notes: list[str] = []

    def unify(self) -> Unified:
        vocabularies = self._vocabularies()
        source, target = self._target(vocabularies)
        missing = [token for token in self._policy.tokens if token not in target.tokens]
        if missing:
            target = target.extended(missing, ())
        declared = {token: self._number(token) for token in self._policy.tokens}
        held = [
            {token: row for token, row in vocabulary.tokens.items() if row < _rows(model)}
            for vocabulary, model in zip(vocabularies, self._models, strict=True)
        ]
        self._check_numbers(declared)
        labels = [model.label for model in self._models]
        base = None if self._base is None else self._lead
        rows = assign_rows(target.tokens, held, labels, base, self._policy, declared)
        unknown = [token for token in target.tokens if not any(token in known for known in held)]
        zeros = [token for token in unknown if token not in declared]
        if zeros:
            self._notes.append(f"{len(zeros)} tokens are in no model and start as zeros, such as {zeros[0]!r}")
        made = {
            reference: RearrangedModel(self._models, number, rows[number], self._ids(number, vocabularies, target))
            for number, reference in enumerate(self._references)
        }
        self._notes.append(f"the result has {len(target.tokens)} tokens in {len(rows[0].own)} rows")
        return Unified(dict(made), self._files(source, vocabularies, target), STALE, tuple(self._notes))

    def _vocabularies(self) -> list[Vocabulary]:
        """Return every model's vocabulary, that of the base without tokens it has no rows for."""
        lead = self._models[self._lead]
        known = Vocabulary.read(lead.checkpoint, lead.config)
        if known is None:
            raise UserError(f"{lead.label} has no tokenizer, from which the result's is made; add tokenizer.json")
        known = known.within(_rows(lead))
        found = []
        for number, model in enumerate(self._models):
            own = known if number == self._lead else Vocabulary.read(model.checkpoint, model.config)
            if own is None:
                self._notes.append(f"{model.label} has no tokenizer and is taken to have that of {lead.label}")
            found.append(known if own is None else own)
        return found

    def _target(self, vocabularies: Sequence[Vocabulary]) -> tuple[int, Vocabulary]:
        """Return whose files go with the tokenizer of the result, and its vocabulary."""
        source = self._policy.source
        if source == BASE:
            return self._lead, vocabularies[self._lead]
        if source == UNION:
            return self._lead, self._union(vocabularies)
        if source not in self._references:
            known = ", ".join(map(str, self._references))
            raise UserError(f"tokenizer.source: {source} is no model of this merge; there are {known}")
        number = self._references.index(source)
        return number, vocabularies[number]

    def _union(self, vocabularies: Sequence[Vocabulary]) -> Vocabulary:
        lead = vocabularies[self._lead]
        added: dict[str, Mapping[str, Any]] = {}
        plain: dict[str, None] = {}
        order = [self._lead, *(number for number in range(len(vocabularies)) if number != self._lead)]
        for number in order:
            vocabulary, rows = vocabularies[number], _rows(self._models[number])
            for token, place in sorted(vocabulary.tokens.items(), key=lambda item: item[1]):
                if place >= rows:
                    continue
                if token in vocabulary.added:
                    added.setdefault(token, vocabulary.added[token])
                else:
                    plain[token] = None
        new = [token for token in plain if token not in lead.tokens and token not in added]
        return lead.extended(new, added.values())

    def _number(self, token: str) -> int | None:
        model = self._policy.tokens[token].model
        if model is None:
            return None
        if model not in self._references:
            known = ", ".join(map(str, self._references))
            raise UserError(f"tokenizer.tokens.{token}: {model} is no model of this merge; there are {known}")
        return self._references.index(model)

    def _check_numbers(self, declared: Mapping[str, int | None]) -> None:
        for token, number in declared.items():
            row = self._policy.tokens[token].number
            if number is None or row is None:
                continue
            rows = _rows(self._models[number])
            if row >= rows:
                raise UserError(
                    f"tokenizer.tokens.{token}.source.token_id: {row} is beyond the {rows} rows of "
                    f"{self._models[number].label}"
                )

    def _ids(self, number: int, vocabularies: Sequence[Vocabulary], target: Vocabulary) -> dict[str, Any]:
        """Return the special tokens of a model's config by their new numbers."""
        return renumbered(self._models[number].config, vocabularies[number], target)

    def _files(self, source: int, vocabularies: Sequence[Vocabulary], target: Vocabulary) -> dict[str, bytes]:
        folder = self._models[source].checkpoint
        files = {name: folder.read_other(name) for name in SETTINGS if folder.has_other(name)}
        if "tokenizer_config.json" in files:
            files["tokenizer_config.json"] = _settings(files["tokenizer_config.json"], target, folder.location)
        lead = self._models[self._lead].checkpoint
        if lead.has_other(_GENERATION):
            try:
                settings = json.loads(lead.read_other(_GENERATION))
            except ValueError:
                raise UserError(f"{lead.location}/{_GENERATION} is not valid JSON; download it again") from None
            settings.update(renumbered(settings, vocabularies[self._lead], target))
            files[_GENERATION] = (json.dumps(settings, indent=2) + "\n").encode()
        return {TOKENIZER_FILE: target.encoded(), **files}


def renumbered(config: Mapping[str, Any], before: Vocabulary, after: Vocabulary) -> dict[str, Any]:
    """Return the numbers of special tokens that change from one vocabulary to another; None for those it lacks."""
    names = {number: token for token, number in before.tokens.items()}

    def number(old: Any) -> Any:
        return after.tokens.get(names[old]) if old in names else None

    changed: dict[str, Any] = {}
    for key in _IDS:
        old = config.get(key)
        if isinstance(old, list):
            changed[key] = [new for new in map(number, old) if new is not None] or None
        elif isinstance(old, int):
            changed[key] = number(old)
    return changed


def _rows(model: InputModel) -> int:
    """Return the rows of a model's embedding table."""
    for name, role in vocabulary_tensors(model.spec).items():
        if role == "embed.token":
            return model.shape(name)[0]
    raise UserError(f"{model.label} has no table of token embeddings")


def _settings(data: bytes, target: Vocabulary, where: str) -> bytes:
    """Return tokenizer_config.json with the added tokens of the result, where it lists any."""
    try:
        settings = json.loads(data)
    except ValueError:
        raise UserError(f"{where}/tokenizer_config.json is not valid JSON; download it again") from None
    if isinstance(settings.get("added_tokens_decoder"), dict):
        keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        settings["added_tokens_decoder"] = {
            str(entry["id"]): {key: entry[key] for key in keys if key in entry} for entry in target.added.values()
        }
    return (json.dumps(settings, ensure_ascii=False, indent=2) + "\n").encode()
