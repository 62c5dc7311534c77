"""Conversions into GGUF and out of it: the same numbers where a type holds them, and new ones only where asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from formats.folders import build_tiny, write_folder
from steelyard.budget.audit import audit
from steelyard.budget.convert import convert_model
from steelyard.codecs import Codec, IntegerCodec, MicroscalingCodec, TernaryCodec
from steelyard.codecs.gguf import GgufCodec
from steelyard.errors import UserError, VerificationError
from steelyard.formats.convert import convert_folder
from steelyard.formats.equivalent import proposals, repack
from steelyard.formats.logical import LogicalCheckpoint
from tiny_llama import write_tiny

EXACT: list[tuple[Codec, str]] = [
    (IntegerCodec(4, 32, True, "BF16"), "Q4_0"),
    (IntegerCodec(3, 64, True, "F16"), "Q4_0"),
    (IntegerCodec(5, None, True, "BF16"), "Q5_0"),
    (IntegerCodec(8, 32, True, "F16"), "Q8_0"),
    (IntegerCodec(6, 64, True, "BF16"), "Q8_0"),
    (MicroscalingCodec("F4_E2M1"), "MXFP4"),
    (TernaryCodec(1, None, "F16"), "TQ1_0"),
    (TernaryCodec(None, None, "F16"), "TQ1_0"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bfloat16 Llama."""
    return write_tiny(tmp_path_factory.mktemp("model") / "llama", dtype="bfloat16")


def folder_of(plain: Path, out: Path, codec: Codec) -> Path:
    with LogicalCheckpoint.open(plain) as source:
        linears = [name for name in source.names if "proj" in name]
    return write_folder(plain, out, "steelyard", codecs=dict.fromkeys(linears, codec)).folder


@pytest.mark.parametrize(("codec", "kind"), EXACT, ids=lambda value: getattr(value, "label", None))
def test_what_a_type_holds_is_repacked(codec: Codec, kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    weight[0, :32] = 0.0
    parts = codec.encode(weight)
    decoded = codec.decode(parts, weight.shape)
    other = next(p for p in proposals(codec, weight.shape) if isinstance(p, GgufCodec))
    assert other == GgufCodec(kind)
    packed = repack(codec, parts, weight.shape, other)
    assert packed is not None and np.array_equal(other.decode(packed, weight.shape), decoded)
    back = [repack(other, packed, weight.shape, p) for p in proposals(other, weight.shape)]
    assert any(found is not None for found in back)


def test_scales_beyond_float16_are_not_repacked() -> None:
    codec = IntegerCodec(4, 32, True, "BF16")
    parts = codec.encode(np.full((2, 64), 1e9, np.float32))
    assert repack(codec, parts, (2, 64), GgufCodec("Q4_0")) is None


def test_there_and_back(plain: Path, tmp_path: Path) -> None:
    first = folder_of(plain, tmp_path / "native", IntegerCodec(4, 32, True, "BF16"))
    made = convert_model(first, tmp_path / "gguf", "gguf")
    assert len(made.exact) == 14 and not made.requantized and not made.plain
    kinds = {t.tensor_type.name for t in GGUFReader(tmp_path / "gguf" / "model.gguf").tensors}
    assert kinds == {"Q4_0", "BF16", "F32"}
    convert_model(made.out, tmp_path / "back", "steelyard")
    convert_model(tmp_path / "back", tmp_path / "again", "gguf")
    assert (tmp_path / "again" / "model.gguf").read_bytes() == (made.out / "model.gguf").read_bytes()
    packed = convert_model(made.out, tmp_path / "packed", "compressed-tensors")
    with LogicalCheckpoint.open(first) as one, LogicalCheckpoint.open(packed.out) as two:
        for name in one.names:
            assert np.array_equal(one.tensor(name).astype(np.float32), two.tensor(name).astype(np.float32)), name


def test_plain_models_both_ways(plain: Path, tmp_path: Path) -> None:
    convert_model(plain, tmp_path / "gguf", "gguf")
    dense = convert_model(tmp_path / "gguf" / "model.gguf", tmp_path / "dense", "dense")
    with LogicalCheckpoint.open(plain) as one, LogicalCheckpoint.open(dense.out) as two:
        assert set(one.names) == set(two.names)
        for name in one.names:
            assert np.array_equal(one.tensor(name).astype(np.float32), two.tensor(name).astype(np.float32)), name


def test_types_and_mixes_round_anew(plain: Path, tmp_path: Path) -> None:
    made = convert_model(plain, tmp_path / "q8", "gguf", type="Q8_0")
    assert len(made.requantized) == 16 and max(made.requantized.values()) < 0.02
    first = folder_of(plain, tmp_path / "native", IntegerCodec(4, 32, False, "F16"))
    with pytest.raises(UserError, match="--type"):
        convert_folder(first, tmp_path / "no", "gguf")
    mixed = convert_model(first, tmp_path / "mixed", "gguf", mix="Q6_K")
    assert len(mixed.requantized) == 16
    assert convert_model(first, tmp_path / "anew", "gguf", requantize=True).requantized
    with pytest.raises(UserError, match="format gguf"):
        convert_folder(plain, tmp_path / "no", "dense", type="Q8_0")


def test_the_record_is_checked(plain: Path, tmp_path: Path) -> None:
    made = convert_model(plain, tmp_path / "gguf", "gguf", type="Q4_0")
    assert len(audit(made.out, str(plain))) == 2
    record = json.loads((made.out / "steelyard.json").read_text())
    name = next(iter(record["errors"]))
    record["errors"][name] += 0.01
    (made.out / "steelyard.json").write_text(json.dumps(record))
    with pytest.raises(VerificationError, match="does not read"):
        audit(made.out, str(plain))
    with pytest.raises(UserError, match="not what"):
        audit(made.out, str(made.out))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize("scaling", ["", "yarn"])
def test_a_file_by_itself_says_what_its_model_is(tmp_path: Path, scaling: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 2e4}
    changes = {"rope_parameters": yarn} if scaling else {"rms_norm_eps": 3e-5, "attention_bias": True}
    folder = build_tiny("llama", tmp_path / "model", **changes)
    made = convert_model(folder, tmp_path / "gguf", "gguf")
    (tmp_path / "alone").mkdir()
    alone = (made.out / "model.gguf").rename(tmp_path / "alone" / "some.gguf")
    back = convert_model(alone, tmp_path / "back", "dense")
    tokens = torch.arange(40)[None]
    one, two = (AutoModelForCausalLM.from_pretrained(place).eval() for place in (folder, back.out))
    with torch.no_grad():
        assert torch.allclose(one(tokens).logits, two(tokens).logits, atol=1e-5)


def test_divided_frequencies_need_the_config(tmp_path: Path) -> None:
    scaling = LLAMA3 | {"original_max_position_embeddings": 32, "rope_theta": 5e3}
    folder = build_tiny("llama", tmp_path / "model", rope_parameters=scaling)
    made = convert_model(folder, tmp_path / "gguf", "gguf", type="Q8_0")
    assert len(audit(made.out, str(folder))) == 2
    made = convert_model(made.out, tmp_path / "dense", "dense")
    alone = (tmp_path / "gguf" / "model.gguf").rename(tmp_path / "alone.gguf")
    with pytest.raises(UserError, match=r"config\.json"):
        convert_model(alone, tmp_path / "no", "dense")
