"""TALL-masks: the masks, their store, what is reconstructed from it, and consensus merging."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.merge.experts import write_experts

from command_line import Steelyard
from steelyard.edits.merge import registry
from steelyard.edits.merge.base import Piece, Task
from steelyard.edits.merge.masks.build import MaskOptions, build_store
from steelyard.edits.merge.masks.store import Store
from steelyard.edits.merge.masks.tall import pack, tall_mask, unpack
from steelyard.edits.merge.pieces import cuts, merge_tensor
from steelyard.edits.merge.tensors import Computed
from steelyard.errors import UserError


def test_mask_is_the_published_comparison() -> None:
    base, expert, merged = (np.random.default_rng(n).standard_normal(200) for n in range(3))
    expected = [abs(base[i] - expert[i]) > 0.3 * abs(base[i] + merged[i] - expert[i]) for i in range(200)]
    found = tall_mask((expert - base).astype(np.float32), merged.astype(np.float32), 0.3)
    assert found.tolist() == expected
    assert not tall_mask(np.zeros(3, np.float32), np.zeros(3, np.float32), 0.4).any()


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.data())
def test_any_part_of_a_packed_mask_reads_back(bits: list[bool], data: st.DataObject) -> None:
    mask = np.array(bits)
    start = data.draw(st.integers(0, len(bits)))
    stop = data.draw(st.integers(start, len(bits)))
    packed = pack(mask)
    assert len(packed) == -(-len(bits) // 8)
    assert unpack(packed, start, stop).tolist() == bits[start:stop]


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from(["entry", "row", "tensor"]))
def test_pieces_cover_a_tensor_once(rows: int, columns: int, grain: str) -> None:
    places = cuts((rows, columns), grain, entries=64)
    assert [start for start, _ in places] == [0, *(stop for _, stop in places[:-1])]
    assert places[-1][1] == rows * columns
    if grain == "row":
        assert all(start % columns == 0 for start, _ in places)


def test_reconstruction_is_the_base_plus_the_masked_vector(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, dtype="float32")
    result = build_store(str(base), experts, tmp_path / "store", MaskOptions(dtype="float32"))
    with Store(tmp_path / "store") as store:
        store.reconstruct("task1", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    weights = load_file(base / "model.safetensors")
    vectors = {task: load_file(Path(place) / "model.safetensors") for task, place in experts.items()}
    kept = entries = 0
    for name, value in weights.items():
        each = np.stack([vectors[task][name] - value for task in experts])
        merged = each.sum(0)
        mask = np.abs(each[1]) > np.float32(0.4) * np.abs(merged - each[1])
        np.testing.assert_array_equal(found[name], value + mask * merged)
        kept, entries = kept + mask.sum(), entries + mask.size
    assert result.kept["task1"] == kept / entries
    stored = sum(4 * value.size + len(experts) * ((value.size + 7) // 8) for value in weights.values())
    assert 0 <= result.nbytes - stored < 20_000  # the header


def test_one_expert_comes_back_exactly(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=1)
    build_store(str(base), experts, tmp_path / "store", MaskOptions(dtype="float32"))
    with Store(tmp_path / "store") as store:
        store.reconstruct("task0", tmp_path / "out")
    found, expert = (load_file(Path(p) / "model.safetensors") for p in (tmp_path / "out", experts["task0"]))
    for name, value in expert.items():
        np.testing.assert_array_equal(found[name], value)


def test_search_takes_each_tasks_best_threshold(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=2)
    seen: list[str] = []

    def objective(task: str, source: Computed) -> float:
        seen.append(task)
        kept = source.tensor("model.norm.weight")
        assert kept.dtype == np.float32
        return float(len(seen) % 3)  # the third of each three is the least

    options = MaskOptions(thresholds=(0.2, 0.4, 0.6))
    result = build_store(str(base), experts, tmp_path / "store", options, objective)
    assert seen == ["task0"] * 3 + ["task1"] * 3
    assert result.thresholds == {"task0": 0.6, "task1": 0.6}
    assert json.loads((tmp_path / "store" / "masks.json").read_text())["thresholds"] == result.thresholds


def test_a_store_refuses_another_base_and_unknown_tasks(tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=2)
    build_store(str(base), experts, tmp_path / "store")
    with pytest.raises(UserError, match="is not the base"):
        Store(tmp_path / "store", base=experts["task0"])
    with Store(tmp_path / "store") as store, pytest.raises(UserError, match="no task 'x'; it has task0, task1"):
        store.reconstruct("x", tmp_path / "out")
    with pytest.raises(UserError, match=r"is no store of task masks: it has no masks\.json"):
        Store(base)
    with pytest.raises(UserError, match="several thresholds need text"):
        build_store(str(base), experts, tmp_path / "other", MaskOptions(thresholds=(0.2, 0.4)))


@pytest.mark.parametrize("agree", [0, 1, 2, 4])
def test_consensus_leaves_out_what_too_few_tasks_keep(agree: int) -> None:
    method = registry.get("consensus")
    values = np.random.default_rng(3).standard_normal((4, 500)).astype(np.float32)
    task = Task("w", (500,), ("b", "x", "y", "z"), 0, (method.per_model(),) * 4, 0)
    found = method.function(task, method.build({"agree": agree, "scale": 0.7})).combine(
        Piece(0, values.copy(), 500)
    )
    vectors = values[1:] - values[0]
    merged = vectors.sum(0)
    votes = sum((np.abs(v) > 0.4 * np.abs(merged - v)).astype(int) for v in vectors)
    np.testing.assert_allclose(found, values[0] + 0.7 * merged * (votes >= agree), rtol=1e-5, atol=1e-6)
    assert method.base == "required"


def test_consensus_of_ties_leaves_out_of_the_trimmed_vector() -> None:
    method = registry.get("consensus")
    values = np.random.default_rng(4).standard_normal((3, 400)).astype(np.float32)
    task = Task("w", (400,), ("b", "x", "y"), 0, (method.per_model(threshold=0.2),) * 3, 0)
    options = method.build({"merged": "ties", "density": 0.5})
    read = {"shape": (400,), "read": lambda start, stop: values[:, start:stop].copy()}
    found = merge_tensor(method.function(task, options), **read)
    vectors = values[1:] - values[0]
    kept = np.stack([np.where(np.abs(v) >= np.sort(np.abs(v))[200], v, 0) for v in vectors])
    elected = np.sign(kept.sum(0))
    merged = np.where(np.sign(kept) == elected, kept, 0).sum(0)
    votes = (np.abs(vectors) > 0.2 * np.abs(merged - vectors)).sum(0)
    np.testing.assert_allclose(found, values[0] + merged * (votes >= 2), rtol=1e-4, atol=1e-5)


def test_stores_and_what_is_unpacked_are_verified(steelyard: Steelyard, tmp_path: Path) -> None:
    base, experts = write_experts(tmp_path, count=2)
    store, out = tmp_path / "store", tmp_path / "out"
    named = [f"{task}={place}" for task, place in experts.items()]
    assert steelyard("experts", "pack", base, *named, "--out", store).code == 0
    assert steelyard("experts", "unpack", store, "task1", out).code == 0
    for folder, verb in ((store, "pack"), (out, "unpack")):
        record = json.loads((folder / "steelyard.json").read_text())
        assert record["verb"] == verb
        assert set(record["tensors"]) == set(load_file(folder / "model.safetensors"))
        ended = steelyard("verify", folder)
        assert ended.code == 0 and f"{len(record['tensors'])} tensors have their recorded hashes" in ended.out
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)
        assert "has changed since it was written" in steelyard("verify", folder).err
    assert (
        "is made of several models: verify it without --against" in steelyard("verify", out, "--against", base).err
    )
