"""Operations of encoders with decoders, of images and sound, and of recurrent models, against torch's counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CLASSIFIERS, DECODERS, TINY, build, rotary
from torch.utils.flop_counter import FlopCounterMode

from steelyard.spec import ModelSpec, architectures
from steelyard.weigh import flops
from steelyard.weigh.cache import plan_cache

TOKENS, BATCH, SOURCE = 12, 2, 9

T5 = {"vocab_size": 48, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
BART = {
    "vocab_size": 48,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
WHISPER = {
    **BART,
    "num_mel_bins": 6,
    "max_source_positions": SOURCE,
    "max_target_positions": 32,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
VIT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
CLIP = {
    "text_config": {**TINY, "eos_token_id": 2, "bos_token_id": 1},
    "vision_config": VIT,
    "projection_dim": 10,
}
MAMBA = {"vocab_size": 48, "hidden_size": 24, "state_size": 6, "num_hidden_layers": 2, "conv_kernel": 4}
MAMBA2 = {
    **MAMBA,
    "num_heads": 6,
    "head_dim": 8,
    "n_groups": 2,
    "chunk_size": 4,
}
JAMBA = {
    **TINY,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "attn_layer_period": 4,
    "attn_layer_offset": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "experts_implementation": "eager",
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 6,
    "mamba_dt_rank": 3,
    "use_mamba_kernels": False,
}
RWKV = {
    "vocab_size": 48,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
}
DEBERTA = {
    **TINY,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 8,
    "pos_att_type": ["c2p", "p2c"],
    "norm_rel_ebd": "layer_norm",
}


def ids(length: int = TOKENS) -> torch.Tensor:
    return torch.arange(BATCH * length).reshape(BATCH, length) % 40 + 3


def pixels() -> torch.Tensor:
    return torch.ones(BATCH, 3, 16, 16)


PAIR = {"input_ids": ids(SOURCE), "decoder_input_ids": ids()}
LENGTHS = {"source": SOURCE}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, int] | None]] = {
    "T5ForConditionalGeneration": (T5, PAIR, LENGTHS),
    "T5EncoderModel": (T5, {"input_ids": ids(SOURCE)}, LENGTHS),
    "BartForConditionalGeneration": (BART, PAIR, LENGTHS),
    "WhisperForConditionalGeneration": (
        WHISPER,
        {"input_features": torch.ones(BATCH, 6, 2 * SOURCE), "decoder_input_ids": ids()},
        None,
    ),
    "ViTModel": (VIT, {"pixel_values": pixels()}, None),
    "ViTForImageClassification": (VIT, {"pixel_values": pixels()}, None),
    "CLIPVisionModelWithProjection": ({**VIT, "projection_dim": 10}, {"pixel_values": pixels()}, None),
    "CLIPTextModelWithProjection": (
        {**TINY, "projection_dim": 10, "eos_token_id": 2, "bos_token_id": 1},
        {"input_ids": ids()},
        None,
    ),
    "DebertaV2Model": (DEBERTA, {"input_ids": ids()}, None),
    "DebertaV2ForMaskedLM": ({**DEBERTA, "share_att_key": True}, {"input_ids": ids()}, None),
    "RwkvForCausalLM": (RWKV, {"input_ids": ids()}, None),
}


def counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("class_name", CASES)
def test_a_forward_pass(class_name: str) -> None:
    options, inputs, lengths = CASES[class_name]
    model, spec = build(class_name, options)
    assert flops.prefill(spec, TOKENS, BATCH, lengths=lengths).total == counted(lambda: model(**inputs))


def test_pictures_beside_texts() -> None:
    model, spec = build("CLIPModel", CLIP)
    count = counted(lambda: model(input_ids=ids(), pixel_values=pixels()))
    compared = 2 * BATCH * BATCH * 10
    assert flops.prefill(spec, TOKENS, BATCH).total == count - compared


@pytest.mark.parametrize("class_name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_a_next_token_of_a_decoder(class_name: str) -> None:
    options, inputs, lengths = CASES[class_name]
    model, spec = build(class_name, options)
    with torch.no_grad():
        first = model(**inputs, use_cache=True)
    cache = first.past_key_values
    encoded = (first.encoder_last_hidden_state,)
    kept = sum(
        part.numel() * part.element_size()
        for half in (cache.self_attention_cache, cache.cross_attention_cache)
        for layer in half.layers
        for part in (layer.keys, layer.values)
    )
    assert plan_cache(spec, TOKENS, BATCH, 32, lengths=lengths).total == kept
    count = counted(lambda: model(encoder_outputs=encoded, decoder_input_ids=ids(1), past_key_values=cache))
    assert flops.decode(spec, TOKENS, BATCH, lengths=lengths).total == count


RECURRENT = {"MambaForCausalLM": MAMBA, "Mamba2ForCausalLM": MAMBA2, "JambaForCausalLM": JAMBA}


@pytest.mark.parametrize("class_name", RECURRENT)
def test_recurrent_blocks(class_name: str) -> None:
    model, spec = build(class_name, RECURRENT[class_name])
    found = flops.prefill(spec, TOKENS, BATCH)
    count = counted(lambda: model(input_ids=ids()))
    # transformers lets the convolution run three positions beyond the end and cuts them off, and computes Mamba-2's
    # scan without products of matrices, which the counter does not see.
    beyond = found.linear["ssm.conv"] * 3 // TOKENS
    unseen = found.work["ssm.scan"] if "Mamba2" in class_name else 0
    assert found.total == count - beyond + unseen


@pytest.mark.parametrize("class_name", RECURRENT)
def test_what_recurrent_blocks_keep(class_name: str) -> None:
    model, spec = build(class_name, RECURRENT[class_name])
    with torch.no_grad():
        made = model(input_ids=ids(), use_cache=True)
    layers = (made.past_key_values if "Jamba" in class_name else made.cache_params).layers
    found = [part for layer in layers for value in vars(layer).values() for part in _tensors(value)]
    kept = sum(part.numel() * part.element_size() for part in found)
    plan = plan_cache(spec, TOKENS, BATCH, 32)
    assert plan.total == kept > 0
    assert plan_cache(spec, 10 * TOKENS, BATCH, 32).by_name["ssm"] == plan.by_name["ssm"]


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        return [part for entry in value.values() for part in _tensors(entry)]
    return [value] if isinstance(value, torch.Tensor) else []


GEMMA3 = {
    "text_config": {**TINY, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 20},
    "vision_config": VIT,
    "mm_tokens_per_image": 4,
    "image_token_index": 47,
    "image_token_id": 47,
    "boi_token_index": 45,
    "eoi_token_index": 46,
}


def test_pictures_among_text() -> None:
    model, spec = build("Gemma3ForConditionalGeneration", GEMMA3)
    text = ids()
    text[:, 2:6] = 47
    inputs = {"input_ids": text, "pixel_values": pixels(), "token_type_ids": (text == 47).long()}
    assert flops.prefill(spec, TOKENS, BATCH).total == counted(lambda: model(**inputs)) - rotary(model, TOKENS)


def test_every_architecture_is_counted_here() -> None:
    tested = {build(name, options)[1].model_type for name, options in {**DECODERS, **CLASSIFIERS}.items()}
    tested |= {build(name, case[0])[1].model_type for name, case in CASES.items()}
    tested |= {"clip", "gemma3", "mamba", "mamba2", "jamba"}
    # OpenELM's code is its files' own and not in transformers.
    assert set(architectures()) - tested == {"openelm"}


def test_blocks_of_different_shapes() -> None:
    spec = ModelSpec.from_config({"model_type": "openelm", "architectures": ["OpenELMForCausalLM"]})
    table, settings = spec.require_axes("test"), spec.require_axes("test").settings(spec.config)
    maps = sum(2 * tensor.elements for tensor in spec.tensors.values() if tensor.kind == "linear")
    maps += 2 * spec.tensors["transformer.token_embeddings.weight"].elements
    heads = sum(table.axis_size("head", settings, {"layer": layer}) for layer in range(spec.n_layers))
    width = 2 * table.axis_size("head_dim", settings)
    assert flops.prefill(spec, 1).total == maps + 2 * heads * width
