"""Reading folders that others wrote, older packings, and configs that lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.conftest import Build
from formats.folders import Written, write_folder
from steelyard.codecs import Codec, DenseCodec, IntegerCodec
from steelyard.errors import UserError
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.reading.compressed import unpack_padded
from steelyard.weights import Checkpoint, FolderWriter, StoredTensor, dtype_name, plan_layout

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"


def rewritten(
    source: Path,
    out: Path,
    tensors: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None,
    config: Callable[[Any], None] = lambda config: None,
) -> Path:
    """Write a folder again with its tensors and config changed."""
    with Checkpoint.open(source) as checkpoint:
        arrays = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names}
        settings = checkpoint.config
    tensors(arrays)
    config(settings)
    layout = plan_layout([StoredTensor(n, dtype_name(a.dtype), a.shape) for n, a in arrays.items()])
    with FolderWriter(out, layout) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
        writer.add_file("config.json", json.dumps(settings).encode())
        return writer.finish()


def pack_padded(codes: np.ndarray, bits: int) -> np.ndarray:
    """Whole codes to a word, as compressed-tensors packed before June 2026; one code after the other."""
    each = 32 // bits
    rows, columns = codes.shape
    words = np.zeros((rows, -(-columns // each)), np.uint32)
    for row in range(rows):
        for column in range(columns):
            code = int(codes[row, column]) + (1 << (bits - 1))
            words[row, column // each] |= np.uint32(code << (bits * (column % each)))
    return words.view(np.int32)


@pytest.fixture(scope="module")
def small(sources: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """Return a function that writes a tiny llama with some modules under a codec."""
    root = tmp_path_factory.mktemp("small")
    made: dict[str, Written] = {}

    def write(label: str, codecs: dict[str, Codec]) -> Written:
        if label not in made:
            made[label] = write_folder(sources("llama"), root / label, "compressed-tensors", codecs=codecs)
        return made[label]

    return write


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_older_packing_is_read(small: Callable[..., Written], tmp_path: Path, bits: int, symmetric: bool) -> None:
    codec = IntegerCodec(bits, 32, symmetric, "F16")
    made = small(f"int{bits}-{symmetric}", {f"{UP}.weight": codec})
    with LogicalCheckpoint.open(made.folder) as logical:
        codes, _, zero = codec.to_codes(logical.parts(f"{UP}.weight"), (96, 64))

    def older(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{UP}.weight_packed"] = pack_padded(codes, bits)
        if zero is not None:
            tensors[f"{UP}.weight_zero_point"] = np.ascontiguousarray(pack_padded(zero.T, bits).T)

    folder = rewritten(made.folder, tmp_path / "older", older)
    with LogicalCheckpoint.open(folder) as logical:
        np.testing.assert_array_equal(logical.tensor(f"{UP}.weight"), made.decoded[f"{UP}.weight"])
        assert logical.codec(f"{UP}.weight") == codec


def test_padded_words_hold_whole_codes() -> None:
    codes = np.arange(-4, 4, dtype=np.int8).repeat(3)[None]
    packed = pack_padded(codes, 3)
    assert packed.shape == (1, 3)
    np.testing.assert_array_equal(unpack_padded(packed, 3, 24), codes)


def test_targets_by_class_as_others_write_them(small: Callable[..., Written], tmp_path: Path) -> None:
    made = small("class", {f"{UP}.weight": IntegerCodec(4, 32, True, "F16")})

    def by_class(config: Any) -> None:
        config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["Linear"]

    folder = rewritten(made.folder, tmp_path / "class", config=by_class)
    with LogicalCheckpoint.open(folder) as logical:
        np.testing.assert_array_equal(logical.tensor(f"{UP}.weight"), made.decoded[f"{UP}.weight"])


def test_eight_bit_floats_with_scales_of_other_types(small: Callable[..., Written], tmp_path: Path) -> None:
    made = small("fp8", {f"{UP}.weight": DenseCodec("F8_E4M3")})
    exact = made.decoded[f"{UP}.weight"]
    with LogicalCheckpoint.open(made.folder) as logical:
        np.testing.assert_array_equal(logical.tensor(f"{UP}.weight"), exact)

    def one_scale(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{UP}.weight_scale"] = np.array([0.5], np.float16)

    folder = rewritten(
        made.folder, tmp_path / "tensor", one_scale, lambda c: weights_of(c).update(strategy="tensor")
    )
    with LogicalCheckpoint.open(folder) as logical:
        scale = np.array(Checkpoint.open(made.folder).tensor(f"{UP}.weight_scale"))
        np.testing.assert_allclose(logical.tensor(f"{UP}.weight"), exact / scale * 0.5, rtol=1e-6)


def weights_of(config: Any) -> Any:
    return config["quantization_config"]["config_groups"]["group_0"]["weights"]


def quantization_of(config: Any) -> Any:
    return config["quantization_config"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(quantization_config=[1]), "quantization_config is not an object"),
        (
            lambda c: quantization_of(c).update(quant_method="hqq"),
            "is quantized by 'hqq'; weights can be read from",
        ),
        (lambda c: quantization_of(c).update(quant_method=None), "is quantized by None"),
        (lambda c: quantization_of(c).update(config_groups={}), f"no group of quantization_config targets {UP}"),
        (lambda c: weights_of(c).update(strategy="block"), "is stored as pack-quantized by block"),
        (lambda c: weights_of(c).update(type="float"), "is stored as pack-quantized by group"),
        (
            lambda c: weights_of(c).update(num_bits=3),
            r"has shape \[96, 8\], but \[96, 64\] at 3 bits takes \[96, 6\]",
        ),
        (lambda c: weights_of(c).update(num_bits=11), "integer codes have 1 to 8 bits, not 11"),
        (lambda c: weights_of(c).update(group_size=7), "group_size is 16 to 256"),
    ],
)
def test_a_config_that_lies(
    small: Callable[..., Written], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    made = small("lies", {f"{UP}.weight": IntegerCodec(4, 32, True, "F16")})
    folder = rewritten(made.folder, tmp_path / "lies", config=change)
    with pytest.raises(UserError, match=message):
        LogicalCheckpoint.open(folder)


def test_tensors_that_do_not_belong_together(small: Callable[..., Written], tmp_path: Path) -> None:
    made = small("parts", {f"{UP}.weight": IntegerCodec(4, 32, False, "F16")})

    def shape(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{UP}.weight_shape"] = np.array([96, 64, 1], np.int64)

    def order(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{UP}.weight_g_idx"] = np.zeros(64, np.int32)

    def scales(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{UP}.weight_scale"] = np.ones((96, 3), np.float16)

    with pytest.raises(UserError, match="which is no matrix"):
        LogicalCheckpoint.open(rewritten(made.folder, tmp_path / "shape", shape))
    with pytest.raises(UserError, match=r"do not fill groups of 32"):
        LogicalCheckpoint.open(rewritten(made.folder, tmp_path / "order", order))
    folder = rewritten(made.folder, tmp_path / "scales", scales)
    with LogicalCheckpoint.open(folder) as logical, pytest.raises(UserError, match="weight_scale"):
        logical.tensor(f"{UP}.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.update(version="1"), "version '1' of the steelyard format; this program reads version 1"),
        (lambda q: q.pop("tensors"), "quantization_config has no tensors"),
        (
            lambda q: q["tensors"].update(ghost={"codec": {"name": "dense"}, "shape": [1, 1]}),
            "declares ghost, which no",
        ),
        (lambda q: q["tensors"]["lm_head.weight"].pop("shape"), "the entry of lm_head.weight describes no encoded"),
        (lambda q: q["tensors"]["lm_head.weight"].update(shape=[3]), "the entry of lm_head.weight describes no"),
        (lambda q: q["tensors"].update({"lm_head.weight": None}), "the entry of lm_head.weight describes no"),
        (lambda q: q["tensors"]["lm_head.weight"].update(codec={"name": "x"}), "no codec is called 'x'"),
    ],
)
def test_a_native_config_that_lies(
    written: Build, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    folder = Path(shutil.copytree(written("llama", "float32", "steelyard").folder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        LogicalCheckpoint.open(folder)


def test_a_blob_of_another_length(written: Build, tmp_path: Path) -> None:
    def cut(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]

    folder = rewritten(written("llama", "float32", "steelyard").folder, tmp_path / "cut", cut)
    with LogicalCheckpoint.open(folder) as logical, pytest.raises(UserError, match="bytes, not"):
        logical.tensor("lm_head.weight")


def test_plain_folders_and_what_is_not_there(sources: Callable[..., Path]) -> None:
    with LogicalCheckpoint.open(sources("gpt2")) as logical:
        assert logical.entries == {} and logical.codec("transformer.wte.weight") is None
        assert "0 encoded" in repr(logical)
        assert "quantization_config" not in logical.config
        with pytest.raises(UserError, match="has no tensor 'nothing'"):
            logical.tensor("nothing")
