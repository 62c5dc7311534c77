"""Tiny models of every architecture: class names and the options of their configs."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from steelyard.spec import ModelSpec

TINY = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GROUPED = {**TINY, "num_key_value_heads": 2}
TINY_GPT2 = {"vocab_size": 48, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}
EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}

DECODERS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**GROUPED, "head_dim": 10},
    "MistralForCausalLM": {**GROUPED, "sliding_window": 20},
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": {**GROUPED, "head_dim": 8, "tie_word_embeddings": True},
    "GPT2LMHeadModel": TINY_GPT2,
    "GPTNeoXForCausalLM": TINY,
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 8, "sliding_window": 20},
    "Gemma3ForCausalLM": {**GROUPED, "head_dim": 8, "sliding_window": 20},
    "Phi3ForCausalLM": GROUPED,
    "Olmo2ForCausalLM": GROUPED,
    "OPTForCausalLM": {
        "vocab_size": 48,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    },
    "BloomForCausalLM": {"vocab_size": 48, "hidden_size": 24, "n_layer": 2, "n_head": 4},
    "FalconForCausalLM": {
        "vocab_size": 48,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "alibi": False,
    },
    "MixtralForCausalLM": {**GROUPED, **EXPERTS, "num_local_experts": 4},
    "Qwen2MoeForCausalLM": {
        **GROUPED,
        **EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "decoder_sparse_step": 2,
    },
    "Qwen3MoeForCausalLM": {
        **GROUPED,
        **EXPERTS,
        "head_dim": 8,
        "num_experts": 4,
        "moe_intermediate_size": 12,
        "mlp_only_layers": [1],
    },
    "DeepseekV3ForCausalLM": {
        **TINY,
        **EXPERTS,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 12,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 14,
        "kv_lora_rank": 10,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
    },
}

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "LlamaModel": GROUPED,
    "LlamaForSequenceClassification": GROUPED,
    "MixtralForSequenceClassification": {**GROUPED, **EXPERTS, "num_local_experts": 4},
    "BertModel": TINY,
    "BertForMaskedLM": TINY,
    "BertForSequenceClassification": TINY,
    "BertForTokenClassification": TINY,
    "RobertaForMaskedLM": TINY,
    "RobertaForSequenceClassification": TINY,
    "DistilBertForMaskedLM": {"vocab_size": 48, "dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 4},
}


def build(class_name: str, options: dict[str, Any]) -> tuple[Any, ModelSpec]:
    """A model with plain attention, and the spec of its config."""
    torch.manual_seed(0)
    cls = getattr(transformers, class_name)
    config = cls.config_class(**{key: value for key, value in options.items() if key != "experts_implementation"})
    config._attn_implementation = "eager"
    if "experts_implementation" in options:
        config._experts_implementation = options["experts_implementation"]
    model = cls(config).eval()
    return model, ModelSpec.from_config({**model.config.to_dict(), "architectures": [class_name]})


def rotary(model: Any, positions: int) -> int:
    """Operations of the product of positions with rotary frequencies: too few for anyone to count."""
    sizes = {
        name: buffer.numel()
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and "original" not in name
    }
    return sum(2 * positions * size for size in sizes.values())
