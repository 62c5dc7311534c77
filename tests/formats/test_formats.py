"""What every format promises: what it plans it writes, and what it writes reads as what was decoded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from formats.conftest import Build
from formats.folders import KINDS, every_codec
from steelyard.codecs import DenseCodec, IntegerCodec
from steelyard.errors import UserError
from steelyard.formats import FORMATS, get
from steelyard.formats.base import group_constraint, load_dtype, scale_dtype
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.verify import verify_folder
from steelyard.spec import ModelSpec

CASES = [
    *[(kind, dtype, "steelyard", False) for kind in KINDS for dtype in ("float32", "bfloat16")],
    *[(kind, "bfloat16", "compressed-tensors", False) for kind in KINDS],
    *[(kind, "float32", "compressed-tensors", True) for kind in ("llama-tied", "gpt2", "bert-masked")],
    ("llama-tied", "float32", "steelyard", True),
    ("llama", "float32", "dense", False),
    ("gpt2", "float32", "dense", False),
]


@pytest.mark.parametrize(("kind", "dtype", "format_name", "apart"), CASES)
def test_a_folder_reads_as_what_was_decoded(
    written: Build, kind: str, dtype: str, format_name: str, apart: bool
) -> None:
    made = written(kind, dtype, format_name, apart)
    # compressed-tensors has no place for Conv1D, so all of a tied GPT-2 stays plain in it.
    assert bool(made.codecs) is not (kind == "gpt2" and format_name == "compressed-tensors" and not apart)
    renamed = {} if made.spec.architecture is None else {made.spec.architecture.rename(n): n for n in made.decoded}
    with LogicalCheckpoint.open(made.folder) as logical:
        assert {renamed.get(name, name) for name in logical.names} == set(made.decoded)
        for name in logical.names:
            planned = renamed.get(name, name)
            np.testing.assert_array_equal(logical.tensor(name), made.decoded[planned], err_msg=name)
            assert logical.shape(name) == made.decoded[planned].shape
            codec = made.codecs.get(planned)
            if codec is not None and logical.codec(name) is not None:
                assert logical.codec(name) == codec
                assert logical.stored_bytes(name) >= codec.nbytes(
                    made.spec.tensors[made.origin[planned]].matrix_shape
                )
        data = sum(logical.stored_bytes(name) for name in logical.names)
    headers = sum(len(file.header) for file in made.layout.files)
    assert data + headers == made.layout.total_bytes
    assert sum(path.stat().st_size for path in made.folder.glob("*.safetensors")) == made.layout.total_bytes


@pytest.mark.parametrize(("kind", "dtype", "format_name", "apart"), CASES)
def test_verification_passes(written: Build, kind: str, dtype: str, format_name: str, apart: bool) -> None:
    made = written(kind, dtype, format_name, apart)
    checks = verify_folder(made.folder, made.layout, made.errors, made.original, made.expected())
    assert [check.status for check in checks] == ["pass"] * 4


def test_names_are_found_with_a_hint() -> None:
    assert set(FORMATS) == {"compressed-tensors", "steelyard", "gguf", "dense"}
    with pytest.raises(UserError, match="available: compressed-tensors, steelyard, gguf, dense"):
        get("onnx")


def spec(config: dict[str, object], dtype: str = "BF16", columns: int = 64) -> ModelSpec:
    shapes = {
        "decoder.embed.weight": ((40, columns), dtype),
        "decoder.0.proj.weight": ((32, columns), dtype),
        "decoder.0.norm.weight": ((columns,), dtype),
    }
    return ModelSpec.build(config, shapes)


LINEAR, TABLE, VECTOR = "decoder.0.proj.weight", "decoder.embed.weight", "decoder.0.norm.weight"


@pytest.mark.parametrize(
    ("config", "stored", "expected"),
    [
        ({"dtype": "float16"}, "F32", "F16"),
        ({"torch_dtype": "bfloat16"}, "F32", "BF16"),
        ({"dtype": None, "text_config": {"dtype": "float32"}}, "BF16", "F32"),
        ({"dtype": "auto"}, "BF16", "BF16"),
        ({}, "F32", "F32"),
    ],
)
def test_the_type_to_load_in(config: dict[str, object], stored: str, expected: str) -> None:
    assert load_dtype(spec(config, stored)) == expected
    assert scale_dtype(spec(config, stored)) == ("BF16" if expected == "BF16" else "F16")


def test_compressed_tensors_takes_what_its_loader_loads() -> None:
    format = get("compressed-tensors")
    model = spec({"dtype": "bfloat16"})
    for codec, linear, table in (
        (IntegerCodec(4, 32, True), True, False),
        (IntegerCodec(4, 32, False), True, False),
        (IntegerCodec(4, 48, True), False, False),  # 48 does not divide 64
        (IntegerCodec(8, None, True), True, True),
        (IntegerCodec(8, 16, False), True, True),
        (IntegerCodec(4, 32, True, "F16"), False, False),  # a scale that loading would round
        (DenseCodec("F8_E4M3"), False, False),
        (DenseCodec("F16"), False, False),
        (DenseCodec("BF16"), True, True),
    ):
        assert format.supports(model, LINEAR, codec) is linear, codec.label
        assert format.supports(model, TABLE, codec) is table, codec.label
    wide = spec({"dtype": "float32"}, "F32")
    for codec in (DenseCodec("F8_E4M3"), DenseCodec("F16"), IntegerCodec(4, 32, True, "F16"), IntegerCodec(4, 32)):
        assert format.supports(wide, LINEAR, codec), codec.label
    assert format.supports(wide, VECTOR, DenseCodec("F16"))
    low_rank = [codec for codec in every_codec("BF16") if codec.name in ("low_rank", "sum")]
    assert low_rank and not any(format.supports(wide, LINEAR, codec) for codec in low_rank)
    assert all(get("steelyard").supports(wide, LINEAR, codec) for codec in low_rank)


def test_every_config_says_the_type_to_load_in() -> None:
    model = spec({"model_type": "other"}, "F32")
    for name, format in FORMATS.items():
        codec = DenseCodec("F16") if name == "dense" else IntegerCodec(8, 32, True, "F16")
        changed = format.config(model, model.config, {LINEAR: codec})
        assert changed["dtype"] == "float32"
        assert json.loads(json.dumps(changed)) == changed


def test_the_config_unties_what_is_written_apart(written: Build) -> None:
    for apart in (False, True):
        made = written("llama-tied", "float32", "compressed-tensors", apart)
        config = json.loads((made.folder / "config.json").read_text())
        assert config["tie_word_embeddings"] is not apart


def test_ties_that_the_values_contradict_are_written_off(written: Build) -> None:
    made = written("llama-tied", "float32", "steelyard")
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in made.spec.tensors.items()}
    shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    untied = ModelSpec.build(made.spec.config, shapes, untied=("lm_head.weight",))
    config = get("steelyard").config(untied, made.spec.config, {})
    assert config["tie_word_embeddings"] is False
    assert get("steelyard").config(made.spec, made.spec.config, {})["tie_word_embeddings"] is True


def test_fused_groups_share_a_codec(written: Build) -> None:
    constraint = group_constraint(written("llama", "float32", "dense").spec)
    layer = "model.layers.0."
    qkv = {constraint[f"{layer}self_attn.{name}_proj.weight"] for name in "qkv"}
    assert len(qkv) == 1
    assert constraint[f"{layer}mlp.gate_proj.weight"] == constraint[f"{layer}mlp.up_proj.weight"] not in qkv
    assert f"{layer}mlp.down_proj.weight" not in constraint
