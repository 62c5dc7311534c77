"""The bundled model is the one its card describes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from steelyard import reference
from steelyard.reference import card, corpus

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((reference.path() / card.FIGURES).read_text())
    return loaded


def test_the_card_is_what_the_figures_say(figures: dict[str, Any]) -> None:
    assert (reference.path() / "README.md").read_text() == card.render(figures)


def test_the_figures_add_up(figures: dict[str, Any]) -> None:
    documents, held_out = figures["documents"].values(), figures["held_out"]
    assert sum(document["tokens"] for document in documents) == held_out["tokens"]
    nats = sum(document["nats"] for document in documents)
    assert nats / held_out["tokens"] == pytest.approx(held_out["nats_per_token"], abs=1e-4)
    changes = [row["nats_per_token"] for row in figures["round_to_nearest"]]
    assert [row["bits"] for row in figures["round_to_nearest"]] == [8, 4, 3, 2]
    assert sorted(changes) == changes
    assert figures["weight_bytes"] == (reference.path() / "model.safetensors").stat().st_size <= 16_000_000


def test_transformers_loads_it_and_its_held_out_loss_is_the_cards(figures: dict[str, Any]) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steelyard.reference.held_out import document_loss

    folder = reference.path()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == figures["parameters"]
    assert AutoTokenizer.from_pretrained(folder).vocab_size == model.config.vocab_size
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = [
        file
        for file in corpus.files("held-out")
        if figures["documents"].get(file.name, {}).get("sha256") == hashlib.sha256(file.text.encode()).hexdigest()
    ]
    if not known:
        pytest.skip("this Python's library shares no held-out file with the one the card was measured on")
    for file in sorted(known, key=lambda file: len(file.text))[-8::-4]:
        document = figures["documents"][file.name]
        loss = document_loss(model, tokenizer, file.text, model.config.max_position_embeddings)
        assert loss.tokens == document["tokens"]
        assert loss.nats == pytest.approx(document["nats"], rel=1e-3), file.name
