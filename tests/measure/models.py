"""Tiny models of every architecture with random but lively weights, and a byte tokenizer for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 260

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
_GROUPED = {"num_key_value_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _GROUPED),
    "llama-tied": ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {**_GROUPED, "sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2-sliding": (
        "Qwen2ForCausalLM",
        {**_GROUPED, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {"rotary_pct": 0.25}),
    "bert": ("BertModel", {"pad_token_id": 0}),
    "bert-masked": ("BertForMaskedLM", {"pad_token_id": 0}),
}
CAUSAL = [kind for kind in KINDS if not kind.startswith("bert")]


def build_tiny(kind: str, folder: Path, **changes: Any) -> Path:
    """Save a tiny model and its tokenizer, the same one every time."""
    import torch
    import transformers

    name, settings = KINDS[kind]
    model_class = getattr(transformers, name)
    config = model_class.config_class(**{**_COMMON, **settings, **changes})
    model = model_class(config)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + float(parameter_name.endswith("weight")))
            else:
                # Wide enough for attention and logits to be far from uniform.
                scale = 1.5 if "proj" in parameter_name or "attn" in parameter_name else 1.0
                parameter.copy_(torch.randn_like(parameter) * scale * parameter.shape[-1] ** -0.5)
    model.tie_weights()
    model.save_pretrained(folder)
    save_tokenizer(folder, special=kind.startswith("bert"))
    return folder


def save_tokenizer(folder: Path, special: bool) -> None:
    """A byte-level tokenizer without merges; with `special`, sequences stand between tokens 257 and 258."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "[CLS]", "[SEP]", "[MASK]"])
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 257), ("[SEP]", 258)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|end|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
