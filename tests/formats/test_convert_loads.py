"""Converted folders in the hands of transformers and of compressed-tensors' own converters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.folders import write_folder
from steelyard.codecs import Codec, Float8Codec, IntegerCodec, MicroscalingCodec, Nvfp4Codec
from steelyard.formats.convert import convert_folder
from steelyard.formats.logical import LogicalCheckpoint
from tiny_llama import write_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")

SMALL: tuple[Codec, ...] = (
    Nvfp4Codec(),
    MicroscalingCodec("F4_E2M1"),
    Float8Codec("F8_E4M3", None, None, "BF16"),
    MicroscalingCodec("F8_E4M3"),
    Float8Codec("F8_E4M3", 16, 32, "BF16"),
    IntegerCodec(3, 32, False, "BF16"),
    Float8Codec("F8_E4M3", 1, None, "BF16"),
)


def native(place: Path, menu: tuple[Codec, ...]) -> Path:
    """A folder of Steelyard's own format, its linear maps under the codecs of a menu in turn."""
    plain = write_tiny(place / "plain", dtype="bfloat16")
    with LogicalCheckpoint.open(plain) as source:
        linears = [name for name in source.names if "proj" in name]
    chosen = {name: menu[number % len(menu)] for number, name in enumerate(linears)}
    return write_folder(plain, place / "native", "steelyard", codecs=chosen).folder


def test_small_floats_load_to_the_very_numbers(tmp_path: Path) -> None:
    import transformers

    made = convert_folder(native(tmp_path, SMALL), tmp_path / "out", "compressed-tensors")
    assert len(made.exact) == 14
    model, info = transformers.AutoModelForCausalLM.from_pretrained(made.out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state = model.state_dict()
    with LogicalCheckpoint.open(made.out) as ours:
        for name in ours.names:
            wanted = torch.from_numpy(np.asarray(ours.tensor(name), np.float32)).to(torch.bfloat16)
            assert torch.equal(state[name], wanted), name
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(3, 43).view(2, 20)).logits).all()


def test_awq_as_compressed_tensors_converts_it(tmp_path: Path) -> None:
    """Its converter unpacks our words to the codes and zero points that we began with."""
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters.autoawq")
    from safetensors.torch import load_file

    codec = IntegerCodec(4, 32, False, "BF16")
    source = native(tmp_path, (codec,))
    made = convert_folder(source, tmp_path / "out", "awq")
    tensors = load_file(made.out / "model.safetensors")
    converter = converters.AutoAWQConverter(bits=4, group_size=32)
    theirs = converter.process(dict(tensors))
    with LogicalCheckpoint.open(source) as ours:
        for name in made.exact:
            module = name.removesuffix(".weight")
            parts = ours.parts(name)
            for part in ("weight_packed", "weight_scale", "weight_zero_point"):
                found = theirs[f"{module}.{part}"]
                wide = np.float32 if part == "weight_scale" else np.int32
                expected = torch.from_numpy(np.array(parts[part], wide))
                assert torch.equal(found.to(expected.dtype), expected), f"{module}.{part}"
