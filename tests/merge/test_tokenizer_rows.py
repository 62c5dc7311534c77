"""Vocabularies put together, embeddings in their order, and what recipes may say about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.vocabularies import Golden
from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import InputModel, StoredModel
from steelyard.edits.merge.tokenizer.policy import Policy, TokenSource, read_policy
from steelyard.edits.merge.tokenizer.rows import assign_rows
from steelyard.edits.merge.tokenizer.unify import renumbered, unify
from steelyard.edits.merge.tokenizer.vocabulary import Vocabulary
from steelyard.errors import UserError

LETTERS = "abcdef"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[ModelReference, InputModel]:
    folder = tmp_path_factory.mktemp("vocabularies")
    Golden().write(folder)
    return {
        ModelReference(name): StoredModel.open(str(folder / name), name) for name in ("first", "second", "third")
    }


def bpe(tokens: dict[str, int], added: dict[str, int], merges: list[Any]) -> Vocabulary:
    """A vocabulary of a byte-pair tokenizer."""
    entries = [{"id": number, "content": token, "special": True} for token, number in added.items()]
    model = {"type": "BPE", "vocab": tokens, "merges": merges}
    return Vocabulary.of({"added_tokens": entries, "model": model}, "here")


vocabularies = st.lists(
    st.permutations(LETTERS).flatmap(lambda letters: st.integers(1, len(letters)).map(lambda n: letters[:n])),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(vocabularies, st.booleans(), st.sampled_from([1, 4]))
def test_rows_come_from_where_the_rules_say(lists: list[list[str]], based: bool, multiple: int) -> None:
    held = [{token: row for row, token in enumerate(letters)} for letters in lists]
    tokens = {token: row for row, token in enumerate(sorted({token for known in held for token in known} | {"z"}))}
    base = 0 if based else None
    found = assign_rows(tokens, held, [str(i) for i in range(len(held))], base, Policy(multiple=multiple), {})
    for own, rows in zip(held, found, strict=True):
        assert len(rows.own) % multiple == 0
        assert 0 <= len(rows.own) - len(tokens) < multiple
        assert rows.filled == tuple(range(len(tokens), len(rows.own)))
        for token, row in tokens.items():
            having = [(number, known[token]) for number, known in enumerate(held) if token in known]
            if token in own:
                assert rows.own[row] == own[token]
                assert row not in rows.others
            elif based and token in held[0]:
                assert rows.others[row] == ((0, held[0][token]),)
            else:
                assert rows.others[row] == tuple(having)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), source=st.sampled_from(["union", "base", "third"]), multiple=st.sampled_from([1, 16]))
def test_any_piece_is_that_of_the_whole(
    models: dict[ModelReference, InputModel], data: st.DataObject, source: str, multiple: int
) -> None:
    made = unify(models, ModelReference("first"), {"source": source, "pad_to_multiple_of": multiple}).models
    model = made[data.draw(st.sampled_from(list(made)))]
    name = data.draw(st.sampled_from(["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"]))
    size = int(np.prod(model.shape(name)))
    read = model.reader(name)
    whole = read(0, size)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    np.testing.assert_array_equal(read(start, stop), whole[start:stop])


def test_special_tokens_keep_their_meaning(models: dict[ModelReference, InputModel]) -> None:
    made = unify(models, ModelReference("first"), {"source": "second"})
    tokens = json.loads(made.files["tokenizer.json"])["added_tokens"]
    numbers = {entry["content"]: entry["id"] for entry in tokens}
    assert numbers["<s>"] != models[ModelReference("first")].config["bos_token_id"]
    for model in made.models.values():
        assert model.config["bos_token_id"] == numbers["<s>"]
        assert model.config["eos_token_id"] == numbers["</s>"]
    assert json.loads(made.files["generation_config.json"])["eos_token_id"] == numbers["</s>"]
    assert "tokenizer.model" in made.left_out


def test_numbers_of_tokens_that_are_gone() -> None:
    before, after = bpe({"a": 0, "b": 1}, {"<e>": 2}, []), bpe({"b": 0}, {"<e>": 1}, [])
    config = {"bos_token_id": 0, "eos_token_id": [2, 1, 7], "pad_token_id": None}
    assert renumbered(config, before, after) == {"bos_token_id": None, "eos_token_id": [1, 0]}


def test_tokens_without_rows_are_taken_out_with_their_merges() -> None:
    full = bpe({"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4}, {"<s>": 5}, ["a b", ["b", "a"], ["ab", "a"]])
    cut = full.within(3)
    assert cut.tokens == {"a": 0, "b": 1, "ab": 2}
    assert cut.document["model"]["merges"] == ["a b"]
    assert full.within(6) is full
    words = Vocabulary.of({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}}, "added_tokens": []}, "here")
    with pytest.raises(UserError, match=r"1 tokens beyond the 1 rows .* WordPiece tokenizer"):
        words.within(1)


def test_tokens_are_added_behind_the_others() -> None:
    pieces = {"type": "Unigram", "vocab": [["▁a", -1.0], ["b", -2.0]]}
    known = Vocabulary.of({"model": pieces, "added_tokens": []}, "here")
    more = known.extended(["c"], [{"id": 9, "content": "b", "special": True}, {"id": 9, "content": "<x>"}])
    assert more.tokens == {"▁a": 0, "b": 1, "c": 2, "<x>": 3}
    assert more.added["b"]["special"] is True
    assert more.added["c"]["normalized"] is True
    assert more.rows == 4


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"source": "fourth"}, "fourth is no model of this merge"),
        ({"sorce": "union"}, "did you mean source"),
        ({"pad_to_multiple_of": 0}, "a whole number from 1"),
        ({"tokens": {"a": {"source": "fourth"}}}, r"tokens\.a: fourth is no model"),
        ({"tokens": {"a": {"force": True}}}, "source is missing"),
        ({"tokens": {"a": {"source": {"kind": "zeros"}}}}, "did you mean zero"),
        ({"tokens": {"x1": {"source": "second"}}}, "second has no token 'x1'"),
        ({"tokens": {"a": {"source": {"kind": "model_token", "model": "first"}}}}, "either token or token_id"),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "third", "token_id": 99}}}},
            "99 is beyond the 12 rows of third",
        ),
    ],
)  # fmt: skip
def test_what_recipes_may_not_say(
    declared: dict[str, Any], words: str, models: dict[ModelReference, InputModel]
) -> None:
    with pytest.raises(UserError, match=words):
        unify(models, ModelReference("first"), declared)


def test_what_a_policy_says() -> None:
    token = {"source": {"kind": "model_token", "model": "m@rev", "token": "x"}, "force": True}
    policy = read_policy({"source": "base", "tokens": {"a": token, "b": {"source": {"kind": "zero"}}}})
    assert policy == Policy(
        "base", {"a": TokenSource(ModelReference("m", "rev"), "x", None, True), "b": TokenSource(None)}, 1
    )


def test_models_without_a_tokenizer(tiny_llama: Path, models: dict[ModelReference, InputModel]) -> None:
    with StoredOpen(tiny_llama) as bare:
        with pytest.raises(UserError, match="has no tokenizer, from which the result's is made"):
            unify({ModelReference("bare"): bare}, None, {"source": "union"})
        made = unify({**models, ModelReference("bare"): bare}, ModelReference("first"), {"source": "base"})
    assert any("bare" in note or "tiny" in note for note in made.notes)


class StoredOpen:
    """Opens a model and closes it."""

    def __init__(self, folder: Path) -> None:
        self._model = StoredModel.open(str(folder))

    def __enter__(self) -> StoredModel:
        return self._model

    def __exit__(self, *rest: object) -> None:
        self._model.close()
