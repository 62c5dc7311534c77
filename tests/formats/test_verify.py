"""Verification: whatever would load as something else than was planned is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.conftest import Build
from formats.folders import Written
from steelyard.errors import VerificationError
from steelyard.formats.verify import relative_error, verify_folder
from steelyard.weights import Checkpoint

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"


def check(made: Written, folder: Path, **changes: Any) -> None:
    values = {"layout": made.layout, "errors": made.errors, "original": made.original, "expected": made.expected()}
    verify_folder(folder, **{**values, **changes})


@pytest.fixture
def packed(written: Build) -> Written:
    return written("llama", "bfloat16", "compressed-tensors")


@pytest.fixture
def native(written: Build) -> Written:
    return written("llama", "bfloat16", "steelyard")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Written], Path]:
    return lambda made: Path(shutil.copytree(made.folder, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def patch(folder: Path, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Change a stored tensor in place."""
    with Checkpoint.open(folder) as checkpoint:
        info = checkpoint.info(name)
        array = np.array(checkpoint.tensor(name))
    change(array)
    path = folder / info.file
    data = bytearray(path.read_bytes())
    data[info.begin : info.end] = array.tobytes()
    path.write_bytes(data)


def target_of(config: Any, module: str) -> tuple[Any, int]:
    """Return the targets of a module's group and the place of its own among them."""
    from steelyard.formats.targets import matching

    for group in config["quantization_config"]["config_groups"].values():
        for place, target in enumerate(group["targets"]):
            if matching([target], module):
                return group["targets"], place
    raise AssertionError(module)


def drop_target(config: Any) -> None:
    targets, place = target_of(config, Q)
    targets.pop(place)


def double_target(config: Any) -> None:
    groups = list(config["quantization_config"]["config_groups"].values())
    targets, _ = target_of(config, Q)
    other = next(group["targets"] for group in groups if group["targets"] is not targets)
    other.append(Q)


def only_exact(config: Any) -> None:
    targets, place = target_of(config, Q)
    targets[place] = Q


def other_bits(config: Any) -> None:
    targets, _ = target_of(config, Q)
    group = next(group for group in groups_of(config) if group["targets"] is targets)
    group["weights"]["num_bits"] = 7 if group["weights"]["num_bits"] != 7 else 5


def groups_of(config: Any) -> list[Any]:
    return list(config["quantization_config"]["config_groups"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_target, rf"{Q} is encoded, and 0 targets match it .* random numbers"),
        (double_target, rf"{Q} is encoded, and 2 targets match it"),
        (only_exact, r"and 0 targets match it as layers\.0\.self_attn\.q_proj"),
        (other_bits, r"weight_packed has shape"),
        (
            lambda c: groups_of(c)[0]["targets"].append("model.norm"),
            "model.norm .*matches no encoded|model.norm.weight is declared",
        ),
        (lambda c: groups_of(c)[0]["targets"].append("nothing"), "the target nothing matches no encoded tensor"),
        (lambda c: groups_of(c)[0]["targets"].append("Linear"), "2 targets match"),
        (lambda c: groups_of(c)[0].update(targets=groups_of(c)[1]["targets"]), "is the target of two groups"),
        (lambda c: c["quantization_config"]["ignore"].append(Q), f"ignores {Q}, which is encoded"),
        (
            lambda c: groups_of(c)[0]["weights"].update(symmetric=not groups_of(c)[0]["weights"]["symmetric"]),
            "is declared .*which has",
        ),
        (lambda c: c.update(dtype="float16"), "weight_scale is BF16, which loading casts to float16"),
        (lambda c: c.update(tie_word_embeddings=True), "ties lm_head.weight, which has a copy of its own"),
        (lambda c: c.update(hidden_size=32), r"has shape \[272, 64\], but config.json asks for \[272, 32\]"),
        (lambda c: c.pop("quantization_config"), "weight_packed is not part of the model|is missing"),
    ],
)
def test_a_config_that_does_not_fit_the_files(
    packed: Written, copied: Callable[[Written], Path], change: Callable[[Any], Any], message: str
) -> None:
    folder = copied(packed)
    rewrite(folder, change)
    with pytest.raises(VerificationError, match=message):
        check(packed, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["quantization_config"]["tensors"].pop("lm_head.weight"),
            "lm_head.weight is a row of bytes that",
        ),
        (
            lambda c: c["quantization_config"]["tensors"].update(
                {"model.norm.weight": c["quantization_config"]["tensors"]["lm_head.weight"]}
            ),
            "model.norm.weight is declared but no row of bytes",
        ),
        (
            lambda c: c["quantization_config"]["tensors"]["lm_head.weight"]["shape"].__setitem__(0, 271),
            "bytes where .* takes",
        ),
        (
            lambda c: c["quantization_config"]["tensors"]["lm_head.weight"]["shape"].reverse(),
            "lm_head.weight has shape|bytes where",
        ),
    ],
)
def test_a_native_config_that_does_not_fit_the_files(
    native: Written, copied: Callable[[Written], Path], change: Callable[[Any], Any], message: str
) -> None:
    folder = copied(native)
    rewrite(folder, change)
    with pytest.raises(VerificationError, match=message):
        check(native, folder)


def test_one_flipped_code(packed: Written, copied: Callable[[Written], Path]) -> None:
    folder = copied(packed)
    patch(folder, f"{UP}.weight_packed", lambda words: words.view(np.uint8).reshape(-1).__setitem__(3, 255))
    with pytest.raises(VerificationError, match=rf"{UP}\.weight misses its original by"):
        check(packed, folder)


def test_a_scale_that_is_no_number(packed: Written, copied: Callable[[Written], Path]) -> None:
    folder = copied(packed)
    patch(folder, f"{UP}.weight_scale", lambda scales: scales.__setitem__((0, 0), np.nan))
    with pytest.raises(VerificationError, match=rf"{UP}\.weight misses its original by nan"):
        check(packed, folder)


def test_one_flipped_byte_of_a_blob(native: Written, copied: Callable[[Written], Path]) -> None:
    folder = copied(native)
    patch(folder, "lm_head.weight", lambda data: data.__setitem__(5, data[5] ^ 128))
    with pytest.raises(VerificationError, match=r"lm_head\.weight misses its original by"):
        check(native, folder)


def test_one_flipped_bit_of_what_stays(packed: Written, copied: Callable[[Written], Path]) -> None:
    folder = copied(packed)
    patch(
        folder, "model.norm.weight", lambda norm: norm.view(np.uint16).__setitem__(0, norm.view(np.uint16)[0] ^ 1)
    )
    with pytest.raises(VerificationError, match=r"model\.norm\.weight should be as it was, bit for bit"):
        check(packed, folder)


def test_the_record_is_held_against_the_disk(packed: Written) -> None:
    name = f"{Q}.weight"
    check(packed, packed.folder)
    with pytest.raises(VerificationError, match="misses its original"):
        check(packed, packed.folder, errors={**packed.errors, name: packed.errors[name] * 1.001})
    forgotten = {key: value for key, value in packed.errors.items() if key != name}
    with pytest.raises(VerificationError, match="though the plan leaves it as it is"):
        check(packed, packed.folder, errors=forgotten)


def test_names_and_shapes_of_the_plan(packed: Written) -> None:
    expected = packed.expected()
    with pytest.raises(VerificationError, match=r"model\.new\.weight is missing"):
        check(packed, packed.folder, expected={**expected, "model.new.weight": (3,)})
    fewer = {name: shape for name, shape in expected.items() if name != "model.norm.weight"}
    with pytest.raises(VerificationError, match=r"model\.norm\.weight"):
        check(packed, packed.folder, expected=fewer)
    with pytest.raises(VerificationError, match=r"model\.norm\.weight"):
        check(packed, packed.folder, expected={**expected, "model.norm.weight": (65,)})


def test_files_of_another_size(packed: Written, copied: Callable[[Written], Path]) -> None:
    folder = copied(packed)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(VerificationError, match="were planned"):
        check(packed, folder)
    layout = replace(packed.layout, files=(replace(packed.layout.files[0], size=file.stat().st_size),))
    with pytest.raises(VerificationError, match="does not end with its last tensor"):
        check(packed, folder, layout=layout)
    (folder / "other.safetensors").write_bytes(b"")
    with pytest.raises(VerificationError, match=r"other\.safetensors, which was not planned"):
        check(packed, folder, layout=layout)
    file.unlink()
    with pytest.raises(VerificationError, match="has 0 bytes"):
        check(packed, folder)


def test_relative_error_is_that_of_float64() -> None:
    draw = np.random.default_rng(1)
    original = draw.standard_normal((700, 513)).astype(np.float32)
    decoded = original + 0.01 * draw.standard_normal(original.shape).astype(np.float32)
    exact = np.linalg.norm(decoded.astype(float) - original) / np.linalg.norm(original.astype(float))
    assert relative_error(original, decoded) == pytest.approx(exact, rel=1e-7)
    assert relative_error(original, original) == 0
    assert relative_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert relative_error(np.zeros(3), np.ones(3)) == 1
