"""Make `tests/merge/golden/tokenizers.npz`: merges of two vocabularies as mergekit 0.1.5 makes them.

Run with an interpreter that has mergekit 0.1.5: python benchmarks/peers/mergekit_tokenizers.py OUT.npz
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 16,
}  # fmt: skip

# name -> (merges, plain tokens in order, added special tokens, rows of the embeddings)
MODELS: dict[str, tuple[list[str], list[str], list[str], int]] = {
    "first": (["a b", "ab c"], [*"abcdefgh", "ab", "abc", "both"], ["<s>", "</s>", "<own>"], 16),
    "second": (["d e", "a b"], [*"hgfedcba", "de", "ab", "both"], ["</s>", "<s>", "<other>"], 14),
    "third": (["d e"], [*"abcdxyz", "e", "de", "x1"], ["<s>", "</s>"], 12),
}
RECIPES: dict[str, dict[str, Any]] = {
    "union": {"tokenizer": {"source": "union"}},
    "base": {"tokenizer": {"source": "base"}},
    "model": {"tokenizer": {"source": "second"}},
    "legacy": {"tokenizer_source": "union"},
    "baseless": {"tokenizer": {"source": "union"}, "base_model": None},
    "padded": {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}},
    "declared": {
        "tokenizer": {
            "source": "union",
            "tokens": {
                "x1": {"source": "third"},
                "both": {"source": "second", "force": True},
                "<other>": {"source": {"kind": "model_token", "model": "first", "token": "<own>"}},
                "<own>": {"source": {"kind": "model_token", "model": "third", "token_id": 3}, "force": True},
                "<new>": {"source": {"kind": "zero"}},
            },
        }
    },
}


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a model."""
    merges, plain, added, _ = MODELS[name]
    pairs = [tuple(merge.split()) for merge in merges]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(plain)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def main(out: Path) -> None:
    """Write tokenizers, tables and what becomes of them."""
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as work:
        for number, (name, (_, _, _, rows)) in enumerate(MODELS.items()):
            folder = Path(work) / name
            torch.manual_seed(number)
            made = tokenizer(name)
            config = LlamaConfig(
                **SIZES, vocab_size=rows, tie_word_embeddings=False,
                bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id,
            )  # fmt: skip
            LlamaForCausalLM(config).float().save_pretrained(folder)
            made.save_pretrained(folder)
            for file in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
                arrays[f"{name}/{file}"] = np.array((folder / file).read_text())
            for tensor, values in load_file(folder / "model.safetensors").items():
                arrays[f"{name}/tensors/{tensor}"] = values.numpy()
        for case, settings in RECIPES.items():
            weights = {"first": 0.5, "second": 0.3, "third": 0.2}
            recipe: dict[str, Any] = {
                "merge_method": "linear",
                "base_model": "first",
                "models": [{"model": name, "parameters": {"weight": weights[name]}} for name in MODELS],
                "dtype": "float32",
                **settings,
            }
            recipe = {key: value for key, value in recipe.items() if value is not None}
            text = yaml.safe_dump(recipe, sort_keys=False)
            arrays[f"{case}/recipe"] = np.array(text)
            for name in MODELS:  # only where a model is named, which is always a value or an item of its own
                text = text.replace(f": {name}\n", f": {work}/{name}\n")
            folder = Path(work) / f"out-{case}"
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(folder), MergeOptions())
            result = PreTrainedTokenizerFast.from_pretrained(folder)
            arrays[f"{case}/vocabulary"] = np.array(json.dumps(result.get_vocab(), sort_keys=True))
            arrays[f"{case}/vocab_size"] = np.array(json.loads((folder / "config.json").read_text())["vocab_size"])
            for tensor, values in load_file(folder / "model.safetensors").items():
                if tensor in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
                    arrays[f"{case}/merged/{tensor}"] = values.numpy()
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
