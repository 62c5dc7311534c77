"""Make `tests/merge/golden/peft.npz`: tiny adapters of every kind, and what peft's own merging makes of them.

Run with an interpreter that has peft 0.21.2, transformers and torch: python benchmarks/peers/peft_golden.py OUT.npz
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 20, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 16}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 12}),
    "stabilized": ("llama", {"target_modules": ["v_proj"], "r": 4, "lora_alpha": 6, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"k_proj": 2, "layers.0.mlp.up_proj": 3},
            "alpha_pattern": {"q_proj": 5, r".*\.up_proj": 7},
        },
    ),
    "magnitudes": ("llama", {"target_modules": ["q_proj", "down_proj"], "r": 3, "lora_alpha": 6, "use_dora": True}),
    "table": ("llama", {"target_modules": ["embed_tokens", "o_proj"], "r": 3, "lora_alpha": 6}),
    "table_magnitudes": ("llama", {"target_modules": ["embed_tokens"], "r": 3, "lora_alpha": 6, "use_dora": True}),
    "saved": ("llama", {"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["lm_head", "norm"]}),
    "flipped": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "r": 3, "lora_alpha": 9, "fan_in_fan_out": True}),
    "flipped_magnitudes": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "r": 3, "lora_alpha": 9, "fan_in_fan_out": True, "use_dora": True},
    ),
    "biases": ("gpt2", {"target_modules": ["c_attn"], "r": 2, "bias": "all", "fan_in_fan_out": True}),
}


def build(kind: str) -> torch.nn.Module:
    """Return a tiny model of a kind, always the same."""
    torch.manual_seed(5)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**GPT2, tie_word_embeddings=True)).eval()
    return LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)).eval()


def main(out: Path) -> None:
    """Write the arrays of every case."""
    arrays: dict[str, np.ndarray] = {}
    for kind in ("llama", "gpt2"):
        model = build(kind)
        with tempfile.TemporaryDirectory() as work:
            model.save_pretrained(work)
            arrays[f"{kind}/config"] = np.array((Path(work) / "config.json").read_text())
            for name, tensor in load_file(f"{work}/model.safetensors").items():
                arrays[f"{kind}/base/{name}"] = tensor.numpy()
    for case, (kind, settings) in CASES.items():
        adapted = get_peft_model(build(kind), LoraConfig(**settings))
        torch.manual_seed(6)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
                    assert "lora_" in name or "modules_to_save" in name or "bias" in name
        with tempfile.TemporaryDirectory() as work:
            adapted.save_pretrained(work)
            values = json.loads((Path(work) / "adapter_config.json").read_text())
            arrays[f"{case}/kind"] = np.array(kind)
            arrays[f"{case}/config"] = np.array(json.dumps(values, sort_keys=True))
            for name, tensor in load_file(f"{work}/adapter_model.safetensors").items():
                arrays[f"{case}/adapter/{name}"] = tensor.numpy()
        merged = adapted.merge_and_unload()
        with tempfile.TemporaryDirectory() as work:
            merged.save_pretrained(work)
            for name, tensor in load_file(f"{work}/model.safetensors").items():
                if not np.array_equal(arrays.get(f"{kind}/base/{name}"), tensor.numpy()):
                    arrays[f"{case}/merged/{name}"] = tensor.numpy()
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
