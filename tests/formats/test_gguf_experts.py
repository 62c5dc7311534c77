"""Models with experts as GGUF files: one tensor for all experts of a layer, by gguf-py's reader and by ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, quants

import steelyard
from formats import folders
from formats.folders import build_tiny
from steelyard.budget.audit import audit
from steelyard.errors import UserError
from steelyard.formats.gguf.mixes import mixed
from steelyard.formats.gguf.writing import GgufTensor, plan_gguf
from steelyard.spec import ModelSpec

ROUTED = {"hidden_size": 64, "num_key_value_heads": 2, "num_experts_per_tok": 2, "output_router_logits": False}
SMALL = ROUTED | {"moe_intermediate_size": 32, "num_experts": 4, "decoder_sparse_step": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", ROUTED | {"num_local_experts": 3, "intermediate_size": 96}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", SMALL | {"shared_expert_intermediate_size": 96}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", SMALL | {"head_dim": 16, "norm_topk_prob": True}),
}
FAMILY = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
# Of each layer's tensors, those that are many matrices of Hugging Face's.
PARTS = {
    "mixtral": {"gate": "w1", "up": "w3", "down": "w2"},
    "qwen2_moe": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    "qwen3_moe": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
}


def build(kind: str, folder: Path, **changes: Any) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders, "KINDS", folders.KINDS | MODELS)
        return build_tiny(kind, folder, "bfloat16", **changes)


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    source = build(request.param, place / "model")
    steelyard.quantize(source, out=place / "out", format="gguf", type="Q8_0")
    return request.param, source, place / "out"


def decoded(tensor: Any) -> np.ndarray:
    found = np.asarray(quants.dequantize(tensor.data, tensor.tensor_type)).reshape(tensor.shape[::-1])
    return found.astype(np.float32)


def test_experts_of_a_layer_are_one_tensor(made: tuple[str, Path, Path]) -> None:
    """Against gguf-py: its names, its sizes, and each slice the very matrix of that expert."""
    kind, source, out = made
    reader = GGUFReader(out / "model.gguf")
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    number = next(n for n, known in gguf.MODEL_ARCH_NAMES.items() if known == FAMILY[kind])
    templates = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]}
    known = {template.replace("{bid}", str(bid)) for template in templates for bid in (0, 1)}
    assert {name.rpartition(".")[0] for name in theirs} <= known
    experts = MODELS[kind][1].get("num_experts", 3)
    prefix = "block_sparse_moe" if kind == "mixtral" else "mlp"
    with steelyard.open(source) as before, steelyard.open(out) as after:
        assert sorted(after.names) == sorted(before.names)
        for part, hub in PARTS[kind].items():
            tensor = theirs[f"blk.1.ffn_{part}_exps.weight"]
            whole = decoded(tensor)
            assert tensor.tensor_type.name == "Q8_0" and len(whole) == experts
            for expert in range(experts):
                name = f"model.layers.1.{prefix}.experts.{expert}.{hub}.weight"
                original = before.tensor(name).astype(np.float32)
                assert np.array_equal(whole[expert], after.tensor(name)), name
                assert np.linalg.norm(whole[expert] - original) < 0.01 * np.linalg.norm(original)
        router = theirs["blk.0.ffn_gate_inp.weight"]
        assert router.tensor_type.name == "F32"
        plain = before.tensor(f"model.layers.0.{prefix}.gate.weight")
        assert np.array_equal(decoded(router), plain.astype(np.float32))
        if kind == "qwen2_moe":
            switch = theirs["blk.0.ffn_gate_inp_shexp.weight"]
            assert list(switch.shape) == [64] and switch.tensor_type.name == "F32"
            assert after.tensor("model.layers.0.mlp.shared_expert_gate.weight").shape == (1, 64)
    keys = {key.partition(".")[2]: field.contents() for key, field in reader.fields.items() if FAMILY[kind] in key}
    assert (keys["expert_count"], keys["expert_used_count"]) == (experts, 2)
    assert keys.get("expert_feed_forward_length") == (None if kind == "mixtral" else 32)
    assert keys.get("expert_shared_feed_forward_length") == (96 if kind == "qwen2_moe" else None)


def test_the_file_is_verified_and_converted_back(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, source, out = made
    checks = audit(out, str(source))
    assert {check.status for check in checks} == {"pass"}
    steelyard.convert(out, out=tmp_path / "dense", format="dense")
    with steelyard.open(out) as packed, steelyard.open(tmp_path / "dense") as plain:
        assert sorted(plain.names) == sorted(packed.names)
        for name in packed.names:
            wanted = packed.tensor(name).astype(np.float32)
            np.testing.assert_allclose(plain.tensor(name).astype(np.float32), wanted, rtol=2.0**-8, atol=1e-6)


def test_a_budget_is_spent_on_experts_together(tmp_path: Path) -> None:
    source = build("qwen3_moe", tmp_path / "model", hidden_size=256, moe_intermediate_size=256)
    result = steelyard.fit(source, out=tmp_path / "out", format="gguf", ratio=0.35, data="none", effort="quick")
    assert result.nbytes == (tmp_path / "out" / "model.gguf").stat().st_size
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert {kinds[f"blk.{layer}.ffn_{part}_exps.weight"] for layer in (0, 1) for part in ("gate", "down")} < {
        "Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "divides by their sum the weights of the chosen experts"),
        ("qwen2_moe", {"norm_topk_prob": True}, "takes as they are the weights of the chosen experts"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"no place for model\.layers\.0\.mlp\."),
        ("qwen2_moe", {"tie_word_embeddings": True}, "a head of its own"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    source = build(kind, tmp_path / "model", **changes)
    with pytest.raises(UserError, match=message):
        steelyard.quantize(source, out=tmp_path / "out", format="gguf", type="Q8_0")


@pytest.mark.parametrize(
    ("experts", "mix"), [(8, "Q4_K_M"), (8, "Q3_K_L"), (8, "Q2_K"), (4, "Q4_K_M"), (4, "Q2_K")]
)
def test_mixes_know_eight_experts(experts: int, mix: str) -> None:
    """By hand from llama.cpp's rules; `make test-llama` compares with the types its own quantizer chooses."""
    config = {
        "model_type": "mixtral", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 256, "head_dim": 32,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "num_local_experts": experts,
    }  # fmt: skip
    found = {name: codec.label for name, codec in mixed(ModelSpec.from_config(config), mix).items()}
    base, output, down = {"Q4_K_M": ("Q4_K", "Q4_K", "Q6_K"), "Q3_K_L": ("Q3_K", "Q5_K", "Q5_K")}.get(
        mix, ("Q2_K", "Q3_K", "Q3_K")
    )
    values = {"Q4_K_M": "Q6_K", "Q2_K": "Q3_K"}.get(mix)
    if experts == 8:
        output, values = ("Q3_K" if mix == "Q3_K_L" else "Q5_K"), "Q8_0"
    attention = {kind: found[f"model.layers.0.self_attn.{kind}_proj.weight"] for kind in "qkvo"}
    keys = "Q8_0" if experts == 8 else base
    assert attention == {"q": base, "k": keys, "v": values, "o": output}
    inside = [found[f"model.layers.0.block_sparse_moe.experts.{experts - 1}.w{i}.weight"] for i in (1, 2, 3)]
    assert inside == [base, down, base]
    # The rules by layer count layers, not experts: of 8 the first, the last and every third keep more.
    if mix == "Q4_K_M":
        kept = [found[f"model.layers.{layer}.block_sparse_moe.experts.0.w2.weight"] for layer in range(8)]
        assert kept == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert found["lm_head.weight"] == "Q6_K" and found["model.embed_tokens.weight"] == base


def test_slices_of_two_types_are_no_tensor() -> None:
    first = GgufTensor("x[0]", "F32", (2, 32), "F32", (2, 32), "x", 0, 2)
    second = GgufTensor("x[1]", "U8", (2, 34), "Q8_0", (2, 32), "x", 1, 2)
    with pytest.raises(UserError, match="x holds F32 and Q8_0; GGUF has one type"):
        plan_gguf([first, second], {})
