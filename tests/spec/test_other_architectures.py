"""What is particular to encoders, encoder-decoders, images and recurrences: stacks, ties, kinds of blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from spec_peers import (
    TINY_BART,
    TINY_BERT,
    TINY_CLIP,
    TINY_DEBERTA,
    TINY_JAMBA,
    TINY_RWKV,
    TINY_T5,
    TINY_VIT,
    TINY_WHISPER,
    peer,
    shapes_of,
)

from steelyard.errors import UserError
from steelyard.spec import ModelSpec


def build(class_name: str, **options: Any) -> ModelSpec:
    model, config = peer(class_name, **options)
    return ModelSpec.build(config, shapes_of(model))


@pytest.mark.parametrize(
    ("class_name", "options", "starts"),
    [
        ("T5ForConditionalGeneration", TINY_T5, ["encoder.block."] * 3 + ["decoder.block."] * 3),
        ("T5EncoderModel", TINY_T5, ["encoder.block."] * 3),
        (
            "BartForConditionalGeneration",
            TINY_BART,
            ["model.encoder.layers."] * 3 + ["model.decoder.layers."] * 2,
        ),
        ("BartForCausalLM", TINY_BART, ["model.decoder.layers."] * 2),
        ("WhisperModel", TINY_WHISPER, ["encoder.layers."] * 3 + ["decoder.layers."] * 2),
        ("CLIPModel", TINY_CLIP, ["text_model.encoder.layers."] * 2 + ["vision_model.encoder.layers."] * 3),
        ("CLIPForImageClassification", TINY_CLIP, ["vision_model.encoder.layers."] * 3),
    ],
)
def test_stacks_are_numbered_one_after_the_other(
    class_name: str, options: dict[str, Any], starts: list[str]
) -> None:
    spec = build(class_name, **options)
    assert [prefix.rstrip("0123456789.") + "." for prefix in spec.block_prefixes] == starts
    assert spec.n_layers == len(starts)
    for tensor in spec.tensors.values():
        inside = [number for number, prefix in enumerate(spec.block_prefixes) if tensor.name.startswith(prefix)]
        assert inside == ([] if tensor.layer is None else [tensor.layer])
    layers = [row.layer for row in spec.ledger().by_layer()]
    assert layers == [None, *range(len(starts))]


def test_tables_that_older_files_hold_twice() -> None:
    model, config = peer("T5ForConditionalGeneration", **TINY_T5)
    stored = {name: (tuple(value.shape), "F32") for name, value in model.state_dict().items()}
    spec = ModelSpec.build(config, stored)
    assert set(spec.stored_aliases) == set(model.all_tied_weights_keys)
    assert spec.parameter_count() == model.num_parameters() and spec.notes == ()


def test_the_head_of_t5_1_1_is_a_matrix_of_its_own() -> None:
    _, config = peer("T5ForConditionalGeneration", **TINY_T5, feed_forward_proj="gated-gelu")
    tied = ModelSpec.from_config(config)
    apart = ModelSpec.from_config({**config, "tie_word_embeddings": False})
    assert apart.parameter_count() - tied.parameter_count() == 32 * 16
    # Encoder and decoder read the one table all the same.
    assert set(apart.ties) == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert set(tied.ties) == {*apart.ties, "lm_head.weight"}


def test_ties_follow_to_the_last_table_a_class_has() -> None:
    assert build("BartForConditionalGeneration", **TINY_BART).ties == {
        "lm_head.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
    }
    assert build("BartForCausalLM", **TINY_BART).ties == {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    assert build("BartForConditionalGeneration", **TINY_BART, tie_word_embeddings=False).ties == {}


@pytest.mark.parametrize(
    ("class_name", "options", "prefix"),
    [("CLIPTextModel", TINY_BERT, "text_model."), ("CLIPVisionModel", TINY_VIT, "vision_model.")],
)
def test_encoders_of_clip_with_and_without_their_prefix(
    class_name: str, options: dict[str, Any], prefix: str
) -> None:
    model, config = peer(class_name, **options)
    shapes = shapes_of(model)
    bare, full = ({start + name: value for name, value in shapes.items()} for start in ("", prefix))
    one, other = ModelSpec.build(config, bare), ModelSpec.build(config, full)
    assert one.notes == other.notes == ()
    assert one.parameter_count() == other.parameter_count() == model.num_parameters()
    assert [prefix + start for start in one.block_prefixes] == list(other.block_prefixes)


@pytest.mark.parametrize("class_name", ["MambaForCausalLM", "Mamba2ForCausalLM"])
def test_the_first_files_of_mamba_spell_the_table_otherwise(class_name: str) -> None:
    model, config = peer(class_name)
    stored = {name.replace("embeddings.", "embedding."): shape for name, shape in shapes_of(model).items()}
    spec = ModelSpec.build(config, stored)
    assert spec.parameter_count() == model.num_parameters() and spec.notes == ()
    assert spec.tensors["backbone.embedding.weight"].role == "embed.token"


def test_blocks_of_jamba_are_of_the_kinds_transformers_makes() -> None:
    model, _ = peer("JambaForCausalLM", **TINY_JAMBA)
    spec = build("JambaForCausalLM", **TINY_JAMBA)
    for layer, (kind, experts) in enumerate(
        zip(model.config.layers_block_type, model.config.layers_num_experts, strict=True)
    ):
        roles = [str(tensor.role) for tensor in spec.tensors.values() if tensor.layer == layer]
        assert ("attn.q" in roles) == (kind == "attention") == ("ssm.in" not in roles)
        assert roles.count("expert.up") == (experts if experts > 1 else 0)
        assert ("router" in roles) == (experts > 1) == ("mlp.up" not in roles)


def test_rwkv_keeps_the_same_of_every_text() -> None:
    cls = transformers.RwkvForCausalLM
    torch.manual_seed(0)
    model = cls(cls.config_class(**TINY_RWKV)).eval()
    with torch.no_grad():
        states = model(input_ids=torch.arange(10).reshape(2, 5), use_cache=True).state
    spec = build("RwkvForCausalLM", **TINY_RWKV)
    assert spec.kv_cache_bytes(5, 2, 4) == spec.kv_cache_bytes(500, 2, 4) == 4 * sum(map(torch.numel, states))


def test_the_words_of_relative_terms() -> None:
    listed, joined = (
        build("DebertaV2Model", **{**TINY_DEBERTA, "share_att_key": False, "pos_att_type": words})
        for words in (["p2c"], "p2c")
    )
    assert set(listed.tensors) == set(joined.tensors)
    roles = {tensor.role for tensor in listed.tensors.values()}
    assert "attn.position_q" in roles and "attn.position_k" not in roles


@pytest.mark.parametrize(
    ("class_name", "options", "wrong", "message"),
    [
        ("ViTModel", TINY_VIT, {"patch_size": 9}, "patch_size"),
        ("ViTModel", TINY_VIT, {"image_size": [8, 8, 8]}, "image_size must be one whole number or two"),
        ("CLIPModel", TINY_CLIP, {"text_config": 7}, "text_config must be a config of its own"),
        ("CLIPModel", TINY_CLIP, {"vision_config": {"hidden_size": -1}}, r"vision_config\.hidden_size"),
        (
            "DebertaV2Model",
            TINY_DEBERTA,
            {"share_att_key": False, "pos_att_type": 3},
            "pos_att_type must be a list",
        ),
        ("T5EncoderModel", TINY_T5, {"feed_forward_proj": None}, "feed_forward_proj must be a word"),
        ("T5Model", TINY_T5, {"num_decoder_layers": -2}, "num_decoder_layers"),
        ("MambaForCausalLM", {}, {"time_step_rank": "some"}, "time_step_rank"),
        ("JambaForCausalLM", TINY_JAMBA, {"attn_layer_period": 0}, "attn_layer_period"),
    ],
)
def test_configs_that_make_no_sense(
    class_name: str, options: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    _, config = peer(class_name, **options)
    with pytest.raises(UserError, match=message):
        ModelSpec.from_config({**config, **wrong})
