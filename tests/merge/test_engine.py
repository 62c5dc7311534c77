"""The engine against sums in float64, and its promises: same bytes whatever the threads, resume, memory."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from merge.siblings import config_of, rewrite, weights, wide, write_sibling
from steelyard.budget.merge import merge_file
from steelyard.edits.merge import engine, floats, work
from steelyard.edits.merge.options import MergeOptions
from steelyard.errors import UserError, WeightError
from steelyard.weights import FolderWriter
from tiny_llama import digest, image

EVERY16 = np.arange(65536, dtype=np.uint16)


def recipe(folder: Path, text: str, **names: Path) -> Path:
    path = folder / "recipe.yml"
    path.write_text(text.format(**names))
    return path


@pytest.fixture
def linear(family: Path, tmp_path: Path) -> Path:
    return recipe(
        tmp_path,
        """
models:
  - model: {family}/one
    parameters:
      weight: [{{filter: mlp, value: [0, 1]}}, {{value: 0.25}}]
  - model: {family}/two
    parameters: {{weight: 0.5}}
merge_method: linear
base_model: {family}/base
""",
        family=family,
    )


def expected_linear(family: Path) -> dict[str, np.ndarray]:
    one, two = wide(family / "one"), wide(family / "two")
    found = {}
    for name in one:
        first = (1.0 if ".1." in name else 0.0) if "mlp" in name else 0.25
        found[name] = (first * one[name] + 0.5 * two[name]) / (first + 0.5)
    return found


def test_a_weighted_average_is_the_sum_in_float64_rounded(family: Path, linear: Path, tmp_path: Path) -> None:
    merge_file(linear, tmp_path / "out", MergeOptions(dtype="float32"))
    found = weights(tmp_path / "out")
    for name, right in expected_linear(family).items():
        np.testing.assert_allclose(found[name], right, rtol=0, atol=4e-7 * np.abs(right).max())
    assert config_of(tmp_path / "out")["dtype"] == "float32"


def test_without_a_type_the_result_has_the_inputs(family: Path, linear: Path, tmp_path: Path) -> None:
    merge_file(linear, tmp_path / "out")
    for name, array in weights(tmp_path / "out").items():
        assert array.dtype == ml_dtypes.bfloat16
        right = expected_linear(family)[name]
        assert np.abs(array.astype(np.float64) - right).max() <= 2**-8 * np.abs(right).max()


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 5}])
def test_threads_and_pieces_do_not_change_a_byte(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]
) -> None:
    merge_file(linear, tmp_path / "first", MergeOptions())
    monkeypatch.setattr(work, "PIECE", 100)
    monkeypatch.setattr(engine, "RUN", 300)
    merge_file(linear, tmp_path / "second", MergeOptions(**settings))
    first, second = image(tmp_path / "first"), image(tmp_path / "second")
    assert first["model.safetensors"] == second["model.safetensors"]


def test_shards_hold_the_same_tensors(linear: Path, tmp_path: Path) -> None:
    merge_file(linear, tmp_path / "whole")
    merge_file(linear, tmp_path / "parts", MergeOptions(max_shard_size="40kB"))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name].view(np.uint16), parts[name].view(np.uint16)) for name in whole)


def test_a_killed_run_goes_on_to_the_same_bytes(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_file(linear, tmp_path / "whole")
    written: list[str] = []
    write = FolderWriter.write_entries

    def stop_after_six(self: FolderWriter, name: str, start: int, array: np.ndarray) -> None:
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, start, array)

    with monkeypatch.context() as patch:
        patch.setattr(FolderWriter, "write_entries", stop_after_six)
        with pytest.raises(KeyboardInterrupt):
            merge_file(linear, tmp_path / "out", MergeOptions(workers=1))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--resume"):
        merge_file(linear, tmp_path / "out")
    again: list[str] = []

    def note(self: FolderWriter, name: str, start: int, array: np.ndarray) -> None:
        again.append(name)
        write(self, name, start, array)

    monkeypatch.setattr(FolderWriter, "write_entries", note)
    merge_file(linear, tmp_path / "out", MergeOptions(workers=1), resume=True)
    assert again and not set(again) & set(written)
    assert digest(tmp_path / "out") != "" and image(tmp_path / "out").keys() == image(tmp_path / "whole").keys()
    assert image(tmp_path / "out")["model.safetensors"] == image(tmp_path / "whole")["model.safetensors"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(family: Path, tmp_path: Path, value: float) -> None:
    bad = write_sibling(tmp_path / "bad", 3, dtype="bfloat16")
    tensors = weights(bad)
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = value
    rewrite(bad, tensors)
    text = "models: [{{model: {one}}}, {{model: {bad}, parameters: {{weight: 0}}}}]\nmerge_method: linear"
    path = recipe(tmp_path, text, one=family / "one", bad=bad)
    with pytest.raises(WeightError) as caught:
        merge_file(path, tmp_path / "out")
    assert f"{bad}: model.layers.1.mlp.up_proj.weight holds {value} at [5, 7]" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_result_beyond_its_type_is_named(family: Path, tmp_path: Path) -> None:
    text = (
        "models: [{{model: {one}, parameters: {{weight: 1.0e+6}}}}]\nmerge_method: linear\nout_dtype: float16\n"
        "parameters: {{normalize: false}}"
    )
    with pytest.raises(WeightError, match="beyond F16; choose another out_dtype or smaller weights"):
        merge_file(recipe(tmp_path, text, one=family / "one"), tmp_path / "out")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_every_16_bit_number_is_widened_and_narrowed_exactly(dtype: type) -> None:
    numbers = EVERY16.view(dtype)
    right = numbers.astype(np.float32)
    kept = np.isfinite(right)
    out = np.empty(65536, np.float32)
    assert not floats.widen(numbers, out)
    assert np.array_equal(out[kept].view(np.uint32), right[kept].view(np.uint32))
    back = np.empty(int(kept.sum()), dtype)
    assert floats.narrow(right[kept], "F16" if dtype is np.float16 else "BF16", back)
    assert np.array_equal(back.view(np.uint16), EVERY16[kept])


@pytest.mark.parametrize(("dtype", "kind"), [("BF16", ml_dtypes.bfloat16), ("F16", np.float16)])
def test_rounding_is_half_to_even(dtype: str, kind: type) -> None:
    drawn = np.random.default_rng(4).integers(0, 2**32, 400_000, dtype=np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        every = EVERY16.view(kind).astype(np.float64)
    numbers = np.sort(every[np.isfinite(every)])
    middles = ((numbers[:-1] + numbers[1:]) / 2).astype(np.float32)
    with np.errstate(all="ignore"):
        drawn = np.concatenate([drawn, middles])
        right = drawn.astype(kind)
        finite = np.isfinite(right.astype(np.float32))
    out = np.empty(drawn.size, kind)
    assert not floats.narrow(drawn, dtype, out)
    assert np.array_equal(out[finite].view(np.uint16), right[finite].view(np.uint16))
    assert floats.narrow(np.ascontiguousarray(drawn[finite]), dtype, out[: int(finite.sum())])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_adding_is_a_product_and_a_sum(dtype: type) -> None:
    draw = np.random.default_rng(5)
    source = draw.standard_normal(777).astype(dtype)
    out = np.ones(777, np.float32)
    assert floats.add(source, 0.75, False, out)
    np.testing.assert_allclose(out, 1 + 0.75 * source.astype(np.float64), rtol=3e-7, atol=3e-7)
    assert floats.add(source, -2.0, True, out)
    np.testing.assert_allclose(out, -2 * source.astype(np.float64), rtol=3e-7)


def test_an_infinite_half_is_found_while_adding() -> None:
    out = np.zeros(1, np.float32)
    assert not floats.add(np.array([np.inf], np.float16), 0.0, True, out)
