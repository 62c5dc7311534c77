"""Orders of units: they keep the function in transformers' own forward pass, and a shuffled copy is put right."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from steelyard.edits.align.assignment import assign_attention
from steelyard.edits.align.job import align_folder
from steelyard.edits.align.maps import attention_maps, identity, mapped
from steelyard.edits.align.opened import open_two
from steelyard.edits.align.symmetry import STREAM, Attention, Symmetry
from steelyard.edits.align.weights import match_weights
from steelyard.errors import UserError
from steelyard.spec import ModelSpec

from .networks import FAMILIES, draw, family, write


def shuffled(symmetry: Symmetry, seed: int) -> dict[str, np.ndarray]:
    """Any order that keeps the function."""
    random = np.random.default_rng(seed)
    maps = {space: random.permutation(symmetry.sizes[space]) for space in symmetry.plain}
    for attention in symmetry.attentions:
        groups, size = attention.kv_heads, attention.channels
        keys = [random.permutation(size) if attention.keys_free else np.arange(size) for _ in range(groups)]
        maps |= attention_maps(
            attention,
            random.permutation(groups),
            np.array([random.permutation(attention.repeat) for _ in range(groups)]),
            np.array(keys),
            np.array([random.permutation(size) for _ in range(groups)]),
        )
    return maps


def shuffle(folder: Path, name: str, seed: int, **changes: int) -> tuple[Path, dict[str, np.ndarray]]:
    config = {**FAMILIES[name], **changes}
    symmetry = Symmetry.of(ModelSpec.from_config(config))
    maps = shuffled(symmetry, seed)
    tensors = {key: mapped(symmetry, maps, key, value) for key, value in draw(config, 0).items()}
    return write(folder, config, tensors), maps


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shuffled_copy_comes_back_to_the_byte(tmp_path: Path, name: str) -> None:
    original = family(tmp_path / "original", name)
    copy, maps = shuffle(tmp_path / "copy", name, seed=3)
    assert (STREAM in maps) == (name != "encoder")
    done = align_folder(copy, original, tmp_path / "back")
    assert done.before > 1 and done.after == 0 and done.same < 1e-12
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("original", "back"))
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours) and set(ours) == set(theirs)
    assert done.directions[1].all == pytest.approx(1) and done.directions[0].all < 0.5
    record = json.loads((tmp_path / "back/alignment.json").read_text())
    for space, order in maps.items():
        assert np.array_equal(order[record["orders"][space]], np.arange(len(order)))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert"])
def test_a_shuffled_model_is_the_same_in_transformers(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModelForMaskedLM if name == "bert" else transformers.AutoModelForCausalLM
    tokens = torch.arange(40).reshape(2, 20)
    found = []
    for folder in (family(tmp_path / "a", name), shuffle(tmp_path / "b", name, seed=5)[0]):
        model = kind.from_pretrained(folder, dtype=torch.float64).eval()
        with torch.no_grad():
            found.append(model(tokens).logits.numpy())
    assert np.abs(found[0]).max() > 0.1
    # transformers' norms compute in float32 whatever the model's type.
    np.testing.assert_allclose(found[1], found[0], atol=2e-6 * np.abs(found[0]).max(), rtol=0)


def test_unlike_models_come_nearer_and_stay_what_they_are(tmp_path: Path) -> None:
    first, second = family(tmp_path / "a", "gpt2", 1), family(tmp_path / "b", "gpt2", 2)
    with open_two(first, second, same_size=True) as two:
        read = two.read_first, two.read_second
        found = match_weights(two.symmetry, *read)
        again = match_weights(two.symmetry, *read, start=found.maps)
    assert found.after < 0.97 * found.before
    assert again.sweeps == 1 and again.after == found.after
    assert all(np.array_equal(np.sort(order), np.arange(len(order))) for order in found.maps.values())
    out = align_folder(second, first, tmp_path / "out")
    values = [
        np.linalg.svd(load_file(f / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"].astype(np.float64))[1]
        for f in (second, tmp_path / "out")
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-10)
    assert out.same < 1e-12
    folder = (tmp_path / "out/model.safetensors").read_bytes()
    align_folder(second, first, tmp_path / "twice")
    assert folder == (tmp_path / "twice/model.safetensors").read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_heads_are_assigned_as_a_search_through_all_orders_does(seed: int, keys_free: bool) -> None:
    attention = Attention("a", 4, 2, 2, keys_free)
    random = np.random.default_rng(seed)
    sizes = {"query": 8, "key": 4, "value": 4, "attended": 8}
    products = {part: random.standard_normal((size, size)) for part, size in sizes.items()}

    def gained(maps: dict[str, np.ndarray]) -> float:
        return sum(products[p][np.arange(n), maps[attention.space(p)]].sum() for p, n in sizes.items())

    two = [np.array(order) for order in itertools.permutations(range(2))]
    best = -np.inf
    fixed = [np.arange(2)]
    for kv in two:
        for inner in itertools.product(two, two):
            for values in itertools.product(two, two):
                for keys in itertools.product(two, two) if keys_free else [(fixed[0], fixed[0])]:
                    maps = attention_maps(attention, kv, np.array(inner), np.array(keys), np.array(values))
                    best = max(best, gained(maps))
    found = gained(assign_attention(attention, products))
    start = attention_maps(
        attention, two[1], np.array([two[0], two[1]]), np.array([two[0]] * 2), np.array([two[1], two[0]])
    )
    assert found <= best + 1e-9
    assert best + 1e-9 >= gained(assign_attention(attention, products, start)) >= gained(start) - 1e-9


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    llama = family(tmp_path / "llama", "llama")
    with pytest.raises(UserError, match=r"llama.* a gpt2; only models of one architecture|is a gpt2"):
        align_folder(llama, family(tmp_path / "gpt2", "gpt2"), tmp_path / "out")
    with pytest.raises(UserError, match=r"mlp.*\[20, 24\].*\[32, 24\]|\[32, 24\].*\[20, 24\]"):
        align_folder(llama, family(tmp_path / "wide", "llama", intermediate_size=32), tmp_path / "out")
    mamba = tmp_path / "mamba"
    config = {
        "model_type": "mamba",
        "architectures": ["MambaForCausalLM"],
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "vocab_size": 32,
        "state_size": 4,
    }
    write(mamba, config, draw(config, 0))
    with pytest.raises(UserError, match=r"knows the model types llama.*not 'mamba'"):
        align_folder(mamba, mamba, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_identity_is_what_a_model_has_to_itself(tmp_path: Path) -> None:
    folder = family(tmp_path / "a", "qwen3")
    with open_two(folder, folder, same_size=True) as two:
        found = match_weights(two.symmetry, two.read_first, two.read_second)
    assert found.sweeps == 1 and found.before == found.after == 0
    assert all(np.array_equal(found.maps[s], order) for s, order in identity(two.symmetry).items())
