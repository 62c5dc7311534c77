"""`steelyard merge` as its users meet it: documents, dry runs, JSON, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import Steelyard
from merge.siblings import weights, wide
from steelyard.budget.merge import merge_file
from steelyard.errors import UserError
from tiny_llama import digest


@pytest.fixture
def recipe(family: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(f"models: [{{model: {family}/one}}, {{model: {family}/two}}]\nmerge_method: linear\n")
    return path


def test_a_merge_and_its_check(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    ended = steelyard("merge", recipe, tmp_path / "out")
    assert ended.code == 0 and "21 tensors, linear of 2 models" in ended.out
    assert steelyard("verify", tmp_path / "out").code == 0
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ended = steelyard("verify", tmp_path / "out")
    assert ended.code == 1 and "model.norm.weight has changed since it was written" in ended.err


def test_a_dry_run_counts_every_byte_and_writes_none(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    ended = steelyard("merge", recipe, "--dry-run", "--json")
    assert ended.code == 0
    (found,) = json.loads(ended.out)
    assert list(tmp_path.iterdir()) == [recipe]
    assert steelyard("merge", recipe, "--out", tmp_path / "out").code == 0
    assert found["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert found["tensors"] == 21 and found["method"] == "linear" and found["seconds"] > 0
    stored = 2 * 2 * sum(array.size for array in weights(tmp_path / "out").values())
    assert found["read"] == stored


def test_problems_are_data_too(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + "parameters: {weight: heavy, wieght: 2}\n")
    ended = steelyard("merge", recipe, tmp_path / "out", "--json")
    assert ended.code == 2
    whats = [problem["what"] for problem in json.loads(ended.out)["problems"]]
    assert "no parameter wieght" in whats and "parameter weight: got 'heavy'" in whats
    assert "2 problems, nothing was written" in ended.err


@pytest.mark.parametrize("arguments", [(), ("a", "--out", "b")])
def test_the_folder_is_given_once(steelyard: Steelyard, recipe: Path, arguments: tuple[str, ...]) -> None:
    ended = steelyard("merge", recipe, *arguments)
    assert ended.code == 2 and "as OUT or with --out" in ended.err


def test_documents_are_made_of_each_other(family: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(
        f"""
models: [{{model: half, parameters: {{weight: 3}}}}, {{model: {family}/base}}]
merge_method: linear
dtype: float32
---
name: half
models: [{{model: {family}/one}}, {{model: {family}/two}}]
merge_method: linear
dtype: float32
"""
    )
    results = merge_file(path, tmp_path / "out")
    assert [result.out.name for result in results] == ["half", "out"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "recipe.yml"]
    one, two, base = (wide(family / name) for name in ("one", "two", "base"))
    for name, array in wide(tmp_path / "out").items():
        np.testing.assert_allclose(array, (3 * (one[name] + two[name]) / 2 + base[name]) / 4, atol=2e-6)


def test_documents_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text("name: a\nmodels: [b]\nmerge_method: linear\n---\nname: b\nmodels: [a]\nmerge_method: linear\n")
    with pytest.raises(UserError, match="made of each other"):
        merge_file(path, tmp_path / "out")


def test_the_same_call_from_python(family: Path, recipe: Path, tmp_path: Path) -> None:
    import steelyard as sy

    models = [{"model": f"{family}/one"}, {"model": f"{family}/two"}]
    sy.merge({"models": models, "merge_method": "linear"}, out=tmp_path / "a")
    sy.merge(recipe, out=tmp_path / "b")
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "b").keys()
    for name, array in weights(tmp_path / "a").items():
        assert np.array_equal(array, weights(tmp_path / "b")[name])
    with pytest.raises(UserError, match="seed"):
        sy.merge(recipe, out=tmp_path / "c", seed="seven")


def test_the_same_recipe_gives_the_same_folder(recipe: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        merge_file(recipe, tmp_path / name / "out")
    assert digest(tmp_path / "a" / "out") == digest(tmp_path / "b" / "out")


def test_a_step_merges_the_model_before_it(
    steelyard: Steelyard, family: Path, recipe: Path, tmp_path: Path
) -> None:
    merge = tmp_path / "merge.yml"
    merge.write_text(f"models: [{{model: model}}, {{model: {family}/two}}]\nmerge_method: linear\n")
    steps = tmp_path / "steps.yml"
    steps.write_text(f"model: {family}/one\nout: {tmp_path}/out\nsteps:\n  - merge: {{recipe: {merge}}}\n")
    ended = steelyard("run", steps, "--dry-run")
    assert ended.code == 0 and "linear of 2 models" in ended.out
    assert steelyard("run", steps).code == 0
    merge_file(recipe, tmp_path / "right")
    assert all(
        np.array_equal(array, weights(tmp_path / "right")[name])
        for name, array in weights(tmp_path / "out").items()
    )
    merge.write_text(f"models: [{{model: {family}/one}}]\nmerge_method: linear\n")
    assert "merges no `model`" in steelyard("run", steps, "--dry-run").err
