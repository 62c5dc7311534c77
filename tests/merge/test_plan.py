"""What becomes of layers, ties, types and configs; the sums are those of numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from merge.siblings import config_of, rewrite, weights, wide, write_sibling
from steelyard.budget.merge import merge_file
from steelyard.edits.merge.options import MergeOptions
from tiny_llama import write_tiny


def merged(folder: Path, text: str, **options: Any) -> Path:
    path = folder / "recipe.yml"
    path.write_text(text)
    merge_file(path, folder / "out", MergeOptions(**options))
    return folder / "out"


def test_stacked_layers_are_renumbered_and_counted(family: Path, tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        f"""
slices:
  - sources: [{{model: {family}/one, layer_range: [0, 2]}}]
  - sources: [{{model: {family}/two, layer_range: [1, 2]}}]
  - sources: [{{model: {family}/two, layer_range: [0, 2]}}]
merge_method: passthrough
""",
    )
    one, two, found = weights(family / "one"), weights(family / "two"), weights(out)
    assert config_of(out)["num_hidden_layers"] == 5
    part = "mlp.up_proj.weight"
    for layer, (source, number) in enumerate([(one, 0), (one, 1), (two, 1), (two, 0), (two, 1)]):
        right = source[f"model.layers.{number}.{part}"]
        assert np.array_equal(found[f"model.layers.{layer}.{part}"].view(np.uint16), right.view(np.uint16))
    # What comes before the layers is the first slice's, what comes after them the last one's.
    assert np.array_equal(found["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
    assert np.array_equal(found["lm_head.weight"], two["lm_head.weight"])
    assert len(found) == 3 + 5 * 9


def test_depth_runs_over_each_slice_and_starts_outside_of_it(family: Path, tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        f"""
slices:
  - sources:
      - {{model: {family}/one, layer_range: [0, 2], parameters: {{weight: [1, 0]}}}}
      - {{model: {family}/two, layer_range: [0, 2], parameters: {{weight: [0, 1]}}}}
  - sources:
      - {{model: {family}/one, layer_range: [0, 1], parameters: {{weight: [1, 0]}}}}
      - {{model: {family}/two, layer_range: [0, 1], parameters: {{weight: [0, 1]}}}}
merge_method: linear
""",
    )
    one, two, found = weights(family / "one"), weights(family / "two"), weights(out)
    part = "self_attn.q_proj.weight"
    assert np.array_equal(found[f"model.layers.0.{part}"], one[f"model.layers.0.{part}"])
    assert np.array_equal(found[f"model.layers.1.{part}"], two[f"model.layers.1.{part}"])
    # A slice of one layer is at its end, as in mergekit; embeddings, head and last norm are at the beginning.
    assert np.array_equal(found[f"model.layers.2.{part}"], two[f"model.layers.0.{part}"])
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert np.array_equal(found[name], one[name])


@pytest.mark.parametrize(("heads", "tied"), [((True, True), True), ((True, False), False), ((False, True), False)])
def test_heads_stay_tied_only_where_all_are(tmp_path: Path, heads: tuple[bool, bool], tied: bool) -> None:
    for name, seed, head in zip("ab", (1, 2), heads, strict=True):
        write_sibling(tmp_path / name, seed, tied=head)
    out = merged(tmp_path, f"models: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]\nmerge_method: linear")
    found = wide(out)
    assert config_of(out)["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in found) is not tied
    if not tied:
        a, b = wide(tmp_path / "a"), wide(tmp_path / "b")
        embed = "model.embed_tokens.weight"
        right = (a.get("lm_head.weight", a[embed]) + b.get("lm_head.weight", b[embed])) / 2
        np.testing.assert_allclose(found["lm_head.weight"], right, atol=1e-6)


def test_types_are_those_asked_for_or_the_bases(family: Path, tmp_path: Path) -> None:
    write_sibling(tmp_path / "single", 5, dtype="float32")
    text = f"models: [{{model: {tmp_path}/single}}, {{model: {family}/one}}]\nmerge_method: linear\n"
    cases = {"": "float32", "dtype: float16": "float16", "dtype: float32\nout_dtype: bfloat16": "bfloat16"}
    for number, (line, dtype) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        out = merged(folder, text + line)
        assert config_of(out)["dtype"] == dtype
        assert {array.dtype for array in weights(out).values()} == {np.dtype(getattr(ml_dtypes, dtype, dtype))}


def test_what_goes_along_comes_from_the_base(family: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "base", dtype="bfloat16")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "README.md").write_text("of the base")
    text = f"models: [{{model: {family}/one}}]\nmerge_method: linear\nbase_model: {tmp_path}/base\n"
    out = merged(tmp_path, text)
    assert (out / "tokenizer.json").read_text() == "{}"
    assert (out / "mergekit_config.yml").read_text() == text
    card = (out / "README.md").read_text()
    assert "of the base" not in card and "merge_method: linear" in card and f"- {family}/one" in card
    # The base is no part of an average that does not list it.
    assert all(np.array_equal(a, weights(family / "one")[n]) for n, a in weights(out).items())
    record = json.loads((out / "steelyard.json").read_text())
    assert record["verb"] == "merge" and set(record["tensors"]) == set(weights(out))


def test_a_model_may_be_merged_with_itself(family: Path, tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        f"""
slices:
  - sources:
      - {{model: {family}/one, layer_range: [0, 1], parameters: {{weight: 0.25}}}}
      - {{model: {family}/one, layer_range: [1, 2], parameters: {{weight: 0.75}}}}
merge_method: linear
dtype: float32
""",
    )
    one, part = wide(family / "one"), "mlp.down_proj.weight"
    right = 0.25 * one[f"model.layers.0.{part}"] + 0.75 * one[f"model.layers.1.{part}"]
    np.testing.assert_allclose(wide(out)[f"model.layers.0.{part}"], right, atol=1e-6)


def test_a_layers_kinds_follow_the_layers(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention"]
    write_sibling(tmp_path / "a", 1, layer_types=kinds)
    out = merged(
        tmp_path,
        f"slices: [{{sources: [{{model: {tmp_path}/a, layer_range: [1, 2]}}]}}, "
        f"{{sources: [{{model: {tmp_path}/a, layer_range: [0, 2]}}]}}]\nmerge_method: passthrough",
    )
    assert config_of(out)["layer_types"] == [kinds[1], *kinds]


def test_whole_numbers_are_taken_from_the_base(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_sibling(tmp_path / name, seed)
        rewrite(tmp_path / name, {**weights(tmp_path / name), "model.counter": np.full(3, seed, np.int64)})
    text = f"models: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]\nmerge_method: linear\n"
    out = merged(tmp_path, text + f"base_model: {tmp_path}/b")
    # Without a role for the base it is the first listed of the models that has its place in a result.
    assert weights(out)["model.counter"].dtype == np.int64
