"""Folders of GPTQ, AWQ, bitsandbytes, 8-bit blocks and compressed-tensors' floats, packed here field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from steelyard.codecs import IntegerCodec, PermutedCodec, tables
from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.writing.bitsandbytes import _largest

OUT, IN = 32, 64
NAME = "model.layers.0.mlp.up_proj"
DRAW = np.random.default_rng(4)
FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def folder(path: Path, tensors: Mapping[str, np.ndarray], quantization: dict[str, Any], **config: Any) -> Path:
    path.mkdir()
    everything = {**tensors, "model.norm.weight": np.ones(IN, np.float32)}
    save_file({name: np.ascontiguousarray(array) for name, array in everything.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return path


def words(fields: np.ndarray, bits: int) -> np.ndarray:
    """Pack each row of numbers into 32-bit words, from the lowest bit up."""
    packed = []
    for row in fields:
        number = sum(int(value) << (bits * place) for place, value in enumerate(row))
        size = -(-len(row) * bits // 32)
        packed.append(np.frombuffer(number.to_bytes(4 * size, "little"), np.int32))
    return np.stack(packed)


def read(path: Path, name: str = f"{NAME}.weight") -> np.ndarray:
    with LogicalCheckpoint.open(path) as logical:
        assert sorted(logical.names) == sorted(["model.norm.weight", name])
        assert logical.stored_bytes(name) > 0
        return logical.tensor(name)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("order", ["none", "even", "act"])
def test_gptq(tmp_path: Path, version: int, bits: int, order: str) -> None:
    group = 16
    q = DRAW.integers(0, 1 << bits, (IN, OUT))
    z = DRAW.integers(1 if version == 1 else 0, 1 << bits, (IN // group, OUT))
    s = (DRAW.random((IN // group, OUT)) + 0.5).astype(np.float16)
    groups = np.arange(IN) // group
    if order == "act":
        groups = DRAW.permutation(groups)
    stored = {
        f"{NAME}.qweight": words(q.T, bits).T,
        f"{NAME}.qzeros": words(z - (version == 1), bits),
        f"{NAME}.scales": s,
    }
    if order != "none":
        stored[f"{NAME}.g_idx"] = groups.astype(np.int32)
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False, "desc_act": order == "act"}
    config["checkpoint_format"] = "gptq" if version == 1 else "gptq_v2"
    path = folder(tmp_path / "model", stored, config)
    expected = ((q - z[groups]).astype(np.float32) * s[groups].astype(np.float32)).T
    np.testing.assert_array_equal(read(path), expected)
    with LogicalCheckpoint.open(path) as logical:
        base = IntegerCodec(bits, group, False, "F16")
        assert logical.codec(f"{NAME}.weight") == (PermutedCodec(base) if order == "act" else base)


def test_gptq_symmetric_and_by_row(tmp_path: Path) -> None:
    q, s = DRAW.integers(0, 16, (IN, OUT)), np.full((1, OUT), 0.25, np.float16)
    stored = {f"{NAME}.qweight": words(q.T, 4).T, f"{NAME}.scales": s}
    stored[f"{NAME}.qzeros"] = np.full((1, OUT // 8), 0x77777777, np.int32)
    config = {"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True, "desc_act": False}
    path = folder(tmp_path / "model", stored, config)
    np.testing.assert_array_equal(read(path), (q.T - 8) * np.float32(0.25))
    stored[f"{NAME}.qzeros"] = np.full((1, OUT // 8), 0x77777776, np.int32)
    with pytest.raises(UserError, match='says "sym"'):
        read(folder(tmp_path / "asymmetric", stored, config))


def test_awq_gemm(tmp_path: Path) -> None:
    q, z = DRAW.integers(0, 16, (IN, OUT)), DRAW.integers(0, 16, (2, OUT))
    s = (DRAW.random((2, OUT)) + 0.5).astype(np.float16)

    def interleaved(values: np.ndarray) -> np.ndarray:
        eights = values.reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return words(eights.reshape(len(values), -1), 4)

    stored = {f"{NAME}.qweight": interleaved(q), f"{NAME}.qzeros": interleaved(z), f"{NAME}.scales": s}
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    path = folder(tmp_path / "model", stored, config)
    each = np.arange(IN) // 32
    expected = ((q - z[each]).astype(np.float32) * s[each].astype(np.float32)).T
    np.testing.assert_array_equal(read(path), expected)
    with pytest.raises(UserError, match="gemv"):
        read(folder(tmp_path / "gemv", stored, {**config, "version": "gemv"}))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_bitsandbytes_four_bits(tmp_path: Path, kind: str, double: bool, model_type: str) -> None:
    name = NAME if model_type == "llama" else "transformer.h.0.mlp.c_fc"
    codes = DRAW.integers(0, 16, OUT * IN)
    table = tables.table("nf" if kind == "nf4" else "fp4", 4)
    absmax = (DRAW.random(OUT * IN // 64) + 0.5).astype(np.float32)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": [OUT, IN]}
    stored = {f"{name}.weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1)}
    stored[f"{name}.weight.quant_map"] = table
    if double:
        nested = DRAW.integers(0, 256, len(absmax)).astype(np.uint8)
        absmax = tables.table("dynamic", 8)[nested] * np.float32(0.3) + np.float32(1.25)
        stored[f"{name}.weight.nested_absmax"] = np.array([0.3], np.float32)
        stored[f"{name}.weight.nested_quant_map"] = tables.table("dynamic", 8)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.25}
    stored[f"{name}.weight.absmax"] = nested if double else absmax
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    stored[f"{name}.weight.quant_state.bitsandbytes__{kind}"] = text
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path = folder(tmp_path / "model", stored, config, model_type=model_type)
    expected = (table[codes] * np.repeat(absmax, 64)).reshape(OUT, IN)
    np.testing.assert_array_equal(read(path, f"{name}.weight"), expected.T if model_type == "gpt2" else expected)


def test_bitsandbytes_eight_bits(tmp_path: Path) -> None:
    q, scb = DRAW.integers(-127, 128, (OUT, IN)).astype(np.int8), DRAW.random(OUT).astype(np.float32)
    stored = {f"{NAME}.weight": q, f"{NAME}.SCB": scb, f"{NAME}.weight_format": np.array(0, np.uint8)}
    path = folder(tmp_path / "model", stored, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    np.testing.assert_allclose(read(path), q * scb[:, None].astype(np.float64) / 127, rtol=1e-6)


def test_an_eight_bit_scale_that_bitsandbytes_has_no_number_for_is_refused(tmp_path: Path) -> None:
    reached = np.arange(1 << 23, (1 << 23) + 4096, dtype=np.float32).astype(np.float64) / 127
    scales = np.unique(reached.astype(np.float32))
    everyone = np.arange(scales[0].view(np.int32), scales[-1].view(np.int32) + 1, dtype=np.int32).view(np.float32)
    without = np.setdiff1d(everyone, scales)
    assert len(everyone) / len(without) == pytest.approx(128, rel=0.05)
    with pytest.raises(UserError, match=r"row 1, .* is a 127th of no float32"):
        _largest(np.array([scales[0], without[0]]), "here")
    assert np.array_equal((_largest(scales, "here").astype(np.float64) / 127).astype(np.float32), scales)


@pytest.mark.parametrize("scale", ["block", "row", "tensor"])
def test_fp8(tmp_path: Path, scale: str) -> None:
    weight = DRAW.standard_normal((OUT, IN)).astype(ml_dtypes.float8_e4m3fn)
    sizes = {"block": (2, 3), "row": (OUT, 1), "tensor": ()}[scale]
    s = np.asarray(DRAW.random(sizes) + 0.5, np.float32)
    stored = {f"{NAME}.weight": weight, f"{NAME}.weight_scale_inv": s}
    config = {"quant_method": "fp8", "weight_block_size": [24, 24] if scale == "block" else None}
    each = np.repeat(np.repeat(s, 24, 0)[:OUT], 24, 1)[:, :IN] if scale == "block" else s
    np.testing.assert_array_equal(
        read(_with_fp8(tmp_path / "model", stored, config)), weight.astype(np.float32) * each
    )


def _with_fp8(path: Path, stored: Mapping[str, np.ndarray], config: dict[str, Any]) -> Path:
    """The writer of safetensors takes 8-bit floats from torch alone."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    path.mkdir()
    kinds = {ml_dtypes.float8_e4m3fn: torch.float8_e4m3fn, ml_dtypes.float8_e5m2: torch.float8_e5m2}
    made = {"model.norm.weight": torch.ones(IN)}
    for name, array in stored.items():
        kind = kinds.get(array.dtype.type)
        plain = np.ascontiguousarray(array.view(np.uint8) if kind is not None else array)
        tensor = torch.from_numpy(plain.reshape(array.shape).copy())
        made[name] = tensor.view(kind) if kind is not None else tensor
    save(made, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    return path


def compressed(layout: str, **arguments: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", **arguments}
    group = {"targets": ["Linear"], "format": layout, "weights": weights}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


def test_compressed_nvfp4_and_mxfp4(tmp_path: Path) -> None:
    codes = DRAW.integers(0, 16, (OUT, IN)).astype(np.uint8)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    scale = (DRAW.random((OUT, IN // 16)) * 100 + 1).astype(ml_dtypes.float8_e4m3fn)
    stored = {
        f"{NAME}.weight_packed": packed,
        f"{NAME}.weight_scale": scale,
        f"{NAME}.weight_global_scale": np.array([37.5], np.float32),
        f"{NAME}.input_global_scale": np.array([1.0], np.float32),
    }
    config = compressed("nvfp4-pack-quantized", strategy="tensor_group", group_size=16)
    each = np.repeat(scale.astype(np.float32) / np.float32(37.5), 16, axis=1)
    np.testing.assert_array_equal(read(_with_fp8(tmp_path / "nv", stored, config)), FLOAT4[codes] * each)
    powers = DRAW.integers(110, 140, (OUT, IN // 32)).astype(np.uint8)
    stored = {f"{NAME}.weight_packed": packed, f"{NAME}.weight_scale": powers}
    config = compressed("mxfp4-pack-quantized", group_size=32)
    each = np.repeat(2.0 ** (powers.astype(np.float32) - 127), 32, axis=1)
    np.testing.assert_array_equal(read(folder(tmp_path / "mx", stored, config)), FLOAT4[codes] * each)


def test_compressed_mxfp8_and_blocks(tmp_path: Path) -> None:
    weight = DRAW.standard_normal((OUT, IN)).astype(ml_dtypes.float8_e4m3fn)
    powers = DRAW.integers(110, 140, (OUT, IN // 32)).astype(np.uint8)
    stored = {f"{NAME}.weight": weight, f"{NAME}.weight_scale": powers}
    config = compressed("mxfp8-quantized", num_bits=8, group_size=32)
    each = np.repeat(2.0 ** (powers.astype(np.float32) - 127), 32, axis=1)
    np.testing.assert_array_equal(
        read(_with_fp8(tmp_path / "mx", stored, config)), weight.astype(np.float32) * each
    )
    scale = (DRAW.random((2, 4)) + 0.5).astype(np.float32)
    stored = {f"{NAME}.weight": weight, f"{NAME}.weight_scale": scale}
    config = compressed("float-quantized", num_bits=8, strategy="block", block_structure=[16, 16])
    each = np.repeat(np.repeat(scale, 16, 0), 16, 1)
    np.testing.assert_array_equal(
        read(_with_fp8(tmp_path / "blocks", stored, config)), weight.astype(np.float32) * each
    )


def test_compressed_in_activation_order(tmp_path: Path) -> None:
    groups = DRAW.permutation(np.arange(IN) // 16)
    codes, scale = DRAW.integers(0, 16, (OUT, IN)), (DRAW.random((OUT, 4)) + 0.5).astype(np.float16)
    stored = {
        f"{NAME}.weight_packed": words(codes, 4),
        f"{NAME}.weight_scale": scale,
        f"{NAME}.weight_shape": np.array([OUT, IN]),
        f"{NAME}.weight_g_idx": groups.astype(np.int32),
    }
    config = compressed("pack-quantized", type="int", group_size=16, actorder="group")
    expected = (codes - 8) * scale.astype(np.float32)[:, groups]
    np.testing.assert_array_equal(read(folder(tmp_path / "model", stored, config)), expected)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "fp8"}, "but no tensor is"),
        ({"quant_method": "hqq"}, "gptq, auto-round, awq"),
        ({"quant_method": "awq", "bits": 8}, "8 bits"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, quantization: dict[str, Any], message: str) -> None:
    stored = {f"{NAME}.qweight": np.zeros((8, OUT), np.int32)}
    with pytest.raises(UserError, match=message):
        LogicalCheckpoint.open(folder(tmp_path / "model", stored, quantization))
