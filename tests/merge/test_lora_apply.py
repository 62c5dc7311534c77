"""Adapters applied piece by piece, against what peft makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.adapters import Golden, write_adapter
from steelyard.edits.merge.inputs import StoredModel
from steelyard.edits.merge.lora import AdaptedModel, Adapter, LowRank, adapt
from steelyard.edits.merge.lora.apply import Applied
from steelyard.errors import UserError
from tiny_llama import write_tiny

GOLDEN = Golden()


@pytest.mark.parametrize("case", GOLDEN.cases)
def test_what_peft_merges(case: str, tmp_path: Path) -> None:
    base, adapter = GOLDEN.write(tmp_path, case)
    merged = {**GOLDEN.base(case), **GOLDEN.group(f"{case}/merged")}
    model = adapt(StoredModel.open(str(base)), str(adapter), "")
    assert set(model.changed) == set(GOLDEN.group(f"{case}/merged"))
    for name, expected in merged.items():
        assert model.shape(name) == expected.shape
        read, size = model.reader(name), expected.size
        pieces = [read(start, min(start + 37, size)) for start in range(0, size, 37)]
        np.testing.assert_allclose(np.concatenate(pieces), expected.reshape(-1), rtol=2e-6, atol=2e-6)
    model.close()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 9), rank=st.integers(1, 3), magnitude=st.booleans(),
    transposed=st.booleans(), data=st.data(),
)  # fmt: skip
def test_any_piece_is_that_of_the_whole(
    rows: int, columns: int, rank: int, magnitude: bool, transposed: bool, data: st.DataObject
) -> None:
    draw = np.random.default_rng(rows * 100 + columns)
    weight = draw.standard_normal((rows, columns)).astype(np.float32)
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    a, b = draw.standard_normal((rank, inputs)), draw.standard_normal((outputs, rank))
    scales = draw.uniform(0.5, 2, outputs) if magnitude else None
    delta = 0.7 * (b @ a)
    whole = (weight.T if transposed else weight) + delta
    if scales is not None:
        whole = whole * (scales / np.linalg.norm(whole, axis=1))[:, None]
    expected = (whole.T if transposed else whole).reshape(-1)
    low_rank = LowRank(
        a.astype(np.float32), b.astype(np.float32), 0.7,
        None if scales is None else scales.astype(np.float32), embedding=False,
    )  # fmt: skip
    flat = weight.reshape(-1)
    applied = Applied(lambda start, stop: flat[start:stop], weight.shape, low_rank, transposed)
    start = data.draw(st.integers(0, flat.size - 1))
    stop = data.draw(st.integers(start + 1, flat.size))
    np.testing.assert_allclose(applied(start, stop), expected[start:stop], rtol=1e-4, atol=1e-5)


def _lora(folder: Path, tensors: dict[str, np.ndarray], **settings: object) -> Path:
    return write_adapter(folder, {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **settings}, tensors)


def _pair(module: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    stem = f"base_model.model.{module}"
    return {
        f"{stem}.lora_A.weight": draw.standard_normal((2, inputs)).astype(np.float32),
        f"{stem}.lora_B.weight": draw.standard_normal((outputs, 2)).astype(np.float32),
    }


def test_a_tied_head_with_an_adapter_becomes_one_of_its_own(tied_llama: Path, tmp_path: Path) -> None:
    pair = _pair("lm_head", 128, 64)
    model = adapt(StoredModel.open(str(tied_llama)), str(_lora(tmp_path / "a", pair)), "")
    table = model.reader("model.embed_tokens.weight")(0, 128 * 64).astype(np.float32)
    head = model.reader("lm_head.weight")(0, 128 * 64)
    a, b = pair.values()
    np.testing.assert_allclose(head - table, 2 * (b @ a).reshape(-1), rtol=1e-4, atol=1e-4)
    assert model.config["tie_word_embeddings"] is False
    assert set(model.spec.tensors) == set(model.names)
    assert not model.spec.ties


def test_the_identity_changes_with_the_adapter(tiny_llama: Path, tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    identities = set()
    for number, scale in enumerate((1.0, 1.0, 2.0)):
        pair = {name: scale * array for name, array in _pair(module, 64, 64).items()}
        location = _lora(tmp_path / str(number), pair)
        identities.add(AdaptedModel(StoredModel.open(str(tiny_llama)), Adapter.open(location)).identity())
    assert len(identities) == 2


def test_tensors_without_an_adapter_are_read_as_they_are_stored(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", dtype="bfloat16")
    location = _lora(tmp_path / "a", _pair("model.layers.0.self_attn.q_proj", 64, 64))
    model = adapt(StoredModel.open(str(base)), str(location), "base+a")
    assert model.dtype("model.layers.0.self_attn.q_proj.weight") == "BF16"
    assert model.reader("model.norm.weight")(0, 64).dtype.name == "bfloat16"
    assert model.resident("model.norm.weight") == 0
    assert model.resident("model.layers.0.self_attn.q_proj.weight") == 4 * 2 * (64 + 64)


@pytest.mark.parametrize(
    ("module", "outputs", "change", "words"),
    [
        ("model.layers.9.self_attn.q_proj", 64, {}, "it belongs to another model"),
        ("model.layers.0.self_attn.q_proj", 65, {}, r"a matrix of \[65, 64\]"),
        ("model.layers.0.self_attn.q_proj", 64, {"peft_type": "LOHA"}, "peft_type 'LOHA' cannot be merged here"),
        ("model.layers.0.self_attn.q_proj", 64, {"r": 3}, "has rank 3 by adapter_config.json"),
        ("model.layers.0.self_attn.q_proj", 64, {"use_dora": True}, "no lora_magnitude_vector"),
        ("model.layers.0.self_attn.q_proj", 64, {"lora_alpha": "much"}, "lora_alpha"),
        ("model.layers.0.self_attn.q_proj", 64, {"target_parameters": ["x"]}, "target_parameters"),
    ],
)
def test_what_cannot_be_applied(
    module: str, outputs: int, change: dict[str, object], words: str, tiny_llama: Path, tmp_path: Path
) -> None:
    location = _lora(tmp_path / "a", _pair(module, outputs, 64), **change)
    with pytest.raises(UserError, match=words):
        adapt(StoredModel.open(str(tiny_llama)), str(location), "")


def test_adapters_that_are_not_there(tiny_llama: Path, tmp_path: Path) -> None:
    base = StoredModel.open(str(tiny_llama))
    with pytest.raises(UserError, match=r"adapter: .*nowhere does not exist"):
        adapt(base, str(tmp_path / "nowhere"), "")
    with pytest.raises(UserError, match=r"no adapter: it has no adapter_config\.json"):
        adapt(base, str(tiny_llama), "")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        adapt(base, str(tmp_path / "half"), "")
    pair = _pair("model.layers.0.self_attn.q_proj", 64, 64)
    next(iter(pair.values()))[0, 0] = np.nan
    with pytest.raises(UserError, match=r"q_proj\.lora_A\.weight holds NaN"):
        adapt(base, str(_lora(tmp_path / "nan", pair)), "")
