"""Finished folders are read again, and whatever is changed in them afterwards is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import steelyard as sy
from steelyard.budget.audit import audit
from steelyard.budget.plan import Plan, plan_files
from steelyard.errors import SteelyardError, UserError, VerificationError
from steelyard.formats import get
from steelyard.formats.verify import Check, verify_folder
from steelyard.jobs import open_model
from steelyard.report import rebuild
from tiny_llama import digest, write_tiny

FORMATS = ("compressed-tensors", "steelyard")


def make(verb: str, model: Path, out: Path, format: str) -> Path:
    if verb == "quantize":
        sy.quantize(model, out=out, format=format, embeddings=True, bits=4, symmetric=False)
    else:
        # Little enough that matrices are packed, with and without zero points, and not only cast.
        share = 0.24 if model.name == "tiny-llama" else 0.55
        sy.fit(model, out=out, format=format, data="none", effort="quick", ratio=share)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Returns a finished folder, made once; tests only read it."""
    root = tmp_path_factory.mktemp("finished")

    def find(verb: str, model: Path, format: str) -> Path:
        out = root / f"{verb}-{model.name}-{format}"
        return out if out.exists() else make(verb, model, out, format)

    return find


@pytest.fixture
def changed(tmp_path: Path, finished: Callable[..., Path], tiny_llama: Path) -> Callable[[str], Path]:
    """Returns a copy of a finished folder, to be damaged."""

    def copy(format: str) -> Path:
        return Path(shutil.copytree(finished("quantize", tiny_llama, format), tmp_path / format))

    return copy


def verify(folder: Path, model: Path) -> list[Check]:
    """Read a folder again against its recorded plan, the record's hashes left aside."""
    record = json.loads((folder / "steelyard.json").read_bytes())
    plan = Plan.from_dict(record["plan"])
    with open_model(model) as opened:
        return verify_folder(
            folder,
            plan_files(plan, opened.spec, get(plan.format)),
            record["errors"],
            lambda name: opened.checkpoint.tensor(plan.tensors[name].source),
            {name: opened.spec.tensors[item.source].shape for name, item in plan.tensors.items()},
        )


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", ["tiny_llama", "tied_llama"])
@pytest.mark.parametrize("verb", ["fit", "quantize"])
def test_what_was_made_stands(
    request: pytest.FixtureRequest, finished: Callable[..., Path], verb: str, model: str, format: str
) -> None:
    source = request.getfixturevalue(model)
    before = digest(source)
    folder = finished(verb, source, format)
    assert digest(source) == before
    assert [check.status for check in audit(folder)] == ["pass"]
    checks = audit(folder, str(source))
    assert len(checks) == 5 and {check.status for check in checks} == {"pass"}
    record = json.loads((folder / "steelyard.json").read_bytes())
    assert record["plan"]["format"] == format
    assert record["errors"], "nothing was encoded, so nothing was tried"
    if verb == "quantize":  # zero points and groups: about half a step of sixteen over the range
        assert all(0.01 < error < 0.25 for error in record["errors"].values())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", ["tiny_llama", "tied_llama"])
def test_recorded_errors_are_those_of_the_decoded_tensors(
    request: pytest.FixtureRequest, finished: Callable[..., Path], model: str, format: str
) -> None:
    """Worked out here in float64 from the two folders."""
    source = request.getfixturevalue(model)
    folder = finished("quantize", source, format)
    errors = json.loads((folder / "steelyard.json").read_bytes())["errors"]
    originals = load_file(source / "model.safetensors")
    with sy.open(folder) as written:
        for name, original in originals.items():
            exact = original.astype(np.float64)
            decoded = written.tensor(name).astype(np.float64)
            error = np.linalg.norm(decoded - exact) / np.linalg.norm(exact)
            assert error == pytest.approx(errors.get(name, 0.0), rel=1e-4, abs=1e-12), name


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", [0.05, 0.5, 0.9, 1.0])
def test_one_flipped_bit_is_found(changed: Callable[[str], Path], format: str, place: float) -> None:
    folder = changed(format)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    weights.write_bytes(data)
    with pytest.raises(VerificationError, match=r"model\.safetensors has changed since it was written"):
        audit(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_changed_config_is_found(changed: Callable[[str], Path], format: str) -> None:
    folder = changed(format)
    edit_config(folder, lambda config: config.update(rope_theta=5e5))
    with pytest.raises(VerificationError, match=r"config\.json has changed"):
        audit(folder)


def test_the_report_is_among_what_is_hashed(
    tmp_path: Path, finished: Callable[..., Path], tiny_llama: Path
) -> None:
    """A page of other words is found; one drawn again by `report` is the same page, or has its hash recorded."""
    folder = Path(shutil.copytree(finished("fit", tiny_llama, "steelyard"), tmp_path / "fitted"))
    record = json.loads((folder / "steelyard.json").read_bytes())
    figures = {path.relative_to(folder).as_posix() for path in (folder / "report").glob("*.png")}
    assert {"report.html", *figures} <= set(record["outputs"])
    before = digest(folder)
    rebuild(folder)
    assert digest(folder) == before
    page = folder / "report.html"
    page.write_bytes(page.read_bytes().replace(b"<title>", b"<title>A better "))
    with pytest.raises(VerificationError, match=r"report\.html has changed"):
        audit(folder)
    # A newer release draws another page from the same data.
    record["report"]["notes"] = ["a note"]
    (folder / "steelyard.json").write_text(json.dumps(record))
    rebuild(folder)
    assert audit(folder)[0].status == "pass" and b"a note" in page.read_bytes()


@pytest.mark.parametrize("file", ["model.safetensors", "generation_config.json"])
def test_a_removed_file_is_found(changed: Callable[[str], Path], file: str) -> None:
    folder = changed("steelyard")
    (folder / file).unlink()
    with pytest.raises(VerificationError, match=f"{file} is missing"):
        audit(folder)


def test_the_wrong_original_is_noticed(finished: Callable[..., Path], tiny_llama: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is not the model .* was made from: model\.safetensors differs"):
        audit(finished("quantize", tiny_llama, "steelyard"), str(other))


def forget_a_target(config: dict[str, Any]) -> None:
    """Leave one packed module out of the declaration: it would load as random numbers."""
    quantization = config["quantization_config"]
    if quantization["quant_method"] == "steelyard":
        del quantization["tensors"]["model.layers.1.mlp.down_proj.weight"]
        return
    groups = quantization["config_groups"]
    del groups[sorted(groups)[0]]


@pytest.mark.parametrize("format", FORMATS)
def test_an_undeclared_tensor_is_found(changed: Callable[[str], Path], tiny_llama: Path, format: str) -> None:
    """The trap of the peers: packed weights nobody declares, so the module is initialised at random on load."""
    folder = changed(format)
    assert len(verify(folder, tiny_llama)) == 4
    edit_config(folder, forget_a_target)
    with pytest.raises(SteelyardError, match=r"model\.|lm_head"):
        verify(folder, tiny_llama)


@pytest.mark.parametrize("format", FORMATS)
def test_no_declaration_at_all_is_found(changed: Callable[[str], Path], tiny_llama: Path, format: str) -> None:
    folder = changed(format)
    edit_config(folder, lambda config: config.pop("quantization_config"))
    with pytest.raises(SteelyardError, match=r"model\.|lm_head"):
        verify(folder, tiny_llama)


@pytest.mark.parametrize("format", FORMATS)
def test_a_declared_tensor_that_is_not_packed_is_found(
    changed: Callable[[str], Path], tiny_llama: Path, format: str
) -> None:
    folder = changed(format)

    def declare(config: dict[str, Any]) -> None:
        quantization = config["quantization_config"]
        if quantization["quant_method"] == "steelyard":
            item = quantization["tensors"]["model.layers.1.mlp.down_proj.weight"]
            quantization["tensors"]["model.layers.2.mlp.down_proj.weight"] = item
        else:
            group = next(iter(quantization["config_groups"].values()))
            group["targets"].append("re:model\\.layers\\.2\\.mlp\\.down_proj$")

    edit_config(folder, declare)
    with pytest.raises(SteelyardError, match=r"layers.*2.*mlp.*down_proj"):
        verify(folder, tiny_llama)


@pytest.mark.parametrize("format", FORMATS)
def test_other_numbers_of_the_right_size_are_found(
    changed: Callable[[str], Path], tiny_llama: Path, format: str
) -> None:
    """One scale, or one byte of a blob, is another one: the layout is as planned, the decoded tensor is not."""
    folder = changed(format)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    target = "model.layers.0.mlp.up_proj"
    name = f"{target}.weight_scale" if format == "compressed-tensors" else f"{target}.weight"
    array = tensors[name].copy()
    if format == "compressed-tensors":
        array.flat[7] = array.dtype.type(4 * float(array.flat[7]))
    else:
        array.flat[len(array) // 3] ^= 0x77
    tensors[name] = array
    size = weights.stat().st_size
    header = weights.read_bytes()[: 8 + int.from_bytes(weights.read_bytes()[:8], "little")]
    data = bytearray(weights.read_bytes())
    entry = json.loads(header[8:])[name]
    begin, end = (len(header) + offset for offset in entry["data_offsets"])
    data[begin:end] = array.tobytes()
    weights.write_bytes(data)
    assert weights.stat().st_size == size
    with pytest.raises(VerificationError, match=r"model\.layers\.0\.mlp\.up_proj\.weight misses its original by"):
        verify(folder, tiny_llama)


@pytest.mark.parametrize("format", FORMATS)
def test_a_weight_left_as_it_is_stays_bit_for_bit(
    changed: Callable[[str], Path], tiny_llama: Path, format: str
) -> None:
    folder = changed(format)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = 8 + int.from_bytes(data[:8], "little")
    begin = length + json.loads(data[8:length])["model.norm.weight"]["data_offsets"][0]
    data[begin] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VerificationError, match=r"model\.norm\.weight should be as it was, bit for bit"):
        verify(folder, tiny_llama)


def test_a_file_that_was_not_planned_is_found(changed: Callable[[str], Path], tiny_llama: Path) -> None:
    """A left-over shard would be loaded by some, or at least uploaded by all."""
    folder = changed("steelyard")
    save_file({"x": np.zeros(3, ml_dtypes.bfloat16)}, folder / "adapter.safetensors")
    with pytest.raises(SteelyardError, match=r"adapter\.safetensors"):
        verify(folder, tiny_llama)
