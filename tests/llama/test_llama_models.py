"""What llama.cpp computes with our files, against transformers with the weights that the files stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import steelyard
from formats import folders
from formats.folders import build_tiny
from llama.conftest import Run
from steelyard import reference
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.codecs.gguf.types import LEVELS
from steelyard.formats.convert import convert_folder

ROUTED = {"num_key_value_heads": 2, "num_experts_per_tok": 2}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "mixtral": ("MixtralForCausalLM", ROUTED | {"num_local_experts": 3}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        ROUTED | {"moe_intermediate_size": 32, "num_experts": 4, "shared_expert_intermediate_size": 96},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        ROUTED | {"moe_intermediate_size": 32, "num_experts": 4, "head_dim": 16, "norm_topk_prob": True},
    ),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e3,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama-tied", {}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3, yarn weaker": ("qwen3", {"rope_parameters": YARN | {"attention_factor": 1.05}}),
    "qwen3": ("qwen3", {}),
    "mixtral": ("mixtral", {}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
}


def transformers_logits(folder: Path, windows: list[list[int]], weights: Path | None = None) -> np.ndarray:
    """Return transformers' logits, with the weights of another folder in place of the model's own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if weights is not None:
        with steelyard.open(weights) as written, torch.no_grad():
            state = model.state_dict()
            for name in written.names:
                state[name].copy_(torch.from_numpy(np.array(written.tensor(name), np.float32)))
            model.tie_weights()
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(windows)).logits.numpy()
    return logits


def divergence(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Return the mean KL divergence of two arrays of logits, in nats per token."""
    first, second = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (theirs, ours))
    return float((first.exp() * (first - second)).sum(-1).mean())


def loss(logits: np.ndarray, windows: list[list[int]]) -> float:
    """Return the mean loss of the next token, in nats."""
    right = torch.tensor(windows)[:, 1:].flatten()
    kept = torch.from_numpy(logits)[:, :-1].reshape(len(right), -1)
    return float(torch.nn.functional.cross_entropy(kept.double(), right))


@pytest.mark.parametrize("name", MODELS)
def test_plain_files_give_transformers_logits(
    llama: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "KINDS", folders.KINDS | MORE)
    kind, changes = MODELS[name]
    folder = build_tiny(kind, tmp_path / "model", **changes)
    made = convert_folder(folder, tmp_path / "out", "gguf")
    windows = np.random.default_rng(3).integers(0, 250, (2, 48)).tolist()
    found = llama("logits", made.out / "model.gguf", windows=windows)["logits"]
    expected = transformers_logits(folder, windows)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert divergence(expected, found) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_llama_cpp_finds_the_parts_of_a_split(
    llama: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "KINDS", folders.KINDS | MORE)
    folder = build_tiny(kind, tmp_path / "model")
    whole = convert_folder(folder, tmp_path / "one", "gguf").out / "model.gguf"
    files = sorted(convert_folder(folder, tmp_path / "many", "gguf", max_shard_size=100_000).out.glob("*.gguf"))
    assert len(files) > 2
    windows = np.random.default_rng(3).integers(0, 250, (1, 24)).tolist()
    one, many = (llama("logits", file, windows=windows)["logits"] for file in (whole, files[0]))
    assert np.array_equal(one, many)


def test_sentence_encoders_give_transformers_means(llama: Run, tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "on", "a", "dog", ".", "mat"]
    folder = build_tiny("bert", tmp_path / "bert")
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    made = convert_folder(folder, tmp_path / "out", "gguf")
    texts = ["the cats sat on a mat.", "A dog"]
    found = llama("embeddings", made.out / "model.gguf", texts=texts)["embeddings"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0].numpy() for text in texts
        ]
    assert np.abs(found - np.stack(expected)).max() < 2e-3


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    """Two windows of a Python source, in the reference model's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(str(reference.path()))
    tokens = tokenizer(Path(json.__file__).read_text())["input_ids"]
    return [tokens[:192], tokens[192:384]]


def test_the_reference_model_generates_and_predicts_the_same(
    llama: Run, tmp_path: Path, windows: list[list[int]]
) -> None:
    made = convert_folder(str(reference.path()), tmp_path / "out", "gguf")
    file = made.out / "model.gguf"
    found, expected = (
        llama("logits", file, windows=windows)["logits"],
        transformers_logits(reference.path(), windows, made.out),
    )
    assert divergence(expected, found) < 1e-4
    assert loss(found, windows) == pytest.approx(loss(expected, windows), abs=1e-3)
    tokens = llama("greedy", file, prompt=windows[0][:32], count=24)["tokens"].tolist()
    model = AutoModelForCausalLM.from_pretrained(reference.path(), dtype=torch.float32)
    theirs = model.generate(torch.tensor([windows[0][:32]]), max_new_tokens=24, do_sample=False)[0, 32:].tolist()
    assert tokens[:16] == theirs[:16]


@pytest.mark.parametrize("kind", LEVELS)
def test_every_type_means_the_same_to_llama_cpp(
    llama: Run, tmp_path: Path, windows: list[list[int]], kind: str
) -> None:
    made = quantize_folder(reference.path(), tmp_path / "out", QuantizeOptions(format="gguf", type=kind))
    found = llama("logits", made.out / "model.gguf", windows=windows[:1])["logits"]
    expected = transformers_logits(reference.path(), windows[:1], made.out)
    # llama.cpp rounds what goes into these products to 8 bits.
    assert divergence(expected, found) < 0.01
    assert loss(found, windows[:1]) == pytest.approx(loss(expected, windows[:1]), abs=0.02)
