"""Conversions: the same numbers where formats can hold them, and one line that says so where they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.folders import write_folder
from steelyard.codecs import (
    BlockwiseCodec,
    Codec,
    Float8Codec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    PermutedCodec,
)
from steelyard.errors import UserError, VerificationError
from steelyard.formats.convert import convert_folder, format_names
from steelyard.formats.logical import LogicalCheckpoint
from tiny_llama import write_tiny

FOUR = IntegerCodec(4, 32, False, "BF16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A native folder of a tiny bfloat16 model, every linear map under one codec."""
    place = tmp_path_factory.mktemp("convert")
    plain = write_tiny(place / "plain", dtype="bfloat16")
    found: dict[str, Path] = {"plain": plain}

    def make(codec: Codec | None = None) -> Path:
        key = "plain" if codec is None else codec.label.replace(" ", "-")
        if key not in found:
            with LogicalCheckpoint.open(plain) as source:
                linears = [name for name in source.names if "proj" in name]
            written = write_folder(plain, place / key, "steelyard", codecs=dict.fromkeys(linears, codec))
            found[key] = written.folder
        return found[key]

    return make


def tensors(folder: Path) -> dict[str, np.ndarray]:
    with LogicalCheckpoint.open(folder) as model:
        return {name: np.array(model.tensor(name)) for name in model.names}


def same(first: Path, second: Path) -> bool:
    one, two = tensors(first), tensors(second)
    return set(one) == set(two) and all(
        one[name].dtype == two[name].dtype and np.array_equal(one[name], two[name]) for name in one
    )


CHAINS = [
    (FOUR, ("gptq-v2", "compressed-tensors", "awq", "steelyard", "gptq-v2")),
    (IntegerCodec(4, None, True, "BF16"), ("gptq", "awq", "compressed-tensors", "gptq-v2", "steelyard")),
    (IntegerCodec(3, 16, True, "BF16"), ("gptq", "compressed-tensors", "steelyard", "gptq")),
    (IntegerCodec(8, 64, False, "BF16"), ("compressed-tensors", "gptq-v2", "steelyard")),
    (PermutedCodec(IntegerCodec(4, 16, False, "BF16")), ("gptq-v2", "steelyard", "gptq-v2")),
    (BlockwiseCodec("nf", 4, 64, double=True), ("bitsandbytes", "steelyard", "bitsandbytes")),
    (BlockwiseCodec("fp4", 4, 128), ("bitsandbytes", "steelyard")),
    (IntegerCodec(8, None, True, "BF16"), ("bitsandbytes", "steelyard", "bitsandbytes")),
    (Float8Codec("F8_E4M3", 16, 32), ("fp8", "steelyard", "fp8")),
    (Float8Codec("F8_E4M3", 1, None, "BF16"), ("compressed-tensors",)),
    (Float8Codec("F8_E4M3", None, None, "BF16"), ("compressed-tensors", "steelyard")),
    (Nvfp4Codec(), ("compressed-tensors", "steelyard", "compressed-tensors")),
    (MicroscalingCodec("F4_E2M1"), ("compressed-tensors", "steelyard")),
    (MicroscalingCodec("F8_E4M3"), ("compressed-tensors", "steelyard")),
]


@pytest.mark.parametrize(("codec", "chain"), CHAINS, ids=lambda value: getattr(value, "label", None))
def test_chains_of_formats_keep_every_number(
    made: Callable[..., Path], tmp_path: Path, codec: Codec, chain: tuple[str, ...]
) -> None:
    folder = first = made(codec)
    images: dict[str, bytes] = {}
    for number, name in enumerate(chain):
        result = convert_folder(folder, tmp_path / str(number), name)
        assert len(result.exact) == 14 and not result.requantized and not result.plain
        folder = result.out
        files = list(folder.glob("*.safetensors"))
        assert result.nbytes == sum(path.stat().st_size for path in files)
        assert same(folder, first)
        image = b"".join(path.read_bytes() for path in files)
        # A format that is met again holds the same bytes again.
        assert images.setdefault(name, image) == image
    assert json.loads((folder / "generation_config.json").read_text()) == {"bos_token_id": 1}


@pytest.mark.parametrize(
    ("codec", "format", "message"),
    [
        (BlockwiseCodec(), "gptq", "cannot hold 14 of the encoded tensors"),
        (IntegerCodec(5, 32, False, "BF16"), "gptq", "int5 g32 asym"),
        (FOUR, "hqq", "available: compressed-tensors"),
        (None, "awq", "holds no encoded tensor"),
        (IntegerCodec(8, None, True, "F32"), "bitsandbytes", "is a 127th of no float32"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    made: Callable[..., Path], tmp_path: Path, codec: Codec | None, format: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        convert_folder(made(codec), tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["gptq-v2", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_rounding_anew_is_measured(made: Callable[..., Path], tmp_path: Path, format: str) -> None:
    source = made(IntegerCodec(5, 40, False, "BF16"))
    result = convert_folder(source, tmp_path / "out", format, requantize=True)
    before, after = tensors(source), tensors(result.out)
    assert len(result.requantized) == 14 and not result.exact
    for name, error in result.requantized.items():
        wide = before[name].astype(np.float64)
        found = np.linalg.norm(after[name] - wide) / np.linalg.norm(wide)
        assert error == pytest.approx(found, rel=1e-5) and 0 < error < 0.2


def test_a_plain_model_is_encoded_where_asked(made: Callable[..., Path], tmp_path: Path) -> None:
    result = convert_folder(made(), tmp_path / "out", "awq", requantize=True)
    assert len(result.requantized) == 15  # the head too
    assert convert_folder(result.out, tmp_path / "back", "dense").plain


def test_plain_numbers_are_those_that_a_loader_makes(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made(FOUR)
    result = convert_folder(source, tmp_path / "out", "dense")
    before, after = tensors(source), tensors(result.out)
    assert len(result.plain) == 14
    for name in result.plain:
        assert np.array_equal(after[name], before[name].astype(after[name].dtype))
    assert "quantization_config" not in json.loads((result.out / "config.json").read_text())


def test_gptq_version_1_has_no_zero_point_of_zero(made: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gptq-v2"):
        convert_folder(made(IntegerCodec(2, 16, False, "BF16")), tmp_path / "out", "gptq")


def test_a_writer_that_lies_is_caught(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.formats.writing.awq import AwqFormat

    honest = AwqFormat.arrays

    def lying(self: Any, *arguments: Any) -> dict[str, np.ndarray]:
        arrays = honest(self, *arguments)
        return {**arrays, "qzeros": arrays["qzeros"] ^ 1}

    monkeypatch.setattr(AwqFormat, "arrays", lying)
    with pytest.raises(VerificationError, match="does not read as"):
        convert_folder(made(FOUR), tmp_path / "out", "awq")
    assert not (tmp_path / "out").exists()


def test_the_verb_offers_every_format() -> None:
    from steelyard.cli.convert import _FORMATS, command

    assert set(_FORMATS) == set(format_names())
    assert command.name == "convert"


def test_from_python(made: Callable[..., Path], tmp_path: Path) -> None:
    import steelyard

    assert len(steelyard.convert(made(FOUR), out=tmp_path / "out", format="awq").exact) == 14


def test_the_verb(made: Callable[..., Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from steelyard.cli.convert import command

    ran = CliRunner().invoke(command, [str(made(FOUR)), "--format", "awq", "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert "14 encoded tensors read as the same numbers" in ran.output
