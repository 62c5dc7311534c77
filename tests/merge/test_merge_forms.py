"""Merges stored in other formats: the same as merging and then converting or fitting, in one command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from command_line import Steelyard
from merge.siblings import write_sibling
from steelyard.budget.convert import convert_model
from steelyard.budget.merge import merge_file
from steelyard.budget.options import FitOptions
from steelyard.edits.merge.options import FormatName, MergeOptions
from steelyard.formats.convert import format_names
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.progress import Progress
from tiny_llama import digest, write_tiny

ROUNDED = [name for name in format_names() if name not in ("dense", "gguf")]


@pytest.fixture
def recipe(family: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(f"models: [{{model: {family}/one}}, {{model: {family}/two}}]\nmerge_method: linear\n")
    return path


def tensors(folder: Path) -> dict[str, np.ndarray]:
    with LogicalCheckpoint.open(folder) as opened:
        return {name: opened.tensor(name).astype(np.float64) for name in opened.names}


def test_every_format_is_on_offer() -> None:
    assert set(FormatName.__args__) == set(format_names())


@pytest.mark.parametrize("name", ROUNDED)
def test_a_format_is_what_converting_the_merge_gives(recipe: Path, tmp_path: Path, name: str) -> None:
    (made,) = merge_file(recipe, tmp_path / "out", MergeOptions(format=name))
    merge_file(recipe, tmp_path / "plain")
    right = convert_model(tmp_path / "plain", tmp_path / "right", name, requantize=True)
    assert made.nbytes == right.nbytes < sum(f.stat().st_size for f in (tmp_path / "plain").glob("*.safetensors"))
    found, expected = tensors(tmp_path / "out"), tensors(tmp_path / "right")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "plain", "recipe.yml", "right"]
    # The folder that was converted is gone; what it was made of is on record, and its recipe goes along.
    origin = json.loads((tmp_path / "out" / "steelyard.json").read_text())["merge"]
    assert origin["plan"]["method"] == "linear" and len(origin["plan"]["models"]) == 2
    assert (tmp_path / "out" / "mergekit_config.yml").read_text() == recipe.read_text()


def test_dense_is_what_a_merge_is_anyway(recipe: Path, tmp_path: Path) -> None:
    for name, options in (("a", MergeOptions()), ("b", MergeOptions(format="dense"))):
        (tmp_path / name).mkdir()
        merge_file(recipe, tmp_path / name / "out", options)
    assert digest(tmp_path / "a" / "out") == digest(tmp_path / "b" / "out")


def test_a_budget_is_handed_to_fit(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting itself takes minutes with its calibration and measurements; its own tests do it."""
    from steelyard.budget import fit

    given: list[tuple[str, FitOptions]] = []

    def fitted(model: Path, out: Path, options: FitOptions, *, resume: bool, progress: Progress) -> SimpleNamespace:
        given.append((digest(model), options))
        out.mkdir()
        return SimpleNamespace(nbytes=7, report=SimpleNamespace(request=SimpleNamespace(asked="6 bits")))

    monkeypatch.setattr(fit, "fit_folder", fitted)
    options = MergeOptions(bits=6, format="steelyard", seed=3)
    (made,) = merge_file(recipe, tmp_path / "out", options)
    (tmp_path / "plain").mkdir()
    merge_file(recipe, tmp_path / "plain" / "merged", MergeOptions(seed=3))
    expected = FitOptions(bits=6, format="steelyard", seed=3)
    assert given == [(digest(tmp_path / "plain" / "merged"), expected)]
    assert made.nbytes == 7 and made.out == tmp_path / "out" and made.notes[-1].startswith("fitted to 6 bits")


def test_a_dry_run_says_what_comes_after_it(steelyard: Steelyard, recipe: Path, tmp_path: Path) -> None:
    ended = steelyard("merge", recipe, "--dry-run", "--format", "gptq", "--json")
    (found,) = json.loads(ended.out)
    merge_file(recipe, tmp_path / "plain")
    assert found["bytes"] == (tmp_path / "plain" / "model.safetensors").stat().st_size
    assert "then stored as gptq" in found["notes"][-1]


def test_a_model_that_gguf_has_no_place_for_is_refused_before_the_merge(
    steelyard: Steelyard, family: Path, tmp_path: Path
) -> None:
    models = []
    for name in ("a", "b"):
        folder = write_tiny(tmp_path / name, dtype="bfloat16")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
        models.append(f"{{model: {folder}}}")
    path = tmp_path / "recipe.yml"
    path.write_text(f"models: [{', '.join(models)}]\nmerge_method: linear\n")
    before = sorted(item.name for item in tmp_path.iterdir())
    for arguments in ((tmp_path / "out",), ("--dry-run",)):
        ended = steelyard("merge", path, *arguments, "--format", "gguf")
        assert ended.code == 2 and "unheard-of" in ended.err and "Traceback" not in ended.err
        assert sorted(item.name for item in tmp_path.iterdir()) == before


def test_rows_that_no_group_divides_are_refused_before_the_merge(steelyard: Steelyard, tmp_path: Path) -> None:
    odd = {"hidden_size": 60, "intermediate_size": 84, "num_attention_heads": 4, "head_dim": 15}
    for number, name in enumerate(("a", "b")):
        write_sibling(tmp_path / name, number, dtype="bfloat16", **odd)
    path = tmp_path / "recipe.yml"
    path.write_text(f"models: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]\nmerge_method: linear\n")
    ended = steelyard("merge", path, tmp_path / "out", "--format", "awq")
    assert ended.code == 2 and "awq can hold none of the 15 matrices" in ended.err
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "b", "recipe.yml"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"size": "1MiB", "bits": 4}, "one of size and bits"),
        ({"type": "Q4_K"}, "they need format gguf"),
        ({"format": "gguf", "type": "Q4_K", "mix": "Q4_K_M"}, "one of type and mix"),
        ({"format": "gguf", "type": "Q4_K", "size": "1MiB"}, "leave out type and mix"),
        ({"format": "awq", "bits": 4}, "awq is not fitted to a size"),
        ({"cluster": "auto"}, "cluster is for engine ray"),
    ],
)
def test_what_does_not_go_together(steelyard: Steelyard, recipe: Path, asked: dict[str, object], said: str) -> None:
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    ended = steelyard("merge", recipe, "--dry-run", *words)
    assert ended.code == 2 and said in ended.err


def test_an_interrupted_conversion_goes_on_from_the_merge(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.budget import merge_form

    options = MergeOptions(format="gptq")
    (tmp_path / "right").mkdir()
    merge_file(recipe, tmp_path / "right" / "out", options)
    convert = merge_form.convert_folder

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_form, "convert_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge_file(recipe, tmp_path / "out", options)
    merged = tmp_path / ".out.merge.work" / "merged"
    stamp = (merged / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(
        merge_form, "convert_folder", lambda *a, **s: (stamps.append(_stamp(merged)), convert(*a, **s))[1]
    )
    stamps: list[int] = []
    (made,) = merge_file(recipe, tmp_path / "out", options, resume=True)
    assert stamps == [stamp]  # not merged again
    assert made.method == "linear" and made.tensors == 21
    assert digest(tmp_path / "out") == digest(tmp_path / "right" / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "recipe.yml", "right"]


def test_another_recipe_does_not_take_over_what_is_merged(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.budget import merge_form

    convert = merge_form.convert_folder

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_form, "convert_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge_file(recipe, tmp_path / "out", MergeOptions(format="gptq"))
    monkeypatch.setattr(merge_form, "convert_folder", convert)
    recipe.write_text(
        recipe.read_text().replace("one}", "one, parameters: {weight: 3}}") + "parameters: {weight: [1, 2]}\n"
    )
    merge_file(recipe, tmp_path / "out", MergeOptions(format="gptq"), resume=True)
    (tmp_path / "right").mkdir()
    merge_file(recipe, tmp_path / "right" / "out", MergeOptions(format="gptq"))
    assert digest(tmp_path / "out") == digest(tmp_path / "right" / "out")


def test_the_format_is_a_key_of_the_recipes_step(
    steelyard: Steelyard, family: Path, recipe: Path, tmp_path: Path
) -> None:
    merge = tmp_path / "merge.yml"
    merge.write_text(f"models: [{{model: model}}, {{model: {family}/two}}]\nmerge_method: linear\n")
    steps = tmp_path / "steps.yml"
    steps.write_text(
        f"model: {family}/one\nout: {tmp_path}/out\nsteps:\n  - merge: {{recipe: {merge}, format: fp8}}\n"
    )
    ended = steelyard("run", steps)
    assert ended.code == 0, ended.err
    merge_file(recipe, tmp_path / "right", MergeOptions(format="fp8"))
    found, expected = tensors(tmp_path / "out"), tensors(tmp_path / "right")
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def _stamp(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_mtime_ns
