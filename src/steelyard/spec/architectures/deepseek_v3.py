"""DeepSeek-V3 and R1: attention through latents, many small experts and one shared by all tokens.

Blocks after the last one, which predict further tokens in training, are in the files but not in the model.
"""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules, state, within
from steelyard.spec.settings import Settings

_ATTENTION = "model.layers.{layer}.self_attn"
_MLP = "model.layers.{layer}.mlp"
_LATENTS = Shared(codec=f"{_ATTENTION}.qkv_a", input=f"{_ATTENTION}.q_a_proj")
_EXPERTS = f"{_MLP}.experts"
_EXPERT = f"{_EXPERTS}.{{expert}}"
_SHARED = f"{_MLP}.shared_experts"
_GATE_UP = Shared(codec=f"{_MLP}.gate_up", input=f"{_MLP}.gate_proj")
# Engines run the experts of a layer as one: all their matrices share a codec.
_EXPERT_GATE_UP = Shared(codec=_EXPERTS, input=f"{_EXPERT}.gate_proj")
_EXPERT_DOWN = Shared(codec=_EXPERTS, input=f"{_EXPERT}.down_proj")
_SHARED_GATE_UP = Shared(codec=f"{_SHARED}.gate_up", input=f"{_SHARED}.gate_proj")


def _is_sparse(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return numbers["layer"] >= (settings.get("first_k_dense_replace") or 0)


def _is_dense(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return not _is_sparse(settings, numbers)


def _compresses_queries(settings: Settings) -> bool:
    return settings.get("q_lora_rank") is not None


def _biased_latent(settings: Settings) -> bool:
    return _compresses_queries(settings) and settings.flag("attention_bias")


def _whole_queries(settings: Settings) -> bool:
    return not _compresses_queries(settings)


ARCHITECTURE = Architecture(
    model_type="deepseek_v3",
    base_class="DeepseekV3Model",
    default_class="DeepseekV3ForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "attention_bias": False,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": None,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "query_latent": lambda s: s.size_or_none("q_lora_rank") or s.size("hidden_size"),
        "latent": "kv_lora_rank",
        "rotary_dim": "qk_rope_head_dim",
        "latent_rotary": lambda s: s.size("kv_lora_rank") + s.size("qk_rope_head_dim"),
        "key_dim": lambda s: s.size("qk_nope_head_dim") + s.size("qk_rope_head_dim"),
        "value_dim": "v_head_dim",
        "key_value_dim": lambda s: s.size("qk_nope_head_dim") + s.size("v_head_dim"),
        "expert": "n_routed_experts",
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": lambda s: s.size("n_shared_experts") * s.size("moe_intermediate_size"),
    },
    rules=rules(
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        norm("model.layers.{layer}.input_layernorm", "norm.attn", "hidden"),
        linear(f"{_ATTENTION}.q_proj", "attn.q", "head*key_dim", "hidden", when=_whole_queries),
        linear(
            f"{_ATTENTION}.q_a_proj",
            "attn.q_a",
            "query_latent",
            "hidden",
            bias=_biased_latent,
            when=_compresses_queries,
            shared=_LATENTS,
        ),
        linear(
            f"{_ATTENTION}.kv_a_proj_with_mqa",
            "attn.kv_a",
            "latent_rotary",
            "hidden",
            bias="attention_bias",
            shared=_LATENTS,
        ),
        norm(f"{_ATTENTION}.q_a_layernorm", "attn.q_norm", "query_latent", when=_compresses_queries),
        linear(f"{_ATTENTION}.q_b_proj", "attn.q_b", "head*key_dim", "query_latent", when=_compresses_queries),
        norm(f"{_ATTENTION}.kv_a_layernorm", "attn.kv_norm", "latent"),
        # Each head has the part of its key without positions and its value next to each other.
        linear(f"{_ATTENTION}.kv_b_proj", "attn.kv_b", "head*key_value_dim", "latent"),
        linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*value_dim", bias="attention_bias"),
        norm("model.layers.{layer}.post_attention_layernorm", "norm.mlp", "hidden"),
        within(
            _is_dense,
            linear(f"{_MLP}.gate_proj", "mlp.gate", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.up_proj", "mlp.up", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.down_proj", "mlp.down", "hidden", "ffn"),
        ),
        within(
            _is_sparse,
            linear(f"{_MLP}.gate", "router", "expert", "hidden"),
            linear(f"{_EXPERT}.gate_proj", "expert.gate", "expert_ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.up_proj", "expert.up", "expert_ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.down_proj", "expert.down", "hidden", "expert_ffn", shared=_EXPERT_DOWN),
            state(f"{_MLP}.gate.e_score_correction_bias", "router.bias", "expert"),
            linear(f"{_SHARED}.gate_proj", "shared_expert.gate", "shared_ffn", "hidden", shared=_SHARED_GATE_UP),
            linear(f"{_SHARED}.up_proj", "shared_expert.up", "shared_ffn", "hidden", shared=_SHARED_GATE_UP),
            linear(f"{_SHARED}.down_proj", "shared_expert.down", "hidden", "shared_ffn"),
        ),
        norm("model.norm", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_ATTENTION}.rotary_emb.inv_freq"),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=KeyValueCache(heads="head", width="key_dim", value="value_dim", latent=("latent", "rotary_dim")),
    attention=(Attention(key="key_dim", value="value_dim"),),
    active={"expert": "num_experts_per_tok"},
    extra_blocks=lambda s: s.size("num_nextn_predict_layers", least=0) if s.get("num_nextn_predict_layers") else 0,
    once=(),
)
