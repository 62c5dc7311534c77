"""Everything that is wrong is told before a byte is written, all at once, each with its way out."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from merge.siblings import config_of, rewrite, weights, write_sibling
from steelyard.budget.merge import merge_file
from steelyard.edits.merge.problems import PreflightError
from steelyard.weights import DiskFullError
from steelyard.weights.staging import Staging
from tiny_llama import write_tiny


def problems(folder: Path, text: str) -> list[str]:
    """What a preflight finds, a line each; nothing may be left of the result."""
    path = folder / "recipe.yml"
    path.write_text(text)
    with pytest.raises(PreflightError) as caught:
        merge_file(path, folder / "out")
    assert not (folder / "out").exists() and not (folder / ".out.partial").exists()
    assert len(caught.value.problems) > 1 or "\n" not in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def test_an_unknown_method_comes_with_the_nearest(family: Path, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"models: [{{model: {family}/one}}]\nmerge_method: linaer")
    assert "no merge method 'linaer'; did you mean linear?" in found


def test_all_missing_models_are_named_at_once(family: Path, tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        f"models: [{{model: {tmp_path}/nowhere}}, {{model: {family}/one+{tmp_path}/adapter}}, "
        f"{{model: {family}/two}}]\nmerge_method: linear",
    )
    assert len(found) == 2
    assert f"{tmp_path}/nowhere does not exist" in found[0]
    assert f"{tmp_path}/adapter" in found[1]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("merge_method: ties", "ties needs a base model; name it under base_model"),
        ("merge_method: slerp\nparameters: {t: 0.5}", "slerp needs a base model"),
        ("merge_method: linear\nparameters: {weight: heavy}", "parameter weight: got 'heavy'"),
        ("merge_method: linear\nparameters: {weight: .nan}", "parameter weight: got nan"),
        ("merge_method: linear\nparameters: {wieght: 1}", "no parameter wieght; did you mean weight?"),
        (
            "merge_method: linear\nparameters: {weight: [1, {filter: mlp, value: 1}]}",
            None,
        ),
        ("merge_method: passthrough", "passthrough takes 1 models, got 2"),
    ],
)
def test_recipes_that_a_method_refuses(family: Path, tmp_path: Path, rest: str, expected: str | None) -> None:
    text = f"models: [{{model: {family}/one}}, {{model: {family}/two}}]\n{rest}"
    if expected is None:
        path = tmp_path / "recipe.yml"
        path.write_text(text)
        with pytest.raises(Exception, match="a list of `filter:` and `value:` is expected"):
            merge_file(path, tmp_path / "out")
        return
    assert any(expected in found for found in problems(tmp_path, text))


def test_values_out_of_range_are_found_wherever_they_stand(family: Path, tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        f"""
models:
  - {{model: {family}/one, parameters: {{weight: 1, gamma: [0.5, 1.5]}}}}
  - {{model: {family}/two, parameters: {{weight: 1, gamma: [{{filter: mlp, value: -0.5}}]}}}}
merge_method: breadcrumbs
base_model: {family}/base
""",
    )
    assert any("parameter gamma: got 1.5" in line for line in found)
    assert any("parameter gamma: got -0.5" in line for line in found)


def test_tensors_that_do_not_fit_are_all_named(family: Path, tmp_path: Path) -> None:
    bad = write_sibling(tmp_path / "bad", 3, dtype="bfloat16")
    tensors = weights(bad)
    extra = np.ones(64, tensors["model.norm.weight"].dtype)
    rewrite(bad, {**tensors, "model.extra.weight": extra, "model.layers.0.self_attn.q_norm.weight": extra})
    found = problems(tmp_path, f"models: [{{model: {family}/one}}, {{model: {bad}}}]\nmerge_method: linear")
    assert any(line.startswith("model.extra.weight: missing in") and str(bad) in line for line in found)
    assert any(line.startswith("model.layers.0.self_attn.q_norm.weight: missing in") for line in found)


def test_other_vocabularies_need_a_policy(family: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "larger", vocab_size=130, dtype="bfloat16")
    found = problems(
        tmp_path, f"models: [{{model: {family}/one}}, {{model: {tmp_path}/larger}}]\nmerge_method: linear"
    )
    assert [line.partition(":")[0] for line in found] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert all("[128, 64]" in line and "[130, 64]" in line and "tokenizer_source" in line for line in found)


def test_other_widths_and_depths(family: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "wide", intermediate_size=160, dtype="bfloat16")
    found = problems(
        tmp_path, f"models: [{{model: {family}/one}}, {{model: {tmp_path}/wide}}]\nmerge_method: linear"
    )
    assert len(found) == 6 and all(".mlp." in line for line in found)
    write_tiny(tmp_path / "deep", num_hidden_layers=3, dtype="bfloat16")
    found = problems(
        tmp_path, f"models: [{{model: {family}/one}}, {{model: {tmp_path}/deep}}]\nmerge_method: linear"
    )
    assert any(
        "models of different depth" in line and "choose layers of each with slices" in line for line in found
    )
    found = problems(
        tmp_path,
        f"slices: [{{sources: [{{model: {family}/one, layer_range: [1, 5]}}]}}]\nmerge_method: passthrough",
    )
    assert any("has 2 layers, the recipe asks for [1, 5]; correct layer_range" in line for line in found)


def test_other_architectures_need_to_be_allowed(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "two", tmp_path / "mistral")
    config = {**config_of(tmp_path / "mistral"), "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (tmp_path / "mistral" / "config.json").write_text(json.dumps(config))
    text = f"models: [{{model: {family}/one}}, {{model: {tmp_path}/mistral}}]\nmerge_method: linear"
    (found,) = problems(tmp_path, text)
    assert "is a mistral" in found and "--allow-crimes" in found


def test_weights_that_sum_to_nothing(family: Path, tmp_path: Path) -> None:
    text = (
        f"models: [{{model: {family}/one, parameters: {{weight: 1}}}}, "
        f"{{model: {family}/two, parameters: {{weight: -1}}}}]\nmerge_method: linear"
    )
    assert any("the weights sum to zero" in line for line in problems(tmp_path, text))


def test_a_full_disk_is_seen_before(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (found,) = problems(tmp_path, f"models: [{{model: {family}/one}}]\nmerge_method: linear")
    assert "no space for" in found


def test_a_result_never_lies_in_an_input(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "one", tmp_path / "one")
    (tmp_path / "recipe.yml").write_text(f"models: [{{model: {tmp_path}/one}}]\nmerge_method: linear")
    with pytest.raises(PreflightError, match="lies within the input"):
        merge_file(tmp_path / "recipe.yml", tmp_path / "one" / "out")


def test_a_disk_that_fills_up_leaves_no_result(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Staging, file: str, data: memoryview, offset: int) -> None:
        if offset > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, file, data, offset)

    write = Staging.write
    monkeypatch.setattr(Staging, "write", full)
    (tmp_path / "recipe.yml").write_text(f"models: [{{model: {family}/one}}]\nmerge_method: linear")
    with pytest.raises(DiskFullError, match="no space for"):
        merge_file(tmp_path / "recipe.yml", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]
