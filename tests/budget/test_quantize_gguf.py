"""`quantize --format gguf`: one type, or one of llama.cpp's mixes."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader

from steelyard.budget.audit import audit
from steelyard.budget.quantize import QuantizeOptions, dry_run, quantize_folder
from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.validation import validate
from tiny_llama import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bfloat16 Llama."""
    return write_tiny(tmp_path_factory.mktemp("model") / "llama", tied=True, dtype="bfloat16")


def test_one_type_for_every_matrix(model: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(format="gguf", type="Q8_0")
    made = quantize_folder(model, tmp_path / "out", options)
    reader = GGUFReader(tmp_path / "out" / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {"Q8_0"}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}
    assert made.nbytes == (tmp_path / "out" / "model.gguf").stat().st_size == dry_run(model, options).nbytes
    assert all(check.status == "pass" for check in audit(tmp_path / "out", str(model)))


def test_narrow_rows_have_the_type_that_stands_in(model: Path) -> None:
    # Rows of 64 weights are no block of 256; by llama.cpp's table Q4_K gives way to Q5_0, and Q6_K to Q8_0.
    tensors = dry_run(model, QuantizeOptions(format="gguf", mix="Q4_K_M")).tensors
    assert tensors["model.layers.0.mlp.gate_proj.weight"] == "Q5_0"
    assert tensors["model.embed_tokens.weight"] == "Q8_0"


def test_rules_of_a_mix_follow_the_layer() -> None:
    from steelyard.formats.gguf.mixes import MIXES, mixed

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 16,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "tie_word_embeddings": False,
    }
    spec = ModelSpec.from_config(config)
    down = {
        mix: [mixed(spec, mix)[f"model.layers.{layer}.mlp.down_proj.weight"].label for layer in range(16)]
        for mix in MIXES
    }
    # use_more_bits: the first and last eighth, and every third between them.
    assert [layer for layer, kind in enumerate(down["Q4_K_M"]) if kind == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert down["Q3_K_M"] == ["Q5_K"] + ["Q4_K"] * 15 and down["Q2_K_S"] == ["Q4_K"] * 2 + ["Q2_K"] * 14
    assert mixed(spec, "Q2_K")["model.layers.3.self_attn.v_proj.weight"].label == "Q4_K"  # four queries to a key
    assert mixed(spec, "Q4_K_M")["lm_head.weight"].label == "Q6_K"
    assert mixed(spec, "Q4_K_M")["model.embed_tokens.weight"].label == "Q4_K"
    assert mixed(spec, "Q4_0", calibrated=True)["model.layers.1.mlp.down_proj.weight"].label == "Q4_1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "gguf"}, "one of type"),
        ({"format": "gguf", "type": "Q4_K", "mix": "Q4_K_M"}, "one of type"),
        ({"format": "gguf", "type": "Q9_Z"}, "Q9_Z"),
        ({"format": "gguf", "mix": "Q4"}, "Q4_K_M"),
        ({"type": "Q4_K"}, "format gguf"),
        ({"format": "gguf", "type": "Q4_K", "rounding": "gptq"}, "rounding"),
        ({"format": "gguf", "type": "Q4_K", "bits": 3}, "leave out bits"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(QuantizeOptions, values)
