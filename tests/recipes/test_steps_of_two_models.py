"""Steps that need a second model, and the same calls from Python: what the verbs write."""

from __future__ import annotations

from pathlib import Path

import pytest

import steelyard as sy
from command_line import Steelyard
from merge.siblings import weights, write_sibling
from steelyard.errors import UserError
from tiny_llama import digest, write_tiny


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a model tuned from it, and one that was trained apart."""
    folder = tmp_path_factory.mktemp("pair")
    write_tiny(folder / "base")
    write_sibling(folder / "tuned", 3, size=0.01)
    write_sibling(folder / "apart", 4, size=1.0)
    return folder


def recipe(folder: Path, model: Path, steps: str) -> Path:
    path = folder / "steps.yml"
    path.write_text(f"model: {model}\nout: {folder}/out\nsteps:\n{steps}")
    return path


def same_weights(first: Path, second: Path) -> bool:
    left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_extracting_and_merging_an_adapter(steelyard: Steelyard, pair: Path, tmp_path: Path) -> None:
    verb, call, step = tmp_path / "verb", tmp_path / "call", tmp_path / "out"
    assert steelyard("extract-lora", pair / "tuned", "--base", pair / "base", "--rank", 4, "--out", verb).code == 0
    sy.extract_lora(pair / "tuned", base=pair / "base", out=call, rank=4)
    path = recipe(tmp_path, pair / "tuned", f"  - extract-lora: {{base: {pair}/base, rank: 4}}\n")
    assert steelyard("run", path).code == 0
    assert digest(verb) == digest(call) == digest(step)

    verb_merged, call_merged = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert steelyard("merge-lora", pair / "base", verb, "--out", verb_merged).code == 0
    made = sy.merge_lora(pair / "base", verb, out=call_merged)
    path = recipe(tmp_path / "a", pair / "base", f"  - merge-lora: {{adapter: {verb}}}\n")
    path.write_text(path.read_text().replace(f"{tmp_path}/a/out", f"{tmp_path}/c"))
    planned = steelyard("run", path, "--dry-run")
    assert planned.code == 0 and f"{made.nbytes:,}" in planned.out
    assert steelyard("run", path).code == 0
    assert same_weights(verb_merged, call_merged) and same_weights(verb_merged, tmp_path / "c")


def test_aligning(steelyard: Steelyard, pair: Path, tmp_path: Path) -> None:
    assert steelyard("align", pair / "apart", "--to", pair / "base", "--out", tmp_path / "verb").code == 0
    sy.align(pair / "apart", to=pair / "base", out=tmp_path / "call")
    path = recipe(tmp_path, pair / "apart", f"  - align: {{to: {pair}/base}}\n")
    assert steelyard("run", path, "--dry-run").code == 0
    assert steelyard("run", path).code == 0
    assert same_weights(tmp_path / "verb", tmp_path / "call") and same_weights(tmp_path / "verb", tmp_path / "out")


def test_fusing(steelyard: Steelyard, pair: Path, tmp_path: Path) -> None:
    assert steelyard("fuse", pair / "base", pair / "apart", "--share", 0.3, "--out", tmp_path / "verb").code == 0
    sy.fuse(pair / "base", pair / "apart", out=tmp_path / "call", share=0.3)
    path = recipe(tmp_path, pair / "base", f"  - fuse: {{second: {pair}/apart, share: 0.3}}\n")
    assert "follows from the weights" in steelyard("run", path, "--dry-run").err
    assert steelyard("run", path).code == 0
    assert same_weights(tmp_path / "verb", tmp_path / "call") and same_weights(tmp_path / "verb", tmp_path / "out")


@pytest.mark.parametrize(
    ("step", "lacks"), [("align", "to"), ("fuse", "second"), ("merge-lora", "adapter"), ("extract-lora", "base")]
)
def test_a_step_that_names_no_second_model(
    steelyard: Steelyard, pair: Path, tmp_path: Path, step: str, lacks: str
) -> None:
    path = recipe(tmp_path, pair / "base", f"  - {step}\n")
    for arguments in ((), ("--dry-run",)):
        ended = steelyard("run", path, *arguments)
        assert ended.code == 2 and f"the step {step} needs `{lacks}`" in ended.err


def test_soups_are_recipes_to_merge(pair: Path, tmp_path: Path) -> None:
    models = [str(pair / name) for name in ("base", "tuned")]
    sy.merge(sy.soup(models).recipe(), out=tmp_path / "soup")
    sy.merge({"models": [{"model": name} for name in models], "merge_method": "linear"}, out=tmp_path / "mean")
    assert same_weights(tmp_path / "soup", tmp_path / "mean")
    with pytest.raises(UserError, match="a greedy soup needs data"):
        sy.soup(models, kind="greedy")
    with pytest.raises(UserError, match="decay is for the kind run"):
        sy.soup(models, decay=0.5)
