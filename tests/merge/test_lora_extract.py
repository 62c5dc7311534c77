"""Adapters extracted from pairs of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge.adapters import Golden
from steelyard.edits.merge.inputs import StoredModel
from steelyard.edits.merge.lora import adapt
from steelyard.edits.merge.lora.extract import ExtractOptions, extract_lora
from steelyard.edits.merge.lora.factor import EXACT_BELOW, factor, relative_error
from steelyard.errors import UserError
from tiny_llama import write_tiny

GOLDEN = Golden()


def changed(base: Path, out: Path, deltas: dict[str, np.ndarray]) -> Path:
    """A copy of a model with something added to some tensors."""
    out.mkdir()
    tensors = load_file(base / "model.safetensors")
    for name, delta in deltas.items():
        tensors[name] = (tensors[name].astype(np.float32) + delta).astype(tensors[name].dtype)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((base / "config.json").read_bytes())
    return out


def product(rows: int, columns: int, rank: int, seed: int = 1) -> np.ndarray:
    """A matrix of a low rank."""
    draw = np.random.default_rng(seed)
    made: np.ndarray = draw.standard_normal((rows, rank)) @ draw.standard_normal((rank, columns)) * 0.1
    return made


def apply(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    """Every tensor of a model with an adapter applied."""
    model = adapt(StoredModel.open(str(base)), str(adapter), "")
    return {
        name: model.reader(name)(0, int(np.prod(model.shape(name)))).reshape(model.shape(name))
        for name in model.spec.tensors
    }


@pytest.mark.parametrize("case", ["plain", "stabilized", "patterns", "flipped", "table", "saved", "biases"])
def test_what_an_adapter_did_is_found_again(case: str, tmp_path: Path) -> None:
    base, _ = GOLDEN.write(tmp_path, case)
    merged = {**GOLDEN.base(case), **GOLDEN.group(f"{case}/merged")}
    deltas = {name: merged[name] - array for name, array in GOLDEN.base(case).items()}
    reached = changed(base, tmp_path / "reached", deltas)
    made = extract_lora(reached, base, tmp_path / "out", ExtractOptions(rank=4, embeddings="save"))
    assert made.error < 1e-5
    assert not made.skipped
    for name, array in apply(base, tmp_path / "out").items():
        np.testing.assert_allclose(array, merged[name], atol=2e-6)


def test_the_error_is_that_of_the_truncated_decomposition(tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    delta = np.random.default_rng(0).standard_normal((128, 64)) * 0.01
    reached = changed(tiny_llama, tmp_path / "reached", {name: delta})
    stored = load_file(reached / "model.safetensors")[name].astype(np.float64)
    exact = stored - load_file(tiny_llama / "model.safetensors")[name].astype(np.float64)
    singular = np.linalg.svd(exact, compute_uv=False)
    made = extract_lora(reached, tiny_llama, tmp_path / "out", ExtractOptions(rank=5))
    expected = np.sqrt((singular[5:] ** 2).sum() / (singular**2).sum())
    assert [tensor.name for tensor in made.tensors] == [name]
    assert made.error == pytest.approx(expected, rel=1e-4)
    assert made.nbytes == (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["model.layers.1.mlp.up_proj"]
    assert settings["r"] == settings["lora_alpha"] == 5


def test_a_tolerance_cuts_ranks(tiny_llama: Path, tmp_path: Path) -> None:
    low, high = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    deltas = {low: product(64, 64, 2), high: product(64, 64, 6)}
    reached = changed(tiny_llama, tmp_path / "reached", deltas)
    made = extract_lora(reached, tiny_llama, tmp_path / "out", ExtractOptions(rank=16, tolerance=1e-3))
    assert {tensor.name: tensor.rank for tensor in made.tensors} == {low: 2, high: 6}
    assert max(tensor.error for tensor in made.tensors) < 1e-3
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {settings["r"], *settings["rank_pattern"].values()} == {2, 6}
    for name, array in apply(tiny_llama, tmp_path / "out").items():
        np.testing.assert_allclose(array, load_file(reached / "model.safetensors")[name], atol=2e-3)


def test_large_matrices_are_decomposed_in_pieces() -> None:
    shape = (EXACT_BELOW + 90, EXACT_BELOW + 40)
    draw = np.random.default_rng(7)
    u = np.linalg.qr(draw.standard_normal((shape[0], 200)))[0]
    v = np.linalg.qr(draw.standard_normal((shape[1], 200)))[0]
    matrix = ((u * 0.97 ** np.arange(200)) @ v.T).astype(np.float32)
    asked: list[int] = []

    def rows(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return matrix[start:stop]

    found = factor(rows, shape, 24, np.random.default_rng(0))
    assert max(asked) * shape[1] <= 1 << 20
    optimum = np.sqrt((0.97 ** (2 * np.arange(24, 200))).sum() / (0.97 ** (2 * np.arange(200))).sum())
    error = relative_error(rows, shape, found.left, found.right)
    assert optimum * 0.999 <= error <= optimum * 1.01
    np.testing.assert_allclose(found.energy, (matrix.astype(np.float64) ** 2).sum(), rtol=1e-6)
    again = factor(rows, shape, 24, np.random.default_rng(0))
    np.testing.assert_array_equal(found.left, again.left)


def test_modules_are_chosen_by_expression(tiny_llama: Path, tmp_path: Path) -> None:
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    deltas = {names[0]: product(64, 64, 1), names[1]: product(64, 128, 1)}
    reached = changed(tiny_llama, tmp_path / "reached", deltas)
    made = extract_lora(reached, tiny_llama, tmp_path / "out", ExtractOptions(rank=2, exclude="mlp"))
    assert [tensor.name for tensor in made.tensors] == names[:1]
    assert made.skipped == (names[1],)
    with pytest.raises(UserError, match=r"do not differ in any matrix chosen \(but in model\.layers\.0"):
        extract_lora(reached, tiny_llama, tmp_path / "none", ExtractOptions(include="nothing"))
    with pytest.raises(UserError, match=r"--include: '\(' is not a regular expression"):
        extract_lora(reached, tiny_llama, tmp_path / "none", ExtractOptions(include="("))
    assert not (tmp_path / "none").exists()


def test_models_that_are_not_of_one_kind(tiny_llama: Path, tmp_path: Path) -> None:
    wider = write_tiny(tmp_path / "wider", vocab_size=130)
    with pytest.raises(UserError, match=r"lm_head\.weight is \[130, 64\]"):
        extract_lora(wider, tiny_llama, tmp_path / "out")
    deeper = write_tiny(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(UserError, match="an adapter adds no tensors"):
        extract_lora(deeper, tiny_llama, tmp_path / "out")
    with pytest.raises(UserError, match="do not differ"):
        extract_lora(tiny_llama, tiny_llama, tmp_path / "out")
    broken = changed(
        tiny_llama, tmp_path / "nan", {"model.layers.0.self_attn.q_proj.weight": np.full((64, 64), np.nan)}
    )
    with pytest.raises(UserError, match=r"q_proj\.weight of .*nan holds NaN"):
        extract_lora(broken, tiny_llama, tmp_path / "out")


def test_a_tied_table_stays_tied(tied_llama: Path, tmp_path: Path) -> None:
    query = "model.layers.0.self_attn.q_proj.weight"
    deltas = {"model.embed_tokens.weight": product(128, 64, 2), query: product(64, 64, 2)}
    reached = changed(tied_llama, tmp_path / "reached", deltas)
    for embeddings in ("save", "lora"):
        out = tmp_path / embeddings
        made = extract_lora(reached, tied_llama, out, ExtractOptions(rank=4, embeddings=embeddings))
        assert bool(made.saved) == (embeddings == "save")
        model = adapt(StoredModel.open(str(tied_llama)), str(out), "")
        assert model.spec.ties == {"lm_head.weight": "model.embed_tokens.weight"}
        found = model.reader("model.embed_tokens.weight")(0, 128 * 64)
        expected = load_file(reached / "model.safetensors")["model.embed_tokens.weight"].astype(np.float32)
        np.testing.assert_allclose(found.astype(np.float32), expected.reshape(-1), atol=1e-2)
