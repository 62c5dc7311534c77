"""llama.cpp's mixes by rule, against what its own quantizer stores every tensor as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from formats import folders
from formats.folders import build_tiny
from llama.conftest import Run
from steelyard.budget.plan import stored_tensors
from steelyard.budget.quantize import QuantizeOptions
from steelyard.budget.quantize_gguf import plan_gguf
from steelyard.formats import get
from steelyard.formats.convert import convert_folder
from steelyard.formats.gguf.writing import GgufTensor
from steelyard.jobs import open_model

# llama.cpp's numbers of its mixes. It writes Q2_K_S, 21, with importances alone.
NUMBERS = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
    "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip
DEEP: dict[str, Any] = {"num_hidden_layers": 16, "hidden_size": 256, "intermediate_size": 256}
ROUTED = {"num_hidden_layers": 16, "num_key_value_heads": 2, "num_experts_per_tok": 2}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", ROUTED),
    "qwen2_moe": ("Qwen2MoeForCausalLM", ROUTED | {"moe_intermediate_size": 32}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", ROUTED | {"moe_intermediate_size": 32, "norm_topk_prob": True}),
}
SMALL = {
    "num_hidden_layers": 8,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_experts": 8,
    "shared_expert_intermediate_size": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_attention_heads": 8, **DEEP}),
    "llama, tied": ("llama-tied", {"num_attention_heads": 4, **DEEP}),
    "qwen3, narrow rows": ("qwen3", {"num_hidden_layers": 8, "intermediate_size": 160}),
    "gpt2": ("gpt2", {"num_hidden_layers": 8, "hidden_size": 256}),
    "mixtral, 8 experts": ("mixtral", {"hidden_size": 256, "intermediate_size": 32, "num_local_experts": 8}),
    "mixtral, 4 experts": (
        "mixtral",
        {"hidden_size": 256, "intermediate_size": 32, "num_local_experts": 4, "num_hidden_layers": 8},
    ),
    "qwen2_moe, 8 experts": ("qwen2_moe", SMALL),
    "qwen3_moe, 8 experts": ("qwen3_moe", SMALL | {"num_attention_heads": 8, "head_dim": 32}),
}


@pytest.mark.parametrize("name", MODELS)
def test_rules_choose_as_llama_cpp_does(
    llama: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "KINDS", folders.KINDS | MORE)
    kind, changes = MODELS[name]
    folder = build_tiny(kind, tmp_path / "model", **changes)
    plain = convert_folder(folder, tmp_path / "plain", "gguf").out / "model.gguf"
    llama("quantize", plain, out={str(tmp_path / f"{mix}.gguf"): number for mix, number in NUMBERS.items()})
    for mix in NUMBERS:
        reader = GGUFReader(tmp_path / f"{mix}.gguf")
        wanted = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        with open_model(folder) as opened:
            plan, _ = plan_gguf(opened, QuantizeOptions(format="gguf", mix=mix))
            tensors = stored_tensors(plan, opened.spec, get("gguf")).values()
        found = {
            tensor.stack or tensor.name: tensor.kind
            for group in tensors
            for tensor in group
            if isinstance(tensor, GgufTensor)
        }
        assert found == wanted, mix
