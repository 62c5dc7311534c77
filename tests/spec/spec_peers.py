"""transformers' own models, as the independent word on names, shapes and counts."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion


def peer(class_name: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of the class without weights, and its config as config.json would have it."""
    cls = getattr(transformers, class_name)
    config = cls.config_class(**options)
    with torch.device("meta"):
        model = cls(config)
    written = {**config.to_dict(), "architectures": [class_name]}
    return model, written


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and element type of every tensor that `save_pretrained` would write: experts one by one."""
    tied = set(model.all_tied_weights_keys)
    stored = {name: value for name, value in model.state_dict().items() if name not in tied}
    written = revert_weight_conversion(model, stored)
    return {name: (tuple(value.shape), "BF16") for name, value in written.items()}


TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**TINY, "num_key_value_heads": 2}
TINY_GPT2 = {
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 8,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TINY_BERT = {**TINY, "max_position_embeddings": 8}
WITHOUT_FFN = {key: value for key, value in TINY.items() if key != "intermediate_size"}
WIDE_HEADS = {**GROUPED, "head_dim": 8}
TINY_OPT = {**WITHOUT_FFN, "ffn_dim": 24, "max_position_embeddings": 8}
TINY_BLOOM = {"hidden_size": 16, "n_layer": 3, "n_head": 4, "vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1}
TINY_MIXTRAL = {**GROUPED, "num_local_experts": 4}
TINY_EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
TINY_SHARED = {**TINY_EXPERTS, "shared_expert_intermediate_size": 12}
TINY_DEEPSEEK = {
    **TINY,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
}

# Class and options: every switch of every table, on and off.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", TINY),
    ("LlamaForCausalLM", {**GROUPED, "head_dim": 6, "attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("LlamaModel", GROUPED),
    ("LlamaForSequenceClassification", {**GROUPED, "num_labels": 5}),
    ("MistralForCausalLM", GROUPED),
    ("MistralForCausalLM", {**GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    ("MistralModel", GROUPED),
    ("Qwen2ForCausalLM", GROUPED),
    ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("Qwen2Model", GROUPED),
    ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 6}),
    ("Qwen3ForCausalLM", {**GROUPED, "attention_bias": True, "tie_word_embeddings": True}),
    ("Qwen3Model", GROUPED),
    ("GPT2LMHeadModel", TINY_GPT2),
    ("GPT2LMHeadModel", {**TINY_GPT2, "n_inner": 20, "tie_word_embeddings": False}),
    ("GPT2Model", TINY_GPT2),
    ("GPT2ForSequenceClassification", {**TINY_GPT2, "num_labels": 3}),
    ("GPTNeoXForCausalLM", TINY),
    ("GPTNeoXForCausalLM", {**TINY, "attention_bias": False, "tie_word_embeddings": True}),
    ("GPTNeoXModel", TINY),
    ("BertModel", TINY_BERT),
    ("BertForMaskedLM", TINY_BERT),
    ("BertForMaskedLM", {**TINY_BERT, "tie_word_embeddings": False}),
    ("BertForPreTraining", TINY_BERT),
    ("BertLMHeadModel", {**TINY_BERT, "is_decoder": True}),
    ("BertForSequenceClassification", {**TINY_BERT, "num_labels": 4}),
    ("BertForTokenClassification", TINY_BERT),
    ("BertForQuestionAnswering", TINY_BERT),
    ("Gemma2ForCausalLM", WIDE_HEADS),
    ("Gemma2ForCausalLM", {**WIDE_HEADS, "attention_bias": True, "tie_word_embeddings": False}),
    ("Gemma2Model", WIDE_HEADS),
    ("Gemma2ForSequenceClassification", {**WIDE_HEADS, "num_labels": 5}),
    ("Gemma3ForCausalLM", WIDE_HEADS),
    ("Gemma3ForCausalLM", {**WIDE_HEADS, "attention_bias": True, "tie_word_embeddings": False}),
    ("Gemma3TextModel", WIDE_HEADS),
    ("Phi3ForCausalLM", GROUPED),
    ("Phi3ForCausalLM", {**TINY, "head_dim": 6, "tie_word_embeddings": True}),
    ("Phi3Model", GROUPED),
    ("Olmo2ForCausalLM", GROUPED),
    ("Olmo2ForCausalLM", {**TINY, "attention_bias": True, "tie_word_embeddings": True}),
    ("Olmo2Model", GROUPED),
    ("OPTForCausalLM", TINY_OPT),
    ("OPTForCausalLM", {**TINY_OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    (
        "OPTForCausalLM",
        {**TINY_OPT, "_remove_final_layer_norm": True, "enable_bias": False, "tie_word_embeddings": False},
    ),
    ("OPTModel", {**TINY_OPT, "layer_norm_elementwise_affine": False}),
    ("OPTForSequenceClassification", {**TINY_OPT, "num_labels": 3}),
    ("BloomForCausalLM", TINY_BLOOM),
    ("BloomForCausalLM", {**TINY_BLOOM, "tie_word_embeddings": False}),
    ("BloomModel", TINY_BLOOM),
    ("BloomForSequenceClassification", {**TINY_BLOOM, "num_labels": 3}),
    ("FalconForCausalLM", WITHOUT_FFN),
    (
        "FalconForCausalLM",
        {**WITHOUT_FFN, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
    ),
    (
        "FalconForCausalLM",
        {**WITHOUT_FFN, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 20},
    ),
    (
        "FalconForCausalLM",
        {
            **WITHOUT_FFN,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False,
        },
    ),
    ("FalconModel", WITHOUT_FFN),
    ("MixtralForCausalLM", TINY_MIXTRAL),
    ("MixtralForCausalLM", {**TINY_MIXTRAL, "head_dim": 6, "tie_word_embeddings": True}),
    ("MixtralModel", TINY_MIXTRAL),
    ("Qwen2MoeForCausalLM", TINY_SHARED),
    (
        "Qwen2MoeForCausalLM",
        {**TINY_SHARED, "qkv_bias": False, "mlp_only_layers": [1], "tie_word_embeddings": True},
    ),
    ("Qwen2MoeModel", {**TINY_SHARED, "decoder_sparse_step": 2}),
    ("Qwen3MoeForCausalLM", TINY_EXPERTS),
    (
        "Qwen3MoeForCausalLM",
        {
            **TINY_EXPERTS,
            "head_dim": 6,
            "attention_bias": True,
            "mlp_only_layers": [0],
            "tie_word_embeddings": True,
        },
    ),
    ("Qwen3MoeModel", {**TINY_EXPERTS, "decoder_sparse_step": 2}),
    ("DeepseekV3ForCausalLM", TINY_DEEPSEEK),
    (
        "DeepseekV3ForCausalLM",
        {**TINY_DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 2, "tie_word_embeddings": True},
    ),
    ("DeepseekV3ForCausalLM", {**TINY_DEEPSEEK, "attention_bias": True}),
    ("DeepseekV3Model", TINY_DEEPSEEK),
]
IDS = [f"{name}-{position}" for position, (name, _) in enumerate(VARIANTS)]
