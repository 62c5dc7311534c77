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
TINY_GEMMA3 = {
    "text_config": WIDE_HEADS,
    "vision_config": {**TINY, "num_hidden_layers": 2, "image_size": 12, "patch_size": 4},
}
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

TINY_DISTILBERT = {
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 3,
    "n_heads": 4,
    "vocab_size": 32,
    "max_position_embeddings": 8,
}
TINY_DEBERTA = {
    **TINY_BERT,
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
TINY_VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
TINY_CLIP_TEXT = {**TINY_BERT, "num_hidden_layers": 2}
TINY_CLIP = {"text_config": TINY_CLIP_TEXT, "vision_config": {**TINY_VIT, "hidden_size": 20}, "projection_dim": 12}
TINY_T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_heads": 4}
TINY_BART = {
    "vocab_size": 32,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 8,
}
TINY_WHISPER = {
    **{key: value for key, value in TINY_BART.items() if key != "max_position_embeddings"},
    "num_mel_bins": 6,
    "max_source_positions": 10,
    "max_target_positions": 9,
    "pad_token_id": 0,
}
TINY_MAMBA = {"vocab_size": 32, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 3}
TINY_MAMBA2 = {**TINY_MAMBA, "num_heads": 8, "head_dim": 4, "n_groups": 2, "chunk_size": 8}
TINY_JAMBA = {
    **GROUPED,
    "num_hidden_layers": 5,
    "num_experts": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "mamba_d_state": 4,
    "mamba_d_conv": 3,
    "use_mamba_kernels": False,
}
TINY_RWKV = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "context_length": 8}

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
    ("Gemma3ForConditionalGeneration", TINY_GEMMA3),
    ("Gemma3ForConditionalGeneration", {**TINY_GEMMA3, "tie_word_embeddings": False}),
    (
        "Gemma3ForConditionalGeneration",
        {**TINY_GEMMA3, "vision_config": {**TINY_GEMMA3["vision_config"], "vision_use_head": False}},
    ),
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
    ("RobertaModel", TINY_BERT),
    ("RobertaForMaskedLM", TINY_BERT),
    ("RobertaForCausalLM", {**TINY_BERT, "is_decoder": True, "tie_word_embeddings": False}),
    ("RobertaForSequenceClassification", {**TINY_BERT, "num_labels": 4}),
    ("RobertaForTokenClassification", TINY_BERT),
    ("RobertaForQuestionAnswering", TINY_BERT),
    ("DistilBertModel", TINY_DISTILBERT),
    ("DistilBertForMaskedLM", TINY_DISTILBERT),
    ("DistilBertForMaskedLM", {**TINY_DISTILBERT, "tie_word_embeddings": False}),
    ("DistilBertForSequenceClassification", {**TINY_DISTILBERT, "num_labels": 4}),
    ("DistilBertForTokenClassification", TINY_DISTILBERT),
    ("DistilBertForQuestionAnswering", TINY_DISTILBERT),
    ("DebertaV2Model", TINY_DEBERTA),
    ("DebertaV2Model", TINY_BERT),
    ("DebertaV2ForMaskedLM", {**TINY_DEBERTA, "share_att_key": False, "type_vocab_size": 2}),
    ("DebertaV2ForMaskedLM", {**TINY_DEBERTA, "legacy": False, "position_buckets": -1, "pos_att_type": ["c2p"]}),
    (
        "DebertaV2ForSequenceClassification",
        {**TINY_DEBERTA, "position_biased_input": True, "conv_kernel_size": 3, "conv_act": "gelu", "num_labels": 3},
    ),
    ("DebertaV2ForTokenClassification", {**TINY_DEBERTA, "embedding_size": 12}),
    ("DebertaV2ForQuestionAnswering", TINY_DEBERTA),
    ("ViTModel", TINY_VIT),
    ("ViTModel", {**TINY_VIT, "image_size": [8, 12], "patch_size": [4, 2], "pooler_output_size": 5}),
    ("ViTForImageClassification", {**TINY_VIT, "num_labels": 4, "qkv_bias": False}),
    ("ViTForMaskedImageModeling", {**TINY_VIT, "num_channels": 1, "encoder_stride": 4}),
    ("CLIPModel", TINY_CLIP),
    ("CLIPForImageClassification", {**TINY_CLIP, "num_labels": 4}),
    ("CLIPTextModel", TINY_BERT),
    ("CLIPTextModelWithProjection", {**TINY_BERT, "projection_dim": 12}),
    ("CLIPVisionModel", TINY_VIT),
    ("CLIPVisionModelWithProjection", {**TINY_VIT, "projection_dim": 12}),
    ("T5ForConditionalGeneration", TINY_T5),
    ("T5ForConditionalGeneration", {**TINY_T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
    ("T5Model", TINY_T5),
    ("T5EncoderModel", TINY_T5),
    ("T5ForQuestionAnswering", TINY_T5),
    ("BartForConditionalGeneration", TINY_BART),
    ("BartForConditionalGeneration", {**TINY_BART, "tie_word_embeddings": False}),
    ("BartModel", TINY_BART),
    ("BartForCausalLM", TINY_BART),
    ("BartForSequenceClassification", {**TINY_BART, "num_labels": 4}),
    ("BartForSequenceClassification", TINY_BART),
    ("BartForQuestionAnswering", TINY_BART),
    ("WhisperForConditionalGeneration", TINY_WHISPER),
    ("WhisperForConditionalGeneration", {**TINY_WHISPER, "tie_word_embeddings": False}),
    ("WhisperModel", TINY_WHISPER),
    ("WhisperForCausalLM", TINY_WHISPER),
    ("WhisperForAudioClassification", {**TINY_WHISPER, "num_labels": 5}),
    ("WhisperForAudioClassification", {**TINY_WHISPER, "use_weighted_layer_sum": True}),
    ("MambaForCausalLM", TINY_MAMBA),
    (
        "MambaForCausalLM",
        {
            **TINY_MAMBA,
            "use_bias": True,
            "use_conv_bias": False,
            "time_step_rank": 5,
            "expand": 3,
            "tie_word_embeddings": False,
        },
    ),
    ("MambaModel", TINY_MAMBA),
    ("Mamba2ForCausalLM", TINY_MAMBA2),
    (
        "Mamba2ForCausalLM",
        {**TINY_MAMBA2, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "tie_word_embeddings": True},
    ),
    ("Mamba2Model", TINY_MAMBA2),
    ("JambaForCausalLM", TINY_JAMBA),
    (
        "JambaForCausalLM",
        {
            **TINY_JAMBA,
            "mamba_dt_rank": 3,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    ("JambaForCausalLM", {**TINY_JAMBA, "num_experts": 1}),
    ("JambaModel", TINY_JAMBA),
    ("JambaForSequenceClassification", {**TINY_JAMBA, "num_labels": 3}),
    ("RwkvForCausalLM", TINY_RWKV),
    ("RwkvForCausalLM", {**TINY_RWKV, "intermediate_size": 20, "tie_word_embeddings": True}),
    ("RwkvForCausalLM", {**TINY_RWKV, "attention_hidden_size": 12}),
    ("RwkvModel", TINY_RWKV),
]
IDS = [f"{name}-{position}" for position, (name, _) in enumerate(VARIANTS)]
